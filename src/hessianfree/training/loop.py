"""The training loop: minibatches, test error, stopping, and a record of it all.

The loop decides; printing, progress bars and files are observers that read what happened and change nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hessianfree.networks import arguments, debugging, sources
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.optimizers.base import Optimizer
from hessianfree.support import checks
from hessianfree.training import callbacks as observers

#: Updates without any usable step, in a row, after which a run ends.
MAX_REJECTIONS = 3
#: A run with test data ends, from the twelfth epoch on, when it is worse than nine epochs before.
PATIENCE_START, PATIENCE = 12, 10


@dataclass(frozen=True)
class RunSettings:
    """Arguments of `run_epochs`; see there.

    Raises:
        ValueError: for counts that are not whole numbers in range.
    """

    max_epochs: int = 100
    minibatch_size: int | None = None
    test: tuple[Any, Any] | None = None
    test_err: LossFunction | None = None
    target_err: float = 1e-6
    plotting: bool = False
    file_output: str | None = None
    print_period: int | None = 10
    max_seconds: float | None = None
    callbacks: Sequence[Any] = ()
    early_stopping: bool = True

    def __post_init__(self) -> None:
        checks.at_least("max_epochs", self.max_epochs, 0)
        checks.threshold("target_err", self.target_err)
        folder = Path(self.file_output or "").parent
        if (self.file_output is not None or self.plotting) and not folder.is_dir():
            raise FileNotFoundError(
                f"file_output is {self.file_output!r}, but there is no folder {str(folder)!r}; make it first."
            )
        for name in ("minibatch_size", "print_period"):
            if getattr(self, name) is not None:
                checks.at_least(name, getattr(self, name), 1)
        checks.time_limit(self.max_seconds)
        if not isinstance(self.callbacks, (list, tuple)):
            raise TypeError(f"callbacks is {self.callbacks!r}; a list of objects is expected.")
        for callback in self.callbacks:
            observers.check_callback(callback)


class Epoch(NamedTuple):
    """One epoch: its number from 0, the test error after it, seconds since the start, and the updates' records."""

    number: int
    test_error: float
    seconds: float
    updates: list[Any]


@dataclass
class RunResult:
    """Why a run ended, and its epochs."""

    reason: str = "still running"
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def test_errors(self) -> list[float]:
        """Test error after each epoch."""
        return [epoch.test_error for epoch in self.epochs]


class Observer(Protocol):
    """Told what happens in a run."""

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> bool | None:
        """After each update: its number in the epoch, and of how many, if that is known. True ends the run."""
        ...

    def on_epoch(self, epoch: Epoch) -> bool | None:
        """After each epoch. True ends the run."""
        ...

    def on_end(self, result: RunResult) -> None:
        """Once, however the run ended."""
        ...


class _NoUsableStepError(Exception):
    """Too many updates in a row without a usable step."""


class Trainee(Protocol):
    """What the loop trains: it makes updates, and is evaluated."""

    #: Whether the errors are those of separate data, so that overfitting shows.
    tested: bool

    def updates(self, epoch: int, printing: bool) -> Generator[tuple[int, int | None, Any]]:
        """Make the updates of an epoch; yields the number of each, of how many if that is known, and its record."""
        ...

    def evaluate(self) -> float:
        """The test error now; what is evaluated is kept if it is the best so far."""
        ...


def run_epochs(net: Any, inputs: Any, targets: Any, optimizer: Any, settings: RunSettings) -> RunResult:
    """Train a network; see `FFNet.run_epochs`."""
    start = time.perf_counter()
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "compute_update", None)):
        raise TypeError(
            f"optimizer is {optimizer!r}; an object with compute_update is expected, such as HessianFree()."
        )
    net.check_loss()
    arguments.check_unshared_state(net.layers)
    checks.finite("the weights", net.W, allow_nan=False)
    data = sources.source(net, inputs, targets)
    net.forget_examples()
    trainee = _NetworkInTraining(net, data, settings)
    net.optimizer = optimizer
    net.best_W, net.best_error = net.W.copy(), math.inf
    with observers.standard(net, settings) as told:
        result = run(trainee, settings, told, start)
    if not result.epochs:
        trainee.evaluate()
    return result


def run(trainee: Trainee, settings: RunSettings, told: Sequence[Observer], start: float) -> RunResult:
    """Epoch after epoch until something ends the run; Ctrl-C ends it cleanly.

    Args:
        trainee: what is trained.
        settings: when to stop.
        told: observers.
        start: when the run began, by time.perf_counter.

    Returns:
        Why it ended, and its epochs.
    """
    result = RunResult()
    begun: list[Any] = []  # records of an epoch that has not come to its end
    try:
        result.reason = _loop(trainee, settings, result, told, start, begun)
    except KeyboardInterrupt:
        result.reason = "interrupted; the best weights so far are kept"
    except _NoUsableStepError as problem:
        result.reason = str(problem)
    if begun:
        result.epochs.append(Epoch(len(result.epochs), trainee.evaluate(), time.perf_counter() - start, begun))
    for observer in told:
        observer.on_end(result)
    return result


