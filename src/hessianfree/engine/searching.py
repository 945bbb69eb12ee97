"""The search for a step of least squares at a point: the damping grows until a step is taken.

Symbols as in levenberg.py.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from hessianfree.engine import corrections
from hessianfree.engine.corrections import Corrected
from hessianfree.engine.normal_equations import Equations, Method
from hessianfree.engine.trees import Scalar

#: The largest 2 |D a| / |D d| of a step that is taken.
ACCELERATION = 0.75
#: Failed attempts in a row after which the search gives up: lambda has grown by 2^(n (n + 1) / 2).
ATTEMPTS = 24


class Form(NamedTuple):
    """How to compute steps; static."""

    method: Method  # how to solve the equations
    accelerated: bool = True  # whether to correct steps by their acceleration, which needs residuals with forward mode
    corrected: bool = False  # whether to correct them by evaluations instead
    small: bool = False  # whether the time to compile counts more than the time of a step


class Box(NamedTuple):
    """Bounds of the raveled parameters; a parameter with both bounds alike is fixed."""

    lower: Float[ArrayLike, "P"]
    upper: Float[ArrayLike, "P"]

    def held(self, theta: Float[ArrayLike, "P"], gradient: Float[ArrayLike, "P"]) -> Bool[Array, "P"]:
        """Which parameters are at a bound that the gradient pushes against, or fixed."""
        below, above = jnp.less_equal(theta, self.lower), jnp.greater_equal(theta, self.upper)
        return (below & jnp.greater_equal(gradient, 0)) | (above & jnp.less_equal(gradient, 0))


class Here(NamedTuple):
    """A point in its metric. Residuals are divided by `unit`, so that their squares are numbers of the type."""

    unit: Scalar
    rho: Float[Array, "N"]
    squares: Scalar
    noise: Scalar
    drowned: Bool[Array, ""]  # whether a step along any single parameter would gain less than that
    inverse: Float[Array, "P"]  # D^-1, zero where a parameter is held
    damping: Scalar
    steady: Scalar  # the least mu
    equations: Equations
    gradient: Float[Array, "P"]  # J'rho, zero where a parameter is held
    metric: Int[Array, ""]  # which one
    scaled_gradient: Float[Array, "P"]
    degenerate: Bool[Array, ""]


class Search(NamedTuple):
    """The search for a step, and its last attempt."""

    theta: Float[Array, "P"]
    next_damping: Scalar
    rise: Scalar
    damping: Scalar
    squares: Scalar
    predicted: Scalar
    promised: Scalar  # what the first attempt predicted
    y: Float[Array, "P"]  # D d, in the unit of the residuals
    acceleration: Scalar
    corrections: Int[Array, ""]
    contraction: Scalar
    attempts: Int[Array, ""]
    taken: Bool[Array, ""]

    @classmethod
    def begun(cls, theta: Float[Array, "P"], damping: Scalar) -> Search:
        """Before the first attempt."""
        zero, none = jnp.zeros_like(damping), jnp.int32(0)
        numbers = damping, zero, zero, zero
        y = jnp.zeros_like(theta)
        return cls(theta, damping, zero + 2, *numbers, y, zero, none, zero + jnp.nan, none, jnp.asarray(False))


def searched(
    form: Form,
    rho_at: partial[Array],
    theta: Float[Array, "P"],
    here: Here,
    box: Box | None,
    wanted: Bool[Array, ""],
) -> Search:
    """Try steps until one is taken or there were too many; none if none is wanted.

    Args:
        form: how to compute them.
        rho_at: the residuals at raveled parameters.
        theta: where to start.
        here: what is known of that point.
        box: bounds of the parameters.
        wanted: whether a step is wanted.
    """
    return lax.while_loop(
        lambda search: ~search.taken & (search.attempts < ATTEMPTS) & wanted,
        lambda search: _attempted(form, rho_at, theta, here, search, box),
        Search.begun(theta, here.damping),
    )


def _attempted(
    form: Form, rho_at: partial[Array], theta: Float[Array, "P"], here: Here, search: Search, box: Box | None
) -> Search:
    """Try the step of the next lambda; raise lambda if it fails."""
    damping = search.next_damping
    factor_of = partial(form.method.factor, here.equations)
    solve, nowhere = partial(form.method.solve, here.equations), jnp.zeros_like(theta)

    def moved(y: Float[Array, "P"]) -> Float[Array, "P"]:
        return theta + here.unit * here.inverse * y

    def inside(y: Float[Array, "P"]) -> Float[Array, "P"]:
        return moved(y) if box is None else jnp.clip(moved(y), box.lower, box.upper)

    rho_after = lambda y: rho_at(inside(y)) / here.unit  # noqa: E731
    if form.corrected:
        best = corrections.corrected(rho_after, factor_of, solve, here.rho, nowhere, damping, here.steady)
    else:
        factor = factor_of(damping)
        solved = lambda b: solve(factor, b, nowhere)  # noqa: E731
        best = Corrected.without(-solved(here.rho))
        if form.accelerated:
            best = corrections.accelerated(lambda y: rho_at(moved(y)) / here.unit, solved, best.y)
        best = best._replace(squares=jnp.sum(rho_after(best.y) ** 2))
    there, squares = inside(best.y), best.squares
    predicted = -((here.inverse * here.gradient) @ best.plain) + damping * (best.plain @ best.plain)
    predicted = jnp.where(jnp.isfinite(predicted), predicted, jnp.inf)
    lost = here.drowned & (predicted <= here.noise) & (squares <= here.squares + here.noise)
    lower = (squares < here.squares) | lost
    taken = lower & jnp.isfinite(squares) & jnp.all(jnp.isfinite(there)) & ~(best.acceleration >= ACCELERATION)
    return Search(
        theta=there,
        next_damping=damping * search.rise,
        rise=2 * search.rise,
        damping=damping,
        squares=squares,
        predicted=predicted,
        promised=jnp.where(search.attempts > 0, search.promised, predicted),
        y=best.y,
        acceleration=best.acceleration,
        corrections=best.number,
        contraction=best.contraction,
        attempts=search.attempts + 1,
        taken=taken,
    )
