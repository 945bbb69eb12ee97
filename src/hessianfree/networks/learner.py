"""A network as the training loop sees it: weights that an optimizer changes, and how they are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hessianfree.engine.descent import IndexedBatches
from hessianfree.engine.objective import TracedObjective
from hessianfree.networks import arguments, debugging
from hessianfree.networks.core import Examples, Floats, NetworkCore
from hessianfree.networks.measures import Evaluation, measures_of, shares_of
from hessianfree.networks.parts.interfaces import Plant
from hessianfree.networks.parts.loss_funcs import LossFunction, flatten
from hessianfree.networks.parts.own_state import own_state, restore_own_state
from hessianfree.networks.sources import GivenExamples, Rollouts, Source, source
from hessianfree.networks.stored import StoredExamples
from hessianfree.objective.pieces import FEW, check_cuts
from hessianfree.optimizers.base import Optimizer
from hessianfree.training.batches import ONE
from hessianfree.training.checkpoints import Kept
from hessianfree.training.identity import of_data, of_value
from hessianfree.training.judging import Judged, checked_metrics
from hessianfree.training.leaves import copied
from hessianfree.training.memory import check_fits


def check_cut(net: NetworkCore, data: Source) -> None:
    """Refuse `chunk_size` where the user's own layers or losses mix examples."""
    if net.chunk_size is None or not isinstance(data, GivenExamples):
        return
    few = data.chosen(np.arange(min(FEW, len(data.x))))
    with net.computing():
        problem = net.assemble().problem()
        assert isinstance(problem, TracedObjective)
        check_cuts(problem, net.params(), few.batch, net.chunk_size, net.is_built_in)


class UnusableUpdate(NamedTuple):
    """The record of an update that could not be added to the weights."""

    accepted: bool = False
    reason: str = "the update, or the weights after it, are not finite"


class NetworkLearner:
    """The flat weights of a network, the optimizer that changes them, and the plant that generates examples, if any."""

    def __init__(self, net: NetworkCore, plant: Plant | None = None) -> None:
        self.net, self.optimizer, self.plant = net, net.optimizer, plant
        self._told: set[str] = set()  # attributes of parts that are not kept
        self._fits = False  # whether it is known that updates fit into memory

    @property
    def params(self) -> Floats:
        """The flat weights."""
        return self.net.W

    def update(self, batch: Examples, printing: bool) -> Any:
        """One update on these examples, unless it is not finite."""
        net, optimizer = self.net, self.optimizer
        net.cache(batch)
        if not self._fits and isinstance(optimizer, Optimizer):
            with net.computing():
                self._fits = check_fits(net.problem(), net.params(), batch.batch, optimizer)
        if net.debug:
            debugging.check_derivatives(net)
        from_records = getattr(optimizer, "keeps_records", False) and not net.debug
        change = self._checked(optimizer.compute_update(printing=printing and not from_records))
        record = getattr(optimizer, "record", None)
        with np.errstate(over="ignore"):
            candidate = net.W + change
        if np.isfinite(candidate).all():
            net.W[:] = candidate
        elif getattr(record, "accepted", True):
            record = UnusableUpdate()
        return record

    @property
    def makes_several(self) -> bool:
        """Whether nothing looks at single updates, and all of it can be compiled."""
        net, optimizer = self.net, self.optimizer
        usual = isinstance(optimizer, Optimizer) and type(optimizer).compute_update is Optimizer.compute_update
        return usual and optimizer.several and not optimizer.plotting and not net.debug and net.assemble().is_compiled

    def update_several(self, last: Examples, minibatches: IndexedBatches, start: int, count: int) -> Sequence[Any]:
        """Make so many updates in one compiled call."""
        self.net.cache(last)
        W, records = self.optimizer.compute_several(minibatches, start, count)
        if W is not None:
            self.net.W[:] = W
        return records

    def evaluated(self) -> Floats:
        """The optimizer's running average of the weights if it keeps one, else the weights."""
        average: Floats | None = getattr(self.optimizer, "average_W", None)
        return self.net.W if average is None else average

    def move_to(self, params: Floats) -> None:
        """Take these weights."""
        self.net.W = params

    def kept(self) -> Kept:
        """Weights, the optimizer's state, and what the user's own layers, losses and plants hold."""
        net, optimizer = self.net, self.optimizer
        get_state = getattr(optimizer, "get_state", None)
        if get_state is None or not callable(getattr(optimizer, "set_state", None)):
            raise TypeError(
                f"{type(optimizer).__name__} has no get_state() and set_state(state), so a run with it cannot be "
                "resumed; derive it from hf.opt.Optimizer, or define both."
            )
        notes = {"epoch": net.epoch, "parts": [own_state(name, part, self._told) for name, part in self._own_parts()]}
        state = get_state()
        if getattr(type(optimizer), "get_state", None) is not Optimizer.get_state:
            state = copied(state)  # an optimizer of the user's own may change in place what it returned
        return Kept({"params": net.W.copy(), "state": state}, notes)

    def restore(self, kept: Kept) -> None:
        """Go on from there."""
        net, epoch = self.net, kept.notes["epoch"]
        net.W, net.epoch = kept.trees["params"], None if epoch is None else int(epoch)
        self.optimizer.set_state(kept.trees["state"])
        for (_, part), state in zip(self._own_parts(), kept.notes["parts"], strict=True):
            restore_own_state(part, state)

    def _own_parts(self) -> list[tuple[str, Any]]:
        """Layers, losses and plants that are not built in: they may keep something from one update to the next."""
        net = self.net
        named: list[tuple[str, Any]] = [(f"layer {number}", layer) for number, layer in enumerate(net.layers)]
        named += [(f"loss {number}", loss) for number, loss in enumerate(flatten(net.loss))]
        named += [("the plant", self.plant)] if self.plant is not None else []
        found = [(name, part) for name, part in named if isinstance(part, Plant) or not arguments.is_built_in(part)]
        return list({id(part): (name, part) for name, part in found}.values())

    def _checked(self, change: Any) -> Floats:
        """An update as the network can use it: one number per weight, zero where the mask holds the weight."""
        net, array = self.net, np.asarray(change)
        if array.shape != net.W.shape or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{type(self.optimizer).__name__}.compute_update returned {array.dtype} of shape {array.shape}; "
                f"numbers of shape {net.W.shape} are expected."
            )
        return array.astype(net.dtype) if net.mask is None else np.where(net.mask, 0, array).astype(net.dtype)


