"""Nystrom preconditioning: the dominant curvature of any model from a few products with random vectors.

Frangella, Tropp and Udell 2023. Symbols:
    Omega   r random vectors            Y = G Omega
    U, mu   approximate eigenvectors (orthonormal) and eigenvalues of G:  U diag(mu) U' = Y (Omega'Y)^-1 Y'
    M^-1 = (mu_r + lambda) U (diag(mu) + lambda I)^-1 U' + (I - U U'),    mu_r the smallest of them
Sets of vectors are rows (orthogonal.py): pytrees with an axis of length r in front of every leaf.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Float, Key

from hessianfree.engine import reprs, trees
from hessianfree.engine.linearization import gauss_newton, linearize
from hessianfree.engine.numbers import is_whole
from hessianfree.engine.objective import Batch, TracedObjective
from hessianfree.engine.orthogonal import combination, inner
from hessianfree.engine.preconditioners import check_cadence
from hessianfree.engine.trees import Rows, Vector


class Sketch(NamedTuple):
    """Approximate eigenvectors and eigenvalues, descending."""

    vectors: Rows
    values: Float[Array, "r"]


class Deflation(NamedTuple):
    """The inverse M^-1 = (I - U diag(shrink) U')^2; positive definite in spite of rounding errors of U."""

    vectors: Rows
    shrink: Float[Array, "r"]


@dataclass(frozen=True)
class Nystrom:
    """A randomized low-rank model of G plus damping; serves any model, for `rank` products per measurement.

    Args:
        rank: random vectors; memory is 2 x rank x parameters, and several times that during a measurement.
        every: updates from one measurement to the next.

    Raises:
        ValueError: if a value is out of range.

    Example:
        >>> Nystrom(rank=10).every
        5
    """

    rank: int = 20
    every: int = 5
    decay = 0.0  # sketches of different points are not averaged

    def __repr__(self) -> str:
        return reprs.call(self)

    def __post_init__(self) -> None:
        check_cadence("Nystrom", self.every, 0)
        if not is_whole(self.rank) or self.rank < 1:
            raise ValueError(f"Nystrom: rank is {self.rank!r}; a whole number >= 1 is expected.")

    def check(self, objective: TracedObjective) -> None:
        """Accept any model."""

    def measure(self, objective: TracedObjective, params: Vector, batch: Batch, key: Key[Array, ""]) -> Sketch:
        """Eigenvectors and eigenvalues of the sketched G."""
        omega, _ = _orthonormal(trees.random_normal(key, params, (self._rank(params),)))
        product = gauss_newton(objective, linearize(objective, params, batch), batch)
        return _eigenpairs(omega, lax.map(product, omega))

    def _rank(self, params: Vector) -> int:
        return min(self.rank, sum(leaf.size for leaf in jax.tree.leaves(params)))

    def blank(self, params: Vector, model: object) -> Sketch:
        """A sketch of nothing."""
        rank = self._rank(params)
        rows = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((rank, *leaf.shape), leaf.dtype), params)
        values = jax.ShapeDtypeStruct((rank,), jax.tree.leaves(params)[0].dtype)
        return Sketch(*trees.zeros((rows, values)))

    def prepare(self, measured: Sketch, damping: ArrayLike) -> Deflation:
        """The factors by which each eigendirection is shrunk."""
        values = measured.values
        smallest = jnp.min(jnp.where(values > 0, values, jnp.inf))  # a zero means that a direction was not found
        smallest = jnp.where(jnp.isfinite(smallest), smallest, 0)
        ratio = jnp.where(values > 0, (smallest + damping) / (values + damping), 1)
        return Deflation(measured.vectors, 1 - jnp.sqrt(ratio))

    def apply(self, objective: TracedObjective, prepared: Deflation, residual: Vector) -> Vector:
        """The product r -> M^-1 r, by the same symmetric matrix twice."""
        return _deflate(prepared, _deflate(prepared, residual))


def _deflate(by: Deflation, v: Vector) -> Vector:
    return jax.tree.map(lax.sub, v, combination(by.shrink * inner(by.vectors, v), by.vectors))


def _gram(rows: Rows, others: Rows) -> Float[Array, "r r"]:
    """All inner products of rows with others."""
    parts = jax.tree.map(lambda u, w: u.reshape(len(u), -1) @ w.reshape(len(w), -1).T, rows, others)
    return reduce(add, jax.tree.leaves(parts))


def _orthonormal(rows: Rows) -> tuple[Rows, Float[Array, "r"]]:
    """Orthonormal rows with the same span, and singular values, descending; rows below rounding become zero.

    The Gram matrix gives them with errors that grow with the condition number. Two steps of Newton's iteration for the
    inverse square root of the new Gram matrix, which should be the identity, remove the errors without rotating the
    vectors.
    """
    squares, rotation = jnp.linalg.eigh(_gram(rows, rows))
    squares, rotation = squares[::-1], rotation[:, ::-1].T
    kept = squares > 100 * len(squares) * jnp.finfo(squares.dtype).eps * squares[0]
    values = jnp.sqrt(jnp.where(kept, squares, 0))
    found = combination(jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)[:, None] * rotation, rows)
    for _ in range(2):
        found = combination(1.5 * jnp.eye(len(values), dtype=values.dtype) - 0.5 * _gram(found, found), found)
    return found, values


def _eigenpairs(omega: Rows, Y: Rows) -> Sketch:
    """Eigenpairs of Y (Omega'Y)^-1 Y' (their algorithm 2.1), without the small shift that makes it stable."""
    shift = jnp.finfo(jax.tree.leaves(Y)[0].dtype).eps * jnp.sqrt(jnp.trace(_gram(Y, Y)))
    shift = jnp.maximum(shift, jnp.finfo(shift.dtype).tiny)
    shifted = trees.axpy(shift, omega, Y)
    core = _gram(omega, shifted)
    values, rotation = jnp.linalg.eigh(0.5 * (core + core.T))
    # Omega'Y is positive semi-definite. Leave out small eigenvalues, which rounding may have made negative.
    kept = values > len(values) * jnp.finfo(values.dtype).eps * values[-1]
    root = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    vectors, singular = _orthonormal(combination(root[:, None] * rotation.T, shifted))
    return Sketch(vectors, jnp.maximum(singular**2 - shift, 0))
