"""Hessian-free optimization, of networks and of any other objective."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from hessianfree.engine import cg, hessian_free, recipes, system
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.settings import Settings
from hessianfree.engine.trees import PyTree
from hessianfree.objective import diagnosis, parameters
from hessianfree.objective import objective as objectives
from hessianfree.optimizers.base import Floats, Optimizer, check_state
from hessianfree.support import checks

_CLASSIC_RULE = LevenbergMarquardt()


class HessianFree(Optimizer):
    """Hessian-free optimization (Martens 2010): truncated CG on a damped Gauss-Newton model.

    Args:
        CG_iter: limit on CG iterations per update.
        init_damping: initial damping lambda, above 0; adapted from then on.
        plotting: whether to keep series for plots.
        preconditioner: None, "diagonal", "kfac" (networks), "nystrom", or an object (see
            hessianfree.engine.preconditioners).
        cg_tolerance: relative progress per iteration at which CG stops.
        warm_start: "decayed": CG starts from the last solution times `warm_start_decay`; "conjugate": from the best
            multiple of it, and stays conjugate to it, which pays where CG_iter is small.
        warm_start_decay: factor on the last solution as CG's start, in [0, 1]; 0 for a cold start.
        cg_memory: residuals of a solve that CG stays orthogonal to, which makes solves of more than a few iterations
            shorter and more accurate. Each is a vector of the parameters' size, or two with a preconditioner. By
            default as many as fit into 256 MiB, but none where `run_epochs` or `fit` cut the data into minibatches,
            which accurate solves fit too well; in a loop of your own over minibatches give 0.
        damping_rule: adaptation of lambda.
        curvature_batch: examples that curvature is computed on, drawn anew for each update: a float is a share of the
            minibatch, in (0, 1], an int a number of them; all by default. Gradient and line search always use the whole
            minibatch.
        weight_decay: c; c/2 times the sum of the squared weights is added to the loss, in value, gradient and
            curvature. `record` counts it; `net.error` and test errors do not.
        decay_biases: whether biases decay too.
        averaging: weight of the past in a running average of the weights, `average_W`, in [0, 1); 0 for none.
            `net.W` stays the point that updates start from; `run_epochs` takes test errors, and with them `best_W`,
            from the average.
        precision: of the matrix products in curvature products: "highest", or "high" and "default", faster on a GPU.
        seed: of the curvature batches and of what a preconditioner draws.

    Raises:
        ValueError: for values out of range or an unknown preconditioner.
        TypeError: for an object that is no preconditioner, or K-FAC for a model that does not know its layers.

    Two ways to use it: `net.run_epochs(x, t, optimizer=HessianFree())` for networks, and `init` and `step` for any
    `Objective` in a loop of your own; networks go through the same step.

    Example:
        >>> HessianFree(CG_iter=50, init_damping=10).damping
        10.0
    """

    keeps_records = True

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
        super().__init__()
        self.settings = Settings(
            cg_iterations=CG_iter,
            cg_tolerance=cg_tolerance,
            warm_start=warm_start,
            warm_start_decay=warm_start_decay,
            cg_memory=cg_memory,
            damping_rule=damping_rule,
            preconditioner=recipes.chosen(preconditioner),
            curvature_batch=curvature_batch,
            weight_decay=weight_decay,
            decay_biases=decay_biases,
            averaging=averaging,
            precision=precision,
            seed=seed,
        )
        self._state = hessian_free.initial_state(init_damping)
        self.plotting = plotting
        self.init_delta: Floats | None = None
        self.record: hessian_free.Record | None = None
        self._left_at: Floats | None = None  # the weights that the last update led to

    @property
    def damping(self) -> float:
        """Lambda, a positive number; adapted after each update, and yours to set between updates."""
        return self._state.damping

    @damping.setter
    def damping(self, value: float) -> None:
        self._state = self._state._replace(damping=hessian_free.initial_state(value).damping)

    @property
    def average_W(self) -> Floats | None:
        """The running average of the weights after each update, (P,); None without averaging or before an update."""
        average = self._state.average
        return None if average is None else self.net.flat(jax.device_get(average.params))

    @property
    def CG_iter(self) -> int:
        """Limit on CG iterations per update; may be changed between updates, at the price of compiling again."""
        return self.settings.cg_iterations

    @CG_iter.setter
    def CG_iter(self, limit: int) -> None:
        self.settings = replace(self.settings, cg_iterations=limit)

    def _in_use(self) -> Settings:
        """The settings, without memory on minibatches unless it was asked for."""
        if self.full_batches or self.settings.cg_memory is not None:
            return self.settings
        return replace(self.settings, cg_memory=0)

    def begin(self) -> None:
        """Start with the damping alone: without a warm start, factors of a preconditioner, or an average."""
        self._state = hessian_free.initial_state(self.damping)
        self._left_at = None
        self.init_delta = np.zeros_like(self.net.W)

    # ---- any objective -------------------------------------------------------------------------------------------

    def init(self, params: PyTree) -> hessian_free.State:
        """The state before the first update of these parameters.

        Args:
            params: float arrays, any pytree.

        Returns:
            What `step` wants, and hands on: damping, CG's last solution, what the preconditioner and the average know.

        Raises:
            TypeError, ValueError: for parameters that cannot be optimized, naming the leaf.
        """
        parameters.check_finite(parameters.checked(params))
        return hessian_free.initial_state(self.damping)

    def step(
        self, objective: Any, params: PyTree, state: hessian_free.State, batch: Any
    ) -> tuple[PyTree, hessian_free.State, hessian_free.Record]:
        """One update of any parameters; nothing but the arguments decides what comes out.

        Args:
            objective: an `Objective`, or a network's `net.problem()`.
            params: float arrays, any pytree.
            state: from `init` or the last step.
            batch: (inputs, targets) or (inputs, targets, weights); for a network its `net.batch()`.

        Returns:
            New parameters (the given ones if the step was rejected), new state, and a record of what happened, whose
            `reason` says why a step was rejected.

        Raises:
            TypeError, ValueError: for parameters or data that do not fit the model, and for a model that gives
                different values for the same parameters; for a state of other parameters.

        Example:
            >>> from hessianfree.objective.objective import Objective
            >>> line = Objective(lambda params, x: x * params["slope"])
            >>> params = {"slope": np.zeros(1, np.float32)}
            >>> optimizer = HessianFree(init_damping=1e-6)
            >>> x = np.arange(4, dtype=np.float32)[:, None]
            >>> params, state, info = optimizer.step(line, params, optimizer.init(params), (x, 3 * x))
            >>> round(float(params["slope"][0]), 3)
            3.0
        """
        check_state(state, hessian_free.State)
        params = parameters.checked(params)
        for kept in (state.direction, None if state.average is None else state.average.params):
            if kept is not None and parameters.layout(kept) != parameters.layout(params):
                raise ValueError(
                    f"The state belongs to other parameters: to {parameters.shapes(kept)}, and those given are "
                    f"{parameters.shapes(params)}; start with init(params)."
                )
        with parameters.computing(params):
            problem, data = objectives.problem(objective, params, batch, state.updates)
            update = hessian_free.step(problem, params, data, state, self._in_use())
            record = update.record
            if state.updates == 0:
                decay = system.penalty(self.settings.weight_decay or None, self.settings.decay_biases, params)
                diagnosis.check_deterministic(problem, params, data, record.value, float(decay))
            if record.cg_stop == cg.Stop.CURVATURE and isinstance(objective, objectives.Objective):
                objective.look_again(params, data)
            if not np.isfinite([record.value, record.gradient_norm]).all():
                why = diagnosis.why_not_finite(problem, params, data)
                record = record._replace(reason=f"update {state.updates}: {why}")
            return parameters.returned(update.params, params), update.state, record

    @staticmethod
    def to_evaluate(params: PyTree, state: hessian_free.State) -> PyTree:
        """The parameters to judge a run by: their running average where there is one, else those given."""
        return params if state.average is None else parameters.returned(state.average.params, params)

    # ---- networks ------------------------------------------------------------------------------------------------

    def compute_update(self, printing: bool = False) -> Floats:
        """One Hessian-free update for the cached minibatch.

        Args:
            printing: whether to print what happened.

        Returns:
            The change of the weights, (P,); zero if the step was rejected (`record.reason` says why).
        """
        net = self.net
        if self._left_at is not None and not np.array_equal(self._left_at, net.W):
            # The weights were set to others since: what is known of those it left is of no use here.
            self._state = self._state._replace(average=None, preconditioning=None)
        with net.computing():
            start = np.zeros_like(net.W) if self.init_delta is None else self.init_delta
            state = self._state._replace(direction=net.params(start))
            update = hessian_free.step(net.problem(), net.params(), net.batch(), state, self._in_use(), net.free())
            direction, change = jax.device_get((update.state.direction, update.change))
            self._state = update.state._replace(direction=None)
            self.init_delta = np.zeros_like(net.W) if direction is None else net.flat(direction)
            result = np.zeros_like(net.W) if change is None else net.flat(change)
        self._left_at = net.W + result
        self.record = update.record
        if self.plotting:
            self._add_to_plots(update.record)
        if printing:
            print(describe(update.record))
        return result

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
        net = self.net
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

    def _add_to_plots(self, record: hessian_free.Record) -> None:
        self.plot(
            **{
                "training error (log)": record.new_value,
                "learning rate": record.step_length,
                "damping (log)": record.damping,
                "CG iterations": record.cg_iterations,
                "backtracked steps": record.backtracked,
                "update norm": record.update_norm,
                "W norm": float(np.linalg.norm(self.net.W)),
            }
        )


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
