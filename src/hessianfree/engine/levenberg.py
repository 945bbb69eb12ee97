"""Accelerated Levenberg-Marquardt steps.

Symbols as in residuals.py, and
    d       the step, (J'J + lambda I) d = -J'rho, solved as normal_equations.py offers
    a       its acceleration, (J'J + lambda I) a = -1/2 J' rho_dd, rho_dd the second derivative of rho along d:
            theta + d + a follows the curved valley that theta + d leaves
A step is taken if it lowers f and 2 |a| / |d| < 3/4 (Transtrum and Sethna 2012, eq. 15, "Improvements to the
Levenberg-Marquardt algorithm for nonlinear least-squares minimization"); where rho_dd is infinite, a is left out. Small
steps down, large steps up: lambda falls by a third after a step and is tripled after a failed attempt, so that the
valley is entered slowly ("delayed gratification" there; the factors are heuristics, chosen on row A6 of the arena).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from numpy.typing import NDArray

from hessianfree.engine.compilation import precise
from hessianfree.engine.normal_equations import Equations, Method
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import Product, PyTree, safe_dot, safe_norm

#: Factors on lambda after a step and after a failed attempt, and its first value relative to a large entry of J'J.
LOWER_BY, RAISE_BY, FIRST = 2 / 3, 3.0, 1e-3
#: Largest 2 |a| / |d|.
ACCELERATION = 0.75
#: Failed attempts in a row after which no step is to be found: lambda has grown by 3^ATTEMPTS.
ATTEMPTS = 40


class Form(NamedTuple):
    """How steps are computed; static."""

    method: Method  # how the equations are solved
    accelerated: bool = True  # whether to correct steps by their acceleration; needs models with forward mode


class System(NamedTuple):
    """Everything about a point that does not depend on lambda."""

    squares: Product  # 2 f
    gradient_norm: Array
    equations: Equations


class Attempt(NamedTuple):
    """Where a step leads."""

    params: PyTree
    squares: Product  # 2 f
    slope: Product  # g'd, twice q(d) = g'd + 1/2 d'(J'J + lambda I) d
    size: Array
    acceleration: Array  # 2 |a| / |d|, NaN where there is no second derivative and a is left out


class LeastSquaresState(NamedTuple):
    """What one step hands to the next."""

    damping: NDArray[np.float64]  # lambda of the next step, (); NaN to choose it by the problem
    steps: NDArray[np.int64]  # made so far, failed ones included, ()


class LeastSquaresRecord(NamedTuple):
    """What happened in one step; `reason` says in words why there was none."""

    value: float
    new_value: float
    damping: float
    gradient_norm: float
    reduction_ratio: float
    acceleration: float
    attempts: int
    cg_iterations: int  # products with J'J, where it is solved by them
    update_norm: float
    accepted: bool
    reason: str


@partial(precise, static_argnums=0)
def assemble(form: Form, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: ArrayLike) -> System:
    """Residuals and normal equations at a point; a damping of NaN is chosen by the problem."""
    equations = form.method.equations(residuals, params, inputs, partial(_usable_damping, damping))
    return System(safe_dot(equations.rho, equations.rho), safe_norm(equations.gradient), equations)


def _usable_damping(given: ArrayLike, largest: Array) -> Array:
    """The one given, or the first; but neither below rounding nor where steps vanish in it.

    Less does nothing in this precision, and would have to be raised all the way back before a step is found; with more
    no step is found, and attempts only raise it.
    """
    known = (largest > 0) & jnp.isfinite(largest)
    largest = jnp.where(known, largest, 1 / FIRST)
    chosen = jnp.where(jnp.isnan(given), FIRST * largest, given)
    eps = jnp.finfo(largest.dtype).eps
    return jnp.where(known, jnp.clip(chosen, eps * largest, eps**-0.5 * largest), chosen)


@partial(precise, static_argnums=0)
def attempt(
    form: Form,
    residuals: Residuals,
    params: PyTree,
    inputs: Sequence[Points],
    equations: Equations,
    damping: ArrayLike,
) -> Attempt:
    """The step for one lambda, no less than that of the equations; NaN where there is no step in this precision."""
    theta, unravel = ravel_pytree(params)
    rho_at = partial(residuals.flat, unravel, inputs)
    solved = form.method.solver(equations, damping)
    d = -solved(equations.rho)
    step, ratio = d, jnp.zeros_like(d[0])
    if form.accelerated:
        _, along = jax.jvp(lambda t: jax.jvp(rho_at, (t,), (d,))[1], (theta,), (d,))
        bends = jnp.all(jnp.isfinite(along))  # |r|^1.5 at 0 has no second derivative, and the step needs none
        a = jnp.where(bends, -0.5 * solved(along), 0)
        step, ratio = d + a, jnp.where(bends, 2 * safe_norm(a) / safe_norm(d), jnp.nan)
    there = rho_at(theta + step)
    return Attempt(
        params=unravel(theta + step),
        squares=safe_dot(there, there),
        slope=safe_dot(equations.gradient, d),
        size=safe_norm(step),
        acceleration=ratio,
    )


def init(damping: float | None = None) -> LeastSquaresState:
    """The state before the first step; a first lambda of None is chosen by the problem."""
    return LeastSquaresState(np.asarray(math.nan if damping is None else damping, np.float64), np.asarray(0))


class _Taken(NamedTuple):
    """How the search for a step ended: the attempt that succeeded, if any, its lambda, and the lambda that follows."""

    found: Attempt | None
    damping: float
    after: float
    attempts: int


def step(
    form: Form, residuals: Residuals, params: PyTree, inputs: Sequence[Points], state: LeastSquaresState
) -> tuple[PyTree, LeastSquaresState, LeastSquaresRecord]:
    """Make one step; parameters that are returned have a finite loss lower than before, or are the ones given."""
    dtype = jnp.result_type(*jax.tree.leaves(params))
    system = assemble(form, residuals, params, inputs, _number(float(state.damping), dtype))
    known = system.squares, system.gradient_norm, system.equations.damping
    squares, gradient_norm, damping = map(float, jax.device_get(known))
    value = 0.5 * squares
    reason = _unusable(value, gradient_norm)
    # Without a gradient, the curvature at this point says nothing of the next one's.
    after = float(state.damping) if reason else damping
    taken = _Taken(None, damping, after, 0)
    if not reason:
        attempts = partial(attempt, form, residuals, params, inputs, system.equations)
        taken = _searched(lambda used: attempts(_number(used, dtype)), squares, damping)
        if taken.found is None:
            reason = "no step lowers the loss: at the limit of precision"
    made = LeastSquaresState(np.asarray(taken.after), state.steps + 1)
    record = _record(taken, value, gradient_norm, int(system.equations.iterations), reason)
    return (params if taken.found is None else taken.found.params), made, record


def _searched(attempted: Callable[[float], Attempt], squares: float, first: float) -> _Taken:
    """Raise lambda until a step lowers the loss without bending too much."""
    damping = first
    for attempts in range(1, ATTEMPTS + 1):
        found = attempted(damping)
        numbers: Attempt = jax.device_get(found._replace(params=None))
        lower = math.isfinite(numbers.size) and float(numbers.squares) < squares
        if lower and not numbers.acceleration >= ACCELERATION:
            return _Taken(numbers._replace(params=found.params), damping, damping * LOWER_BY, attempts)
        used, damping = damping, damping * RAISE_BY
    return _Taken(None, used, first, ATTEMPTS)


def _record(taken: _Taken, value: float, gradient_norm: float, iterations: int, reason: str) -> LeastSquaresRecord:
    found = taken.found
    predicted = 0.5 * float(found.slope) if found else 0.0
    new_value = 0.5 * float(found.squares) if found else value
    return LeastSquaresRecord(
        value=value,
        new_value=new_value,
        damping=taken.damping,
        gradient_norm=gradient_norm,
        reduction_ratio=(new_value - value) / predicted if predicted else math.nan,
        acceleration=float(found.acceleration) if found else math.nan,
        attempts=taken.attempts,
        cg_iterations=iterations,
        update_norm=float(found.size) if found else 0.0,
        accepted=found is not None,
        reason=reason,
    )


def _number(damping: float, dtype: Any) -> NDArray[Any]:
    """A lambda beyond the type is infinite, and its step no step."""
    with np.errstate(over="ignore"):
        return np.asarray(damping, dtype)


def _unusable(value: float, gradient_norm: float) -> str:
    if not (math.isfinite(value) and math.isfinite(gradient_norm)):
        return (
            f"the loss is {value}, its gradient's norm {gradient_norm}: too large for this precision, or a derivative "
            "that is infinite here, as that of a square root at zero"
        )
    return "the gradient is zero: nothing left to improve" if gradient_norm == 0 else ""
