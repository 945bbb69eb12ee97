"""One Hessian-free update, joined from its parts (Martens 2010; Martens and Sutskever 2012).

Solve (G + lambda I) d = -g by truncated CG from the decayed last solution, backtrack over its iterates, adapt
lambda by the reduction ratio, and search along d. One compiled function linearises the model and runs all of CG;
the decisions after it are plain Python around single loss evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from hessianfree.engine import line_search, trees
from hessianfree.engine.cg import Solution, Stop, conjugate_gradient
from hessianfree.engine.compilation import jit
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.objective import PRECISION, Batch, Objective, Problem, linearize
from hessianfree.engine.preconditioners import Identity, Preconditioner
from hessianfree.engine.trees import PyTree

#: Relative progress per iteration at which the 2016 package's CG stopped.
CLASSIC_TOLERANCE = 5e-6


@dataclass(frozen=True)
class Settings:
    """Everything that stays the same from update to update; hashable.

    Args:
        cg_iterations: limit on CG iterations per update.
        cg_tolerance: relative progress per iteration at which CG stops; 5e-4 in the 2010 paper.
        warm_start_decay: factor on the last solution as CG's start, in [0, 1].
        damping_rule: adaptation of lambda.
        preconditioner: M in preconditioned CG.

    Raises:
        ValueError: for values outside these ranges.
    """

    cg_iterations: int = 250
    cg_tolerance: float = 5e-4
    warm_start_decay: float = 0.95
    damping_rule: LevenbergMarquardt = field(default_factory=LevenbergMarquardt)
    preconditioner: Preconditioner = field(default_factory=Identity)

    def __post_init__(self) -> None:
        if not isinstance(self.cg_iterations, (int, np.integer)) or self.cg_iterations < 1:
            raise ValueError(f"CG iterations: given {self.cg_iterations!r}; a whole number >= 1 is needed.")
        if not isinstance(self.damping_rule, LevenbergMarquardt):
            raise TypeError(f"Damping rule: given {self.damping_rule!r}; a LevenbergMarquardt is needed.")
        try:
            hash(self.preconditioner)
        except TypeError:
            raise TypeError(
                f"Preconditioner: given {self.preconditioner!r}, which is not hashable; make it a frozen dataclass."
            ) from None
        if not self.cg_tolerance >= 0:
            raise ValueError(f"CG tolerance: given {self.cg_tolerance}; it must be >= 0, 5e-4 is usual.")
        if not 0 <= self.warm_start_decay <= 1:
            raise ValueError(f"Warm start decay: given {self.warm_start_decay}; it must lie in [0, 1].")


class State(NamedTuple):
    """What one update hands to the next."""

    damping: float
    direction: PyTree | None  # the last CG solution, None before the first and after a rejected step
    rejections: int  # updates without a usable step, in a row


class Record(NamedTuple):
    """What happened in one update; `reason` says in words why a step was rejected."""

    # the loss before and after, on the update's own batch
    value: float
    new_value: float
    # how the direction was found
    damping: float
    gradient_norm: float
    cg_iterations: int
    cg_stop: Stop
    backtracked: int  # stored iterates passed over
    # how far it was followed
    reduction_ratio: float
    step_length: float
    update_norm: float
    accepted: bool
    at_damping_bound: bool
    reason: str


class Update(NamedTuple):
    """The new parameters, the change that led to them (None if rejected), what to keep, and what happened."""

    params: PyTree
    change: PyTree | None
    state: State
    record: Record


class Solved(NamedTuple):
    """What the compiled part of an update hands to the decisions after it."""

    value: Array
    gradient_norm: Array
    slopes: Array  # g'd of each stored iterate, (K,)
    solution: Solution


@partial(jit, static_argnums=0)
def solve(
    settings: Settings,
    objective: Objective,
    params: PyTree,
    batch: Batch,
    start: PyTree,
    damping: ArrayLike,
    free: PyTree | None,
) -> Solved:
    """Linearise, prepare the preconditioner and run CG: the one expensive, compiled part of an update.

    Args:
        settings: see Settings (static).
        objective: model and loss.
        params: the point.
        batch: examples and weights.
        start: the last solution, before its decay.
        damping: lambda.
        free: 1 where a parameter may change and 0 where not, or None.

    Returns:
        Loss and gradient norm at the point, and the CG solution with the slope g'd of each stored iterate.
    """
    with jax.default_matmul_precision(PRECISION):
        local = linearize(objective, params, batch)
        precondition = settings.preconditioner.prepare(objective, params, batch, damping)
        product, gradient = _restrict(free, damped(local.product, damping), local.gradient)
        solution = conjugate_gradient(
            product,
            b=trees.scale(-1, gradient),
            x0=trees.scale(settings.warm_start_decay, start if free is None else trees.multiply(free, start)),
            precondition=precondition if free is None else lambda r: trees.multiply(free, precondition(r)),
            iterations=settings.cg_iterations,
            tolerance=settings.cg_tolerance,
        )
        slopes = jax.vmap(partial(trees.dot, gradient))(solution.iterates)
        return Solved(local.value, trees.norm(gradient), slopes, solution)


@partial(jit, static_argnums=0)
def solve_plainly(
    iterations: int,
    objective: Objective,
    params: PyTree,
    batch: Batch,
    gradient: PyTree,
    start: PyTree,
    damping: ArrayLike,
) -> Solution:
    """CG on (G + lambda I) d = -gradient as in the 2016 package: no preconditioner, its own stopping test.

    Args:
        iterations: the limit (static).
        objective: model and loss.
        params: the point.
        batch: examples and weights.
        gradient: g, shaped like params.
        start: first guess of d.
        damping: lambda.

    Returns:
        The stored iterates and why it stopped.
    """
    with jax.default_matmul_precision(PRECISION):
        product = damped(linearize(objective, params, batch).product, damping)
        b = trees.scale(-1, gradient)
        return conjugate_gradient(product, b, start, lambda r: r, iterations, CLASSIC_TOLERANCE)


def damped(product: Callable[[PyTree], PyTree], damping: ArrayLike) -> Callable[[PyTree], PyTree]:
    """V -> (G + lambda I) v."""
    return lambda v: trees.axpy(damping, v, product(v))


def _restrict(
    free: PyTree | None, product: Callable[[PyTree], PyTree], gradient: PyTree
) -> tuple[Callable[[PyTree], PyTree], PyTree]:
    """Leave out the directions where `free` is 0: vectors that start inside the subspace stay there."""
    if free is None:
        return product, gradient
    return lambda v: trees.multiply(free, product(v)), trees.multiply(free, gradient)


def _zeros_like(leaf: Any) -> Any:
    """Zeros where the leaf lives: on the host, or on its devices in its own layout."""
    return jnp.zeros_like(leaf) if isinstance(leaf, jax.Array) else np.zeros_like(leaf)


class _Displaced(NamedTuple):
    params: PyTree
    change: PyTree
    size: Array  # norm of the change
    finite: Array


@jit
def _displace(params: PyTree, iterates: PyTree, index: ArrayLike, length: ArrayLike) -> _Displaced:
    """Go from params along a stored iterate."""
    change = jax.tree.map(lambda stack: (length * stack[index]).astype(stack.dtype), iterates)
    moved = jax.tree.map(jnp.add, params, change)
    return _Displaced(moved, change, trees.norm(change), trees.all_finite(moved))


def initial_state(damping: float) -> State:
    """State before the first update.

    Args:
        damping: initial lambda, above 0.

    Raises:
        ValueError: if it is not a positive finite number.
    """
    if not isinstance(damping, (int, float, np.number)) or not (damping > 0 and math.isfinite(damping)):
        raise ValueError(f"Damping: given {damping!r}; it must be a positive number, 1 is usual.")
    return State(float(damping), None, 0)


def step(
    problem: Problem,
    params: PyTree,
    batch: Batch,
    state: State,
    settings: Settings,
    free: PyTree | None = None,
) -> Update:
    """Make one update; parameters that are returned always have a finite loss, or are the ones given.

    Args:
        problem: model and loss.
        params: where to start.
        batch: examples and weights; gradient, curvature and line search all use them.
        state: from `initial_state` or the last update.
        settings: see Settings.
        free: 1 where a parameter may change and 0 where not, shaped like params; None for all free.

    Returns:
        New parameters, state and a record of what happened. A rejected step leaves the parameters, drops the
        warm start and raises the damping.
    """
    objective, local_batch = problem.localize(params, batch)
    start = state.direction if state.direction is not None else jax.tree.map(_zeros_like, params)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    solved: Solved = solve(settings, objective, params, local_batch, start, np.asarray(state.damping, dtype), free)
    scalars = (solved.value, solved.gradient_norm, solved.slopes, solved.solution._replace(iterates=None))
    value, gradient_norm, slopes, solution = jax.device_get(scalars)
    iterates = solved.solution.iterates

    def displaced(index: int, length: float = 1.0) -> _Displaced:
        return _displace(params, iterates, np.int32(index), np.asarray(length, dtype))

    def value_at(index: int, length: float = 1.0) -> float:
        return problem.value(displaced(index, length).params, batch)

    chosen = line_search.backtrack(value_at, int(solution.last))
    slope = float(slopes[chosen.iterate])
    found = line_search.shrink(partial(value_at, chosen.iterate), chosen.value, float(value), slope)
    new = displaced(chosen.iterate, found.length)
    update_norm, finite = jax.device_get((new.size, new.finite))

    predicted = float(solution.quadratic[chosen.iterate])
    ratio = (chosen.value - float(value)) / predicted if predicted < 0 else math.nan
    reason = _rejection(float(value), float(gradient_norm), found, bool(finite), float(update_norm))
    record = Record(
        value=float(value),
        new_value=found.value if not reason else float(value),
        damping=state.damping,
        gradient_norm=float(gradient_norm),
        cg_iterations=int(solution.iterations),
        cg_stop=Stop(int(solution.stop)),
        backtracked=int(solution.last) - chosen.iterate,
        reduction_ratio=ratio,
        step_length=found.length if not reason else 0.0,
        update_norm=float(update_norm) if not reason else 0.0,
        accepted=not reason,
        at_damping_bound=settings.damping_rule.at_bound(state.damping),
        reason=reason,
    )
    if record.gradient_norm == 0 and math.isfinite(record.value):
        # Nothing to learn from this batch (no known targets, say) is no fault of the damping.
        return Update(params, None, state, record)
    if reason:
        rejected = State(settings.damping_rule.reject(state.damping), None, state.rejections + 1)
        return Update(params, None, rejected, record)
    # The warm start is CG's own final solution, whatever backtracking and line search made of it.
    direction = displaced(int(solution.last)).change
    return Update(
        new.params, new.change, State(settings.damping_rule.adapt(state.damping, ratio), direction, 0), record
    )


def _rejection(value: float, gradient_norm: float, found: line_search.Step, finite: bool, update_norm: float) -> str:
    """Why a step cannot be used, or an empty string."""
    if not math.isfinite(value):
        return f"the loss is {value} at the current parameters"
    if not math.isfinite(gradient_norm):
        return f"the gradient's norm is {gradient_norm}"
    if gradient_norm == 0:
        return "the gradient is zero: nothing left to improve"
    if found.length == 0:
        return "no step along the direction lowers the loss; at the limit of precision, or the damping is too low"
    if not finite or not math.isfinite(update_norm):
        return "the update is not finite"
    if update_norm == 0:
        return "the update is zero: the system has no solution to offer at this damping"
    return ""
