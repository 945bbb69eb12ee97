"""First-order steps that hand over to Hessian-free updates."""

from __future__ import annotations

import math
import threading
from contextlib import suppress
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import hessian_free, reprs
from hessianfree.engine.compilation import compiling_only, precise
from hessianfree.engine.descent import IndexedBatches, compiled_pass
from hessianfree.engine.hessian_free import Update
from hessianfree.engine.objective import Batch, Problem, TracedObjective
from hessianfree.engine.preconditioners import Operations
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import TrainedNetwork
from hessianfree.optimizers import handover
from hessianfree.optimizers.base import Floats, Optimizer, check_layout, check_state
from hessianfree.optimizers.first_order import FirstOrder
from hessianfree.optimizers.handover import Course, Phase
from hessianfree.optimizers.hessian_free import HessianFree
from hessianfree.optimizers.hessian_free import describe as describe_update
from hessianfree.support import checks

#: What moving all the parameters once costs, in forward passes of one example; measured on CPUs.
MOVING = 100
#: CG iterations that an update is expected to make, at most, before there is one.
EXPECTED = 20
#: First-order steps in an update at least, where each update sees all the data.
STEPS = 20
#: The average of the parameters reaches back over this share of the first-order steps so far, and so many of them at
#: most: early on, when the loss falls fast, an older average would lag behind.
SHARE_AVERAGED, MOST_AVERAGED = 1 / 16, 100.0


class AutoRecord(NamedTuple):
    """What happened in one update; `phase` is "first", "trial" or "second", and `reason` says why one was rejected.

    Over first-order steps `value` is the mean of their losses and `new_value` that of their second half.
    """

    phase: str
    value: float
    new_value: float
    gradient_norm: float
    update_norm: float
    work: float  # all so far, in forward passes of one example
    damping: float  # of the Hessian-free optimizer
    accepted: bool
    reason: str
    # of a Hessian-free update
    cg_iterations: int = 0
    reduction_ratio: float = math.nan
    line: str = ""  # in words

    def __repr__(self) -> str:
        return reprs.fields(self)


class AutoState(NamedTuple):
    """What one update hands to the next."""

    transformation: Any  # what the first-order rule knows
    average: PyTree  # of the parameters over first-order steps
    points: int  # how many it is of
    second: hessian_free.State
    course: Course
    mark: PyTree  # parameters that the progress is measured from
    updates: int

    def __repr__(self) -> str:
        return reprs.fields(self)


