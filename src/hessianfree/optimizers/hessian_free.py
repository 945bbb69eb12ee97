"""Hessian-free optimization, of networks and of any other objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from hessianfree.engine import cg, hessian_free, preconditioning, system
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.objective import Batch, Problem
from hessianfree.engine.settings import Settings
from hessianfree.engine.trees import PyTree
from hessianfree.objective import diagnosis, parameters
from hessianfree.objective.objective import Objective, TrainedNetwork
from hessianfree.optimizers.base import Floats, Optimizer, check_layout, check_state
from hessianfree.support import checks

_CLASSIC_RULE = LevenbergMarquardt()


class HessianFree(Optimizer):
    """Hessian-free optimization (Martens 2010): truncated CG on a damped Gauss-Newton model.

    Args:
        CG_iter: limit on CG iterations per update.
        init_damping: initial damping lambda, above 0; adapted from then on.
        plotting: whether to keep series for plots.
        preconditioner: None, "diagonal", "kfac" (networks), "nystrom", or an object with settings of its own
            (`hf.opt.KFAC`, `hf.opt.Nystrom`, `hf.opt.Diagonal`).
        cg_tolerance: relative progress per iteration at which CG stops.
        warm_start: "decayed": CG starts from the last solution times `warm_start_decay`; "conjugate": from the best
            multiple of it, and stays conjugate to it, which pays if CG_iter is small.
        warm_start_decay: factor on the last solution as CG's start, in [0, 1]; 0 for a cold start.
        cg_memory: residuals of a solve that CG stays orthogonal to, which makes solves of more than a few iterations
            shorter and more accurate. Each is a vector of the parameters' size, or two with a preconditioner. By
            default as many as fit into 256 MiB, but none if `run_epochs` or `fit` cut the data into minibatches, which
            accurate solves fit too well; in a loop of your own over minibatches give 0.
        damping_rule: how lambda adapts, an `hf.opt.LevenbergMarquardt`; on minibatches also in hindsight, see there.
        curvature_batch: examples that curvature is computed on, drawn for each update: a float is a share of the
            minibatch, in (0, 1], an int a number of them; all by default. Gradient and line search always use the whole
            minibatch.
        weight_decay: c; c/2 times the sum of the squared weights is added to the loss, in value, gradient and
            curvature. `record` counts it; `net.error` and test errors do not.
        decay_biases: whether biases decay too.
        averaging: weight of the past in a running average of the weights, `average_W`, in [0, 1); 0 for none.
            `net.W` is the point that updates start from; `run_epochs` takes test errors, and with them `best_W`, from
            the average.
        precision: of the matrix products in curvature products: "highest", or "high" and "default", faster on a GPU.
        seed: of the curvature batches and of what a preconditioner draws.

    Raises:
        ValueError: if a value is out of range, or there is no preconditioner of that name.
        TypeError: if the preconditioner or the damping rule is of the wrong kind.

    Two ways to use it: `net.run_epochs(x, t, optimizer=HessianFree())` for networks, and `init` and `step` for any
    `Objective` in a loop of your own; networks go through the same step.

    Example:
        >>> HessianFree(CG_iter=50, init_damping=10).damping
        10.0
    """

    keeps_records = True
    curved = True

    def __init__(
        self,
        CG_iter: int = 250,
        init_damping: float = 1,
        plotting: bool = True,
        *,
        preconditioner: Any = None,
        cg_tolerance: float = 5e-4,
        warm_start: str = "decayed",
        warm_start_decay: float = 0.95,
        cg_memory: int | None = None,
        damping_rule: LevenbergMarquardt = _CLASSIC_RULE,
        curvature_batch: float | int | None = None,
        weight_decay: float = 0.0,
        decay_biases: bool = False,
        averaging: float = 0.0,
        precision: str = "highest",
        seed: int = 0,
    ) -> None:
        super().__init__(plotting)
        self.settings = Settings(
            cg_iterations=CG_iter,
            cg_tolerance=cg_tolerance,
            warm_start=warm_start,
            warm_start_decay=warm_start_decay,
            cg_memory=cg_memory,
            damping_rule=damping_rule,
            preconditioner=preconditioning.chosen(preconditioner),
            curvature_batch=curvature_batch,
            weight_decay=weight_decay,
            decay_biases=decay_biases,
            averaging=averaging,
            precision=precision,
            seed=seed,
        )
        self._damping = self._init_damping = hessian_free.initial_state(init_damping).damping  # before there is a state
        self._state: hessian_free.State | None = None
        self.init_delta: Floats | None = None
        self.record: hessian_free.Record | None = None
        self._left_at: Floats | None = None  # the weights that the last update led to

    @property
    def damping(self) -> float:
        """Lambda, a positive number; adapted after each update, and yours to set between updates."""
        return self._damping if self._state is None else self._state.damping

    @damping.setter
    def damping(self, value: float) -> None:
        self._damping = hessian_free.initial_state(value).damping
        if self._state is not None:
            self._state = self._state._replace(damping=self._damping)

    @property
    def average_W(self) -> Floats | None:
        """The running average of the weights after each update, (P,); None without averaging or before an update."""
        average = None if self._state is None else self._state.average
        return None if average is None or not average.points else self.net.flat(jax.device_get(average.params))

    @property
    def CG_iter(self) -> int:
        """Limit on CG iterations per update; may be changed between updates, at the price of compiling again."""
        return self.settings.cg_iterations

    @CG_iter.setter
    def CG_iter(self, limit: int) -> None:
        self.settings = replace(self.settings, cg_iterations=limit)

    def in_use(self) -> Settings:
        """The settings, on minibatches without memory and with hindsight unless something else was asked for."""
        settings, rule, share = self.settings, self.settings.damping_rule, self.settings.curvature_batch
        if self.batch_examples is not None and share is not None:
            settings = replace(settings, curvature_batch=settings.curvature_count(self.batch_examples))
        if self.full_batches:
            return settings
        memory = 0 if settings.cg_memory is None else settings.cg_memory
        return replace(
            settings,
            cg_memory=memory,
            damping_rule=replace(rule, hindsight=True) if rule.hindsight is None else rule,
        )

    def begin(self) -> None:
        """Start with the damping alone: without a warm start, factors of a preconditioner, an average, or a change."""
        self._damping, self._state = self.damping, None
        self._left_at = None
        self.init_delta = np.zeros_like(self.net.W)

    # ---- any objective -------------------------------------------------------------------------------------------

    def init(self, params: PyTree, objective: Any = None) -> hessian_free.State:
        """The state before the first update of these parameters.

        Args:
            params: float arrays, any pytree.
            objective: with K-FAC the network's `net.problem()`, so that all states have one structure. Without it the
                first update adds what K-FAC knows.

        Returns:
            What `step` takes and returns: damping, CG's last solution, what the preconditioner and the average know,
            and the last change.

        Raises:
            TypeError: if a leaf is not an array of floats, naming it.
            ValueError: if a leaf is empty or not finite, naming it.
        """
        checked = parameters.checked(params)
        parameters.check_finite(checked)
        with parameters.computing(checked):
            return self._initial(checked, objective)

    def _initial(self, params: PyTree, objective: Any) -> hessian_free.State:
        """The state before the first update; a problem in numpy holds what is traced of it as its objective."""
        model = getattr(getattr(objective, "objective", objective), "model", None)
        return hessian_free.initial_state(self.damping, params, self.settings, model)

    def update(
        self,
        problem: Problem,
        params: PyTree,
        batch: Batch,
        state: hessian_free.State,
        free: PyTree | None = None,
    ) -> hessian_free.Update[hessian_free.State, hessian_free.Record]:
        """One Hessian-free update; see `Optimizer.update`."""
        return hessian_free.step(problem, params, batch, state, self.in_use(), free)

    def _observe(
        self,
        objective: Objective | Problem,
        problem: Problem,
        params: PyTree,
        batch: Batch,
        state: hessian_free.State,
        record: hessian_free.Record,
    ) -> None:
        """Look at the model's determinism, at the first update, and at a loss whose curvature is negative."""
        if state.updates == 0:
            decay = system.penalty(self.settings.weight_decay or None, self.settings.decay_biases, params)
            diagnosis.check_deterministic(problem, params, batch, record.value, float(decay))
        if record.cg_stop == cg.Stop.CURVATURE and isinstance(objective, Objective):
            objective.look_again(params, batch)

    def check_state(self, state: object, params: PyTree) -> None:
        """Refuse a state that belongs to other parameters or another optimizer.

        Raises:
            TypeError: if it is not the state of a HessianFree.
            ValueError: if it belongs to parameters of other shapes.
        """
        check_state(state, hessian_free.State)
        assert isinstance(state, hessian_free.State)
        for kept in (state.direction, state.change, None if state.average is None else state.average.params):
            if kept is not None:
                check_layout(kept, params)

    def to_keep(self, state: hessian_free.State) -> hessian_free.State:
        """A state without what the preconditioner prepared; raises TypeError if nothing says what it will measure."""
        if state.preconditioning is not None:
            return state._replace(preconditioning=state.preconditioning.unprepared())
        if self.settings.preconditioner is not None:
            name = type(self.settings.preconditioner).__name__
            raise TypeError(
                f"The preconditioner {name} does not say what it measures, so a run with it cannot be resumed; define "
                f"{name}.blank(params, model), which returns zeros in the form of what measure returns."
            )
        return state

    @staticmethod
    def to_evaluate(params: PyTree, state: hessian_free.State) -> PyTree:
        """The parameters to judge a run by: their running average where there is one, else those given."""
        average = state.average
        return params if average is None or not average.points else parameters.returned(average.params, params)

    # ---- networks ------------------------------------------------------------------------------------------------

    def _state_for(self, net: TrainedNetwork) -> hessian_free.State:
        """The state with the warm start of `init_delta`, which is the user's to set."""
        moved = self._left_at is not None and not np.array_equal(self._left_at, net.W)
        if self._state is None or moved:
            # The weights were set to others since: what is known of those it left is of no use here.
            begun = self._initial(jax.tree.map(np.array, net.params()), net.problem())
            before = begun if self._state is None else self._state
            self._state = begun._replace(updates=before.updates, rejections=before.rejections)
        start = np.zeros_like(net.W) if self.init_delta is None else self.init_delta
        return self._state._replace(direction=net.params(start))

    def _keep(self, net: TrainedNetwork, state: hessian_free.State, change: Floats, accepted: bool) -> None:
        """Keep the state, its warm start as `init_delta`."""
        direction = jax.device_get(state.direction)
        self.init_delta = np.zeros_like(net.W) if direction is None else net.flat(direction)
        self._state = state._replace(direction=None)
        self._left_at = net.W + change

    def conjugate_gradient(
        self, init_delta: ArrayLike | None, grad: ArrayLike, iters: int = 250, printing: bool = False
    ) -> list[tuple[int, Floats]]:
        """Plain truncated CG on (G + damping I) delta = -grad, for the cached minibatch.

        No preconditioner, relative progress 5e-6 per iteration, whatever the settings of the updates.

        Args:
            init_delta: where to start, (P,); zero if None.
            grad: gradient, (P,).
            iters: limit on iterations, at least 1.
            printing: whether to print why it stopped.

        Returns:
            Pairs (iteration, delta), iterations counted from 0; the last is the final solution.
        """
        net: TrainedNetwork = self.net
        with net.computing():
            objective, batch = net.problem().localize(net.params(), net.batch())
            damping = np.asarray(self.damping, net.dtype)
            start = np.zeros_like(net.W) if init_delta is None else init_delta
            args = objective, net.params(), batch, net.params(grad), net.params(start), damping
            solution = jax.device_get(system.solve_plainly(checks.at_least("iters", iters, 1), *args))
            iterates = solution.iterates
            labels = enumerate(cg.iteration_labels(solution))
            deltas = [(int(i), net.flat(jax.tree.map(lambda stack, k=k: stack[k], iterates))) for k, i in labels]
        if printing:
            print(f"CG: {int(solution.iterations)} iterations; {cg.Stop(int(solution.stop)).words}")
        return deltas

    def _given(self) -> dict[str, Any]:
        """The arguments, by their names."""
        held = {"CG_iter": self.CG_iter, "init_damping": self._init_damping, "plotting": self.plotting}
        return {**vars(self.settings), **held}

    def series(self, record: hessian_free.Record, norm: float) -> dict[str, float]:
        """The series of 0.4.0."""
        return {
            "training error (log)": record.new_value,
            "learning rate": record.step_length,
            "damping (log)": record.damping,
            "CG iterations": record.cg_iterations,
            "backtracked steps": record.backtracked,
            "update norm": record.update_norm,
            "W norm": norm,
        }

    def describe(self, record: hessian_free.Record) -> str:
        """A record in one or two lines."""
        return describe(record)


def describe(record: hessian_free.Record) -> str:
    """A record in one or two lines, for people."""
    line = (
        f"loss {record.value:.4g} -> {record.new_value:.4g}, damping {record.damping:.3g}, "
        f"{record.cg_iterations} CG iterations ({record.cg_stop.words}), {record.backtracked} backtracked, "
        f"step length {record.step_length:.3g}, reduction ratio {record.reduction_ratio:.3g}"
    )
    if record.preconditioner_damping > record.damping:
        line += f", preconditioner at damping {record.preconditioner_damping:.3g}"
    return line if record.accepted else f"{line}\nrejected: {record.reason}"
