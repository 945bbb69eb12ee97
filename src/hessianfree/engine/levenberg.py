"""Accelerated Levenberg-Marquardt steps.

Symbols as in residuals.py, and
    d       the step: (J'J + lambda I) d = -J'rho, solved by one of the methods in normal_equations.py
    a       its acceleration: (J'J + lambda I) a = -1/2 J' rho_dd, rho_dd the second derivative of rho along d.
            theta + d + a follows the curved valley that theta + d leaves.
A step is taken if it lowers f and 2 |a| / |d| < 3/4 (Transtrum and Sethna 2012, eq. 15, "Improvements to the
Levenberg-Marquardt algorithm for nonlinear least-squares minimization"). Where rho_dd is infinite, a is left out.

Lambda falls by a third after a step and is tripled after a failed attempt. Small steps down and large steps up let the
valley be entered slowly ("delayed gratification" there). The factors are heuristics, chosen on row A6 of the arena.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float
from numpy.typing import NDArray

from hessianfree.engine.compilation import precise
from hessianfree.engine.normal_equations import Equations, Method
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import Product, PyTree, Scalar, safe_dot, safe_norm

#: Factors on lambda after a step and after a failed attempt, and its first value relative to a large entry of J'J.
LOWER_BY, RAISE_BY, FIRST = 2 / 3, 3.0, 1e-3
#: The largest 2 |a| / |d| of a step that is taken.
ACCELERATION = 0.75
#: Failed attempts in a row after which the search gives up: lambda has grown by 3^ATTEMPTS.
ATTEMPTS = 40


class Form(NamedTuple):
    """How to compute steps; static."""

    method: Method  # how to solve the equations
    accelerated: bool = True  # whether to correct steps by their acceleration, which needs residuals with forward mode


class System(NamedTuple):
    """Everything about a point that does not depend on lambda."""

    squares: Product  # 2 f
    gradient_norm: Scalar
    equations: Equations


class Attempt(NamedTuple):
    """Where a step leads."""

    params: PyTree
    squares: Product  # 2 f
    slope: Product  # g'd, which is twice q(d) = g'd + 1/2 d'(J'J + lambda I) d
    size: Scalar
    acceleration: Scalar  # 2 |a| / |d|; NaN if there is no second derivative and a is left out


class LeastSquaresState(NamedTuple):
    """What one step hands to the next."""

    damping: Float[np.ndarray, ""]  # lambda of the next step, float64; NaN to choose it by the problem


class LeastSquaresRecord(NamedTuple):
    """What happened in one step. If no step was taken, `reason` says why."""

    value: float
    new_value: float
    damping: float
    gradient_norm: float
    reduction_ratio: float
    acceleration: float
    attempts: int
    cg_iterations: int  # products with J'J; 0 where the equations are solved by Cholesky
    update_norm: float
    accepted: bool
    reason: str


@partial(precise, static_argnums=0)
def assemble(form: Form, residuals: Residuals, params: PyTree, inputs: Sequence[Points], damping: ArrayLike) -> System:
    """Residuals and normal equations at a point; pass a damping of NaN to choose lambda by the problem."""
    equations = form.method.equations(residuals, params, inputs, partial(_usable_damping, damping))
    return System(safe_dot(equations.rho, equations.rho), safe_norm(equations.gradient), equations)


def _usable_damping(given: ArrayLike, largest: Scalar) -> Scalar:
    """The given lambda, or the first one, held between rounding and the size at which steps vanish in it.

    A smaller lambda changes nothing in this precision, and would have to be raised all the way back before a step is
    found. With a larger one there is no step, and failed attempts only raise it further.
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
    """The step for one lambda, no smaller than that of the equations, and the loss after it.

    It holds NaN if there is no step in this precision.
    """
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
    """The state before the first step; pass None to choose the first lambda by the problem."""
    return LeastSquaresState(np.array(math.nan if damping is None else damping, np.float64))


def step(
    form: Form, residuals: Residuals, params: PyTree, inputs: Sequence[Points], state: LeastSquaresState
) -> tuple[PyTree, LeastSquaresState, LeastSquaresRecord]:
    """Make one step.

    Returns new parameters, with a lower and finite loss, or the given ones if no step was found.
    """
    dtype = jnp.result_type(*jax.tree.leaves(params))
    given = float(state.damping)
    system = assemble(form, residuals, params, inputs, _number(given, dtype))
    known = system.squares, system.gradient_norm, system.equations.damping
    squares, gradient_norm, damping = map(float, jax.device_get(known))
    value = 0.5 * squares
    reason = _unusable(value, gradient_norm)
    search = _Search(None, damping, given, 0)  # curvature without a gradient says nothing about the next point's
    if not reason:
        attempts = partial(attempt, form, residuals, params, inputs, system.equations)
        search = _search(lambda used: attempts(_number(used, dtype)), squares, damping)
        reason = "" if search.found else "no step lowers the loss: the limit of precision is reached"
    record = _record(search, value, gradient_norm, int(system.equations.iterations), reason)
    return search.found.params if search.found else params, init(search.after), record


class _Search(NamedTuple):
    """How the search for a step ended."""

    found: Attempt | None  # the attempt that succeeded
    damping: float  # its lambda, or the last one tried
    after: float  # lambda of the next step
    attempts: int


def _search(attempted: Callable[[float], Attempt], squares: float, first: float) -> _Search:
    """Raise lambda until a step lowers the loss and its acceleration is small."""
    damping = used = first
    for attempts in range(1, ATTEMPTS + 1):
        found = attempted(damping)
        numbers: Attempt = jax.device_get(found._replace(params=None))
        lower = math.isfinite(numbers.size) and float(numbers.squares) < squares
        if lower and not numbers.acceleration >= ACCELERATION:
            return _Search(numbers._replace(params=found.params), damping, damping * LOWER_BY, attempts)
        used, damping = damping, damping * RAISE_BY
    return _Search(None, used, first, ATTEMPTS)


def _record(search: _Search, value: float, gradient_norm: float, iterations: int, reason: str) -> LeastSquaresRecord:
    found = search.found
    predicted = 0.5 * float(found.slope) if found else 0.0
    new_value = 0.5 * float(found.squares) if found else value
    return LeastSquaresRecord(
        value=value,
        new_value=new_value,
        damping=search.damping,
        gradient_norm=gradient_norm,
        reduction_ratio=(new_value - value) / predicted if predicted else math.nan,
        acceleration=float(found.acceleration) if found else math.nan,
        attempts=search.attempts,
        cg_iterations=iterations,
        update_norm=float(found.size) if found else 0.0,
        accepted=found is not None,
        reason=reason,
    )


def _number(damping: float, dtype: np.dtype[np.floating]) -> NDArray[np.floating]:
    """Lambda in this precision. A number too large for it becomes infinite, and its step fails."""
    with np.errstate(over="ignore"):
        return np.asarray(damping, dtype)


def _unusable(value: float, gradient_norm: float) -> str:
    """Why there can be no step from here; empty if there can."""
    if not (math.isfinite(value) and math.isfinite(gradient_norm)):
        return (
            f"the loss is {value} and the norm of its gradient {gradient_norm}: one is too large for this precision, "
            "or a derivative is infinite here, like that of a square root at zero; rescale the residuals, or start "
            "from other parameters"
        )
    return "the gradient is zero: nothing is left to improve" if gradient_norm == 0 else ""
