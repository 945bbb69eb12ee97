"""What a run shows while it goes on: a live panel in a terminal, one line in a notebook, plain lines elsewhere.

A run notes where it stands. What shows it looks a few times a second, so that fast runs do not wait for the screen.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from hessianfree.training.callbacks import Lines
from hessianfree.training.judging import Judged
from hessianfree.training.results import Epoch, Result, Run

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

#: Looks at the run per second: enough for the eye, and a drawing takes some milliseconds.
REFRESHES = 4
#: Seconds between two prints above the panel at least: each draws it again.
BETWEEN_PRINTS = 0.125
#: Times of epochs that the pace is taken from, at most.
MOST_MARKS = 1000
#: Columns that one value takes, so that the others stay in place while it changes.
WIDTH = 10
#: Columns that stay free beside the panel: the terminal writes ^C there, which would otherwise begin a new line.
ECHOED = 2

#: What is shown of a record: label, the fields of which the first present one counts, format.
SHOWN = (
    ("phase", ("phase",), ""),
    ("loss", ("new_value", "value"), ".4g"),
    ("damping", ("damping",), ".3g"),
    ("CG steps", ("cg_iterations",), ".0f"),
    ("reduction ratio", ("reduction_ratio",), ".3g"),
    ("step size", ("step_length",), ".3g"),
    ("update norm", ("update_norm",), ".3g"),
)

Fields = list[tuple[str, str]]


class RunState:
    """Where a run stands: its callbacks only note it.

    Args:
        max_epochs: epochs at most.
        max_seconds: seconds at most, None for no limit.
        unit: what to call an epoch.
        clock: gives the time in seconds.
    """

    records_only = True

    def __init__(
        self,
        max_epochs: int,
        max_seconds: float | None = None,
        unit: str = "epoch",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.max_epochs, self.max_seconds, self.unit, self.clock = max_epochs, max_seconds, unit, clock
        self.began = clock()
        self.epochs = 0  # complete
        self.update = 0  # made in the epoch under way
        self.updates: int | None = None  # that an epoch has, if it is known
        self.record: Any = None
        self.epoch: Epoch | None = None
        self.judged = Judged()
        #: When the first update and each epoch were complete: epochs and seconds. The first update waits for compilers.
        self.marks: list[tuple[float, float]] = []

    def on_start(self, run: Run) -> None:
        """A run that goes on has epochs behind it."""
        self.epochs, self.judged = len(run.epochs), run.judged

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Note it."""
        self.update, self.updates, self.record = update + 1, updates, record
        if not self.marks:
            self._mark()

    def on_epoch(self, epoch: Epoch) -> None:
        """Note it."""
        self.epochs, self.update, self.epoch = epoch.number + 1, 0, epoch
        self._mark()

    def _mark(self) -> None:
        self.marks.append((self.done, self.elapsed))
        if len(self.marks) > MOST_MARKS:
            del self.marks[: MOST_MARKS // 2]

    @property
    def elapsed(self) -> float:
        """Seconds since the run was called."""
        return self.clock() - self.began

    @property
    def done(self) -> float:
        """Epochs that are done, with the share of the one under way as far as it is known."""
        return self.epochs + (self.update / self.updates if self.updates else 0)

    @property
    def share(self) -> float:
        """The share of the epochs or of the time that is done, whichever is larger."""
        of_epochs = self.done / self.max_epochs if self.max_epochs else 1.0
        of_time = self.elapsed / self.max_seconds if self.max_seconds else 0.0
        return min(1.0, max(of_epochs, of_time))

    @property
    def left(self) -> float | None:
        """Seconds left to the last epoch at the pace of the later half, or to the end of the time; None if unknown."""
        known = [] if self.max_seconds is None else [self.max_seconds - self.elapsed]
        if self.marks:
            done, elapsed = self.marks[len(self.marks) // 2]
            if self.done > done:
                known.append((self.max_epochs - self.done) * (self.elapsed - elapsed) / (self.done - done))
        return max(0.0, min(known)) if known else None

    def fields(self) -> Fields:
        """Label and text of all that is known."""
        if self.record is None:
            return [("", "compiling the first update")]
        found = [(f"{self.unit}s", f"{self.epochs}/{self.max_epochs}")]
        if self.updates != 1:
            found.append(("update", f"{self.update}/{self.updates}" if self.updates else str(self.update)))
        found += fields_of(self.record)
        if self.epoch is not None and self.unit == "epoch":
            found += self.judged.named(self.epoch.test_error, self.epoch.metrics)
        return found

    def times(self) -> str:
        """How long the run has gone on, and how long it may go on."""
        left = self.left
        return duration(self.elapsed) + ("" if left is None else f", at most {duration(left)} left")


def fields_of(record: Any) -> Fields:
    """Label and text of what a record says; nothing for None.

    Example:
        >>> from hessianfree.optimizers.first_order import GradientRecord
        >>> fields_of(GradientRecord(0.5, 2.0, 0.25, False, "update 3: the loss is not finite"))
        [('loss', '0.5'), ('update norm', '0.25'), ('', 'rejected')]
    """
    found = []
    for label, names, form in SHOWN:
        name = next((name for name in names if hasattr(record, name)), None)
        if name is not None:
            found.append((label, as_text(getattr(record, name), form)))
    return found if getattr(record, "accepted", True) else [*found, ("", "rejected")]


def as_text(value: Any, form: str) -> str:
    """A number in a format, and anything else as it is."""
    try:
        return format(float(value), form) if form else str(value)
    except (TypeError, ValueError):
        return str(value)


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds.

    Example:
        >>> duration(3671.8)
        '1:01:11'
    """
    return str(timedelta(seconds=int(seconds)))


# ---- in a terminal ---------------------------------------------------------------------------------------------------


def panel(state: RunState, width: int) -> RenderableType:
    """A bar, and below it all that is known, in as many columns as fit into the width."""
    from rich.columns import Columns
    from rich.console import Group
    from rich.panel import Panel
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    bar = Table.grid(padding=(0, 1), expand=True)
    bar.add_column(ratio=1)
    bar.add_column(justify="right")
    bar.add_row(ProgressBar(total=1.0, completed=state.share), f"{100 * state.share:.0f} %  {state.times()}")
    cells = [Text.assemble((f"{label} " if label else "", "dim"), f"{text:<{WIDTH}}") for label, text in state.fields()]
    return Panel(Group(bar, Columns(cells, padding=(0, 1))), width=max(width - ECHOED, 1))


class Above:
    """Prints lines above the panel, those that come fast together: each print draws the panel again.

    Args:
        console: prints.
        clock: gives the time in seconds.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        self.console, self.clock = console, clock
        self.waiting: deque[str] = deque()
        self.printed = -math.inf

    def print(self, line: str) -> None:
        """Print a line, now or with the next ones."""
        self.waiting.append(line)
        if self.clock() - self.printed >= BETWEEN_PRINTS:
            self.flush()

    def flush(self) -> None:
        """Print what is waiting. The thread that draws the panel calls this, too, so no lock is held meanwhile."""
        lines = []
        while self.waiting:
            lines.append(self.waiting.popleft())
        if lines:
            self.console.print("\n".join(lines), highlight=False, markup=False, emoji=False, soft_wrap=True)
            self.printed = self.clock()


@contextmanager
def live_panel(console: Console, state: RunState, lines: Lines) -> Iterator[list[object]]:
    """Show the panel as long as the run goes on, and the lines above it; yields the callbacks of the run."""
    from rich.live import Live

    above = Above(console)
    lines.print = above.print

    def looked_at() -> RenderableType:
        above.flush()
        return panel(state, console.width)

    with Live(console=console, get_renderable=looked_at, refresh_per_second=REFRESHES, transient=True):
        try:
            yield [state, lines]
        finally:
            above.flush()


# ---- in a notebook ---------------------------------------------------------------------------------------------------


def in_notebook() -> bool:
    """Whether prints go to the cell of a notebook: IPython runs in a kernel, and nothing has redirected them."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None and type(sys.stdout).__module__.startswith("ipykernel")


class NotebookLine:
    """One line below the cell, updated in place, in the end by the last lines of the run.

    Args:
        state: of the run; its callbacks and those of the lines come before these.
        lines: say what the run ended with.
    """

    records_only = True

    def __init__(self, state: RunState, lines: Lines) -> None:
        from IPython.display import display

        self.state = state
        self.said: list[tuple[int, str]] = []  # by the lines, with the epochs that were complete
        lines.print = lambda line: self.said.append((state.epochs, line))
        self.handle = display(_plain(self._line()), raw=True, display_id=True)
        self.shown = state.clock()

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Update the line, if it is time."""
        if self.state.clock() - self.shown >= 1 / REFRESHES:
            self._show(self._line())

    def on_epoch(self, epoch: Epoch) -> None:
        """Update the line, if it is time; keep what is said of the last epoch only."""
        self.said = [(epochs, line) for epochs, line in self.said if epochs == self.state.epochs]
        self.on_update(epoch.number, 0, None, None)

    def on_end(self, result: Result) -> None:
        """Show the last lines, which say why the run ended."""
        self._show("\n".join(line for _, line in self.said))

    def _line(self) -> str:
        fields = [" ".join(filter(None, field)) for field in self.state.fields()]
        return ", ".join([*fields, self.state.times()])

    def _show(self, text: str) -> None:
        self.handle.update(_plain(text), raw=True)
        self.shown = self.state.clock()


def _plain(text: str) -> dict[str, str]:
    return {"text/plain": text}


# ---- which of them ---------------------------------------------------------------------------------------------------


@contextmanager
def following(lines: Lines, max_epochs: int, max_seconds: float | None) -> Iterator[list[object]]:
    """The callbacks that show a run where its prints go: to a terminal, a notebook or a file.

    Args:
        lines: the lines of the run.
        max_epochs: epochs at most.
        max_seconds: seconds at most, None for no limit.

    Yields:
        A list of callbacks. A panel is closed at the end.
    """
    state = RunState(max_epochs, max_seconds, lines.unit)
    if in_notebook():
        yield [state, lines, NotebookLine(state, lines)]
    elif (console := _terminal()) is not None:
        with live_panel(console, state, lines) as chosen:
            yield chosen
    else:
        yield [lines]


def _terminal() -> Console | None:
    """The terminal that prints go to, None if they go elsewhere, it cannot move its cursor, or it has a panel."""
    if sys.stdout is None or not sys.stdout.isatty():
        return None
    from rich.console import Console
    from rich.file_proxy import FileProxy

    console = Console()
    taken = isinstance(sys.stdout, FileProxy)  # by a run whose callback started this one
    return None if taken or console.is_dumb_terminal else console
