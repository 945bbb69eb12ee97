"""The damped equations (A'A + lambda I) y = A'b of least squares, solved in four ways.

Symbols as in residuals.py, and
    D   metric of the parameters, (P,): a step is measured by |D d|
    A   J D^-1, the Jacobian for parameters in units of 1 / D, (N, P); d = D^-1 y
Each way keeps what does not depend on lambda:
    singular  the singular values of A, which keep all digits that A has
    dense     A'A, (P, P), factored by Cholesky for each lambda; its condition is the square of that of A. Where lambda
              is lost beside the rounding of A'A, K as below, which keeps all digits
    dual      A A', (N, N), factored likewise: (A'A + lambda I)^-1 A' = A'(A A' + lambda I)^-1
    Krylov    a basis of the Krylov space of A'rho, (K, P), from products with A'A (lanczos.py)

A small lambda. The triangle S of S'S = A'A + sigma I exists for a sigma above the rounding of A'A. With X = A S^-1, of
norm 1 at most, and K = X'X,
    sigma S^-T S^-1 = I - K
    A'A + lambda I = S' ((1 - lambda / sigma) K + lambda / sigma I) S
so that a Cholesky factor for each lambda is enough again. What is small beside S'S is not small beside K. The rounding
of S'S is left, which a step of iterative refinement with A mends, and for a lambda above that of A'A the rounding of
I - K, which leaves two digits at least.

Source: Fukaya, Kannan, Nakatsukasa, Yamamoto and Yanagisawa 2020, "Shifted Cholesky QR for computing the QR
factorization of ill-conditioned matrices", SIAM Journal on Scientific Computing 42.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, NamedTuple, Protocol

import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from hessianfree.engine import jacobi, lanczos
from hessianfree.engine.linearization import linear_map
from hessianfree.engine.products import with_own_transpose
from hessianfree.engine.residuals import Points, Residuals, Unravel
from hessianfree.engine.trees import PyTree

#: Residual of the equations, relative to the gradient, at which the Krylov space is large enough. A heuristic: at 1e-3
#: row A6 of the arena takes twice as many steps, at 1e-8 a fifth more products.
TOLERANCE = 1e-5

#: Lambda beside the largest diagonal entry of A'A, in units of eps, below which that has lost too much of what lambda
#: leaves of its small singular values.
LOST = 2**6
#: Sigma beside the trace of A'A, in units of eps. From about 0.3 on A'A + sigma I has a Cholesky factor; the rounding
#: that refinement has to mend is in proportion to 1 / sigma. A heuristic.
SHIFT = 2**12
#: Lambda beside sigma, in units of eps, that a factor has at least.
ROUNDING = 16


class Linearized(NamedTuple):
    """The residuals at a point, and what is known of their Jacobian."""

    rho: Float[Array, "N"]
    norms: Float[Array, "P"]  # of the columns of J
    jacobian: PyTree  # J, or the functions v -> J v and u -> J'u


class Equations(NamedTuple):
    """The equations at a point in a metric."""

    iterations: Int[Array, ""] | int  # Lanczos iterations
    matrices: PyTree  # what the solver needs


class Conditioned(NamedTuple):
    """What `Dense` needs besides, if its matrix can be K."""

    push: Callable[[Array], Array]  # y -> A y
    shift: Float[Array, ""]  # sigma
    small: Bool[Array, ""]  # whether the matrix is K
    S: Float[Array, "P P"]  # an upper triangle; whatever if not


class DenseMatrices(NamedTuple):
    """What `Dense` solves with."""

    pull: Callable[[Array], Array]  # b -> A'b
    matrix: Float[Array, "P P"]  # A'A, or K
    conditioned: Conditioned | None  # None if it is never K


class Method(Protocol):
    """A way to solve the equations; hashable."""

    @property
    def least(self) -> float:
        """The smallest useful lambda: beside an A of norm 1, as a power of eps."""

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """Residuals and Jacobian at raveled parameters."""

    def pull(self, linear: Linearized, b: Float[Array, "N"]) -> Float[Array, "P"]:
        """The product J'b."""

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """The equations for this D^-1, gradient J'rho and lambda; an entry of zero in D^-1 holds a parameter."""

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """What `solve` needs of a lambda that is no smaller than that of the equations, and the lambda itself."""

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """The solution (A'A + lambda I)^-1 (A'b + lambda y).

        With b a residual and y the sum of the steps so far it is a step of iterative refinement.
        """


