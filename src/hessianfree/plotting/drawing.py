"""`hf.plot`: one figure of any result."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hessianfree.diagnosis.course import RunCourse
from hessianfree.plotting import curves, sources
from hessianfree.plotting.inline import InlineFigure
from hessianfree.training.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VIEWS = ("fit", "run")


def plot(result: Any, level: float = 0.95, view: str | None = None) -> Figure:
    """Draw a result: the story of its run or, of a fit of a curve y(x), data, fit and confidence band.

    The story has losses and errors against updates and seconds, rejected updates and the best epoch marked. Below are
    damping, iterations of CG with those that backtracking used, reduction ratio, step size and the norms of updates and
    gradients, as far as the records have them.

    Args:
        result: what `run_epochs`, `hf.fit` or `hf.least_squares` returned; or the path of a file: of a result or a
            checkpoint, or what `plotting=True` writes.
        level: of the confidence band, between 0 and 1.
        view: "run" for the story, "fit" for data and fit; by default the fit where it is that of a `hf.Curve` with one
            x and one y.

    Returns:
        A figure that belongs to nobody yet: `figure.savefig("run.png")`; notebooks show it.

    Raises:
        TypeError: if it is not a result, or the fit is asked for, and it is not that of a curve.
        ValueError: if the view is neither, or the level out of range.
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it holds something else.

    Example:
        >>> import numpy as np
        >>> import hessianfree as hf
        >>> x = np.linspace(0, 3, 20)
        >>> result = hf.least_squares(hf.Curve(lambda p, x: p[0] * x + p[1], x, 2 * x + 1), np.ones(2))
        >>> [axes.get_ylabel() for axes in plot(result).axes]
        ['y', 'y - fit']
        >>> [axes.get_title() for axes in plot(result, view="run").axes][:3]
        ['errors by updates', 'errors by seconds', 'damping']
    """
    if view not in (None, *VIEWS):
        raise ValueError(f"view is {view!r}; 'run' or 'fit' is expected.")
    if isinstance(result, (str, os.PathLike)) and view != "fit":
        return sources.figure_of(sources.read(result))
    if curves.is_curve(result) and view != "run":
        figure = InlineFigure(figsize=(7, 5), layout="constrained")
        curves.draw_curve(figure, result, level)
        return figure
    if view == "fit":
        raise TypeError("hf.plot draws the fit of a hf.Curve(model, x, y) with x and y (N,); view='run' draws any run.")
    if not isinstance(result, Result):
        raise TypeError(
            f"hf.plot draws a result of hf.fit, run_epochs or hf.least_squares, or a file of one; given {result!r}."
        )
    return sources.figure_of(RunCourse.of(result))
