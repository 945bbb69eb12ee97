"""The normal equations (J'J + lambda I) d = J'b of least squares, solved in three ways.

Symbols as in residuals.py. Each way keeps a matrix that does not depend on lambda:
    dense   J'J, (P, P), factored by Cholesky for each lambda
    dual    J J', (N, N), factored likewise: (J'J + lambda I)^-1 J' = J'(J J' + lambda I)^-1
    Krylov  a basis of the Krylov space of J'rho, (K, P), from products with J'J (lanczos.py)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias

import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from hessianfree.engine import lanczos
from hessianfree.engine.linearization import linear_map
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import PyTree, Scalar, safe_norm

#: Residual of the equations, relative to the gradient, at which the Krylov space is large enough. A heuristic: at 1e-3
#: row A6 of the arena takes twice as many steps, at 1e-8 a fifth more products.
TOLERANCE = 1e-5

#: b -> (J'J + lambda I)^-1 J'b
Solver: TypeAlias = Callable[[Float[Array, "N"]], Float[Array, "P"]]
#: A large diagonal entry of J'J -> the lambda to use.
Damping: TypeAlias = Callable[[Scalar], Scalar]


class Equations(NamedTuple):
    """The equations at one point."""

    rho: Float[Array, "N"]
    gradient: Float[Array, "P"]  # J'rho
    damping: Scalar  # the lambda they were made for
    iterations: Int[Array, ""] | int  # Lanczos iterations
    matrices: PyTree  # what the solver needs


class Method(Protocol):
    """A way to solve the equations; hashable."""

    def equations(self, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: Damping) -> Equations:
        """Assemble the equations; `damping` chooses lambda, given a large diagonal entry of J'J."""

    def solver(self, equations: Equations, damping: ArrayLike) -> Solver:
        """The function b -> (J'J + lambda I)^-1 J'b, for a lambda no smaller than that of the equations."""


@dataclass(frozen=True)
class Dense:
    """Forms J'J; for few parameters."""

    def equations(self, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: Damping) -> Equations:
        """J, row by row, and J'J."""
        return _with_jacobian(residuals, params, inputs, damping, lambda J: J.T @ J)

    def solver(self, equations: Equations, damping: ArrayLike) -> Solver:
        """Solve by Cholesky; NaN if the matrix is not positive definite in this precision."""
        J, matrix = equations.matrices
        factor = _factored(matrix, damping)
        return lambda b: cho_solve(factor, J.T @ b)


@dataclass(frozen=True)
class Dual:
    """Forms J J'; for fewer residuals than parameters."""

    def equations(self, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: Damping) -> Equations:
        """J, row by row, and J J'."""
        return _with_jacobian(residuals, params, inputs, damping, lambda J: J @ J.T)

    def solver(self, equations: Equations, damping: ArrayLike) -> Solver:
        """Solve by Cholesky; NaN if the matrix is not positive definite in this precision."""
        J, matrix = equations.matrices
        factor = _factored(matrix, damping)
        return lambda b: J.T @ cho_solve(factor, b)


@dataclass(frozen=True)
class Krylov:
    """Makes products only; for many parameters and many residuals. The basis is the largest array."""

    iterations: int  # the limit on K, the vectors of the basis; memory is this many times the parameters

    def equations(self, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: Damping) -> Equations:
        """The Krylov space of the gradient, as far as this lambda needs it."""
        theta, unravel = ravel_pytree(params)
        rho, push, pull = linear_map(partial(residuals.flat, unravel, inputs), theta)
        gradient = pull(rho)
        along = push(lanczos.divided(gradient, safe_norm(gradient)))
        used = damping(along @ along)
        space = lanczos.tridiagonalize(lambda v: pull(push(v)), gradient, used, self.iterations, TOLERANCE)
        return Equations(rho, gradient, used, space.iterations, (pull, space))

    def solver(self, equations: Equations, damping: ArrayLike) -> Solver:
        """Solve in the Krylov space."""
        pull, space = equations.matrices
        return lambda b: lanczos.solve(space, damping, pull(b))


def _with_jacobian(
    residuals: Residuals,
    params: PyTree,
    inputs: Sequence[Points],
    damping: Damping,
    product: Callable[[Float[Array, "N P"]], Float[Array, "M M"]],
) -> Equations:
    """The equations whose matrices are J and a product of J with itself."""
    rho, J = residuals.jacobian(params, inputs)
    largest = jnp.max(jnp.sum(J**2, axis=0))  # diagonal entry of J'J
    return Equations(rho, J.T @ rho, damping(largest), 0, (J, product(J)))


def _factored(matrix: Float[Array, "M M"], damping: ArrayLike) -> tuple[Float[Array, "M M"], bool]:
    """The lower Cholesky factor of matrix + lambda I, as `cho_solve` takes it."""
    return jnp.linalg.cholesky(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype)), True
