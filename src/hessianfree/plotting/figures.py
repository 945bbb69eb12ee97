"""Show figures in windows, or write them to PNG files where there is no display."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hessianfree.io.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def has_display() -> bool:
    """Whether matplotlib can open windows here.

    It respects the user's choice of a backend (`MPLBACKEND`, `matplotlib.use`). Some backends open no windows: "agg",
    for example, or the inline backend of notebooks. Without a choice, matplotlib chooses, as for every first figure.
    False also if the backend needs a display or a toolkit that is missing.
    """
    import matplotlib
    import matplotlib.pyplot as plt
    from matplotlib.backends.registry import backend_registry

    try:
        backend = matplotlib.get_backend()
        _, toolkit = backend_registry.resolve_backend(backend)
        if toolkit is None:
            return False
        plt.switch_backend(backend)  # a chosen backend is loaded, and so tried, only now
    except ImportError:
        return False
    return True


def show_or_save(figures: Mapping[str, Figure], folder: str | os.PathLike[str] = ".") -> list[Path]:
    """Show figures in windows, or write them as `{name}.png` and print each path if no window can be opened.

    Windows stay until the user closes them all or presses Ctrl-C.

    Args:
        figures: name -> figure; the names become window titles or file names. You can make the figures with
            `matplotlib.figure.Figure`, which needs no display.
        folder: an existing folder for the files. Default: the working directory.

    Returns:
        The files written; an empty list if windows were shown.

    Raises:
        ValueError: if a name cannot be a file name.
        FileNotFoundError: if the folder does not exist.

    Example:
        >>> from matplotlib.figure import Figure
        >>> figure = Figure()
        >>> _ = figure.subplots().plot([3, 1, 2])
        >>> show_or_save({"trajectory": figure}, "results")  # doctest: +SKIP
        saved results/trajectory.png
        [PosixPath('results/trajectory.png')]
    """
    for name in figures:
        if not name or Path(name).name != name:
            raise ValueError(f"a figure is named {name!r}, which cannot be a file name; leave out / and the like.")
    if not figures or not has_display():
        return [save_png(figure, Path(folder, f"{name}.png")) for name, figure in figures.items()]
    import matplotlib.pyplot as plt

    windows = [open_window(figure, name) for name, figure in figures.items()]
    with suppress(KeyboardInterrupt):
        plt.show()
    # Ctrl-C leaves windows open. In an interactive session they stay, beside the prompt.
    if not plt.isinteractive():
        for window in windows:
            plt.close(window)
    return []


def save_png(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG file, whole or not at all, print where, and return the path; no display is needed.

    Raises FileNotFoundError if the folder does not exist.
    """
    write_atomically(path, lambda file: figure.savefig(file, format="png"))
    print(f"saved {path}")
    return path


def open_window(figure: Figure, title: str) -> int:
    """Open a window of pyplot for a figure, or set the title of its window; return its number in pyplot.

    Newer versions of matplotlib take the number off a figure that is closed, so keep it.
    """
    import matplotlib.pyplot as plt

    if figure.canvas.manager is None:
        # Old and new versions of matplotlib share only this way: pyplot asks for a new figure and gets this one.
        plt.figure(FigureClass=cast(Any, lambda *args, **kwargs: figure))
    manager = cast(Any, figure.canvas.manager)
    manager.set_window_title(title)
    return int(manager.num)
