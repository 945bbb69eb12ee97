"""The training loop: epoch after epoch of updates, until something ends the run.

The loop decides when to stop. What it trains is a `Trainee`. Printing, panels and files are callbacks that read what
happened and change nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from hessianfree.devices.fetching import on_one_device
from hessianfree.devices.processes import ALONE, Processes
from hessianfree.diagnosis.facts import Facts
from hessianfree.diagnosis.stopping import why_worse
from hessianfree.objective import parameters
from hessianfree.support import checks
from hessianfree.training.callbacks import (
    FileWriter,
    Lines,
    Output,
    Places,
    check_callbacks,
    notify,
    reads_records_only,
)
from hessianfree.training.checkpoints import Checkpoints, Progress
from hessianfree.training.interruption import Interruption, deferred
from hessianfree.training.judging import Evaluated
from hessianfree.training.progress import following
from hessianfree.training.results import INTERRUPTED, Epoch, Result, Run, Standing

#: A run with test data ends, from the twelfth epoch on, if the test error is worse than nine epochs before.
PATIENCE_START, PATIENCE = 12, 10
ENDED_BY_CALLBACK = "a callback ended the run"


@dataclass(frozen=True)
class RunSettings:
    """When a run stops, and what it leaves, shows and writes; see `FFNet.run_epochs` for the arguments.

    With `restore_best` the best parameters are the ones that it leaves; `places` says where they are then. `unit` is
    what messages call an epoch; `unfinished` comes before the reason where all of them are done.

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
    restore_best: bool = False
    places: Places = Places()  # noqa: RUF009  # it holds nothing that changes
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
        checks.time_limit("max_seconds", self.max_seconds)
        check_callbacks(self.callbacks)
        if not isinstance(self.restore_best, (bool, np.bool_)):
            raise TypeError(f"restore_best is {self.restore_best!r}; True or False is expected.")

    def said(self) -> dict[str, str]:
        """In words what processes that share a run must have been given alike."""
        names = "max_epochs", "minibatch_size", "target_err", "max_seconds", "early_stopping", "restore_best"
        return {name: repr(getattr(self, name)) for name in names}

    def on(self, processes: Processes) -> RunSettings:
        """The same for this process: only the first one of a run prints, and writes files."""
        if processes.first:
            return self
        callbacks = tuple(seen for seen in self.callbacks if not getattr(seen, "first_process_only", False))
        return replace(self, print_period=None, file_output=None, plotting=False, callbacks=callbacks)


@contextmanager
def callbacks_of(settings: RunSettings, files: Sequence[Output] = ()) -> Iterator[list[object]]:
    """The callbacks that the arguments of a run ask for: the user's, the files, and the console.

    Args:
        settings: of the run.
        files: what to write after each epoch.

    Yields:
        A list of callbacks. A progress panel is closed at the end.
    """
    with ExitStack() as stack:
        chosen: list[object] = [*settings.callbacks, *map(FileWriter, files)]
        if settings.print_period is not None:
            lines = Lines(settings.print_period, settings.unit, settings.places)
            chosen += stack.enter_context(following(lines, settings.max_epochs, settings.max_seconds))
        yield chosen


class Trainee(Standing, Protocol):
    """What the loop trains: it makes updates, and is evaluated."""

    #: Whether every epoch sees the same data: without a gradient there is then nothing left to improve.
    stationary: bool
    #: Whether the parameters were put on many devices for the run.
    on_many: bool
    #: Whether updates are made already that come after the one that was yielded last.
    made_ahead: bool
    #: Fields of the records, as far as they are known before the first.
    fields: tuple[str, ...]

    @property
    def solver(self) -> str:
        """Who makes the updates, for the result."""

    def updates(
        self, epoch: int, printing: bool, watched: bool, done: Sequence[Any] = ()
    ) -> Generator[tuple[int, int | None, Any]]:
        """Make the updates of an epoch; yields the number of each, of how many if that is known, and its record.

        Where they are watched, each is yielded before the next one is made. Those that another process made are done:
        their records are given.
        """

    def evaluate(self) -> Evaluated:
        """The test error and the metrics now; what is evaluated is kept if it is the best so far."""

    def restore_best(self) -> bool:
        """Go back to the parameters with the lowest test error, if any was a number; returns whether that is so."""

    def facts(self) -> Facts:
        """What is known of data and model at the end of the run, for `hf.diagnose`."""

    def why_finished(self, record: Any) -> str:
        """Why the update with this record is the last one, in words; '' to go on."""


class _Ending(NamedTuple):
    """Why a run ended, and whether that is final: one that ran out of time or epochs can be resumed."""

    reason: str
    final: bool = True


def run(
    trainee: Trainee,
    settings: RunSettings,
    observers: Sequence[object],
    start: float,
    checkpoints: Checkpoints | None = None,
    processes: Processes = ALONE,
) -> Result:
    """Run epoch after epoch until something ends the run; Ctrl-C ends it cleanly.

    Args:
        trainee: what is trained.
        settings: when to stop.
        observers: callbacks.
        start: when the run began, by time.perf_counter.
        checkpoints: where the run may begin, and what keeps it on the disk.
        processes: those that share the run.

    Returns:
        The result, with the reason for the end.
    """
    progress = Progress() if checkpoints is None else checkpoints.begin()
    with deferred(checkpoints is not None or processes.several) as interruption:
        course = _Course(trainee, settings, observers, progress, start, checkpoints, interruption, processes)
        try:
            with processes.settling():
                notify(observers, "on_start", Run(trainee, progress.epochs, progress.begun))
            ending = _Ending(progress.reason) if progress.reason else course.ending()
            course.keep_at_end(ending)
        except KeyboardInterrupt:  # perhaps within an update: what is on the disk is from before it
            ending = _Ending(INTERRUPTED, final=False)
        result = course.result("; ".join(filter(None, [ending.reason, course.trouble])))
        notify(observers, "on_end", result)
        interruption.leave()
    return result


