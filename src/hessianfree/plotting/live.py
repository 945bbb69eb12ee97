"""Live plots of a training run: `hf.dataplotter.run("HF_plots.pkl")`, or `hessianfree plot HF_plots.pkl`.

The run writes its file with `run_epochs(..., plotting=True)`. You can open the plots before, during or after it.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hessianfree.io.files import FileFormatError
from hessianfree.io.plots import Series, UnfinishedFileError, read_series
from hessianfree.plotting.figures import has_display, open_window, save_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PATIENCE = 60.0  # seconds; a heuristic: a file that is being written changes or is complete long before

_LOG = "(log)"
_PANEL = 3.6, 2.6  # inches
_LARGEST = 1e100  # beyond it the arithmetic of axes overflows; a loss that large has diverged anyway


def run(
    filename: str | os.PathLike[str], *, save: str | os.PathLike[str] | None = None, interval: float = 1.0
) -> Path | None:
    """Show the series of a running or finished training run, and keep them up to date until the window is closed.

    Waits for a file that does not exist yet or is incomplete. Press Ctrl-C to end the waiting or the plots. If no
    window can be opened, it writes the current plots next to the file, as a PNG of the same name, and returns.

    Args:
        filename: `{prefix}_plots.pkl`, as training with `plotting=True` writes it.
        save: a PNG file to write instead of opening a window. The file must then exist.
        interval: seconds between two reads of the file, above 0. Default: 1.

    Returns:
        The PNG file written, or None if a window was shown.

    Raises:
        FileNotFoundError: if it writes a PNG, and the plots file or the folder does not exist.
        FileFormatError: if the file is not a plots file, could run code when loaded, or stays damaged for a minute.
        ValueError: if `save` does not end in .png or is the plots file, or if `interval` is not above 0.

    Example:
        >>> import pickle, tempfile
        >>> path = Path(tempfile.mkdtemp(), "HF_plots.pkl")
        >>> _ = path.write_bytes(pickle.dumps({"damping (log)": [1, 0.5]}))
        >>> run(path, save=path.with_suffix(".png")).name  # doctest: +ELLIPSIS
        saved ...HF_plots.png
        'HF_plots.png'
    """
    path = Path(filename)
    if not (math.isfinite(interval) and interval > 0):
        raise ValueError(f"interval is {interval}; a number of seconds above 0 is expected, such as 1.")
    if save is None and has_display():
        watch(path, interval, PlotWindow(path.name))
        return None
    target = path.with_suffix(".png") if save is None else Path(save)
    if target.suffix.lower() != ".png" or os.path.realpath(target) == os.path.realpath(path):
        raise ValueError(f"the plots of {path} cannot be saved as {target}; name another file, ending in .png.")
    series = read_series(path)
    figure = new_figure(len(series))
    draw(figure, series)
    return save_png(figure, target)


class PlotWindow:
    """A window of pyplot, opened when there is something to show."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figure: Figure | None = None
        self.number = 0  # of the figure, for pyplot

    def show(self, series: Series) -> None:
        """Show these series in place of the last ones."""
        if self.figure is None:
            self.figure = new_figure(len(series))
            self.number = open_window(self.figure, self.title)
            self.figure.show()
        draw(self.figure, series)
        self.figure.canvas.draw_idle()

    def pause(self, seconds: float) -> None:
        """Wait, and react to the user while waiting."""
        if self.figure is None:
            time.sleep(seconds)
        else:
            # Not pyplot.pause: it raises the window each time, which can take the keyboard from the user.
            self.figure.canvas.start_event_loop(seconds)

    def is_closed(self) -> bool:
        """Whether the user has closed it; False before it is opened."""
        import matplotlib.pyplot as plt

        return self.figure is not None and not plt.fignum_exists(self.number)

    def close(self) -> None:
        """Close it, if it is open."""
        import matplotlib.pyplot as plt

        if self.figure is not None:
            plt.close(self.number)


def watch(path: Path, interval: float, window: PlotWindow) -> None:
    """Show a file in a window, again whenever it changes, until the window is closed or Ctrl-C is pressed.

    Raises FileFormatError if the file is not a plots file, or stays damaged for a minute before anything was shown.
    """
    follower = Follower(path)
    with suppress(KeyboardInterrupt), closing(window):
        while not window.is_closed():
            series = follower.news(elapsed=interval)
            if series is not None:
                window.show(series)
            window.pause(interval)


