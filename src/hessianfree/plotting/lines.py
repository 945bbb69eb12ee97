"""Lines of numbers, not all of which can be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

LARGEST = 1e100  # beyond it the arithmetic of axes overflows; a loss that large has diverged anyway


def drawable(values: NDArray[np.floating[Any]], log: bool) -> NDArray[np.bool_]:
    """Which values can be drawn: none that is NaN, infinite, beyond 1e100, or not positive on a logarithmic axis.

    Example:
        >>> drawable(np.array([1.0, 0.0, np.nan]), log=True)
        array([ True, False, False])
    """
    usable = np.abs(values) <= LARGEST  # never true for NaN
    return usable & (values > 0) if log else usable


def set_values(line: Line2D, x: ArrayLike, values: NDArray[np.floating[Any]], log: bool) -> None:
    """Let a line go through these values; those that cannot be drawn leave a gap.

    A point without a neighbour to draw a line to is shown by a marker alone.
    """
    usable = drawable(values, log)
    line.set_data(x, np.where(usable, values, np.nan))
    padded = np.pad(usable, 1)
    line.set_markevery(np.flatnonzero(usable & ~padded[:-2] & ~padded[2:]).tolist())


def set_scale(axes: Axes, log: bool) -> None:
    """Make an axis logarithmic or linear; an axis that is logarithmic needs a positive value."""
    scale = "log" if log else "linear"
    if axes.get_yscale() != scale:
        axes.set_yscale(scale)