class _WithRows:
    """What the methods share that form J."""

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """J, row by row."""
        rho, J = residuals.jacobian(unravel, theta, inputs)
        return Linearized(rho, column_norms(J), J)

    def pull(self, linear: Linearized, b: Float[Array, "N"]) -> Float[Array, "P"]:
        """The product J'b; as b'J, for which J is not transposed."""
        return b @ linear.jacobian


@dataclass(frozen=True)
class Singular(_WithRows):
    """Takes the singular values of A; for a few parameters.

    By rotations if A has very few columns: for one matrix nothing has to be loaded, for many at once LAPACK is faster.
    """

    by_rotations: bool = False
    least: ClassVar[float] = 1.0

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """The decomposition A = U S V'."""
        A = linear.jacobian * inverse
        known = jnp.where(jnp.all(jnp.isfinite(A)), A, 0)
        if self.by_rotations:
            return Equations(0, jacobi.decomposed(known))
        return Equations(0, jnp.linalg.svd(known, full_matrices=False))

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """The vector 1 / (S^2 + lambda), and lambda."""
        S = equations.matrices[1]
        return 1 / jnp.where(S > 0, S**2 + damping, 1), jnp.asarray(damping, S.dtype)

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """The product V (S^2 + lambda)^-1 (S U'b + lambda V'y)."""
        U, S, Vt = equations.matrices
        shares, damping = factor
        return Vt.T @ (shares * (S * (U.T @ b) + damping * (Vt @ y)))


@dataclass(frozen=True)
class Dense(_WithRows):
    """Forms A'A; for more parameters, and at least as many residuals.

    Where lambda is too small for that it forms K, which takes about three times as long.
    """

    conditioned: bool = True  # whether to form K where lambda is small

    @property
    def least(self) -> float:
        """The smallest useful lambda, as a power of eps."""
        return 1.7 if self.conditioned else 1.0

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """The products with A and A'; A'A or K; and which of them."""
        A = linear.jacobian * inverse
        pull = lambda b: b @ A  # noqa: E731
        products = with_own_transpose(A.T)
        if not self.conditioned:
            return Equations(0, DenseMatrices(pull, products, None))
        eps, squares = jnp.finfo(A.dtype).eps, (linear.norms * inverse) ** 2
        small, shift = jnp.less(damping, LOST * eps * jnp.max(squares)), SHIFT * eps * jnp.sum(squares)
        matrix, S = lax.cond(small, lambda: _conditioned(A, products, shift), lambda: (products, products))
        return Equations(0, DenseMatrices(pull, matrix, Conditioned(lambda y: A @ y, shift, small, S)))

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """The Cholesky factor of A'A + lambda I, or of what is between S' and S, NaN if there is none; and lambda."""
        known: DenseMatrices = equations.matrices
        damping = jnp.asarray(damping, known.matrix.dtype)
        if known.conditioned is None:
            return factored(known.matrix, damping)[0], damping
        _, shift, small, _ = known.conditioned
        # Below that there is only rounding in K; refinement has lambda itself.
        least = ROUNDING * jnp.finfo(damping.dtype).eps
        share = jnp.where(small, jnp.maximum(damping / jnp.where(small, shift, 1), least), 0)
        return factored((1 - share) * known.matrix, jnp.where(small, share, damping))[0], damping

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """Solve by two triangles, or by four and once more for what they left."""
        known: DenseMatrices = equations.matrices
        L, damping = factor
        right = known.pull(b) + damping * y
        if known.conditioned is None:
            return cho_solve((L, True), right)
        push, _, small, S = known.conditioned

        def once(v: Float[Array, "P"]) -> Float[Array, "P"]:
            return solve_triangular(S, cho_solve((L, True), solve_triangular(S, v, trans=1)))

        def twice() -> Float[Array, "P"]:
            x = once(right)
            return x + once(known.pull(b - push(x)) + damping * (y - x))

        return lax.cond(small, twice, lambda: cho_solve((L, True), right))


