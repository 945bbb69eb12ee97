"""The training loop: epoch after epoch of updates, until something ends the run.

The loop decides when to stop. What it trains is a `Trainee`. Printing, progress bars and files are callbacks that read
what happened and change nothing.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hessianfree.objective import parameters
from hessianfree.support import checks
from hessianfree.training.callbacks import Bar, FileWriter, Lines, Output, check_callbacks, notify, progress_bar
from hessianfree.training.results import Epoch, Result, Run, Standing

#: A run with test data ends, from the twelfth epoch on, if the test error is worse than nine epochs before.
PATIENCE_START, PATIENCE = 12, 10
ENDED_BY_CALLBACK = "a callback ended the run"


@dataclass(frozen=True)
class RunSettings:
    """When a run stops, and what it shows and writes; see `FFNet.run_epochs` for the arguments.

    `unit` is what messages call an epoch; `unfinished` comes before the reason where all of them are done.

    Raises:
        ValueError: if a count is not a whole number in range.
        TypeError: if `target_err` is not a number, or `callbacks` not a list of callbacks.
        FileNotFoundError: if the folder of the files does not exist.
    """

    max_epochs: int = 100
    minibatch_size: int | None = None
    target_err: float = 1e-6
    plotting: bool = False
    file_output: str | None = None
    print_period: int | None = 10
    max_seconds: float | None = None
    callbacks: Sequence[object] = ()
    early_stopping: bool = True
    unit: str = "epoch"
    unfinished: str = ""

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
        check_callbacks(self.callbacks)


@contextmanager
def callbacks_of(settings: RunSettings, files: Sequence[Output] = ()) -> Iterator[list[object]]:
    """The callbacks that the arguments of a run ask for: the user's, the files, and the console.

    Args:
        settings: of the run.
        files: what to write after each epoch.

    Yields:
        A list of callbacks. A progress bar is closed at the end.
    """
    with ExitStack() as stack:
        chosen: list[object] = [*settings.callbacks, *map(FileWriter, files)]
        if settings.print_period is not None:
            lines = Lines(settings.print_period, settings.unit)
            on_terminal = sys.stdout.isatty()
            chosen.append(stack.enter_context(progress_bar(settings.max_epochs, lines)) if on_terminal else lines)
        yield chosen


class Trainee(Standing, Protocol):
    """What the loop trains: it makes updates, and is evaluated."""

    #: Whether the errors are those of separate data, so that overfitting shows.
    tested: bool
    #: Whether every epoch sees the same data: without a gradient there is then nothing left to improve.
    stationary: bool
    #: Whether updates are made already that come after the one that was yielded last.
    made_ahead: bool
    #: Fields of the records, as far as they are known before the first.
    fields: tuple[str, ...]

    @property
    def solver(self) -> str:
        """Who makes the updates, for the result."""

    def updates(self, epoch: int, printing: bool, watched: bool) -> Generator[tuple[int, int | None, Any]]:
        """Make the updates of an epoch; yields the number of each, of how many if that is known, and its record.

        Where they are watched, each is yielded before the next one is made.
        """

    def evaluate(self) -> float:
        """The test error now; what is evaluated is kept if it is the best so far."""

    def why_finished(self, record: Any) -> str:
        """Why the update with this record is the last one, in words; '' to go on."""


def run(trainee: Trainee, settings: RunSettings, observers: Sequence[object], start: float) -> Result:
    """Run epoch after epoch until something ends the run; Ctrl-C ends it cleanly.

    Args:
        trainee: what is trained.
        settings: when to stop.
        observers: callbacks.
        start: when the run began, by time.perf_counter.

    Returns:
        The result, with the reason for the end.
    """
    epochs: list[Epoch] = []
    begun: list[Any] = []  # records of an epoch that is not complete
    try:
        notify(observers, "on_start", Run(trainee, epochs))
        reason = _loop(trainee, settings, observers, start, epochs, begun)
    except KeyboardInterrupt:
        reason = "interrupted; the best parameters so far are kept"
    if begun or not epochs:
        error = trainee.evaluate()
        if begun:
            epochs.append(Epoch(len(epochs), error, time.perf_counter() - start, begun))
    params, best = parameters.own((trainee.params, trainee.best_params))
    result = Result(params, best, trainee.best_error, reason, epochs, trainee.solver, trainee.fields)
    notify(observers, "on_end", result)
    return result


def _loop(
    trainee: Trainee,
    settings: RunSettings,
    observers: Sequence[object],
    start: float,
    epochs: list[Epoch],
    begun: list[Any],
) -> str:
    """Run epochs until something ends them, and say what."""
    for number in range(settings.max_epochs):
        begun.clear()
        printing = settings.print_period is not None and number % settings.print_period == 0
        why = _updates(trainee, settings, observers, start, number, printing, begun)
        if not begun:
            return f"the data gave no more batches after {number} {settings.unit}{'s' * (number != 1)}"
        epoch = Epoch(number, trainee.evaluate(), time.perf_counter() - start, list(begun))
        epochs.append(epoch)
        begun.clear()
        ended = notify(observers, "on_epoch", epoch)
        errors = [epoch.test_error for epoch in epochs[-PATIENCE:]]
        if trainee.stationary and all(nothing_to_learn(record) for record in epoch.updates):
            return "the gradient is zero: nothing is left to improve"
        if epoch.test_error < settings.target_err:
            return f"the target error {settings.target_err:g} is reached"
        if why:
            return why
        if ended:
            return ENDED_BY_CALLBACK
        if settings.early_stopping and trainee.tested and len(epochs) >= PATIENCE_START and errors[0] < errors[-1]:
            return "the test error is worse than nine epochs before (overfitting; early_stopping=False goes on)"
    return f"{settings.unfinished}all {settings.max_epochs} {settings.unit}s are done"


def _updates(
    trainee: Trainee,
    settings: RunSettings,
    observers: Sequence[object],
    start: float,
    number: int,
    printing: bool,
    begun: list[Any],
) -> str:
    """Make the updates of an epoch, adding their records to `begun`; says why one of them is the last of the run."""
    watched = any(hasattr(observer, "on_update") and not isinstance(observer, Bar) for observer in observers)
    with closing(trainee.updates(number, printing, watched)) as steps:
        for update, updates, record in steps:
            begun.append(record)
            ended = notify(observers, "on_update", number, update, updates, record)
            if trainee.made_ahead:
                continue  # the parameters are not those after this update any more
            if why := trainee.why_finished(record):
                return why
            if ended:
                return ENDED_BY_CALLBACK
            if settings.max_seconds is not None and time.perf_counter() - start > settings.max_seconds:
                return f"{settings.max_seconds:g} seconds are over"
    return ""


def nothing_to_learn(record: Any) -> bool:
    """Whether the gradient was zero: at an optimum, or on a minibatch without known targets."""
    return getattr(record, "gradient_norm", 1) == 0 and math.isfinite(record.value)
