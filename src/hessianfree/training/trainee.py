"""What the loop trains, networks and objectives alike: batches, a learner that makes updates, and the best so far."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import descent
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.optimizers.base import Optimizer
from hessianfree.training.loop import nothing_to_learn
from hessianfree.training.results import loss_after

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
Item_contra = TypeVar("Item_contra", contravariant=True)


class Batches(Protocol[Item_co]):
    """What an epoch goes through."""

    def count(self) -> int | None:
        """Batches in an epoch, None where it is not known."""

    def of_epoch(self) -> Generator[Item_co]:
        """The batches of the next epoch."""


class Minibatches(ABC, Generic[Item]):
    """Minibatches of a known number of examples, in the order of a permutation.

    Args:
        examples: how many there are.
        size: examples per minibatch, all by default; the last one may be smaller.
        rng: numpy RandomState or Generator; draws the order.
    """

    def __init__(self, examples: int, size: int | None, rng: Any) -> None:
        self.examples, self.rng = examples, rng
        self.size = min(size or examples, examples)

    @abstractmethod
    def take(self, indices: NDArray[np.intp] | None) -> Item:
        """The minibatch of these examples; for None that of all, whose order does not matter."""

    @property
    @abstractmethod
    def on_device(self) -> Batch:
        """All examples, kept on the device."""

    @property
    @abstractmethod
    def may_pad(self) -> bool:
        """Whether the last minibatch may be filled up with examples of weight zero, which nothing looks at."""

    def count(self) -> int:
        """Minibatches in an epoch."""
        return -(-self.examples // self.size)

    def of_epoch(self) -> Generator[Item]:
        """All of them."""
        for indices in self.order():
            yield self.take(None if self.size >= self.examples else indices)

    def order(self) -> list[NDArray[np.intp]]:
        """The examples of each minibatch of the next epoch."""
        order = self.rng.permutation(self.examples)
        return [order[start : start + self.size] for start in range(0, self.examples, self.size)]

    def together(self, order: Sequence[NDArray[np.intp]]) -> tuple[descent.IndexedBatches, int]:
        """The minibatches in the form of the engine, and how many of them have that form: one may not."""
        usable = len(order) if self.may_pad else sum(len(indices) == self.size for indices in order)
        padded = [_filled(indices, self.size) for indices in order[:usable]]
        counted = [np.arange(self.size) < len(indices) for indices in order[:usable]]
        return descent.IndexedBatches(self.on_device, np.array(padded), np.array(counted)), usable


def _filled(indices: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """So many indices: the first is repeated."""
    return np.concatenate([indices, np.repeat(indices[:1], size - len(indices))])


def taken(batch: Batch, indices: NDArray[np.intp], size: int | None = None) -> Batch:
    """Some of the examples of a batch, padded to a common size so that nothing is compiled for the remainder.

    The padding repeats an example, which keeps it as well behaved as the data, and gives it the weight zero.

    Args:
        batch: the examples.
        indices: which to take.
        size: the common size; None for no padding.
    """
    padding = max((size or 0) - len(indices), 0)
    chosen = _filled(indices, len(indices) + padding)
    found = jax.tree.map(lambda leaf: leaf[chosen], batch)
    if not padding:
        return found
    weights = np.array(found.weights)
    weights[-padding:] = 0
    return found._replace(weights=weights)


def _may_pad(objective: Objective) -> bool:
    """Whether the loss is given for each example: one of the whole batch would see the padding."""
    return objective.reduction != "mean"


class Arrays(Minibatches[Batch]):
    """Minibatches of checked arrays, for an objective; the last is padded unless the loss looks at the whole batch."""

    def __init__(self, whole: Batch, size: int | None, objective: Objective, rng: np.random.Generator) -> None:
        super().__init__(len(whole.weights), size, rng)
        self.whole, self.objective = whole, objective

    @cached_property
    def on_device(self) -> Batch:
        """All examples, kept on the device in their own precision."""
        with parameters.computing(self.whole.weights):
            return jax.device_put(self.whole)

    @property
    def may_pad(self) -> bool:
        """Whether the loss is given for each example."""
        return _may_pad(self.objective)

    def take(self, indices: NDArray[np.intp] | None) -> Batch:
        """The arrays as they are, or cut and padded."""
        return self.whole if indices is None else taken(self.whole, indices, self.size if self.may_pad else None)


class Given:
    """Batches as the user's iterable gives them.

    Args:
        data: the iterable.
        objective: what is trained.
        params: the parameters, whose precision the data take.
    """

    def __init__(self, data: Iterable[Any], objective: Objective, params: PyTree) -> None:
        self.data, self.objective, self.params = data, objective, params
        self.size: int | None = None

    def count(self) -> int | None:
        """Batches in an epoch, if the iterable knows."""
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:
            return None

    def of_epoch(self) -> Generator[Batch]:
        """All of them; one that is smaller than the first is padded unless the loss looks at the whole batch.

        Raises:
            ValueError: if the first epoch has no batches.
        """
        for given in self.data:
            batch = parameters.as_batch(given, self.params)
            count = len(batch.weights)
            self.size = self.size or count
            short = _may_pad(self.objective) and count < self.size
            yield taken(batch, np.arange(count), self.size) if short else batch
        if self.size is None:
            raise ValueError(
                "The data gave no batch at all: the iterable is empty, or a generator that was used up before."
            )


#: Updates without a usable step, in a row, after which a run ends.
MAX_REJECTIONS = 3


#: Seconds that updates in one compiled call take together, about: so long Ctrl-C and `max_seconds` wait.
TOGETHER = 0.25


class Learner(Protocol[Item_contra]):
    """Parameters and the optimizer that changes them."""

    @property
    def params(self) -> PyTree:
        """The parameters as they are now."""

    @property
    def optimizer(self) -> object:
        """Makes the updates."""

    def update(self, batch: Item_contra, printing: bool) -> Any:
        """Make one update on a batch; returns the optimizer's record of it."""

    @property
    def makes_several(self) -> bool:
        """Whether several updates can be made in one compiled call."""

    def update_several(
        self, last: Item_contra, minibatches: descent.IndexedBatches, start: int, count: int
    ) -> Sequence[Any]:
        """Make so many updates in one call, the last of them on that batch; returns their records.

        Nothing has changed if a record is of an update that was not accepted.
        """

    def evaluated(self) -> PyTree:
        """The parameters to judge the run by: their running average if the optimizer keeps one."""


