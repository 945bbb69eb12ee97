"""Accelerated Levenberg-Marquardt steps that do not depend on the units of the parameters.

Symbols as in residuals.py and normal_equations.py, and
    d       the step: (J'J + lambda D^2) d = -J'rho, or (A'A + lambda I) y = -A'rho with A = J D^-1 and d = D^-1 y
    a       its acceleration: (J'J + lambda D^2) a = -1/2 J' rho_dd, rho_dd the second derivative of rho along d.
            theta + d + a follows the curved valley that theta + d leaves.
    q       gain ratio: how far |rho|^2 falls, over how far its linear model falls
    h_j     size of parameter j: its largest magnitude so far
A step is taken if it lowers f and 2 |D a| / |D d| < 3/4 (Transtrum and Sethna 2012, eq. 15, "Improvements to the
Levenberg-Marquardt algorithm for nonlinear least-squares minimization"). Where rho_dd is infinite, a is left out.
With more than a few parameters the corrections of corrections.py take the place of a, and say how lambda goes on.

The metrics D are those of metrics.py. Lambda falls by max(1/5, 1 - (2 q - 1)^3) after a step and rises by 2, 4, 8, ...
in failed attempts (Nielsen 1999, "Damping parameter in Marquardt's method", with 1/5 for 1/3, a heuristic). Parameters
at a bound that the gradient pushes against are held, and steps are cut off at the bounds.

The residuals cannot be known better than the parameters: rounding these changes rho by eps |s|, s_j = |J_j| theta_j.
A fall of |rho|^2 below what that makes of it, `noise`, proves nothing, and its absence neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from hessianfree.engine import corrections, metrics, reprs
from hessianfree.engine.compilation import precise
from hessianfree.engine.metrics import Metric, length_of, size_of
from hessianfree.engine.normal_equations import Equations, Linearized, Singular
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.searching import Box, Form, Here, Search, searched
from hessianfree.engine.trees import PyTree, Scalar

#: How far rounding may move parameters, beside their own size and that of the residuals. A heuristic.
ASTRAY = 2**10
#: The first lambda, and the least by which it falls: after a step, and after one of which smaller ones had failed.
FIRST, FALL, HALF = 1e-3, 0.2, 0.5
#: Where rounding hides the fall of the loss, the run goes on while each step is at most this long beside the last.
SHRINK = 0.7


class Tolerances(NamedTuple):
    """When a run has converged."""

    gradient: ArrayLike  # largest |J_j'rho| / (|J_j| |rho|)
    value: ArrayLike  # fall of f, predicted and found, relative to f
    step: ArrayLike  # |D d| relative to |D theta|


class LeastSquaresState(NamedTuple):
    """What one step hands to the next; arrays of fixed shapes."""

    damping: Float[ArrayLike, ""]  # lambda of the next step; NaN before the first
    norms: Float[ArrayLike, "P"]  # the largest norms of the columns of J so far
    sizes: Float[ArrayLike, "P"]  # h
    units: Float[ArrayLike, "P"]  # u
    metric: Int[ArrayLike, ""]  # a Metric
    last: Float[ArrayLike, ""]  # |D d| of the last step whose fall was lost in rounding; infinite if there was none

    def __repr__(self) -> str:
        return reprs.fields(self)


class Status(IntEnum):
    """What a step says of the run."""

    GOING = 0
    GRADIENT = 1  # converged: the scale-free gradient is small
    CHANGE = 2  # converged: value and parameters hardly change
    PRECISION = 3  # converged: what is left to gain is lost in rounding
    STUCK = 4  # no step lowers the loss
    UNUSABLE = 5  # the loss or its gradient is not finite


#: The tests of convergence.
CONVERGED = (Status.GRADIENT, Status.CHANGE, Status.PRECISION)


class Outcome(NamedTuple):
    """What happened in one step, on the device. Squares are those of residuals divided by `unit`."""

    unit: Scalar
    squares: Scalar
    new_squares: Scalar
    predicted: Scalar  # fall of the squares by the linear model
    damping: Scalar
    gradient_norm: Scalar
    scaled_gradient: Scalar  # the largest |J_j'rho| / (|J_j| |rho|)
    steepest: Int[Array, ""]  # the parameter it belongs to
    degenerate: Bool[Array, ""]  # whether a direction has nearly no effect on the residuals; False if not known
    acceleration: Scalar  # 2 |D a| / |D d|; NaN if there is no second derivative and a is left out
    corrections: Int[Array, ""]  # of the step that was tried last
    contraction: Scalar  # of these corrections, the largest; NaN if there is none
    attempts: Int[Array, ""]
    cg_iterations: Int[Array, ""]
    update_norm: Scalar
    accepted: Bool[Array, ""]
    status: Int[Array, ""]


def init(
    theta: Float[ArrayLike, "P"],
    damping: float | None = None,
    metric: Metric = Metric.OPEN,
    units: Float[np.ndarray, "P"] | None = None,
) -> LeastSquaresState:
    """The state before the first step from raveled parameters, in numpy; pass None for the usual first lambda."""
    start = np.asarray(theta)
    kind = start.dtype
    return LeastSquaresState(
        damping=np.asarray(np.nan if damping is None else min(damping, float(np.finfo(kind).max)), kind),
        norms=np.zeros_like(start),
        sizes=np.abs(start),
        units=np.ones_like(start) if units is None else units,
        metric=np.asarray(metric, np.int32),
        last=np.asarray(np.inf, kind),
    )


def step(
    form: Form,
    residuals: Residuals,
    params: PyTree,
    inputs: Sequence[Points],
    box: Box | None,
    state: LeastSquaresState,
    tolerances: Tolerances,
) -> tuple[PyTree, LeastSquaresState, Outcome]:
    """Make one step, traceable.

    Returns new parameters, with a finite loss that is no higher but for rounding, or the given ones if there was no
    step.
    """
    theta, unravel = ravel_pytree(params)
    linear = form.method.linearize(residuals, unravel, theta, inputs)
    here = _here(form, linear, theta, box, state)
    usable = jnp.isfinite(here.squares) & jnp.all(jnp.isfinite(here.gradient))
    small = jnp.max(here.scaled_gradient) <= tolerances.gradient
    rho_at = partial(residuals.flat, unravel, inputs)
    found = searched(form, rho_at, theta, here, box, usable & ~small)
    noisy = here.drowned & (found.predicted <= here.noise)
    lengths = _Lengths.of(here, theta, found)
    status = jnp.where(found.taken, _after(found, here, theta, lengths, noisy, state, tolerances), Status.STUCK)
    status = jnp.where(~found.taken & here.drowned & (found.promised <= here.noise), Status.PRECISION, status)
    status = jnp.where(small, Status.GRADIENT, status)
    status = jnp.where(usable, status, Status.UNUSABLE)
    moved = jnp.where(found.taken, found.theta, theta)
    after = LeastSquaresState(
        damping=_next_damping(form, found, here, state),
        norms=jnp.where(jnp.isfinite(linear.norms), jnp.maximum(state.norms, linear.norms), state.norms),
        sizes=jnp.maximum(state.sizes, jnp.abs(moved)),
        units=jnp.asarray(state.units),
        metric=here.metric,
        last=jnp.where(found.taken & noisy, lengths.step, jnp.inf).astype(theta.dtype),
    )
    outcome = Outcome(
        unit=here.unit,
        squares=here.squares,
        new_squares=jnp.where(found.taken, found.squares, here.squares),
        predicted=found.predicted,
        damping=jnp.where(found.attempts > 0, found.damping, here.damping),
        gradient_norm=lengths.gradient * here.unit,
        scaled_gradient=jnp.max(here.scaled_gradient),
        steepest=jnp.argmax(here.scaled_gradient),
        degenerate=here.degenerate,
        acceleration=found.acceleration,
        corrections=found.corrections,
        contraction=found.contraction,
        attempts=found.attempts,
        cg_iterations=jnp.asarray(here.equations.iterations),
        update_norm=jnp.where(found.taken, lengths.update, 0),
        accepted=found.taken,
        status=status,
    )
    return unravel(moved), after, outcome


def _in_one_array(form: Form, *arguments: Any) -> tuple[PyTree, LeastSquaresState, Array]:
    """A step with its outcome in one array: to fetch many small ones takes longer than a small step."""
    params, state, outcome = step(form, *arguments)
    return params, state, jnp.stack([jnp.asarray(number, outcome.unit.dtype) for number in outcome])


_USUAL = precise(_in_one_array, static_argnums=0)
_QUICK = precise(_in_one_array, "quick", static_argnums=0)


def compiled_step(form: Form, *arguments: Any) -> tuple[PyTree, LeastSquaresState, Outcome]:
    """The same, compiled; the outcome in numpy."""
    params, state, numbers = (_QUICK if form.small else _USUAL)(form, *arguments)
    return params, state, Outcome(*jax.device_get(numbers))


def _here(form: Form, linear: Linearized, theta: Float[Array, "P"], box: Box | None, state: LeastSquaresState) -> Here:
    unit = size_of(linear.rho)
    rho = linear.rho / unit
    norms = jnp.where(jnp.isfinite(linear.norms), linear.norms, 0)
    lasting, sizes = jnp.maximum(state.norms, norms), jnp.maximum(state.sizes, jnp.abs(theta))
    chosen, metric = metrics.metric(state.metric, norms, lasting, sizes, state.units)
    inverse = jnp.where(metric > 0, 1 / jnp.where(metric > 0, metric, 1), 0)
    gradient = form.method.pull(linear, rho)
    if box is not None:
        held = box.held(theta, gradient)
        gradient = jnp.where(held, 0, gradient)
        inverse = jnp.where(held, 0, inverse)
    eps = jnp.finfo(theta.dtype).eps
    first = jnp.where(jnp.isnan(state.damping), FIRST, state.damping)
    # Less is lost in rounding beside the largest curvature there is now; with more, the step is.
    largest = jnp.max(norms * inverse) ** 2
    largest = jnp.where(largest > 0, largest, 1)
    squares = jnp.sum(rho**2)
    length = jnp.sqrt(squares)
    spread = length_of(norms * theta / unit)
    # The rounding of J'rho, over lambda, moves parameters where J leaves them free.
    moved = eps * length / (ASTRAY * jnp.where(length > 0, spread + length, 1))
    least = largest * jnp.maximum(eps**form.method.least, jnp.where(jnp.isfinite(moved), moved, 0))
    damping = jnp.clip(first, least, eps**-0.5 * largest)
    equations = form.method.equations(linear, inverse, gradient, damping)
    known = norms > 0
    noise = 4 * eps * length * (spread + length) + 4 * (eps * spread) ** 2
    noise = jnp.where(jnp.isfinite(noise), noise, 0)
    scaled_gradient = jnp.where(known, jnp.abs(gradient) / jnp.where(known, norms, 1), 0)
    scaled_gradient = scaled_gradient / jnp.where(length > 0, length, 1)
    return Here(
        unit=unit,
        rho=rho,
        squares=squares,
        noise=noise,
        drowned=jnp.max(scaled_gradient) ** 2 * squares <= noise,
        inverse=inverse,
        damping=damping,
        steady=eps * largest,
        equations=equations,
        gradient=gradient,
        metric=chosen,
        scaled_gradient=scaled_gradient,
        degenerate=_degenerate(form, equations, inverse),
    )


def _degenerate(form: Form, equations: Equations, inverse: Float[Array, "P"]) -> Bool[Array, ""]:
    """Whether some singular values of A are lost beside the largest; only `Singular` knows them."""
    if not isinstance(form.method, Singular):
        return jnp.asarray(False)
    S = equations.matrices[1]
    return jnp.sum(jnp.sqrt(jnp.finfo(S.dtype).eps) * S[0] < S) < jnp.sum(inverse > 0)


class _Lengths(NamedTuple):
    """Norms of vectors, in one pass: every pass by itself has to be compiled."""

    gradient: Scalar
    update: Scalar  # of theta
    step: Scalar  # |D d|, in the unit of the residuals
    params: Scalar  # |D theta|, in that unit

    @classmethod
    def of(cls, here: Here, theta: Float[Array, "P"], found: Search) -> _Lengths:
        """Those of a step that was found."""
        free = here.inverse > 0
        metric = jnp.where(free, 1 / jnp.where(free, here.inverse, 1), 0) / here.unit
        return cls(*length_of(jnp.stack([here.gradient, found.theta - theta, found.y, metric * theta])))


def _after(
    found: Search,
    here: Here,
    theta: Float[Array, "P"],
    lengths: _Lengths,
    noisy: Bool[Array, ""],
    state: LeastSquaresState,
    tolerances: Tolerances,
) -> Int[Array, ""]:
    """What a step that was taken says of the run."""
    calm = jnp.all(jnp.abs(found.theta - theta) <= jnp.maximum(state.sizes, jnp.abs(theta)))
    near = calm & (lengths.step <= tolerances.step * lengths.params)
    # A step may be short because lambda is large: along one parameter alone the fall would be the gradient's square.
    slope = jnp.max(here.scaled_gradient) ** 2
    falls = jnp.maximum(found.predicted, here.squares - found.squares)
    flat = (falls <= tolerances.value * here.squares) & ((slope <= tolerances.value) | here.drowned)
    settled = noisy & calm & (lengths.step > SHRINK * state.last)
    return jnp.where(settled, Status.PRECISION, jnp.where(near & flat, Status.CHANGE, Status.GOING))


def _next_damping(form: Form, found: Search, here: Here, state: LeastSquaresState) -> Scalar:
    """Lambda of the next step; as it was where nothing was learnt of it."""
    gain = (here.squares - found.squares) / jnp.where(found.predicted > 0, found.predicted, 1)
    fall = jnp.clip(1 - (2 * jnp.clip(gain, 0, 1) - 1) ** 3, FALL, 2)
    if form.corrected:
        fall = corrections.change_of_damping(found.contraction, fall)
        fall = jnp.where(found.attempts > 1, jnp.maximum(fall, HALF), fall)
    after = found.damping * fall
    # Above 1 it dominates every column of A. Where such short steps keep their promise, the way back must not be long.
    after = jnp.where((after > 1) & (gain > 0.9), jnp.minimum(after, jnp.sqrt(found.damping)), after)
    return jnp.where(found.taken, after, jnp.asarray(state.damping))
