"""Callbacks: what follows a run. The printed lines, the progress panel and the files are callbacks like a user's own.

What a callback is stands in protocols.py, and what users are told of it in `hessianfree.callbacks`.
"""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from hessianfree.io.files import write_atomically
from hessianfree.objective import parameters
from hessianfree.support import checks
from hessianfree.training.judging import Judged
from hessianfree.training.results import Epoch, Result, Run

EVENTS = ("on_start", "on_update", "on_epoch", "on_end")


def check_callbacks(callbacks: object) -> None:
    """Check the argument `callbacks`.

    Raises:
        TypeError: if it is not a list or tuple, or holds an object without any of the methods.
    """
    if not isinstance(callbacks, (list, tuple)):
        raise TypeError(f"callbacks is {callbacks!r}; a list of objects is expected.")
    for callback in callbacks:
        if isinstance(callback, type) or not any(callable(getattr(callback, event, None)) for event in EVENTS):
            raise TypeError(
                f"A callback is {callback!r}; an object with at least one of on_start(run), on_update(epoch_number, "
                "update, updates, record), on_epoch(epoch) and on_end(result) is expected."
            )


def notify(callbacks: Sequence[object], event: str, *what: Any) -> bool:
    """Call this method of every callback that has it.

    Returns:
        Whether any of them returned True; all are called in any case.
    """
    ended = False
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is None:
            continue
        if reads_records_only(callback):  # and computes nothing: to enter the user's precision takes as long as updates
            ended |= checks.is_true(method(*what))
            continue
        with parameters.users_own():
            ended |= checks.is_true(method(*what))
    return ended


def reads_records_only(callback: object) -> bool:
    """Whether a callback has said that it looks at the records alone, so that updates need not be made one by one."""
    return bool(getattr(callback, "records_only", False))


class Output(NamedTuple):
    """A file that a run writes: its path, and a function that puts the present contents into an open binary file."""

    path: Path
    write: Callable[[BinaryIO], object]


# ---- the console -----------------------------------------------------------------------------------------------------


def summary(record: Any) -> str:
    """Loss, damping and CG steps of an update, as far as its record has them."""
    fields = [("loss", "new_value" if hasattr(record, "new_value") else "value", ".4g")]
    fields += [("damping", "damping", ".3g"), ("CG steps", "cg_iterations", "d")]
    present = [f"{label} {getattr(record, name):{form}}" for label, name, form in fields if hasattr(record, name)]
    if not getattr(record, "accepted", True):
        present.append("rejected")
    return ", ".join(present)


class Places(NamedTuple):
    """Where a run leaves parameters, and what to call them, in the last line."""

    params: str = "result.params"
    best: str = "result.best_params"
    last: str = "result.last_params"
    noun: str = "parameters"


class Lines:
    """Prints one line every `period` epochs, and some at the end.

    Args:
        period: epochs between lines.
        unit: what to call an epoch.
        places: where the parameters are in the end.
        words: turns the reason and the advice into what is printed; the command line names its options there.
    """

    records_only = True

    def __init__(
        self,
        period: int,
        unit: str = "epoch",
        places: Places = Places(),  # noqa: B008
        words: Callable[[str], str] = str,
    ) -> None:
        self.period, self.unit, self.places, self.words = period, unit, places, words
        self.judged = Judged()
        self.print: Callable[[str], object] = print

    def on_start(self, run: Run) -> None:
        """Keep what the errors are of."""
        self.judged = run.judged

    def errors(self, epoch: Epoch) -> str:
        """The error and the metrics of an epoch, nothing for a step, whose record says all."""
        return self.judged.numbers(epoch.test_error, epoch.metrics) if self.unit == "epoch" else ""

    def on_epoch(self, epoch: Epoch) -> None:
        """Print a line when it is due."""
        if epoch.number % self.period == 0:
            self.print(self._line(epoch))

    def on_end(self, result: Result) -> None:
        """Print where the run stood, why it ended, and what to try if it went wrong."""
        if result.epochs and result.epochs[-1].number % self.period != 0:
            self.print(self._line(result.epochs[-1]))
        self.print(f"finished after {len(result.epochs)} {self.unit}s: {self.words(result.reason)}")
        if result.judged.tested and result.best_epoch is not None:
            self.print(self._whereabouts(result, result.best_epoch))
        from hessianfree.diagnosis.advice import line_of  # not every script trains

        if advice := line_of(result):
            self.print(self.words(advice))

    def _whereabouts(self, result: Result, best: Epoch) -> str:
        """Which parameters are where, after a run with test data."""
        params, at_best, last, noun = self.places
        of_best = f"of epoch {best.number} ({self.judged.error(best.test_error)})"
        if result.params is not result.best_params:
            return f"{params} holds the last {noun}, {at_best} those {of_best}"
        rest = ", the last one" if best is result.epochs[-1] else f"; the last ones are in {last}"
        return f"{params} holds the {noun} {of_best}{rest}"

    def _line(self, epoch: Epoch) -> str:
        last = summary(epoch.updates[-1]) if epoch.updates else ""
        known = self.errors(epoch)
        return f"{self.unit} {epoch.number}: {', '.join(filter(None, [known, last]))} ({epoch.seconds:.1f} s)"


# ---- files -----------------------------------------------------------------------------------------------------------


class FileWriter:
    """Writes a file as the run goes on, whole or not at all.

    It writes at most once a second, so that short epochs do not wait for the disk, and once at the end.

    Args:
        output: the file.
    """

    def __init__(self, output: Output) -> None:
        self.output, self.written = output, -math.inf

    def on_epoch(self, epoch: Epoch) -> None:
        """Write, unless the file was written less than a second ago."""
        if time.perf_counter() - self.written > 1:
            write_atomically(*self.output)
            self.written = time.perf_counter()

    def on_end(self, result: Result) -> None:
        """Write the final contents."""
        write_atomically(*self.output)


class ErrorSeries:
    """Adds the test error of each epoch to the series of a plot.

    Args:
        plots: the series.
    """

    def __init__(self, plots: dict[str, list[float]]) -> None:
        self.plots, self.count = plots, 0

    def on_start(self, run: Run) -> None:
        """Those of a run that is resumed are in the series already."""
        self.count = len(run.epochs)

    def on_epoch(self, epoch: Epoch) -> None:
        """Add one."""
        self.plots.setdefault("test error (log)", []).append(epoch.test_error)
        self.count += 1

    def on_end(self, result: Result) -> None:
        """Add that of an epoch that was interrupted."""
        for epoch in result.epochs[self.count :]:
            self.on_epoch(epoch)


def plots_file(prefix: str | None, plots: Mapping[str, Sequence[float]]) -> Output:
    """The file of the series for the data plotter: a pickled dict of name -> list of numbers."""
    return Output(Path(f"{prefix or 'HF'}_plots.pkl"), partial(write_plots, plots))


def write_plots(plots: Mapping[str, Sequence[float]], file: BinaryIO) -> None:
    """Write the series as they are now."""
    pickle.dump({name: [float(value) for value in values] for name, values in plots.items()}, file, protocol=2)
