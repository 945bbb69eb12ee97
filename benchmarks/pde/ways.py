"""Cheaper steps of least squares for large networks, as candidates beside those of the package.

Symbols as in engine/normal_equations.py. Each is a method in the place of "dense" or "dual", or wraps one.
    single   A'A or A A' in float32, factored in float64
    sums     S A in place of A, S adding rows with random signs into n of them (Clarkson and Woodruff 2013)
    Nystrom  (A A' + lambda I) z = b by CG, preconditioned by the eigenvectors of a Nystrom approximation of A A' of a
             rank r (Frangella, Tropp and Udell 2023)
SPRING (Goldshlager, Abrahamsen and Lin 2024) is a loop of its own: with d the last step and mu its momentum,
    d <- mu d - J'(J J' + lambda I)^-1 (rho + mu J d)
on few points, other ones in each step, times the best of 2^0, 2^-1, ... for the loss on these points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve, solve_triangular

from hessianfree.engine.compilation import precise
from hessianfree.engine.normal_equations import (
    Dense,
    DenseMatrices,
    Dual,
    Equations,
    Linearized,
    Method,
    factored,
)
from hessianfree.engine.products import with_own_transpose
from hessianfree.engine.residuals import Points, Residuals, Unravel

#: Halvings of a step of SPRING that are tried.
HALVINGS = 12


def _single(A: Array) -> Array:
    """The product A A', in float32."""
    return with_own_transpose(A.astype(jnp.float32)).astype(A.dtype)


@dataclass(frozen=True)
class SingleDense(Dense):
    """A'A in float32."""

    conditioned: bool = False

    def equations(self, linear: Linearized, inverse: Any, gradient: Any, damping: Any) -> Equations:
        """As those of `Dense`."""
        A = linear.jacobian * inverse
        return Equations(0, DenseMatrices(lambda b: b @ A, _single(A.T), None))


@dataclass(frozen=True)
class SingleDual(Dual):
    """A A' in float32."""

    def equations(self, linear: Linearized, inverse: Any, gradient: Any, damping: Any) -> Equations:
        """As those of `Dual`."""
        A = linear.jacobian * inverse
        return Equations(0, (A, _single(A)))


@dataclass(frozen=True)
class Sums:
    """Another method for sums of rows with random signs."""

    method: Method
    rows: int  # n

    @property
    def least(self) -> float:
        """As that of the other method."""
        return self.method.least

    def linearize(self, residuals: Residuals, unravel: Unravel, theta: Any, inputs: Sequence[Points]) -> Linearized:
        """All residuals; S J and the norms of its columns."""
        linear = self.method.linearize(residuals, unravel, theta, inputs)
        J = self.summed(linear.jacobian)
        return linear._replace(norms=jnp.linalg.norm(J, axis=0), jacobian=J)

    def pull(self, linear: Linearized, b: Any) -> Any:
        """The product J'S'S b."""
        return self.summed(b) @ linear.jacobian

    def equations(self, linear: Linearized, inverse: Any, gradient: Any, damping: Any) -> Equations:
        """Those of the other method."""
        return self.method.equations(linear._replace(rho=self.summed(linear.rho)), inverse, gradient, damping)

    def factor(self, equations: Equations, damping: Any) -> Any:
        """That of the other method."""
        return self.method.factor(equations, damping)

    def solve(self, equations: Equations, factor: Any, b: Any, y: Any) -> Any:
        """The other method's, for S b."""
        return self.method.solve(equations, factor, self.summed(b), y)

    def summed(self, rows: Any) -> Any:
        """The product of S and an array of rows."""
        rng = np.random.default_rng(0)
        places, signs = rng.integers(self.rows, size=len(rows)), rng.choice([-1.0, 1.0], len(rows))
        return jnp.zeros((self.rows, *rows.shape[1:]), rows.dtype).at[places].add((signs * rows.T).T)


@dataclass(frozen=True)
class Nystrom(Dual):
    """Solves the dual equations by preconditioned CG."""

    rank: int = 300
    iterations: int = 60
    tolerance: float = 1e-4

    def equations(self, linear: Linearized, inverse: Any, gradient: Any, damping: Any) -> Equations:
        """A, and about the largest eigenvalues of A A' with their vectors."""
        A = linear.jacobian * inverse
        omega = jnp.asarray(np.linalg.qr(np.random.default_rng(0).standard_normal((len(A), self.rank)))[0], A.dtype)
        Y = A @ (omega.T @ A).T
        shift = jnp.finfo(A.dtype).eps * jnp.linalg.norm(Y)
        Y = Y + shift * omega
        B = solve_triangular(factored(omega.T @ Y, 0.0)[0], Y.T, lower=True).T
        U, S, _ = jnp.linalg.svd(B, full_matrices=False)
        return Equations(0, (A, U, jnp.maximum(S**2 - shift, 0)))

    def factor(self, equations: Equations, damping: Any) -> Any:
        """The number lambda."""
        return jnp.asarray(damping, equations.matrices[0].dtype)

    def solve(self, equations: Equations, factor: Any, b: Any, y: Any) -> Any:
        """Solve by CG."""
        A, U, values = equations.matrices
        damping = factor

        def preconditioned(r: Any) -> Any:
            part = U.T @ r
            return U @ ((values[-1] + damping) / (values + damping) * part) + r - U @ part

        product = lambda v: A @ (v @ A) + damping * v  # noqa: E731
        left, limits = b - A @ y, {"tol": self.tolerance, "maxiter": self.iterations}
        z, _ = jax.scipy.sparse.linalg.cg(product, left, M=preconditioned, **limits)
        return y + z @ A


def spring(
    residuals: Residuals,
    inputs: Callable[[int], Sequence[Points]],
    params: Any,
    damping: float,
    momentum: float,
) -> Iterator[Any]:
    """Steps of SPRING.

    Args:
        residuals: the terms.
        inputs: gives the points of a step by its number.
        params: where to start.
        damping: lambda.
        momentum: mu.

    Yields:
        The parameters after each step.
    """
    theta, unravel = ravel_pytree(params)
    step = partial(_spring_step, residuals, unravel, damping, momentum)
    compiled, d = precise(step), jnp.zeros_like(theta)
    for number in iter(int, 1):
        theta, d = compiled(theta, d, inputs(number))
        yield unravel(theta)


def _spring_step(
    residuals: Residuals, unravel: Unravel, damping: float, momentum: float, theta: Any, d: Any, inputs: Any
) -> tuple[Any, Any]:
    rho, J = residuals.jacobian(unravel, theta, inputs)
    z = cho_solve(factored(with_own_transpose(J), damping), rho + momentum * (J @ d))
    d = momentum * d - z @ J
    lengths = 0.5 ** jnp.arange(HALVINGS)
    losses = lax.map(lambda length: jnp.sum(residuals.flat(unravel, inputs, theta + length * d) ** 2), lengths)
    best = jnp.nanargmin(losses)
    return jnp.where(losses[best] < jnp.sum(rho**2), theta + lengths[best] * d, theta), d
