"""Optimizers: what computes an update of a network's weights from its cached minibatch."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessianfree import checks
from hessianfree.engine import cg, hessian_free, recipes, system
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.objective import value_and_gradient
from hessianfree.engine.settings import Settings
from hessianfree.keys import Unkeyable

Floats = NDArray[Any]

_CLASSIC_RULE = LevenbergMarquardt()


class GradientRecord(NamedTuple):
    """What happened in a first-order update."""

    value: float
    gradient_norm: float
    update_norm: float
    accepted: bool
    reason: str


class Optimizer(Unkeyable):
    """Base class; an optimizer of your own defines `compute_update`.

    Attributes:
        net: the network, set by `net.optimizer = ...` and by `run_epochs`.
        plots: series for `{prefix}_plots.pkl`, a dict of name -> list.
        record: what happened in the last update, if the optimizer says so.
        keeps_records: whether it does; then `run_epochs` reports from the records, and asks for no printing.
    """

    keeps_records = False

    def __init__(self) -> None:
        self._net: Any = None
        self.plots: dict[str, list[float]] = {}
        self.record: Any = None

    @property
    def net(self) -> Any:
        """The network whose weights are optimized; setting another one calls `begin`."""
        if self._net is None:
            raise RuntimeError("The optimizer has no network yet; set net.optimizer, or give it to net.run_epochs.")
        return self._net

    @net.setter
    def net(self, net: Any) -> None:
        changed, self._net = net is not self._net, net
        if changed:
            self.begin()

    def begin(self) -> None:
        """Called when there is a new network: forget what belongs to another one."""

    def compute_update(self, printing: bool = False) -> Floats:
        """The change of the weights for the cached minibatch, (P,).

        Args:
            printing: whether to print details.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute_update(printing).")

    def plot(self, **series: float) -> None:
        """Append one value to each of these series."""
        for name, value in series.items():
            self.plots.setdefault(name, []).append(value)


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

    def begin(self) -> None:
        """Start with the damping alone: without a warm start, factors of a preconditioner, or an average."""
        self._state = hessian_free.initial_state(self.damping)
        self._left_at = None
        self.init_delta = np.zeros_like(self.net.W)

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
            update = hessian_free.step(net.problem(), net.params(), net.batch(), state, self.settings, net.free())
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


class FirstOrder(Optimizer):
    """Any optax transformation of gradients as an optimizer.

    Args:
        transformation: for example `optax.adam(1e-3)`; one that also wants values (such as optax.lbfgs) is refused.
        plotting: whether to keep series for plots.

    Raises:
        TypeError: for something that is no optax transformation.

    Example:
        >>> import optax
        >>> optimizer = FirstOrder(optax.adam(1e-3))
    """

    keeps_records = True

    def __init__(self, transformation: Any, plotting: bool = False) -> None:
        super().__init__()
        if not (hasattr(transformation, "init") and hasattr(transformation, "update")):
            raise TypeError(
                f"An optax transformation was expected, such as optax.adam(1e-3); given {transformation!r}."
            )
        if "value" in inspect.signature(transformation.update).parameters:
            raise TypeError(
                "The transformation wants the loss's value and a function of it, as line searches do; use one that "
                "transforms gradients alone, such as optax.adam(1e-3)."
            )
        self.transformation, self.plotting = transformation, plotting
        self._state: Any = None
        self._compiled = jax.jit(transformation.update)

    def begin(self) -> None:
        """Start with a fresh state of the transformation."""
        self._state = None

    def compute_update(self, printing: bool = False) -> Floats:
        """The transformation of the gradient on the cached minibatch.

        Args:
            printing: whether to print loss and norms.

        Returns:
            The change of the weights, (P,).
        """
        net = self.net
        with net.computing():
            value, gradient = _loss_and_gradient(net)
            if self._state is None:
                self._state = self.transformation.init(net.W)
            update, self._state = self._compiled(gradient, self._state, net.W)
            update = np.array(update, net.dtype)
        if net.mask is not None:
            update[net.mask] = 0  # decay or momentum may have moved what the gradient left alone
        if self.plotting:
            self.plot(**{"training error": value})
        self.record, finished = _finish(value, gradient, update, printing)
        if not self.record.accepted:
            self._state = None
        return finished


class SGD(Optimizer):
    """Plain gradient descent: update = -l_rate gradient.

    Args:
        l_rate: learning rate, above 0.
        plotting: whether to keep the series "training error".

    Raises:
        ValueError: for a learning rate that is not positive.

    Example:
        >>> SGD(l_rate=0.1).l_rate
        0.1
    """

    keeps_records = True

    def __init__(self, l_rate: float = 1, plotting: bool = False) -> None:
        super().__init__()
        if not l_rate > 0:
            raise ValueError(f"l_rate is {l_rate}; it must be above 0.")
        self.l_rate, self.plotting = l_rate, plotting

    def compute_update(self, printing: bool = False) -> Floats:
        """Minus the learning rate times the gradient on the cached minibatch.

        Args:
            printing: whether to print loss and norms.

        Returns:
            The change of the weights, (P,).
        """
        value, gradient = _loss_and_gradient(self.net)
        if self.plotting:
            self.plot(**{"training error": value})
        self.record, update = _finish(value, gradient, gradient * np.asarray(-self.l_rate, gradient.dtype), printing)
        return update


def _loss_and_gradient(net: Any) -> tuple[float, Floats]:
    """On the cached minibatch, zero where the network's mask holds a weight."""
    with net.computing():
        objective, batch = net.problem().localize(net.params(), net.batch())
        value, gradient = jax.device_get(value_and_gradient(objective, net.params(), batch))
        flat = net.flat(gradient)
    if net.mask is not None:
        flat[net.mask] = 0
    return float(value), flat


def _finish(value: float, gradient: Floats, update: Floats, printing: bool) -> tuple[GradientRecord, Floats]:
    """The record of a first-order update, and the update, zero if it is not finite."""
    finite = bool(np.isfinite(update).all()) and math.isfinite(value)
    norms = float(np.linalg.norm(gradient)), float(np.linalg.norm(update))
    record = GradientRecord(value, *norms, finite, "" if finite else "the loss or its gradient is not finite")
    if printing:
        print(f"loss {value:.4g}, gradient norm {norms[0]:.3g}, update norm {norms[1]:.3g}")
    return record, update if finite else np.zeros_like(update)