class Pace:
    """How many updates to make in one call, from the time that the last ones took."""

    def __init__(self) -> None:
        self.count = 1
        self._timed = False

    def note(self, count: int, seconds: float) -> None:
        """So many updates took so long; the first of all, which are compiled, say nothing."""
        fitting = int(TOGETHER * count / max(seconds, 1e-9)) if self._timed else self.count
        self.count = max(1, min(2 * self.count, fitting))
        self._timed = True


def updates(
    learner: Learner[Item], batches: Batches[Item], printing: bool = False, pace: Pace | None = None
) -> Generator[tuple[int, int | None, Any, bool]]:
    """Make the updates of one epoch.

    Args:
        learner: makes them.
        batches: one for each.
        printing: whether the first is to be printed in detail.
        pace: where several updates may be made in one call, how many; None to make them one by one.

    Yields:
        Number of the update, how many there are if that is known, the optimizer's record of it, and whether later
        updates are made already.
    """
    count = batches.count()
    _announce(learner.optimizer, count)
    try:
        if pace is not None and isinstance(batches, Minibatches) and batches.count() > 1 and learner.makes_several:
            yield from _several(learner, batches, pace)
            return
        with closing(batches.of_epoch()) as items:
            for number, batch in enumerate(items):
                yield number, count, learner.update(batch, printing and number == 0), False
    finally:
        _announce(learner.optimizer, 1)  # as it was: what comes next may be a loop of the user's own


