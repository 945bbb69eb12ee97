"""What the loop trains, networks and objectives alike: a learner that makes updates, and the best so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from hessianfree.diagnosis.course import loss_after
from hessianfree.diagnosis.facts import Facts
from hessianfree.engine import descent
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.optimizers.base import Optimizer
from hessianfree.training.batches import Batches, Minibatches
from hessianfree.training.checkpoints import Kept
from hessianfree.training.judging import Evaluated, Judged
from hessianfree.training.loop import nothing_to_learn
from hessianfree.training.stored import StoredMinibatches

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)

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

    def move_to(self, params: PyTree) -> None:
        """Take these parameters in place of those there are now; the optimizer is not told."""

    def kept(self) -> Kept:
        """What the updates to come depend on, in a form that they do not change: "params", "state" and notes."""

    def restore(self, kept: Kept) -> None:
        """Go on from there."""


class Pace:
    """How many updates to make in one call, from the time that the last ones took.

    Args:
        most: limit on their number, None for no limit.
    """

    def __init__(self, most: int | None = None) -> None:
        self.count, self.most = 1, most
        self._timed = False

    def note(self, count: int, seconds: float) -> None:
        """So many updates took so long; the first of all, which are compiled, say nothing."""
        if self.most == self.count:
            return
        fitting = int(TOGETHER * count / max(seconds, 1e-9)) if self._timed else self.count
        self.count = max(1, min(2 * self.count, fitting))
        self._timed = True


def updates(
    learner: Learner[Item], batches: Batches[Item], printing: bool = False, pace: Pace | None = None, done: int = 0
) -> Generator[tuple[int, int | None, Any, bool]]:
    """Make the updates of one epoch.

    Args:
        learner: makes them.
        batches: one for each.
        printing: whether the first is to be printed in detail.
        pace: where several updates may be made in one call, how many; None to make them one by one.
        done: updates of the epoch that another process made.

    Yields:
        Number of the update, how many there are if that is known, the optimizer's record of it, and whether later
        updates are made already.
    """
    count = batches.count()
    _announce(learner.optimizer, count, getattr(batches, "size", None))
    try:
        at_once = isinstance(batches, Minibatches) and not batches.on_many and batches.count() > 1
        if pace is not None and at_once and learner.makes_several:
            assert isinstance(batches, Minibatches)
            if isinstance(batches, StoredMinibatches):
                yield from _streamed(learner, batches, done)
            else:
                yield from _several(learner, batches, pace, done)
            return
        with closing(batches.of_epoch(done)) as items:
            for number, batch in enumerate(items, done):
                yield number, count, learner.update(batch, printing and number == 0), False
    finally:
        _announce(learner.optimizer, 1, None)  # as it was: what comes next may be a loop of the user's own


def _several(
    learner: Learner[Item], batches: Minibatches[Item], pace: Pace, done: int
) -> Generator[tuple[int, int, Any, bool]]:
    """Make the updates of one epoch, several in one call. Those of a call in which one fails are made one by one."""
    order = batches.order()
    together, usable = batches.together(order)
    start, total = done, len(order)
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


def _streamed(
    learner: Learner[Item], batches: StoredMinibatches[Item, Any], done: int
) -> Generator[tuple[int, int, Any, bool]]:
    """Make the updates of one epoch one by one, in the program that makes several, and so with the same bits."""
    with closing(batches.of_epoch(done)) as items:
        for number, item in enumerate(items, done):
            alone = batches.indexed(item)
            records = [] if alone is None else learner.update_several(item, alone, 0, 1)
            record = records[0] if records and records[0].accepted else learner.update(item, False)
            yield number, batches.count(), record, False


def _announce(optimizer: object, count: int | None, size: int | None) -> None:
    """Let an optimizer know whether the data come in one batch, and how many examples a batch has if it is known."""
    if isinstance(optimizer, Optimizer):
        optimizer.full_batches, optimizer.batch_examples = count == 1, size


class Training(Generic[Item]):
    """A learner in training.

    Args:
        learner: makes the updates.
        batches: an epoch's.
        judge: evaluates given parameters; None for the mean loss of the epoch's updates, of those whose loss is finite.
        judged: what the errors are of.
        begin: called with the number of each epoch before its first update.
        keep: called with the parameters that are the best so far, and their error.
        look: gives what is known of data and model at the end of the run.
        on_many: whether the parameters were put on many devices for the run.
    """

    stationary = True
    made_ahead = False
    fields: tuple[str, ...] = ()

    def __init__(
        self,
        learner: Learner[Item],
        batches: Batches[Item],
        judge: Callable[[Any], Evaluated] | None,
        judged: Judged,
        begin: Callable[[int], None] = lambda number: None,
        keep: Callable[[Any, float], None] = lambda params, error: None,
        look: Callable[[], Facts] = Facts,
        on_many: bool = False,
    ) -> None:
        self.learner, self.batches, self.judged, self.on_many = learner, batches, judged, on_many
        self._judge, self._begin, self._keep, self._look = judge, begin, keep, look
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

    def kept(self) -> Kept:
        """All that the rest of the run depends on."""
        learner = self.learner.kept()
        notes = {"best_error": self.best_error, "rejections": self._rejections, "batches": self.batches.notes()}
        return Kept({**learner.trees, "best_params": self.best_params}, {**notes, "learner": learner.notes})

    def restore(self, kept: Kept, begun: bool) -> None:
        """Go on from there; `begun` says whether within an epoch."""
        trees, notes = kept
        best_error, rejections = float(notes["best_error"]), int(notes["rejections"])
        self.learner.restore(Kept(trees, notes["learner"]))
        self.batches.restore(notes["batches"], begun)
        self._keep_best(trees["best_params"], best_error)
        self._rejections = rejections

    def updates(
        self, epoch: int, printing: bool, watched: bool, done: Sequence[Any] = ()
    ) -> Generator[tuple[int, int | None, Any]]:
        """One for each batch, after those that are done."""
        self._begin(epoch)
        self._losses = [loss_after(record) for record in done]
        # One by one in the same program, so that watching changes no bit of a result.
        pace = Pace(most=1) if watched else self._pace
        for number, count, record, ahead in updates(self.learner, self.batches, printing, pace, len(done)):
            self.made_ahead = ahead
            self._losses.append(loss_after(record))
            yield number, count, record

    def evaluate(self) -> Evaluated:
        """The error and the metrics now; what is evaluated is kept if it is the best so far."""
        params = self.learner.evaluated()
        if self._judge is None:
            # Updates on a batch whose loss is not finite were rejected, and say so: the others make the mean.
            finite = [loss for loss in self._losses if math.isfinite(loss)]
            found = Evaluated(float(np.mean(finite)) if finite else math.nan, {})
        else:
            found = self._judge(params)
        if found.error < self.best_error:  # never true for NaN
            self._keep_best(params, found.error)
        return found

    def restore_best(self) -> bool:
        """Go back to the best parameters, unless no error was a number."""
        known = self.best_error < math.inf
        if known:
            self.learner.move_to(self.best_params)
        return known

    def facts(self) -> Facts:
        """What is known of data and model, for `hf.diagnose`."""
        return self._look()._replace(tested=self.judged.tested)

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