class Follower:
    """Reads a plots file when it has changed, and prints once what it is waiting for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unchanged = 0.0  # seconds since the file last changed
        self._seen: object = None  # what distinguishes the version of the file that was read last
        self._damage: UnfinishedFileError | None = None  # of that version
        self._has_good = False
        self._told: set[str] = set()

    def news(self, elapsed: float) -> Series | None:
        """The series, if the file has changed since the last call, `elapsed` seconds ago, and is complete.

        Raises FileFormatError if it is not a plots file, or was never complete and has been damaged for `PATIENCE`.
        """
        try:
            now = os.stat(self.path)
            # A file that is replaced within the resolution of the clock still gets another inode.
            version = now.st_mtime_ns, now.st_size, now.st_ino
            if version == self._seen:
                self._unchanged += elapsed
                # A file that was complete once is the right file, and its last complete contents stay on the screen.
                if self._damage is not None and not self._has_good and self._unchanged >= PATIENCE:
                    raise FileFormatError(*self._damage.args)
                return None
            self._seen, self._damage, self._unchanged = version, None, 0.0
            series = read_series(self.path)
        except FileNotFoundError:
            self._tell("missing", f"waiting for {os.path.abspath(self.path)}, which does not exist yet (Ctrl-C ends)")
            return None
        except UnfinishedFileError as damage:
            self._damage = damage
            self._tell("damaged", f"{self.path} holds {damage.args[1]}; waiting until it is whole (Ctrl-C ends)")
            return None
        self._has_good = True
        return series

    def _tell(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            print(message, flush=True)


# ---- panels ----------------------------------------------------------------------------------------------------------


def new_figure(n_panels: int) -> Figure:
    """An empty figure, large enough for this many panels, that pyplot does not know yet."""
    from matplotlib.figure import Figure

    rows, columns = _grid(n_panels)
    return Figure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")


def draw(figure: Figure, series: Series) -> None:
    """Draw series onto a figure, or update what an earlier call drew.

    A name that ends in "(log)" gives a logarithmic axis, and a title without that ending. Values that cannot be drawn
    (NaN, infinite, beyond 1e100, not positive on a logarithmic axis) leave a gap. While the names stay the same, so do
    the axes, and with them the user's zoom. If the names have changed, the figure is cleared.

    Example:
        >>> figure = new_figure(1)
        >>> draw(figure, {"damping (log)": np.array([1.0, 0.5])})
        >>> [panel.get_title() for panel in figure.axes]
        ['damping']
    """
    if not figure.axes or [panel.get_label() for panel in figure.axes] != list(series):
        figure.clear()
        _add_panels(figure, list(series))
    for panel, (name, values) in zip(figure.axes, series.items(), strict=True):
        _update(panel, name, values)


def _grid(n_panels: int) -> tuple[int, int]:
    columns = math.ceil(math.sqrt(max(n_panels, 1)))
    return math.ceil(max(n_panels, 1) / columns), columns


def _add_panels(figure: Figure, names: list[str]) -> None:
    from matplotlib.ticker import MaxNLocator

    if not names:
        figure.text(0.5, 0.5, "no series yet", ha="center", va="center")
    rows, columns = _grid(len(names))
    for i, name in enumerate(names):
        panel = figure.add_subplot(rows, columns, i + 1, label=name)
        title = " ".join(name.removesuffix(_LOG).split())
        panel.set_title(title if len(title) <= 40 else f"{title[:37]}...", parse_math=False)
        # The training loop tests after each epoch. The optimizer adds everything else, at each update.
        panel.set_xlabel("epoch" if name.startswith("test error") else "update")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.grid(alpha=0.3)
        panel.plot([], [], marker="o", markersize=4)


def _update(panel: Axes, name: str, values: NDArray[np.float64]) -> None:
    wants_log = name.endswith(_LOG)
    drawable = np.abs(values) <= _LARGEST  # never true for NaN
    if wants_log:
        drawable &= values > 0
    # An axis cannot be logarithmic before the first positive value.
    scale = "log" if wants_log and drawable.any() else "linear"
    if panel.get_yscale() != scale:
        panel.set_yscale(scale)
    (line,) = panel.get_lines()
    line.set_data(np.arange(len(values)), np.where(drawable, values, np.nan))
    padded = np.pad(drawable, 1)  # a point without a neighbour to draw a line to is shown by a marker alone
    line.set_markevery(np.flatnonzero(drawable & ~padded[:-2] & ~padded[2:]).tolist())
    panel.relim()
    panel.autoscale_view()