def identity(net: NetworkCore, data: Source, tried: Trial, minibatch_size: int | None) -> dict[str, Callable[[], str]]:
    """What a run of a network is of; its checkpoints belong to nothing else."""
    return {
        "network": lambda: f"{type(net).__name__}({list(net.shape)}), {net.dtype}",
        "connections": lambda: str({pre: list(posts) for pre, posts in net.conns.items()}),
        "recurrent layers": lambda: str(net.recurrent),
        "truncation": lambda: of_value(getattr(net, "truncation", None)),
        "layers": lambda: of_value(net.layers),
        "losses": lambda: of_value(flatten(net.loss)),
        "mask": lambda: of_data(net.mask),
        "optimizer": lambda: of_value(net.optimizer),
        "minibatch size": lambda: str(minibatch_size),
        "examples": lambda: of_value(data.plant) if isinstance(data, Rollouts) else of_data(_arrays(data)),
        "classes": lambda: "none" if data.labels is None else of_value(data.labels.classes.tolist()),
        "test data": lambda: of_data(_arrays(tried.tested)),
        "test loss": lambda: of_value(tried.loss),
    }


def _arrays(data: Source | None) -> list[Any]:
    """The examples of a source, as far as they are arrays."""
    if isinstance(data, StoredExamples):
        return [data.x, data.targets, data.weights]
    return [data.x, data.t, data.weights] if isinstance(data, GivenExamples) else []


def _test_source(net: NetworkCore, data: Source, test: Any) -> Source | None:
    """The separate data that a run is evaluated on, checked; None for those that it is trained on."""
    if test is None:
        return None
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise ValueError("test must be a pair (inputs, targets).")
    inputs, targets = test
    placer = data.placer if isinstance(data, (GivenExamples, StoredExamples)) else ONE
    return source(net, inputs, targets, size=data.size, known=data.labels, placer=placer)  # the size is of pieces


class Trial(NamedTuple):
    """How a run of a network is judged: on separate data or not, by which loss, and by which measures besides.

    Attributes:
        tested: the separate data; None for those that it is trained on.
        loss: to evaluate with; None for the network's own.
        judge: evaluates flat weights; None for the mean loss of updates.
        judged: what its numbers are.
    """

    tested: Source | None
    loss: LossFunction | None
    judge: Evaluation | None
    judged: Judged


def trial(net: NetworkCore, data: Source, test: Any, test_err: Any, metrics: Any) -> Trial:
    """How a run is judged, from its arguments, which are checked here; metrics are tried once."""
    loss = None if test_err is None else arguments.test_loss("test_err", test_err, net.shape[-1])
    tested = _test_source(net, data, test)
    on = tested or data
    if isinstance(data, StoredExamples) and tested is None:
        if test_err is not None or checked_metrics(metrics):
            raise ValueError(
                "test_err and metrics are of test data, or of data in memory; pass test=(inputs, targets), as "
                "minibatches of stored arrays are not kept."
            )
        return Trial(None, None, None, Judged("updates"))
    labelled = on.labels is not None
    judge = on.evaluation(loss, measures_of(metrics, labelled, net.shape[-1]))
    shares = shares_of(loss, metrics, labelled, on.one_each)
    if metrics and not isinstance(on, Rollouts):  # a plant would go on in its random state
        judge(None)
    return Trial(tested, loss, judge, Judged("training" if tested is None else "test", shares))


def keep_best(net: NetworkCore, W: Floats, error: float) -> None:
    """Keep weights as the best of a run."""
    net.best_W, net.best_error = W, error
