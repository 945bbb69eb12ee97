"""The solution of a least-squares problem as a differentiable function of its data.

Symbols as in residuals.py, and
    u       whatever the residuals depend on besides theta
    F       J'rho, the gradient; F(theta*, u) = 0 at the solution
    H       the derivative of F by theta there, the Hessian of 1/2 |rho|^2
By the implicit function theorem d theta* = -H^-1 (dF/du) du. How the solution was found does not matter, and takes no
memory. Directions that the data do not determine, in which H is zero, do not move. Nor do parameters at their bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.flatten_util import ravel_pytree
from jax.scipy.sparse.linalg import cg
from jaxtyping import Float, Int

from hessianfree.engine import reprs
from hessianfree.engine.levenberg import CONVERGED, LeastSquaresState, Status, Tolerances, step
from hessianfree.engine.residuals import Points, Residuals, Unravel
from hessianfree.engine.searching import Box, Form
from hessianfree.engine.trees import PyTree, Scalar

#: Parameters up to which H is formed; beyond, equations with it are solved by products.
FORMED = 1000
#: Residual of these equations, relative to their right side.
TOLERANCE = 1e-10


class LeastSquaresSolution(NamedTuple):
    """The solution of a least-squares problem; arrays, which may be traced."""

    params: PyTree
    value: Scalar  # the loss
    converged: Array  # whether one of the tests of convergence was met
    steps: Int[Array, ""]

    def __repr__(self) -> str:
        return reprs.fields(self)


class _Run(NamedTuple):
    """Where the iteration stands."""

    theta: Float[Array, "P"]
    state: LeastSquaresState
    status: Int[Array, ""]
    steps: Int[Array, ""]


def solution(
    form: Form,
    residuals: Residuals,
    params: PyTree,
    inputs: Sequence[Points],
    box: Box | None,
    tolerances: Tolerances,
    state: LeastSquaresState,
    limit: int,
) -> LeastSquaresSolution:
    """Solve by at most so many steps, traceable; derivatives go through `inputs` and what the residuals close over."""
    start, unravel = ravel_pytree(params)

    def slope(theta: Float[Array, "P"]) -> Float[Array, "P"]:
        gradient = partial(_gradient, residuals, unravel, inputs)
        if box is None:
            return gradient(theta)
        fixed = lax.stop_gradient(theta)
        held = box.held(fixed, lax.stop_gradient(gradient(fixed)))
        return jnp.where(held, theta - fixed, gradient(jnp.where(held, fixed, theta)))

    def advanced(run: _Run) -> _Run:
        moved, after, outcome = step(form, residuals, unravel(run.theta), inputs, box, run.state, tolerances)
        new = _Run(ravel_pytree(moved)[0], after, outcome.status, run.steps + 1)
        return jax.tree.map(lambda made, old: jnp.asarray(made, jnp.result_type(old)), new, run)

    def solve(_: object, theta: Float[Array, "P"]) -> tuple[Array, tuple[Array, Array]]:
        begun = _Run(theta, jax.tree.map(jnp.asarray, state), jnp.int32(Status.GOING), jnp.int32(0))
        run = lax.while_loop(lambda run: (run.status == Status.GOING) & (run.steps < limit), advanced, begun)
        # Aside of theta go floats: integers have no tangents that `custom_root` could hold.
        return run.theta, (run.status.astype(theta.dtype), run.steps.astype(theta.dtype))

    theta, (status, steps) = lax.custom_root(slope, start, solve, solved, has_aux=True)
    converged = jnp.isin(status.astype(jnp.int32), jnp.asarray(CONVERGED, jnp.int32))
    outputs = residuals.outputs(unravel(theta), _unweighted(inputs))
    value = sum(0.5 * points.weight * jnp.sum(part**2) for points, part in zip(inputs, outputs, strict=True))
    return LeastSquaresSolution(unravel(theta), jnp.asarray(value), converged, steps.astype(jnp.int32))


def solved(product: Callable[[Float[Array, "P"]], Float[Array, "P"]], b: Float[Array, "P"]) -> Float[Array, "P"]:
    """The solution x of Hx = b for a symmetric H, from its products; without the directions in which H is zero."""
    size = b.size
    if size > FORMED:
        by_products = partial(cg, tol=TOLERANCE, maxiter=10 * size)
        return lax.custom_linear_solve(product, b, lambda H, c: by_products(H, c)[0], symmetric=True)
    H = jax.vmap(product)(jnp.eye(size, dtype=b.dtype))
    units = jnp.sqrt(jnp.abs(jnp.diag(H)))
    units = jnp.where(units > 0, units, 1)
    values, vectors = jnp.linalg.eigh(H / units / units[:, None])
    known = jnp.abs(values) > size * jnp.finfo(b.dtype).eps * jnp.max(jnp.abs(values))
    shares = jnp.where(known, 1 / jnp.where(known, values, 1), 0)
    return vectors @ (shares * (vectors.T @ (b / units))) / units


def _gradient(
    residuals: Residuals, unravel: Unravel, inputs: Sequence[Points], theta: Float[Array, "P"]
) -> Float[Array, "P"]:
    """The gradient F = J'rho, linear in the weights: rho holds their roots, which have no derivative at 0."""
    outputs, pull = jax.vjp(lambda at: residuals.outputs(unravel(at), _unweighted(inputs)), theta)
    return pull(tuple(points.weight * part for points, part in zip(inputs, outputs, strict=True)))[0]


def _unweighted(inputs: Sequence[Points]) -> list[Points]:
    """The points with weights of 1."""
    return [points._replace(weight=jnp.ones_like(points.weight)) for points in inputs]