def _loop(
    trainee: Trainee,
    settings: RunSettings,
    result: RunResult,
    told: Sequence[Observer],
    start: float,
    begun: list[Any],
) -> str:
    """Run epochs until something ends them, and say what."""
    rejections = 0
    for number in range(settings.max_epochs):
        begun.clear()
        printing = settings.print_period is not None and number % settings.print_period == 0
        out_of_time = told_to_end = False
        with closing(trainee.updates(number, printing)) as steps:
            for update, updates, record in steps:
                begun.append(record)
                told_to_end = _any_true([observer.on_update(number, update, updates, record) for observer in told])
                if not _nothing_to_learn(record):
                    rejections = 0 if getattr(record, "accepted", True) else rejections + 1
                if rejections == MAX_REJECTIONS:
                    raise _NoUsableStepError(f"{rejections} updates in a row found no usable step: {record.reason}")
                out_of_time = settings.max_seconds is not None and time.perf_counter() - start > settings.max_seconds
                if out_of_time or told_to_end:
                    break
        if not begun:
            return f"the data are exhausted after {number} epochs"
        epoch = Epoch(number, trainee.evaluate(), time.perf_counter() - start, list(begun))
        begun.clear()
        result.epochs.append(epoch)
        told_to_end |= _any_true([observer.on_epoch(epoch) for observer in told])
        if all(_nothing_to_learn(record) for record in epoch.updates):
            return "the gradient is zero: nothing is left to improve"
        if epoch.test_error < settings.target_err:
            return f"the target error {settings.target_err:g} is reached"
        if told_to_end:
            return "a callback ended the run"
        if settings.early_stopping and trainee.tested and _getting_worse(result.test_errors):
            return "the test error is worse than nine epochs before (overfitting; early_stopping=False goes on)"
        if out_of_time:
            return f"{settings.max_seconds:g} seconds are over"
    return f"all {settings.max_epochs} epochs are done"


class _NetworkInTraining:
    """A network, the source of its examples, and what it is tested on.

    Args:
        net: the network.
        data: examples to train on.
        settings: of the run.
    """

    def __init__(self, net: Any, data: sources.Source, settings: RunSettings) -> None:
        self.net, self.data, self.settings = net, data, settings
        self.test_error = _test_evaluation(net, data, settings)
        self.tested = settings.test is not None

    def updates(self, epoch: int, printing: bool) -> Generator[tuple[int, int, Any]]:
        """Those of the network's optimizer."""
        self.net.epoch = epoch
        return epoch_updates(self.net, self.data, self.settings.minibatch_size, printing)

    def evaluate(self) -> float:
        """The test error of the optimizer's running average of the weights if it keeps one, else of the weights."""
        net = self.net
        average = getattr(net.optimizer, "average_W", None)
        evaluated = net.W if average is None else average
        error = self.test_error(evaluated)
        if hasattr(net.optimizer, "plots"):
            net.optimizer.plots.setdefault("test error (log)", []).append(error)
        if error < net.best_error:  # never true for NaN
            net.best_error, net.best_W = error, evaluated.copy()
        return error


def _nothing_to_learn(record: Any) -> bool:
    """Whether the gradient was zero: at an optimum, or on a minibatch without known targets."""
    return getattr(record, "gradient_norm", 1) == 0 and math.isfinite(record.value)


def _any_true(answers: list[Any]) -> bool:
    """Whether a callback asked to end the run; whatever else it returns means nothing."""
    return any(map(checks.is_true, answers))


def _getting_worse(errors: list[float]) -> bool:
    return len(errors) >= PATIENCE_START and errors[-PATIENCE] < errors[-1]


def epoch_updates(
    net: Any, data: sources.Source, minibatch_size: int | None, printing: bool = False
) -> Generator[tuple[int, int, Any]]:
    """Make the updates of one epoch, one by one; an update that is not finite is not made.

    Yields:
        Number of the update, how many there are, and the optimizer's record of it.
    """
    with closing(data.minibatches(minibatch_size)) as minibatches:
        try:
            yield from _updates(net, minibatches, printing)
        finally:
            tell_batches(net.optimizer, 1)  # as it was: what comes next may be a loop of the user's own


def _updates(net: Any, minibatches: Iterable[tuple[int, int]], printing: bool) -> Generator[tuple[int, int, Any]]:
    for update, updates in minibatches:
        tell_batches(net.optimizer, updates)
        if net.debug:
            debugging.check_derivatives(net)
        from_records = getattr(net.optimizer, "keeps_records", False) and not net.debug
        change = _checked(net, net.optimizer.compute_update(printing=printing and update == 0 and not from_records))
        record = getattr(net.optimizer, "record", None)
        with np.errstate(over="ignore"):
            candidate = net.W + change
        if np.isfinite(candidate).all():
            net.W[:] = candidate
        elif getattr(record, "accepted", True):
            record = UnusableUpdate()
        yield update, updates, record


def tell_batches(optimizer: Any, count: int | None) -> None:
    """Let an optimizer know whether the data come in one batch; None if the number is not known."""
    if isinstance(optimizer, Optimizer):
        optimizer.full_batches = count == 1


def _checked(net: Any, change: Any) -> NDArray[Any]:
    """An update as the network can use it: one number per weight, none where the mask holds one."""
    array = np.asarray(change)
    if array.shape != net.W.shape or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{type(net.optimizer).__name__}.compute_update returned {array.dtype} of shape {array.shape}; numbers of "
            f"shape {net.W.shape} are expected."
        )
    return array.astype(net.dtype) if net.mask is None else np.where(net.mask, 0, array).astype(net.dtype)


class UnusableUpdate(NamedTuple):
    """Stands in for the record of an update that could not be added to the weights."""

    accepted: bool = False
    reason: str = "the update, or the weights after it, are not finite"


def _test_evaluation(net: Any, data: sources.Source, settings: RunSettings) -> Callable[..., float]:
    """The function that gives the test error, its data checked now."""
    if settings.test_err is not None:
        arguments.check_test_loss(settings.test_err, net.shape[-1])
    test = data if settings.test is None else sources.source(net, *_pair(settings.test))
    return test.evaluation(settings.test_err)


def _pair(test: Any) -> tuple[Any, Any]:
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise ValueError("test must be a pair (inputs, targets).")
    return test[0], test[1]
