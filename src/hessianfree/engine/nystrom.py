"""Nystrom preconditioning: the dominant curvature of any model from a few products with random vectors.

Frangella, Tropp and Udell 2023. Symbols:
    Omega   r random vectors            Y = G Omega
    U, mu   approximate eigenvectors (orthonormal) and eigenvalues of G:  U diag(mu) U' = Y (Omega'Y)^-1 Y'
    M^-1 = (mu_r + lambda) U (diag(mu) + lambda I)^-1 U' + (I - U U'),    mu_r the smallest of them
Sets of vectors are pytrees with r rows in front of every leaf; nothing is raveled.
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

from hessianfree.engine import trees
from hessianfree.engine.linearization import gauss_newton, linearize
from hessianfree.engine.objective import Batch, TracedObjective
from hessianfree.engine.orthogonal import combination, inner
from hessianfree.engine.preconditioners import check_cadence
from hessianfree.engine.trees import PyTree


class Sketch(NamedTuple):
    """Approximate eigenvectors, leaves (r, ...), and eigenvalues (r,), descending."""

    vectors: PyTree
    values: Array


class Deflation(NamedTuple):
    """M^-1 = (I - U diag(shrink) U')^2: positive definite whatever rounding does to U."""

    vectors: PyTree
    shrink: Array


@dataclass(frozen=True)
class Nystrom:
    """A randomized low-rank model of G plus damping; serves any model, for `rank` products per measurement.

    Args:
        rank: random vectors; memory is 2 x rank x parameters, and several times that during a measurement.
        every: updates from one measurement to the next.

    Raises:
        ValueError: for values out of range.

    Example:
        >>> Nystrom(rank=10).every
        5
    """

    rank: int = 20
    every: int = 5

    def __post_init__(self) -> None:
        check_cadence("Nystrom", self.every, 0)
        if not isinstance(self.rank, int) or self.rank < 1:
            raise ValueError(f"Nystrom: rank is {self.rank!r}; a whole number, at least 1, is needed.")

    @property
    def decay(self) -> float:
        """Zero: sketches of different points are not averaged."""
        return 0.0

    def check(self, objective: TracedObjective) -> None:
        """It serves any model."""

    def measure(self, objective: TracedObjective, params: PyTree, batch: Batch, key: Array) -> Sketch:
        """Eigenvectors and eigenvalues of the sketched G."""
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        rank = min(self.rank, size)
        omega, _ = _orthonormal(trees.random_normal(key, params, (rank,)))
        product = gauss_newton(objective, linearize(objective, params, batch), batch)
        Y = lax.map(product, omega)
        return _eigenpairs(omega, Y)

    def prepare(self, measured: Sketch, damping: ArrayLike) -> Deflation:
        """The factors by which each eigendirection is shrunk."""
        values = measured.values
        smallest = jnp.min(jnp.where(values > 0, values, jnp.inf))  # zeros stand for directions that were not found
        smallest = jnp.where(jnp.isfinite(smallest), smallest, 0)
        ratio = jnp.where(values > 0, (smallest + damping) / (values + damping), 1)
        return Deflation(measured.vectors, 1 - jnp.sqrt(ratio))

    def apply(self, objective: TracedObjective, prepared: Deflation, residual: PyTree) -> PyTree:
        """M^-1 r, as the same symmetric matrix twice."""
        return _deflate(prepared, _deflate(prepared, residual))


def _deflate(by: Deflation, v: PyTree) -> PyTree:
    return jax.tree.map(lax.sub, v, combination(by.shrink * inner(by.vectors, v), by.vectors))


def _gram(rows: PyTree, others: PyTree) -> Array:
    """All inner products, (r, r)."""
    parts = jax.tree.map(lambda u, w: u.reshape(len(u), -1) @ w.reshape(len(w), -1).T, rows, others)
    return reduce(add, jax.tree.leaves(parts))


def _orthonormal(rows: PyTree) -> tuple[PyTree, Array]:
    """Orthonormal rows with the same span, and singular values, descending; what is below rounding becomes zero rows.

    By the Gram matrix, whose errors grow with the condition number: two steps of Newton's iteration for the
    inverse square root of what should be the identity take them away without turning the vectors.
    """
    squares, rotation = jnp.linalg.eigh(_gram(rows, rows))
    squares, rotation = squares[::-1], rotation[:, ::-1].T
    kept = squares > 100 * len(squares) * jnp.finfo(squares.dtype).eps * squares[0]
    values = jnp.sqrt(jnp.where(kept, squares, 0))
    found = combination(jnp.where(kept, 1 / jnp.where(kept, values, 1), 0)[:, None] * rotation, rows)
    for _ in range(2):
        found = combination(1.5 * jnp.eye(len(values), dtype=values.dtype) - 0.5 * _gram(found, found), found)
    return found, values


def _eigenpairs(omega: PyTree, Y: PyTree) -> Sketch:
    """Eigenpairs of Y (Omega'Y)^-1 Y' (their algorithm 2.1), the small shift for stability taken off again."""
    shift = jnp.finfo(jax.tree.leaves(Y)[0].dtype).eps * jnp.sqrt(jnp.trace(_gram(Y, Y)))
    shift = jnp.maximum(shift, jnp.finfo(shift.dtype).tiny)
    shifted = trees.axpy(shift, omega, Y)
    core = _gram(omega, shifted)
    values, rotation = jnp.linalg.eigh(0.5 * (core + core.T))
    # Omega'Y is positive semi-definite; what rounding made of its small eigenvalues is left out.
    kept = values > len(values) * jnp.finfo(values.dtype).eps * values[-1]
    root = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, values, 1)), 0)
    vectors, singular = _orthonormal(combination(root[:, None] * rotation.T, shifted))
    return Sketch(vectors, jnp.maximum(singular**2 - shift, 0))
