"""One Hessian-free update, joined from its parts (Martens 2010; Martens and Sutskever 2012).

Solve the damped system by truncated, preconditioned CG from the last solution (system.py), backtrack over its iterates,
adapt lambda by the reduction ratio, and search along d. One compiled function linearises the model and runs all of CG;
the decisions after it are plain Python around single loss evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from hessianfree.engine import joining, line_search, preconditioning, reprs, trees
from hessianfree.engine.averaging import Average, averaged
from hessianfree.engine.cg import Solution, Stop, ordered, storage_schedule
from hessianfree.engine.compilation import jit
from hessianfree.engine.damping import overshot
from hessianfree.engine.joining import joinable, packing
from hessianfree.engine.numbers import is_positive
from hessianfree.engine.objective import Batch, Problem, TracedObjective
from hessianfree.engine.preconditioning import Preconditioning
from hessianfree.engine.settings import Settings
from hessianfree.engine.shards import curvature_batch, parts_of
from hessianfree.engine.system import Chosen, Numbers, Plan, Solved, decay_coefficients, penalty, solve, solve_large
from hessianfree.engine.trees import Rows, Vector


class State(NamedTuple):
    """What one update hands to the next: arrays and numbers, of one structure from `initial_state` of parameters on."""

    damping: float
    direction: Vector | None  # the last CG solution, zero (or None) before the first and after a rejected step
    rejections: int  # updates without a usable step, in a row
    updates: int = 0  # made so far, rejected ones included
    preconditioning: Preconditioning | None = None  # what the preconditioner knows, where there is one
    average: Average | None = None  # of the parameters, where asked for
    change: Vector | None = None  # the last one, judged in hindsight where asked for; zero or None if there is none

    def __repr__(self) -> str:
        return reprs.fields(self)


EXPLODED = "the gradient has exploded: its norm is {:.1e} at a loss of {:.1e}, and the solve overflows"
EXPLODED_REMEDY = (
    "smaller initial weights (the recurrent ones above all: W_rec_params={'coeff': 0.3}), scaled inputs, truncated "
    "back-propagation, or float64"
)


class Record(NamedTuple):
    """What happened in one update; `reason` says in words why a step was rejected."""

    # the loss before and after, on the update's own batch, weight decay included
    value: float
    new_value: float
    # how the direction was found
    damping: float
    gradient_norm: float
    cg_iterations: int
    cg_stop: Stop
    backtracked: int  # stored iterates passed over
    preconditioner_damping: float  # what it was prepared for; NaN if CG went without one
    # how far it was followed
    reduction_ratio: float
    step_length: float
    update_norm: float
    overshot: bool  # whether the change before this update proved too long, where it is judged in hindsight
    accepted: bool
    at_damping_bound: bool
    reason: str

    def __repr__(self) -> str:
        return reprs.fields(self)


StateT = TypeVar("StateT")
RecordT = TypeVar("RecordT")


class Update(NamedTuple, Generic[StateT, RecordT]):
    """The new parameters, the change that led to them (None if rejected), the new state, and what happened."""

    params: Vector
    change: Vector | None
    state: StateT
    record: RecordT

    def __repr__(self) -> str:
        return reprs.fields(self)


class _Displaced(NamedTuple):
    params: Vector
    change: Vector
    size: Array  # norm of the change
    finite: Array
    penalty: Array | float


@partial(jit, static_argnums=(0, 1))
def _displace(
    decay_biases: bool,
    joined: bool,
    params: Vector,
    iterates: Rows,
    index: ArrayLike,
    length: ArrayLike,
    decay: ArrayLike | None,
) -> _Displaced:
    """Go from params along a stored iterate."""
    join, split = packing(params, joined)
    along = jax.tree.map(lambda stack: (length * stack[index]).astype(stack.dtype), iterates)
    change = split(along)
    moved = jax.tree.map(jnp.add, params, change)
    weight = penalty(decay, decay_biases, moved)
    return _Displaced(moved, change, trees.safe_norm(along), trees.all_finite(join(moved)), weight)


@partial(jit, static_argnums=0)
def _behind(
    decay_biases: bool, params: Vector, change: Vector, share: ArrayLike, decay: ArrayLike | None
) -> tuple[Vector, Array | float]:
    """Go back from params by a share of the change that led there; also the penalty of weight decay there."""
    moved = jax.tree.map(lambda p, c: (p - share * c).astype(p.dtype), params, change)
    return moved, penalty(decay, decay_biases, moved)


def initial_state(
    damping: float, params: Vector | None = None, settings: Settings | None = None, model: object = None
) -> State:
    """State before the first update.

    Args:
        damping: lambda.
        params: the parameters, if they are known already.
        settings: of the updates; they say whether there are an average and a preconditioner.
        model: for preconditioners that need to know it, such as K-FAC.

    Raises:
        ValueError: if the initial lambda is not a positive finite number.
    """
    if not is_positive(damping):
        raise ValueError(f"init_damping: given {damping!r}; it must be a positive number, 1 is usual.")
    if params is None:
        return State(float(damping), None, 0)
    averaging = settings is not None and settings.averaging > 0
    return State(
        float(damping),
        trees.zeros(params),
        0,
        preconditioning=None if settings is None else preconditioning.begun(settings.preconditioner, params, model),
        average=Average(params, 0) if averaging else None,
        change=trees.zeros(params),
    )


def step(
    problem: Problem, params: Vector, batch: Batch, state: State, settings: Settings, free: Vector | None = None
) -> Update[State, Record]:
    """Make one update; the parameters that it returns have a finite loss, or are the given ones.

    Args:
        problem: model and loss.
        params: where to start.
        batch: examples and weights; gradient and line search use all of them, curvature those that `settings` say.
        state: from `initial_state` or the last update.
        settings: see Settings.
        free: 1 where a parameter may change and 0 where not, shaped like params; None for all free.

    Returns:
        New parameters, state and a record of what happened. A rejected step leaves the parameters, drops the
        warm start and raises the damping.

    Raises:
        ValueError: if the curvature batch is larger than the batch, or no parameter feels the weight decay.
        TypeError: if the preconditioner does not serve the model.
    """
    _check_decay(settings, params)
    joined = joinable(params)
    solved, numbers, known = _direction(problem, params, batch, state, settings, free, joined)
    iterates, on_host = solved.solution.iterates, solved._replace(solution=solved.solution._replace(iterates=None))
    value, gradient_norm, slopes, solution = jax.device_get(on_host)
    slots = ordered(solution, len(storage_schedule(settings.cg_iterations)))
    at_start, last = _AtStart(float(value), float(gradient_norm)), len(slots) - 1

    def displaced(index: int, length: float = 1.0) -> _Displaced:
        where = np.int32(slots[index]), np.asarray(length, np.asarray(numbers.damping).dtype)
        return _displace(settings.decay_biases, joined, params, iterates, *where, numbers.weight_decay)

    def value_at(index: int, length: float = 1.0) -> float:
        there = displaced(index, length)
        return _value(problem, there.params, there.penalty, batch, settings)

    chosen, found = _searched(value_at, at_start, slopes[slots], last)
    new = displaced(chosen.iterate, found.length)
    record = _recorded(at_start, solution, slots, chosen, found, new, state, settings, known)
    rule = settings.damping_rule
    if record.accepted and rule.hindsight and state.updates and state.change is not None:
        record = record._replace(overshot=_overshot(problem, params, batch, state, record.value, numbers, settings))
    after = state._replace(updates=state.updates + 1, preconditioning=known)
    if record.gradient_norm == 0 and math.isfinite(record.value):
        # Nothing to learn from this batch (no known targets, say) is no fault of the damping.
        return Update(params, None, after, record)
    if not record.accepted:
        after = after._replace(
            damping=rule.reject(state.damping), direction=trees.zeros(params), rejections=state.rejections + 1
        )
        return Update(params, None, after, record)
    after = after._replace(
        damping=rule.adapt(state.damping, record.reduction_ratio, record.overshot),
        change=new.change if rule.hindsight else state.change,
        # The warm start is CG's own final solution, whatever backtracking and line search made of it.
        direction=displaced(last).change,
        rejections=0,
        average=averaged(state.average, new.params, settings.averaging),
    )
    return Update(new.params, new.change, after, record)


class _AtStart(NamedTuple):
    value: float
    gradient_norm: float


def _direction(
    problem: Problem,
    params: Vector,
    batch: Batch,
    state: State,
    settings: Settings,
    free: Vector | None,
    joined: bool,
) -> tuple[Solved, Numbers, Preconditioning | None]:
    """Solve the damped system; also what was traced, and what the preconditioner knows from now on."""
    objective, local_batch = problem.localize(params, batch)
    parts = parts_of(local_batch, params) if objective.loss.by_example and not objective.model.draws else None
    chosen = curvature_batch(settings, parts, local_batch, state.updates)
    known = _preconditioning(settings, state, objective, params, local_batch, chosen)
    scalar = partial(np.asarray, dtype=jax.tree.leaves(params)[0].dtype)
    numbers = Numbers(
        damping=scalar(state.damping),
        start_decay=scalar(settings.warm_start_decay),
        tolerance=scalar(settings.cg_tolerance),
        weight_decay=scalar(settings.weight_decay) if settings.weight_decay else None,
    )
    start = state.direction
    if start is None:
        start = trees.zeros(params)
    prepared = known.prepared if known is not None and known.usable else None
    vector_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    plan = Plan(
        settings.cg_iterations,
        None if prepared is None else settings.preconditioner,
        settings.decay_biases,
        settings.precision,
        settings.warm_start == "conjugate",
        settings.residuals_kept(vector_bytes, prepared is not None),
        joined,
        settings.iterates_kept(vector_bytes),
        # Pieces add up what devices find by themselves.
        None if objective.chunks is not None else parts,
    )
    large = vector_bytes > joining.MOST * np.dtype(np.float32).itemsize
    solved = (solve_large if large else solve)(
        plan, objective, params, local_batch, chosen, start, numbers, free, prepared
    )
    return solved, numbers, known


def _value(problem: Problem, params: Vector, weight: Array | float, batch: Batch, settings: Settings) -> float:
    """The loss and the penalty of weight decay, which is not fetched where there is none."""
    return problem.value(params, batch) + (float(weight) if settings.weight_decay else 0.0)


def _overshot(
    problem: Problem, params: Vector, batch: Batch, state: State, value: float, numbers: Numbers, settings: Settings
) -> bool:
    """Whether the last change proved too long on this batch, by the losses before it, halfway and after it."""
    dtype = np.asarray(numbers.damping).dtype

    def behind(share: float) -> float:
        there, weight = _behind(
            settings.decay_biases, params, state.change, np.asarray(share, dtype), numbers.weight_decay
        )
        return _value(problem, there, weight, batch, settings)

    return overshot(behind(1.0), behind(0.5), value, float(np.finfo(dtype).eps))


def _recorded(
    at_start: _AtStart,
    solution: Solution,
    slots: list[int],
    chosen: line_search.Candidate,
    found: line_search.Length,
    new: _Displaced,
    state: State,
    settings: Settings,
    known: Preconditioning | None,
) -> Record:
    """The record of an update, with the reason if its step cannot be used."""
    update_norm, finite = jax.device_get((new.size, new.finite))
    predicted = float(solution.quadratic[slots[chosen.iterate]])
    reason = _rejection(at_start.value, at_start.gradient_norm, found, bool(finite), float(update_norm))
    # Then rounding the parameters alone changes the loss by more than it is.
    eps = float(np.finfo(solution.quadratic.dtype).eps)
    if reason and max(abs(at_start.value), 1) < eps * at_start.gradient_norm < math.inf:
        reason = f"{EXPLODED.format(at_start.gradient_norm, at_start.value)}; try {EXPLODED_REMEDY}"
    return Record(
        value=at_start.value,
        new_value=found.value if not reason else at_start.value,
        damping=state.damping,
        gradient_norm=at_start.gradient_norm,
        cg_iterations=int(solution.iterations),
        cg_stop=Stop(int(solution.stop)),
        backtracked=len(slots) - 1 - chosen.iterate,
        preconditioner_damping=_damping_of(known, state.damping, settings.weight_decay),
        reduction_ratio=(chosen.value - at_start.value) / predicted if predicted < 0 else math.nan,
        step_length=found.length if not reason else 0.0,
        update_norm=float(update_norm) if not reason else 0.0,
        overshot=False,
        accepted=not reason,
        at_damping_bound=settings.damping_rule.at_bound(state.damping),
        reason=reason,
    )


def _searched(
    value_at: Callable[..., float], at_start: _AtStart, slopes: Any, last: int
) -> tuple[line_search.Candidate, line_search.Length]:
    """The iterate to use, and how far to follow it; without a gradient not at all, and nothing is evaluated."""
    if at_start.gradient_norm == 0:
        return line_search.Candidate(last, at_start.value), line_search.Length(0.0, at_start.value, 0)
    chosen = line_search.backtrack(value_at, last)
    along = partial(value_at, chosen.iterate)
    return chosen, line_search.shrink(along, chosen.value, at_start.value, float(slopes[chosen.iterate]))


def _preconditioning(
    settings: Settings, state: State, objective: TracedObjective, params: Vector, batch: Batch, chosen: Chosen | None
) -> Preconditioning | None:
    """What the preconditioner knows for this update, if there is one."""
    if settings.preconditioner is None:
        return None
    settings.preconditioner.check(objective)
    key = np.uint32((int(settings.seed) * 1_000_003 + state.updates) % 2**32)
    shift = state.damping + settings.weight_decay
    return preconditioning.refreshed(
        settings.preconditioner, state.preconditioning, objective, params, batch, chosen, shift, key
    )


def _check_decay(settings: Settings, params: Vector) -> None:
    """Refuse a weight decay that no parameter feels."""
    coefficients = decay_coefficients(settings.weight_decay, settings.decay_biases, params)
    if settings.weight_decay and not any(jax.tree.leaves(coefficients)):
        raise ValueError(
            f"Weight decay: given {settings.weight_decay}, but no parameter has two axes, and those with fewer count "
            "as biases; set decay_biases=True to let all of them decay."
        )


def _damping_of(known: Preconditioning | None, damping: float, weight_decay: float) -> float:
    """The lambda that the preconditioner was prepared for: that of the update, unless it had to be raised."""
    if known is None:
        return math.nan
    asked = damping + weight_decay
    return damping if known.damping == asked else known.damping - weight_decay


def _rejection(value: float, gradient_norm: float, found: line_search.Length, finite: bool, update_norm: float) -> str:
    """Why a step cannot be used, or an empty string."""
    if not math.isfinite(value):
        return f"the loss is {value} at the current parameters"
    if not math.isfinite(gradient_norm):
        return f"the gradient's norm is {gradient_norm}"
    if gradient_norm == 0:
        return "the gradient is zero: nothing is left to improve"
    if found.length == 0:
        return "no step along the direction lowers the loss; at the limit of precision, or the damping is too low"
    if not finite or not math.isfinite(update_norm):
        return "the update is not finite"
    if update_norm == 0:
        return "the update is zero: at this damping the system has no other solution"
    return ""
