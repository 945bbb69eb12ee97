"""Series of numbers, one panel each: what `plotting=True` writes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hessianfree.io.plots import Series
from hessianfree.plotting.lines import drawable, set_scale, set_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOG = "(log)"
_PANEL = 3.6, 2.6  # inches


def new_figure(n_panels: int) -> Figure:
    """An empty figure, large enough for this many panels, that pyplot does not know yet."""
    from hessianfree.plotting.inline import InlineFigure

    rows, columns = _grid(n_panels)
    return InlineFigure(figsize=(_PANEL[0] * columns, _PANEL[1] * rows), layout="constrained")


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
    # An axis cannot be logarithmic before the first positive value.
    set_scale(panel, wants_log and bool(drawable(values, log=True).any()))
    (line,) = panel.get_lines()
    set_values(line, np.arange(len(values)), values, wants_log)
    panel.relim()
    panel.autoscale_view()
