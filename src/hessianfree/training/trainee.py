"""What the loop trains, networks and objectives alike: batches, a learner that makes updates, and the best so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.optimizers.base import Optimizer
from hessianfree.training.batches import Batches
from hessianfree.training.loop import nothing_to_learn
from hessianfree.training.results import loss_after

#: Updates without a usable step, in a row, after which a run ends.
MAX_REJECTIONS = 3

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)


class Learner(Protocol[Item_contra]):
    """Parameters and the optimizer that changes them."""

    @property
    def params(self) -> PyTree:
        """The parameters as they are now."""
        ...

    @property
    def optimizer(self) -> object:
        """Makes the updates."""
        ...

    def update(self, batch: Item_contra, printing: bool) -> Any:
        """Make one update on a batch; returns the optimizer's record of it."""
        ...

    def evaluated(self) -> PyTree:
        """The parameters to judge the run by: their running average if the optimizer keeps one."""
        ...


def updates(
    learner: Learner[Item], batches: Batches[Item], printing: bool = False
) -> Generator[tuple[int, int | None, Any]]:
    """Make the updates of one epoch, one by one.

    Args:
        learner: makes them.
        batches: one for each.
        printing: whether the first is to be printed in detail.

    Yields:
        Number of the update, how many there are if that is known, and the optimizer's record of it.
    """
    count = batches.count()
    with closing(batches.of_epoch()) as items:
        _announce(learner.optimizer, count)
        try:
            for number, batch in enumerate(items):
                yield number, count, learner.update(batch, printing and number == 0)
        finally:
            _announce(learner.optimizer, 1)  # as it was: what comes next may be a loop of the user's own


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
        self._keep_best(learner.params, math.inf)

    @property
    def params(self) -> PyTree:
        """The parameters as they are now."""
        return self.learner.params

    @property
    def solver(self) -> str:
        """The optimizer's class."""
        return type(self.learner.optimizer).__name__

    def updates(self, epoch: int, printing: bool) -> Generator[tuple[int, int | None, Any]]:
        """One for each batch."""
        self._begin(epoch)
        self._losses = []
        for number, count, record in updates(self.learner, self.batches, printing):
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