def _several(learner: Learner[Item], batches: Minibatches[Item], pace: Pace) -> Generator[tuple[int, int, Any, bool]]:
    """Make the updates of one epoch, several in one call. Those of a call in which one fails are made one by one."""
    order = batches.order()
    together, usable = batches.together(order)
    start, total = 0, len(order)
    while start < total:
        count = min(pace.count, usable - start)
        alone = count <= 0
        if not alone:
            began = time.perf_counter()
            records = learner.update_several(batches.take(order[start + count - 1]), together, start, count)
            pace.note(count, time.perf_counter() - began)
            alone = not all(record.accepted for record in records)
        count = max(count, 1)
        for number in range(start, start + count):
            if alone:
                yield number, total, learner.update(batches.take(order[number]), False), False
            else:
                yield number, total, records[number - start], number < start + count - 1
        start += count


def _announce(optimizer: object, count: int | None) -> None:
    """Let an optimizer know whether the data come in one batch."""
    if isinstance(optimizer, Optimizer):
        optimizer.full_batches = count == 1


class Training(Generic[Item]):
    """A learner in training.

    Args:
        learner: makes the updates.
        batches: an epoch's.
        test_error: the error of given parameters; None for the mean loss of the epoch's updates, of those whose loss is
            finite.
        tested: whether it is that of separate data.
        begin: called with the number of each epoch before its first update.
        keep: called with the parameters that are the best so far, and their error.
    """

    stationary = True
    made_ahead = False
    fields: tuple[str, ...] = ()

    def __init__(
        self,
        learner: Learner[Item],
        batches: Batches[Item],
        test_error: Callable[[Any], float] | None,
        tested: bool,
        begin: Callable[[int], None] = lambda number: None,
        keep: Callable[[Any, float], None] = lambda params, error: None,
    ) -> None:
        self.learner, self.batches, self.tested = learner, batches, tested
        self._test_error, self._begin, self._keep = test_error, begin, keep
        self._losses: list[float] = []
        self._rejections = 0
        self._pace = Pace()
        self._keep_best(learner.params, math.inf)

    @property
    def params(self) -> PyTree:
        """The parameters as they are now."""
        return self.learner.params

    @property
    def solver(self) -> str:
        """The optimizer's class."""
        return type(self.learner.optimizer).__name__

    def updates(self, epoch: int, printing: bool, watched: bool) -> Generator[tuple[int, int | None, Any]]:
        """One for each batch."""
        self._begin(epoch)
        self._losses = []
        pace = None if watched else self._pace
        for number, count, record, ahead in updates(self.learner, self.batches, printing, pace):
            self.made_ahead = ahead
            self._losses.append(loss_after(record))
            yield number, count, record

    def evaluate(self) -> float:
        """The error now; what is evaluated is kept if it is the best so far."""
        params = self.learner.evaluated()
        if self._test_error is None:
            # Updates on a batch whose loss is not finite were rejected, and say so: the others make the mean.
            finite = [loss for loss in self._losses if math.isfinite(loss)]
            error = float(np.mean(finite)) if finite else math.nan
        else:
            error = self._test_error(params)
        if error < self.best_error:  # never true for NaN
            self._keep_best(params, error)
        return error

    def why_finished(self, record: Any) -> str:
        """After some updates in a row without a usable step, why the last one had none."""
        if not nothing_to_learn(record):
            self._rejections = 0 if getattr(record, "accepted", True) else self._rejections + 1
        if self._rejections < MAX_REJECTIONS:
            return ""
        return f"{self._rejections} updates in a row found no usable step: {record.reason}"

    def _keep_best(self, params: PyTree, error: float) -> None:
        self.best_params, self.best_error = parameters.own(params), error
        self._keep(self.best_params, error)
