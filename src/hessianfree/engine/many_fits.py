"""Many least-squares problems of one shape at once, each with its own steps, damping and end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from hessianfree.engine.compilation import precise
from hessianfree.engine.levenberg import LeastSquaresState, Status, Tolerances, step
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.searching import Box, Form
from hessianfree.engine.trees import PyTree


class Fits(NamedTuple):
    """Where the problems stand; every leaf has the problems along its first axis, (M, ...)."""

    params: PyTree
    state: LeastSquaresState
    status: Int[ArrayLike, "*M"]
    root: Float[ArrayLike, "*M"]  # |rho|, the root of twice the loss; NaN before the first step
    scaled_gradient: Float[ArrayLike, "*M"]
    degenerate: Bool[ArrayLike, "*M"]
    steps: Int[ArrayLike, "*M"]
    attempts: Int[ArrayLike, "*M"]


def _solved(
    form: Form,
    residuals: Residuals,
    fits: Fits,
    inputs: Sequence[Points],
    axes: Sequence[Points],
    box: Box | None,
    tolerances: Tolerances,
    limit: Int[Array, ""],
) -> Fits:
    """Step until every problem has ended or made so many steps; `axes` says which leaves of the inputs differ."""

    def advanced(fit: Fits, data: Sequence[Points], bounds: Box | None) -> Fits:
        params, state, outcome = step(form, residuals, fit.params, data, bounds, fit.state, tolerances)
        after = Fits(
            params=params,
            state=state,
            status=outcome.status,
            root=outcome.unit * jnp.sqrt(outcome.new_squares),
            scaled_gradient=outcome.scaled_gradient,
            degenerate=outcome.degenerate,
            steps=fit.steps + 1,
            attempts=fit.attempts + outcome.attempts,
        )
        return jax.tree.map(lambda new, old: jnp.asarray(new, jnp.result_type(old)), after, fit)

    def alone(fit: Fits, data: Sequence[Points], bounds: Box | None) -> Fits:
        def going(current: Fits) -> Array:
            return jnp.logical_and(jnp.equal(current.status, Status.GOING), jnp.less(current.steps, limit))

        return lax.while_loop(going, lambda current: advanced(current, data, bounds), fit)

    return jax.vmap(alone, (0, axes, None if box is None else 0))(fits, inputs, box)


#: The same, compiled; quickly for small problems.
_USUAL = precise(_solved, static_argnums=(0, 4))
_QUICK = precise(_solved, "quick", static_argnums=(0, 4))


def solved(
    form: Form,
    residuals: Residuals,
    fits: Fits,
    inputs: tuple[Points, ...],
    axes: tuple[Points, ...],
    box: Box | None,
    tolerances: Tolerances,
    limit: ArrayLike,
) -> Fits:
    """The problems after they have ended or made so many steps, compiled. `axes` holds 0, or None for shared leaves."""
    run = _QUICK if form.small else _USUAL
    return run(form, residuals, fits, inputs, axes, box, tolerances, jnp.asarray(limit))
