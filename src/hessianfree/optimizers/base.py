"""What every optimizer is: something that makes updates, of a network's weights and of any other parameters.

An optimizer of this package defines `update`, a function of its arguments. `step` is the checked form for a loop of
one's own, and `compute_update` the form for networks. An optimizer of the user's own may define `compute_update` alone.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import reprs
from hessianfree.engine.hessian_free import Update
from hessianfree.engine.objective import Batch, Problem
from hessianfree.engine.trees import PyTree
from hessianfree.objective import diagnosis, parameters
from hessianfree.objective.objective import Objective, TrainedNetwork
from hessianfree.support.keys import Unkeyable

Floats = NDArray[Any]


def check_state(state: object, kind: type) -> None:
    """Refuse the state of another optimizer.

    Raises:
        TypeError: if it is not of this kind.
    """
    if not isinstance(state, kind):
        raise TypeError(
            f"The state is a {type(state).__name__}; pass the one that init(params) or the last step returned."
        )


def check_layout(kept: PyTree, params: PyTree) -> None:
    """Refuse a state that belongs to other parameters, by something of it that is shaped like them.

    Raises:
        ValueError: if the shapes differ.
    """
    if parameters.layout(kept) != parameters.layout(params):
        raise ValueError(
            f"The state belongs to other parameters: to {parameters.shapes(kept)}, and those given are "
            f"{parameters.shapes(params)}; start with init(params)."
        )


def norm(array: Any) -> float:
    """Euclidean norm, in double precision: squares of float32 may leave its range."""
    with np.errstate(over="ignore"):
        return float(np.linalg.norm(np.asarray(array, float)))


class Optimizer(Unkeyable):
    """Base class; an optimizer of your own for networks defines `compute_update`.

    Attributes:
        net: the network, set by `net.optimizer = ...` and by `run_epochs`.
        plots: series for `{prefix}_plots.pkl`, a dict of name -> list.
        plotting: whether to add to the series.
        record: what happened in the last update of a network, if the optimizer says so.
        keeps_records: whether it does; `run_epochs` then reports from the records, and asks for no printing.
        full_batches: whether every update sees all the data; `run_epochs` and `fit` say so while they run.
        batch_examples: examples of a batch, without those that fill it up, if it is known; they say so, too.
        curved: whether updates use curvature.
        several: whether it has `update_several` and `compute_several`, which make many updates in one compiled call.
    """

    keeps_records = False
    full_batches = True
    batch_examples: int | None = None
    curved = False
    several = False

    def __init__(self, plotting: bool = False) -> None:
        self._net: TrainedNetwork | None = None
        self.plots: dict[str, list[float]] = {}
        self.plotting = plotting
        self.record: Any = None

    @property
    def net(self) -> Any:
        """The network whose weights are optimized; setting another one calls `begin`."""
        if self._net is None:
            raise RuntimeError("The optimizer has no network yet; set net.optimizer, or give it to net.run_epochs.")
        return self._net

    @net.setter
    def net(self, net: TrainedNetwork) -> None:
        changed, self._net = net is not self._net, net
        if changed:
            self.begin()

    def begin(self) -> None:
        """Called when there is a new network: forget what belongs to another one."""

    # ---- any parameters ------------------------------------------------------------------------------------------

    def init(self, params: PyTree) -> Any:
        """The state before the first update of these parameters."""
        raise NotImplementedError(f"{type(self).__name__} defines no init(params): it trains networks only.")

    def update(
        self, problem: Problem, params: PyTree, batch: Batch, state: Any, free: PyTree | None = None
    ) -> Update[Any, Any]:
        """One update, without any checks; nothing but the arguments and the settings decides what comes out.

        Args:
            problem: model and loss.
            params: checked parameters.
            batch: a checked batch.
            state: from `init` or the last update.
            free: 1 where a parameter may change and 0 where not, shaped like params; None where all may.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no update: it trains networks only.")

    def observed_update(
        self,
        objective: Objective | Problem,
        problem: Problem,
        params: PyTree,
        batch: Batch,
        state: Any,
        free: PyTree | None = None,
    ) -> Update[Any, Any]:
        """An update of a model of the user's own, which may be at fault: the record's reason then says where.

        The arguments are those of `update`, after the objective as the user gave it.
        """
        made = self.update(problem, params, batch, state, free)
        self._observe(objective, problem, params, batch, state, made.record)
        if np.isfinite([made.record.value, made.record.gradient_norm]).all():
            return made
        why = diagnosis.why_not_finite(problem, params, batch)
        return made._replace(record=made.record._replace(reason=f"update {state.updates}: {why}"))

    def _observe(
        self, objective: Objective | Problem, problem: Problem, params: PyTree, batch: Batch, state: Any, record: Any
    ) -> None:
        """Look at the model after an update."""

    def check_state(self, state: object, params: PyTree) -> None:
        """Refuse a state that belongs to other parameters or another optimizer."""
        raise NotImplementedError(f"{type(self).__name__} defines no step: it trains networks only.")

    def step(self, objective: Objective | Problem, params: PyTree, state: Any, batch: Any) -> tuple[PyTree, Any, Any]:
        """One update of any parameters, with everything checked; nothing but the arguments decides what comes out.

        Args:
            objective: an `Objective`, or a network's `net.problem()`.
            params: float arrays, any pytree.
            state: from `init` or the last step.
            batch: (inputs, targets) or (inputs, targets, weights); for a network its `net.batch()`.

        Returns:
            New parameters (the given ones if the step was rejected), new state, and a record of what happened, whose
            `reason` says why a step was rejected.

        Raises:
            TypeError: if the objective, a leaf of the parameters or the state is of the wrong kind.
            ValueError: if parameters and data do not fit the model, the state belongs to other parameters, or the model
                gives different values for the same parameters.

        Example:
            >>> from hessianfree.optimizers.hessian_free import HessianFree
            >>> line = Objective(lambda params, x: x * params["slope"])
            >>> params = {"slope": np.zeros(1, np.float32)}
            >>> optimizer = HessianFree(init_damping=1e-6)
            >>> x = np.arange(4, dtype=np.float32)[:, None]
            >>> params, state, info = optimizer.step(line, params, optimizer.init(params), (x, 3 * x))
            >>> round(float(params["slope"][0]), 3)
            3.0
        """
        params = parameters.checked(params)
        self.check_state(state, params)
        with parameters.computing(params):
            if isinstance(objective, Objective):
                data = parameters.as_batch(batch, params)
                problem: Problem = objective.traced(params, data, state.updates, self.curved)
            elif hasattr(objective, "localize") and isinstance(batch, Batch):
                problem, data = objective, batch
            else:
                raise TypeError(
                    f"The objective is {objective!r}; hf.Objective(model, loss) is expected, or net.problem() with "
                    "net.batch()."
                )
            made = self.observed_update(objective, problem, params, data, state)
            # JAX may read numpy arrays later on: what was given may be changed in place once this has returned.
            moved = jax.block_until_ready(made.params)
            return parameters.returned(moved, params), made.state, made.record

    @staticmethod
    def to_evaluate(params: PyTree, state: Any) -> PyTree:
        """The parameters to judge a run by: those given, unless the optimizer averages."""
        return params

    # ---- networks ------------------------------------------------------------------------------------------------

    def compute_update(self, printing: bool = False) -> Floats:
        """The change of the weights for the cached minibatch.

        Args:
            printing: whether to print what happened.

        Returns:
            The change, (P,), zero where the network's mask holds a weight; all zero if the step was rejected
            (`record.reason` says why).
        """
        if type(self).update is Optimizer.update:
            raise NotImplementedError(f"{type(self).__name__} must define compute_update(printing).")
        net: TrainedNetwork = self.net
        with net.computing():
            params = net.params()
            made = self.update(net.problem(), params, net.batch(), self._state_for(net), net.free())
            change = np.zeros_like(net.W) if made.change is None else net.flat(jax.device_get(made.change))
            self._keep(net, made.state, change, made.record.accepted)
        self.record = made.record
        if self.plotting:
            self.plot(**self.series(made.record, norm(net.W)))
        if printing:
            print(self.describe(made.record))
        return change

    def _state_for(self, net: TrainedNetwork) -> Any:
        """The state before an update of the network."""
        raise NotImplementedError

    def _keep(self, net: TrainedNetwork, state: Any, change: Floats, accepted: bool) -> None:
        """Keep the state after an update of the network."""
        raise NotImplementedError

    def get_state(self) -> PyTree:
        """What the next update of the network depends on besides the network: a pytree of arrays and numbers.

        A checkpoint holds it. Its structure must be the same from the first update on. An optimizer of your own whose
        runs are to be resumed defines this and `set_state`; if it keeps nothing, return None.

        Raises:
            TypeError: if the optimizer does not define it.
        """
        if type(self).update is Optimizer.update:
            raise TypeError(
                f"{type(self).__name__} does not say what it keeps between updates, so a run with it cannot be "
                "resumed. Define get_state(), which returns it as a pytree of arrays and numbers (None for nothing), "
                "and set_state(state)."
            )
        with self.net.computing():
            state = self._state_for(self.net)
        return self.to_keep(state)

    def to_keep(self, state: Any) -> Any:
        """A state without what the next update computes from the rest; what is left is enough to go on from.

        Raises TypeError if states to come will not have the structure of this one.
        """
        return state

    def set_state(self, state: PyTree) -> None:
        """Go on from a state that `get_state` returned, with the weights that the network has now."""
        self._keep(self.net, state, np.zeros_like(self.net.W), True)

    # ---- reports -------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return reprs.call(self, self._given())

    def _given(self) -> dict[str, Any]:
        """The arguments that it was made with, as far as it holds them."""
        return reprs.vars_of(self)

    def describe(self, record: Any) -> str:
        """A record in words."""
        return str(record)

    def series(self, record: Any, norm: float) -> dict[str, float]:
        """What plots show of an update.

        Args:
            record: of the update.
            norm: of the parameters.
        """
        return {}

    def plot(self, **series: float) -> None:
        """Append one value to each of these series."""
        for name, value in series.items():
            self.plots.setdefault(name, []).append(value)
