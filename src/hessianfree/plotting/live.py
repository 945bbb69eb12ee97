"""Live plots of a training run: `hf.dataplotter.run("HF_plots.pkl")`, or `hessianfree plot HF_plots.pkl`.

The run writes its file with `run_epochs(..., plotting=True)`, or a checkpoint. You can open the plots before, during or
after it.
"""

from __future__ import annotations

import math
import os
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hessianfree.io.files import FileFormatError
from hessianfree.io.plots import UnfinishedFileError
from hessianfree.plotting.figures import has_display, open_window, save_png
from hessianfree.plotting.sources import Content, draw, figure_of, new_figure, read

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PATIENCE = 60.0  # seconds; a heuristic: a file that is being written changes or is complete long before


def run(
    filename: str | os.PathLike[str], *, save: str | os.PathLike[str] | None = None, interval: float = 1.0
) -> Path | None:
    """Show the course of a running or finished training run, and keep it up to date until the window is closed.

    Waits for a file that does not exist yet or is incomplete. Press Ctrl-C to end the waiting or the plots. If no
    window can be opened, it writes the current plots next to the file, as a PNG of the same name, and returns.

    Args:
        filename: `{prefix}_plots.pkl`, as training with `plotting=True` writes it; a checkpoint; or a saved result.
        save: a PNG file to write instead of opening a window. The file must then exist.
        interval: seconds between two reads of the file, above 0. Default: 1.

    Returns:
        The PNG file written, or None if a window was shown.

    Raises:
        FileNotFoundError: if it writes a PNG, and the plots file or the folder does not exist.
        FileFormatError: if the file is of another kind, could run code when loaded, or stays damaged for a minute.
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
    check_interval(interval)
    if save is None and has_display():
        watch(path, interval, PlotWindow(path.name))
        return None
    target = path.with_suffix(".png") if save is None else Path(save)
    if target.suffix.lower() != ".png" or os.path.realpath(target) == os.path.realpath(path):
        raise ValueError(f"the plots of {path} cannot be saved as {target}; name another file, ending in .png.")
    return save_png(figure_of(read(path)), target)


def check_interval(seconds: float) -> None:
    """Raise ValueError unless this is a time to wait between two reads."""
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"interval is {seconds}; a number of seconds above 0 is expected, such as 1.")


class PlotWindow:
    """A window of pyplot, opened when there is something to show."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figure: Figure | None = None
        self.number = 0  # of the figure, for pyplot

    def show(self, content: Content) -> None:
        """Show this in place of what was there."""
        if self.figure is None:
            self.figure = new_figure(content)
            self.number = open_window(self.figure, self.title)
            self.figure.show()
        draw(self.figure, content)
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

    Raises FileFormatError if the file is of another kind, or stays damaged for a minute before anything was shown.
    """
    follower = Follower(path)
    with suppress(KeyboardInterrupt), closing(window):
        while not window.is_closed():
            content = follower.news(elapsed=interval)
            if content is not None:
                window.show(content)
            window.pause(interval)


class Follower:
    """Reads the file of a run when it has changed, and prints once what it is waiting for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unchanged = 0.0  # seconds since the file last changed
        self._seen: object = None  # what distinguishes the version of the file that was read last
        self._damage: UnfinishedFileError | None = None  # of that version
        self._has_good = False
        self._told: set[str] = set()

    def news(self, elapsed: float) -> Content | None:
        """What it holds, if the file has changed since the last call, `elapsed` seconds ago, and is complete.

        Raises FileFormatError if it is of another kind, or was never complete and has been damaged for `PATIENCE`.
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
            content = read(self.path)
        except FileNotFoundError:
            self._tell("missing", f"waiting for {os.path.abspath(self.path)}, which does not exist yet (Ctrl-C ends)")
            return None
        except UnfinishedFileError as damage:
            self._damage = damage
            self._tell("damaged", f"{self.path} holds {damage.args[1]}; waiting until it is whole (Ctrl-C ends)")
            return None
        self._has_good = True
        return content

    def _tell(self, kind: str, message: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            print(message, flush=True)
