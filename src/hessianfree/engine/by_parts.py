"""The damped equations where the Jacobian does not fit in memory: a few of its rows exist at a time.

Symbols as in normal_equations.py. Steps are those of `Dense` and `Dual`, but for rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_solve
from jax.typing import ArrayLike
from jaxtyping import Float

from hessianfree.engine.normal_equations import (
    ByProducts,
    Dense,
    DenseMatrices,
    Equations,
    Krylov,
    Linearized,
    factored,
)
from hessianfree.engine.residuals import Points, Residuals, Unravel
from hessianfree.engine.trees import PyTree


@dataclass(frozen=True)
class DenseByParts(Dense):
    """Sums A'A over parts of the points. A product A'b is a reverse pass. There is no A to refine with."""

    conditioned: bool = False

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """J'J for parameters in some units, these units, and the product with J'."""
        gram, units = residuals.gram(unravel, theta, inputs)
        pull = partial(residuals.pulled, unravel, theta, inputs)
        rho = residuals.flat(unravel, inputs, theta)
        return Linearized(rho, units * jnp.sqrt(jnp.diag(gram)), (gram, units, pull))

    def pull(self, linear: Linearized, b: Float[Array, "N"]) -> Float[Array, "P"]:
        """The product J'b."""
        return linear.jacobian[2](b)

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """The product with A', and A'A."""
        gram, units, pull = linear.jacobian
        scales = units * inverse
        return Equations(0, DenseMatrices(lambda b: inverse * pull(b), gram * scales * scales[:, None], None))


@dataclass(frozen=True)
class KrylovByParts(Krylov):
    """Makes products only, each of which linearises a few points after the other: a quarter more work."""

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """The products with J' and J'J, and the norms of the columns of J."""
        pull = partial(residuals.pulled, unravel, theta, inputs)
        norms = residuals.column_norms(unravel, theta, inputs, pull)
        normal = partial(residuals.normal, unravel, theta, inputs)
        return Linearized(residuals.flat(unravel, inputs, theta), norms, (normal, pull))

    def normal(self, linear: Linearized, v: Float[Array, "P"]) -> Float[Array, "P"]:
        """The product J'Jv."""
        return linear.jacobian[0](v)


@dataclass(frozen=True)
class DualByParts(ByProducts):
    """Forms A A' by products, a few columns at a time."""

    columns: int

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """The products; over pieces of the points a product Jv remembers nothing, and J'b is as `DenseByParts`."""
        if residuals.few is None:
            return super().linearize(residuals, unravel, theta, inputs)
        rho_at = partial(residuals.flat, unravel, inputs)
        pull = partial(residuals.pulled, unravel, theta, inputs)
        norms = residuals.column_norms(unravel, theta, inputs, pull)
        return Linearized(rho_at(theta), norms, (lambda v: jax.jvp(rho_at, (theta,), (v,))[1], pull))

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """The products with A and A', and A A'."""
        push, pull = linear.jacobian
        unit = jnp.eye(linear.rho.size, dtype=linear.rho.dtype)
        matrix = lax.map(lambda e: push(inverse**2 * pull(e)), unit, batch_size=self.columns)
        forward = lambda y: push(inverse * y)  # noqa: E731
        return Equations(0, (forward, lambda b: inverse * pull(b), (matrix + matrix.T) / 2))

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """The Cholesky factor of A A' + lambda I."""
        return factored(equations.matrices[2], damping)[0]

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """The sum y + A'(A A' + lambda I)^-1 (b - A y)."""
        push, pull, _ = equations.matrices
        return y + pull(cho_solve((factor, True), b - push(y)))