def _conditioned(
    A: Float[Array, "N P"], products: Float[Array, "P P"], shift: Float[Array, ""]
) -> tuple[Float[Array, "P P"], Float[Array, "P P"]]:
    """K and S, from A, A'A and sigma."""
    S = factored(products, shift)[0].T
    X = lax.linalg.triangular_solve(S, A)
    return with_own_transpose(X.T), S


@dataclass(frozen=True)
class Dual(_WithRows):
    """Forms A A'; for fewer residuals than parameters."""

    least: ClassVar[float] = 1.0

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """A and A A'."""
        A = linear.jacobian * inverse
        return Equations(0, (A, with_own_transpose(A)))

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """The Cholesky factor of A A' + lambda I, and lambda."""
        matrix = equations.matrices[1]
        return factored(matrix, damping)[0], jnp.asarray(damping, matrix.dtype)

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """The sum y + A'(A A' + lambda I)^-1 (b - A y)."""
        A, matrix = equations.matrices
        L, damping = factor
        left = b - A @ y
        x = cho_solve((L, True), left)
        # Refined once: with more residuals than parameters the matrix is singular but for lambda.
        return y + (x + cho_solve((L, True), left - matrix @ x - damping * x)) @ A


class ByProducts:
    """What the methods share that make products with J and J' only."""

    least: ClassVar[float] = 1.0

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """The products, and the norms of the columns of J, which take about as long as one product."""
        if residuals.sparse:
            rho, blocks = residuals.blocks(unravel, theta, inputs)
            return Linearized(rho, blocks.column_norms(), (blocks.push, blocks.pull))
        rho, push, pull = linear_map(partial(residuals.flat, unravel, inputs), theta)
        return Linearized(rho, residuals.column_norms(unravel, theta, inputs, pull), (push, pull))

    def pull(self, linear: Linearized, b: Float[Array, "N"]) -> Float[Array, "P"]:
        """The product J'b."""
        return linear.jacobian[1](b)


@dataclass(frozen=True)
class Krylov(ByProducts):
    """Makes products only; for many parameters and many residuals. The basis is the largest array."""

    iterations: int  # the limit on K, the vectors of the basis; memory is this many times the parameters

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """The Krylov space of the gradient, as far as this lambda needs it."""
        pull = linear.jacobian[1]
        product = lambda v: inverse * self.normal(linear, inverse * v)  # noqa: E731
        space = lanczos.tridiagonalize(product, inverse * gradient, damping, self.iterations, TOLERANCE)
        return Equations(space.iterations, (inverse, pull, space))

    def normal(self, linear: Linearized, v: Float[Array, "P"]) -> Float[Array, "P"]:
        """The product J'Jv."""
        push, pull = linear.jacobian
        return pull(push(v))

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """The number lambda."""
        return jnp.asarray(damping, equations.matrices[0].dtype)

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """Solve in the Krylov space."""
        inverse, pull, space = equations.matrices
        return lanczos.solve(space, factor, inverse * pull(b) + factor * y)


def column_norms(J: Float[Array, "N P"]) -> Float[Array, "P"]:
    """The norms of the columns, safe for numbers whose squares the type cannot hold."""
    largest = jnp.max(jnp.abs(J), axis=0)
    unit = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return unit * jnp.sqrt(jnp.sum((J / unit) ** 2, axis=0))


def factored(matrix: Float[Array, "M M"], damping: ArrayLike) -> tuple[Float[Array, "M M"], bool]:
    """The lower Cholesky factor of matrix + lambda I, as `cho_solve` takes it."""
    return jnp.linalg.cholesky(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype)), True
