"""The normal equations (J'J + lambda I) d = J'b of least squares, solved in three ways.

Symbols as in residuals.py. Assembled is what does not depend on lambda:
    dense   J'J, (P, P), factored by Cholesky for each lambda
    dual    J J', (N, N), factored likewise: (J'J + lambda I)^-1 J' = J'(J J' + lambda I)^-1
    Krylov  a basis of the Krylov space of J'rho, (k, P), from products with J'J: conjugate gradient that keeps what it
            sees (lanczos.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve
from jax.typing import ArrayLike

from hessianfree.engine import lanczos
from hessianfree.engine.linearization import linear_map
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import PyTree, safe_norm

#: Residual of J'J + lambda I, relative to the gradient, at which the Krylov space is large enough. A heuristic: at 1e-3
#: row A6 of the arena takes twice as many steps, at 1e-8 a fifth more products.
TOLERANCE = 1e-5


class Equations(NamedTuple):
    """The equations at a point."""

    rho: Array  # residuals, (N,)
    gradient: Array  # J'rho, (P,)
    damping: Array  # the lambda that they are made for
    iterations: Array | int  # of Lanczos
    matrices: PyTree  # what the solver needs


class Method(Protocol):
    """A way to solve them; hashable."""

    def equations(
        self, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: Callable[[Array], Array]
    ) -> Equations:
        """Assemble them; `damping` gives the lambda to use, given a large diagonal entry of J'J."""

    def solver(self, equations: Equations, damping: ArrayLike) -> Callable[[Array], Array]:
        """The function b -> (J'J + lambda I)^-1 J'b, for a lambda no less than that of the equations."""


@dataclass(frozen=True)
class Dense:
    """For few parameters; `dual` for fewer residuals than parameters."""

    dual: bool = False

    def equations(
        self, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: Callable[[Array], Array]
    ) -> Equations:
        """J, row by row, and J'J or J J'."""
        rho, J = residuals.jacobian(params, inputs)
        largest = jnp.max(jnp.sum(J**2, axis=0))
        return Equations(rho, J.T @ rho, damping(largest), 0, (J, J @ J.T if self.dual else J.T @ J))

    def solver(self, equations: Equations, damping: ArrayLike) -> Callable[[Array], Array]:
        """By Cholesky; NaN where the matrix is not positive definite in this precision."""
        J, matrix = equations.matrices
        factor = jnp.linalg.cholesky(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype)), True
        return lambda b: J.T @ cho_solve(factor, b) if self.dual else cho_solve(factor, J.T @ b)


@dataclass(frozen=True)
class Krylov:
    """For many of both: nothing larger than the basis."""

    iterations: int  # vectors of the basis at most; memory is this many times the parameters

    def equations(
        self, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: Callable[[Array], Array]
    ) -> Equations:
        """The Krylov space of the gradient, as far as this lambda needs it."""
        theta, unravel = ravel_pytree(params)
        rho, push, pull = linear_map(partial(residuals.flat, unravel, inputs), theta)
        gradient = pull(rho)
        along = push(lanczos.divided(gradient, safe_norm(gradient)))
        damping_used = damping(along @ along)
        found = lanczos.tridiagonalize(lambda v: pull(push(v)), gradient, damping_used, self.iterations, TOLERANCE)
        return Equations(rho, gradient, damping_used, found.iterations, (pull, found))

    def solver(self, equations: Equations, damping: ArrayLike) -> Callable[[Array], Array]:
        """In the Krylov space."""
        pull, krylov = equations.matrices
        return lambda b: lanczos.solve(krylov, damping, pull(b))
