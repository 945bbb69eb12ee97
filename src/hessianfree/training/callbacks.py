"""What a run shows and writes: lines or a progress bar on the console, plot series and weights on disk."""

from __future__ import annotations

import math
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hessianfree.io.files import write_atomically


@contextmanager
def standard(net: Any, settings: Any) -> Iterator[list[Any]]:
    """The observers that the arguments of `run_epochs` ask for.

    Args:
        net: the network.
        settings: a `RunSettings`.

    Yields:
        A list of observers; a progress bar is closed at the end.
    """
    with ExitStack() as stack:
        chosen: list[Any] = [Told(callback) for callback in settings.callbacks]
        if settings.plotting:
            chosen.append(FileWriter(Path(f"{settings.file_output or 'HF'}_plots.pkl"), partial(write_plots, net)))
        if settings.file_output is not None:
            chosen.append(FileWriter(Path(f"{settings.file_output}_weights.npy"), partial(write_weights, net)))
        if settings.print_period is not None:
            on_terminal = sys.stdout.isatty()
            lines = Lines(settings.print_period)
            chosen.append(stack.enter_context(progress_bar(settings.max_epochs, lines)) if on_terminal else lines)
        yield chosen


EVENTS = ("on_update", "on_epoch", "on_end")


def check_callback(callback: Any) -> None:
    """Tell of a callback that would never be called.

    Raises:
        TypeError: for an object without any of the methods.
    """
    if isinstance(callback, type) or not any(callable(getattr(callback, event, None)) for event in EVENTS):
        raise TypeError(
            f"A callback is {callback!r}; an object with at least one of on_update(epoch_number, update, updates, "
            "record), on_epoch(epoch) and on_end(result) is expected."
        )


class Told:
    """A user's callback as an observer: it may lack methods.

    Args:
        callback: the object.
    """

    def __init__(self, callback: Any) -> None:
        for event in EVENTS:
            setattr(self, event, getattr(callback, event, _do_nothing))


def _do_nothing(*arguments: Any) -> None:
    pass


def summary(record: Any) -> str:
    """Loss, damping and CG steps of an update, as far as its record has them."""
    fields = [("loss", "new_value" if hasattr(record, "new_value") else "value", ".4g")]
    fields += [("damping", "damping", ".3g"), ("CG steps", "cg_iterations", "d")]
    present = [f"{label} {getattr(record, name):{form}}" for label, name, form in fields if hasattr(record, name)]
    if not getattr(record, "accepted", True):
        present.append("rejected")
    return ", ".join(present)


class Lines:
    """One printed line every `period` epochs, and one at the end.

    Args:
        period: epochs between lines.
    """

    def __init__(self, period: int) -> None:
        self.period = period
        self.print: Any = print

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Nothing: lines are printed by epoch."""

    def on_epoch(self, epoch: Any) -> None:
        """A line when it is due."""
        if epoch.number % self.period == 0:
            self.print(self._line(epoch))

    def on_end(self, result: Any) -> None:
        """Why the run ended, and where it stood."""
        if result.epochs and result.epochs[-1].number % self.period != 0:
            self.print(self._line(result.epochs[-1]))
        self.print(f"finished after {len(result.epochs)} epochs: {result.reason}")

    def _line(self, epoch: Any) -> str:
        last = summary(epoch.updates[-1]) if epoch.updates and epoch.updates[-1] is not None else ""
        return f"epoch {epoch.number}: test error {epoch.test_error:.4g}, {last} ({epoch.seconds:.1f} s)".replace(
            ",  (", " ("
        )


class Bar:
    """A progress bar below the printed lines.

    Args:
        progress: a started rich Progress.
        epochs: how many there are at most.
        lines: what prints above the bar.
    """

    def __init__(self, progress: Any, epochs: int, lines: Lines) -> None:
        self.progress, self.lines = progress, lines
        self.task = progress.add_task("training", total=epochs, status="compiling")
        self.test_error = ""

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Move the bar by one update."""
        status = f"{summary(record)}{self.test_error}"
        share = (update + 1) / updates if updates else 0
        self.progress.update(self.task, completed=epoch_number + share, status=status)

    def on_epoch(self, epoch: Any) -> None:
        """Show the test error from now on."""
        self.test_error = f", test error {epoch.test_error:.4g}"
        last = summary(epoch.updates[-1]) if epoch.updates else ""
        self.progress.update(self.task, status=f"{last}{self.test_error}")
        self.lines.on_epoch(epoch)

    def on_end(self, result: Any) -> None:
        """The closing lines."""
        self.lines.on_end(result)


@contextmanager
def progress_bar(epochs: int, lines: Lines) -> Iterator[Bar]:
    """A live bar on the terminal, with loss, damping, CG steps and test error."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Column

    elapsed = TimeElapsedColumn(table_column=Column(min_width=7))
    status = TextColumn("{task.fields[status]}", table_column=Column(no_wrap=True, overflow="ellipsis"))
    with Progress(TextColumn("{task.percentage:>3.0f}%"), BarColumn(bar_width=12), elapsed, status) as progress:
        lines.print = partial(progress.console.print, highlight=False, markup=False, soft_wrap=True)
        yield Bar(progress, epochs, lines)


class FileWriter:
    """Writes a file as the run goes on, whole or not at all, at most once a second: short epochs need not wait for it.

    Args:
        path: the file.
        write: puts the contents, as they are now, into an open binary file.
    """

    def __init__(self, path: Path, write: Callable[[BinaryIO], None]) -> None:
        self.path, self.write, self.written = path, write, -math.inf

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Nothing: files are written by epoch."""

    def on_epoch(self, epoch: Any) -> None:
        """Write, unless it was done just now."""
        if time.perf_counter() - self.written > 1:
            write_atomically(self.path, self.write)
            self.written = time.perf_counter()

    def on_end(self, result: Any) -> None:
        """Write what is new."""
        write_atomically(self.path, self.write)


def write_plots(net: Any, file: BinaryIO) -> None:
    """The optimizer's series for the data plotter: a pickled dict of name -> list of numbers."""
    plots = getattr(net.optimizer, "plots", {})
    series = {name: [float(value) for value in values] for name, values in plots.items()}
    pickle.dump(series, file, protocol=2)


def write_weights(net: Any, file: BinaryIO) -> None:
    """The weights as they are now, in numpy's format."""
    np.save(file, net.W, allow_pickle=False)