class _Signs(NamedTuple):
    """What is seen after an update."""

    ended: bool  # by a callback
    due: bool  # a checkpoint
    interrupted: bool
    over: bool  # the time


@dataclass
class _Course:
    """A run on its way."""

    trainee: Trainee
    settings: RunSettings
    observers: Sequence[object]
    progress: Progress
    called: float  # when the run was called, by time.perf_counter
    checkpoints: Checkpoints | None
    interruption: Interruption
    processes: Processes
    trouble: str = ""  # with the last checkpoint
    kept: bool = False  # whether it is taken

    def __post_init__(self) -> None:
        self._start = self.called - self.progress.seconds  # when it would have begun had it run in one piece

    def ending(self) -> _Ending:
        """Run epochs until something ends them, and say what."""
        trainee, settings, epochs = self.trainee, self.settings, self.progress.epochs
        for number in range(len(epochs), settings.max_epochs):
            printing = settings.print_period is not None and number % settings.print_period == 0
            why = self._updates(number, printing)
            if why is not None and not why.final:
                self.keep_at_end(why)  # before the evaluation, which a run in one piece would not have here
            if not self.progress.begun:
                return _Ending(f"the data gave no more batches after {number} {settings.unit}{'s' * (number != 1)}")
            epoch = self._complete()
            (ended,) = self.processes.any(partial(self._told, "on_epoch", epoch))
            errors = [epoch.test_error for epoch in epochs[-PATIENCE:]]
            if trainee.stationary and all(nothing_to_learn(record) for record in epoch.updates):
                return _Ending("the gradient is zero: nothing is left to improve")
            if epoch.test_error < settings.target_err:
                return _Ending(f"the target error {settings.target_err:g} is reached")
            if why is not None:
                return why
            if ended:
                return _Ending(ENDED_BY_CALLBACK)
            watched = settings.early_stopping and trainee.judged.tested
            if watched and len(epochs) >= PATIENCE_START and errors[0] < errors[-1]:
                return _Ending(why_worse(epochs[-PATIENCE:]))
        return _Ending(f"{settings.unfinished}all {settings.max_epochs} {settings.unit}s are done", final=False)

    def _updates(self, number: int, printing: bool) -> _Ending | None:
        """Make the updates of an epoch; says why one of them is the last of the run."""
        observers, begun, ended = self.observers, self.progress.begun, False
        watched = any(hasattr(seen, "on_update") and not reads_records_only(seen) for seen in observers)
        with closing(self.trainee.updates(number, printing, watched, tuple(begun))) as steps:
            for update, updates, record in steps:
                begun.append(record)
                signs = _Signs(*self.processes.any(partial(self._signs, number, update, updates, record)))
                ended |= signs.ended
                if self.trainee.made_ahead:
                    continue  # the parameters are not those after this update any more
                if why := self.trainee.why_finished(record):
                    return _Ending(why)
                if ended:
                    return _Ending(ENDED_BY_CALLBACK)
                if signs.due and self.checkpoints is not None:
                    self.checkpoints.take(self.progress)
                if signs.interrupted:
                    return _Ending(INTERRUPTED, final=False)
                if signs.over:
                    return _Ending(f"{self.settings.max_seconds:g} seconds are over", final=False)
        return None

    def _told(self, event: str, *what: Any) -> tuple[bool]:
        return (notify(self.observers, event, *what),)

    def _signs(self, *update: Any) -> _Signs:
        """Tell callbacks of an update, and look at the clock and at signals, which processes may see differently."""
        ended = notify(self.observers, "on_update", *update)
        limit, now = self.settings.max_seconds, time.perf_counter()
        self.progress.seconds = now - self._start
        due = self.checkpoints is not None and self.checkpoints.due(self.progress)
        return _Signs(ended, due, bool(self.interruption), limit is not None and now - self.called > limit)

    def _complete(self) -> Epoch:
        """Evaluate, and make an epoch of the updates that were begun."""
        error, metrics = self.trainee.evaluate()
        seconds, begun = time.perf_counter() - self._start, self.progress.begun
        epoch = Epoch(len(self.progress.epochs), error, seconds, list(begun), dict(metrics))
        self.progress.epochs.append(epoch)
        begun.clear()
        return epoch

    def keep_at_end(self, ending: _Ending) -> None:
        """Take the last checkpoint, once, unless the run had ended before."""
        if self.checkpoints is None or self.progress.reason or self.kept:
            return
        self.progress.seconds = time.perf_counter() - self._start
        self.progress.reason = ending.reason if ending.final else ""
        self.trouble, self.kept = self.checkpoints.end(self.progress), True

    def result(self, reason: str) -> Result:
        """What the run ended with; an epoch that is not complete is evaluated, too.

        The best parameters are restored here, after the last checkpoint: a run that goes on from it continues with the
        last ones.
        """
        trainee, progress = self.trainee, self.progress
        if progress.begun:
            self._complete()
        elif not progress.epochs:
            trainee.evaluate()
        own: Callable[[Any], Any] = on_one_device if trainee.on_many else parameters.own
        last, best = own((trainee.params, trainee.best_params))
        facts = trainee.facts()
        params = best if self.settings.restore_best and trainee.restore_best() else last
        found = best, trainee.best_error, reason, progress.epochs, trainee.solver, trainee.fields, trainee.judged
        return Result(params, *found, last, facts)


def nothing_to_learn(record: Any) -> bool:
    """Whether the gradient was zero: at an optimum, or on a minibatch without known targets."""
    return getattr(record, "gradient_norm", 1) == 0 and math.isfinite(record.value)