class Auto(Optimizer):
    """First-order steps as long as they get ahead faster, Hessian-free updates from then on.

    The first phase goes through each batch in small minibatches, in one compiled call. Meanwhile the Hessian-free
    programs are compiled in the background. When the work of some Hessian-free updates is done, a few are tried. They
    go on if they lower the loss faster for the work they take; otherwise the first phase goes on, and the trial is
    repeated later. If progress gets slow after the hand-over, the first-order steps are tried again. Work is counted in
    forward passes of one example, so that the same seed gives the same run.

    Errors during the first phase are those of a running average of the parameters, which is also where Hessian-free
    updates begin if it is better than the last point.

    Args:
        first: `FirstOrder(...)`; Adam with a learning rate of 1e-3 by default.
        second: `HessianFree(...)`; by default with its own defaults. Its weight decay counts in both phases.
        batch_size: examples in a minibatch of the first phase, at most.
        seed: of the order of the examples in the first phase.

    Raises:
        TypeError: if an optimizer is of the wrong kind.
        ValueError: if `batch_size` or `seed` is not a whole number in range, or `first` has a weight decay of its own.

    Give `run_epochs` or `fit` large batches or all the data: each update sees one batch, whatever the phase, and goes
    through it in minibatches, through a small one that is all the data several times. Where layers or losses run in
    numpy, an update of the first phase is one step. When to hand over is decided by heuristics.

    Example:
        >>> import hessianfree as hf
        >>> x = np.linspace(-1, 1, 200, dtype=np.float32)[:, None]
        >>> net = hf.FFNet([1, 20, 1], layers=["Linear", "Tanh", "Linear"], rng=0)
        >>> result = net.run_epochs(x, np.sin(3 * x), hf.opt.Auto(), max_epochs=200, print_period=None)
        >>> result.best_error < 1e-3
        True
    """

    keeps_records = True
    curved = True

    def __init__(
        self,
        first: FirstOrder | None = None,
        second: HessianFree | None = None,
        batch_size: int = 200,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.first, self.second = _adam() if first is None else first, HessianFree() if second is None else second
        for name, given, kind in (("first", self.first, FirstOrder), ("second", self.second, HessianFree)):
            if not isinstance(given, kind):
                raise TypeError(f"{name} is {given!r}; an hf.opt.{kind.__name__} is expected.")
        if self.first.weight_decay:
            raise ValueError(
                f"first has a weight decay of {self.first.weight_decay:g}; give it to second, where it counts in both "
                "phases."
            )
        self.batch_size = checks.at_least("batch_size", batch_size, 1)
        self.seed = checks.at_least("seed", seed, 0)
        self._chosen = {"first": first, "second": second}
        self._state: AutoState | None = None
        self._left_at: Floats | None = None

    # ---- any parameters ------------------------------------------------------------------------------------------

    def init(self, params: PyTree, objective: Any = None) -> AutoState:
        """The state before the first update of these parameters; see `HessianFree.init`."""
        params = parameters.checked(params)
        second = self.second.init(params, objective)
        with parameters.computing(params):
            return self._initial(params, second)

    def _initial(self, params: PyTree, second: hessian_free.State) -> AutoState:
        return AutoState(self.first._initial(params), params, 0, second, handover.begun(), params, 0)

    def check_state(self, state: object, params: PyTree) -> None:
        """Refuse the state of another optimizer, or one that belongs to other parameters.

        Raises:
            TypeError: if it is not the state of an Auto.
            ValueError: if it belongs to parameters of other shapes.
        """
        check_state(state, AutoState)
        assert isinstance(state, AutoState)
        self.second.check_state(state.second, params)
        check_layout(state.average, params)
        check_layout(state.mark, params)

    def update(
        self, problem: Problem, params: PyTree, batch: Batch, state: AutoState, free: PyTree | None = None
    ) -> Update[AutoState, AutoRecord]:
        """One update in the present phase; see `Optimizer.update`."""
        self.second.full_batches = self.full_batches
        start = params
        if handover.is_due(state.course):
            params, state = self._decided(problem, params, batch, state)
        descending = state.course.phase == Phase.FIRST
        made = (self._descended if descending else self._solved)(problem, params, batch, state, free)
        if start is not params and made.change is not None:
            made = made._replace(change=_difference(made.params, start))
        after = made.state
        if handover.wants_mark(after.course):
            trial = after.course.phase == Phase.TRIAL  # its own average would be of too few points
            mark = made.params if trial else self.to_evaluate(made.params, after)
            after = after._replace(course=handover.marked(after.course), mark=mark)
        return made._replace(params=start if made.change is None else made.params, state=after)

    def _decided(self, problem: Problem, params: PyTree, batch: Batch, state: AutoState) -> tuple[PyTree, AutoState]:
        """Who goes on, and from where: a trial begins at the best of the point, the average and the mark."""
        course, here = state.course, problem.value(params, batch)
        evaluated = params if course.phase == Phase.TRIAL else self.to_evaluate(params, state)
        before = problem.value(state.mark, batch)
        now = here if evaluated is params else problem.value(evaluated, batch)
        decided = handover.decided(course, before, now)
        if course.phase == Phase.FIRST:
            places = (now, evaluated), (before, state.mark), (here, params)
            found = min(
                (place for place in places if np.isfinite(place[0])), key=lambda place: place[0], default=places[2]
            )
            return found[1], state._replace(course=decided)
        if decided.phase == Phase.FIRST:
            state = self._handed_back(problem, params, state)
        mark = parameters.own(self.to_evaluate(params, state))
        return params, state._replace(course=decided, mark=mark)

    def _handed_back(self, problem: Problem, params: PyTree, state: AutoState) -> AutoState:
        """Forget what the second optimizer knows of this place: the first phase leads elsewhere."""
        begun = self.second._initial(params, problem)
        begun = begun._replace(damping=state.second.damping, updates=state.second.updates)
        return state._replace(average=parameters.own(params), second=begun)

    def to_keep(self, state: AutoState) -> AutoState:
        """See `HessianFree.to_keep`."""
        return state._replace(second=self.second.to_keep(state.second))

    @staticmethod
    def to_evaluate(params: PyTree, state: AutoState) -> PyTree:
        """The parameters to judge a run by: their running average in the first phase, and where the second has one."""
        average = _average_of(state)
        return params if average is None else parameters.returned(average, params)

    # ---- the first phase -----------------------------------------------------------------------------------------

    def _descended(
        self, problem: Problem, params: PyTree, batch: Batch, state: AutoState, free: PyTree | None
    ) -> Update[AutoState, AutoRecord]:
        """One pass over the batch in small minibatches."""
        objective, local = problem.localize(params, batch)
        rows = self._rows(len(batch.weights), state.updates, traced=isinstance(problem, TracedObjective))
        count, size = rows.shape
        minibatches = IndexedBatches(local, rows, np.ones(rows.shape, bool))
        settings, points = self.second.settings, state.points + count
        rule, numbers = self.first.rule_for(params, settings.weight_decay, settings.decay_biases)
        first = minibatches, state.transformation, numbers, free
        share = np.float32(share_of_new(count, points))
        made, change, average = compiled_pass(rule, objective, params, *first, state.average, share)
        values, gradients, moves = jax.device_get((made.values, made.gradient_norms, made.update_norms))
        accepted = bool(np.isfinite([values, gradients, moves]).all())
        work, of_second = count * (3 * size + MOVING), self._work(state.second, len(batch.weights), EXPECTED, 2)
        loss = float(np.mean(values))
        course = handover.advanced(state.course, work, of_second, accepted)
        if isinstance(problem, TracedObjective) and handover.comes_near(state.course, course):
            self._prepare_second(problem, params, batch, state, free)
        reason = "" if accepted else f"update {state.updates}: the loss, its gradient or a change is not finite"
        ends = loss, float(np.mean(values[count // 2 :])), float(gradients[-1]), math.hypot(*map(float, moves))
        record = AutoRecord("first", *ends, course.work, state.second.damping, accepted, reason)
        if not accepted:
            after = self._initial(params, state.second)._replace(course=course, updates=state.updates + 1)
            return Update(params, None, after, record)
        after = state._replace(transformation=made.state, average=average, points=points, course=course)
        return Update(made.params, change, after._replace(updates=state.updates + 1), record)

    def _rows(self, examples: int, update: int, traced: bool) -> NDArray[np.intp]:
        """The minibatches of an update: all of one size, so that a pass may leave a few examples out."""
        count = max(1, round(examples / self.batch_size)) if traced else 1
        passes = -(-STEPS // count) if traced and self.full_batches else 1
        size, rng = examples // count, np.random.default_rng([self.seed, update])
        orders = [rng.permutation(examples)[: count * size] for _ in range(passes)]
        return np.reshape(orders, (passes * count, size))

    def _prepare_second(
        self, problem: Problem, params: PyTree, batch: Batch, state: AutoState, free: PyTree | None
    ) -> None:
        """Compile the Hessian-free programs in the background, by an update that computes nothing."""
        x64, device = jax.config.jax_enable_x64, jax.config.jax_default_device  # type: ignore[attr-defined]

        def compile_all() -> None:
            # Whatever fails here fails again in the trial, where it is reported.
            with suppress(Exception), jax.enable_x64(x64), jax.default_device(device), compiling_only():
                self.second.update(problem, params, batch, state.second, free)

        threading.Thread(target=compile_all, name="hessianfree-compilation").start()

    # ---- the second phase ----------------------------------------------------------------------------------------

    def _solved(
        self, problem: Problem, params: PyTree, batch: Batch, state: AutoState, free: PyTree | None
    ) -> Update[AutoState, AutoRecord]:
        """One Hessian-free update."""
        made = self.second.update(problem, params, batch, state.second, free)
        found = made.record
        shortened = 0 if not 0 < found.step_length < 1 else math.ceil(-math.log2(found.step_length))
        work = self._work(made.state, len(batch.weights), found.cg_iterations, 2 + found.backtracked + shortened)
        settled = made.state.damping >= state.second.damping
        course = handover.advanced(state.course, work, work, found.accepted, settled)
        ends = found.value, found.new_value, found.gradient_norm, found.update_norm
        solved = found.cg_iterations, found.reduction_ratio, describe_update(found)
        name = Phase(state.course.phase).name.lower()
        record = AutoRecord(name, *ends, course.work, state.second.damping, found.accepted, found.reason, *solved)
        after = state._replace(second=made.state, course=course, updates=state.updates + 1)
        if course.phase == Phase.FIRST:
            after = self._handed_back(problem, made.params, after)
        return Update(made.params, made.change, after, record)

    def _work(self, state: hessian_free.State, examples: int, cg_iterations: int, evaluations: float) -> float:
        """Of a Hessian-free update: 3 passes for the gradient, 4 for each product, 1 for each evaluation."""
        settings = self.second.settings
        asked = settings.curvature_batch
        curvature = examples if asked is None else asked * examples if isinstance(asked, float) else int(asked)
        iterations = min(cg_iterations, settings.cg_iterations)
        work = (3 + evaluations) * examples + iterations * (4 * curvature + MOVING)
        recipe = settings.preconditioner
        if recipe is None:
            return work
        work += 4 * curvature / recipe.every  # it looks at the data by about one product
        if state.preconditioning is None or not hasattr(recipe, "operations"):
            return work
        operations: Operations = recipe.operations(state.preconditioning.measured, curvature)
        # A forward pass of one example takes two operations for each parameter.
        own = operations.measure / recipe.every + operations.prepare + iterations * operations.apply
        return work + own / (2 * sum(np.size(leaf) for leaf in jax.tree.leaves(state.direction)))

    # ---- networks ------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start afresh."""
        self._state = self._left_at = None

    def _state_for(self, net: TrainedNetwork) -> AutoState:
        """The state kept here; a fresh one where the weights were set to others since."""
        moved = self._left_at is not None and not np.array_equal(self._left_at, net.W)
        if self._state is None or moved:
            params = jax.tree.map(np.array, net.params())
            self._state = self._initial(params, self.second._initial(params, net.problem()))
        return self._state

    def _keep(self, net: TrainedNetwork, state: AutoState, change: Floats, accepted: bool) -> None:
        """Keep the state."""
        self._state, self._left_at = state, net.W + change

    @property
    def average_W(self) -> Floats | None:
        """The running average of the weights, (P,), where there is one."""
        average = None if self._state is None else _average_of(self._state)
        return None if average is None else self.net.flat(jax.device_get(average))

    # ---- reports -------------------------------------------------------------------------------------------------

    def _given(self) -> dict[str, Any]:
        """The arguments, without optimizers that were not given."""
        return {**super()._given(), **self._chosen}

    def describe(self, record: AutoRecord) -> str:
        """A record in a line or two."""
        if record.phase != "first":
            return f"{record.phase}: {record.line}"
        return f"first: loss {record.value:.4g}, gradient norm {record.gradient_norm:.3g}"


def _adam() -> FirstOrder:
    import optax

    return FirstOrder(optax.adam(1e-3))


def _average_of(state: AutoState) -> PyTree | None:
    """The running average of the optimizer at work, where it has one."""
    if state.course.phase == Phase.FIRST:
        return state.average if state.points else None
    average = state.second.average
    return None if average is None or not average.points else average.params


def share_of_new(count: int, points: int) -> float:
    """The share of the last `count` steps in the average over `points` steps; where an update ends stands for them.

    Example:
        >>> share_of_new(10, 80), round(share_of_new(10, 8000), 3)
        (1.0, 0.096)
    """
    window = min(SHARE_AVERAGED * points, MOST_AVERAGED)
    return 1.0 if window <= count else 1 - (1 - 1 / window) ** count


_difference = precise(lambda new, old: jax.tree.map(jnp.subtract, new, old))
