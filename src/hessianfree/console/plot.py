"""`hessianfree plot`: show how a run goes, or went, from a file of it or from its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hessianfree.console.shell import WrongUsageError

EXAMPLES = """
hessianfree plot HF_plots.pkl                      live, until the window is closed
hessianfree plot runs/irises                       of a folder that train writes
hessianfree plot result.safetensors --save run.png
hessianfree plot run.ckpt --web                    live in a browser
"""

_FILE = "What training with plotting=True writes (HF_plots.pkl), a checkpoint, a saved result, or the folder of a run."


def plot(
    file: Annotated[Path, typer.Argument(metavar="FILE", help=_FILE)],
    save: Annotated[
        Path | None, typer.Option(metavar="PNG", help="Write this PNG file instead of opening a window.")
    ] = None,
    interval: Annotated[float, typer.Option(metavar="SECONDS", help="Between two reads of the file.")] = 1.0,
    web: Annotated[
        bool, typer.Option("--web", help="Show the plots in a browser, also on another machine by ssh.")
    ] = False,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", help="For --web: where to listen (default: 8988).")
    ] = None,
) -> None:
    """Show how a training run goes, or went.

    Plots of a run that goes on are kept up to date until you close the window. Where there is no display, a PNG file is
    written beside FILE.
    """
    if web and save is not None:
        raise WrongUsageError("--web shows the plots, and --save writes them to a file; give one of them.")
    path = file_of(file)
    if web:
        from hessianfree.plotting.web import PORT, serve

        serve(path, PORT if port is None else port, interval)
    else:
        from hessianfree.plotting import live

        live.run(path, save=save, interval=interval)


def file_of(path: Path) -> Path:
    """The file to plot: in the folder of a run the result, or the series where they are newer.

    Raises FileNotFoundError if it is another folder.
    """
    from hessianfree.console.folder import RESULT, SERIES

    if not path.is_dir():
        return path
    written = {name: (path / name).stat().st_mtime_ns for name in (SERIES, RESULT) if (path / name).exists()}
    if not written:
        raise FileNotFoundError(f"{path} is a folder without {SERIES}; give the folder of a run, or a file")
    return path / max(written, key=lambda name: written[name])
