"""Looking at arrays: the columns of the inputs, the range of the targets, the loss of the best constant outputs.

All of it is done in numpy and on limited parts of large arrays, so that a run hardly notices.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.diagnosis.facts import Inputs, Targets

Floats = NDArray[Any]

#: Rows of the inputs to look at, evenly spaced: a column's range hardly grows with more of them.
ROWS = 500
#: Numbers to look at in the targets, which means and shares are taken of: their errors fall with the root of that.
NUMBERS = 100_000
#: A target lies clearly beyond the bounds of the outputs if by more than this share of their range (of 1 where only one
#: side has a bound): noise around a bound, or rounding, does no harm.
CLEARLY = 0.05


def every_so_often(array: Floats, most: int) -> Floats:
    """At most so many rows, evenly spaced."""
    return array[:: -(-len(array) // most)] if len(array) > most else array


def inputs_of(x: Floats, most: int = ROWS) -> Inputs | None:
    """The columns of inputs (N, ..., n), without those rows that are not finite; None if nothing is left.

    Args:
        x: the inputs; all axes but the last count as examples.
        most: rows to look at.
    """
    rows = every_so_often(every_so_often(x, most).reshape(-1, x.shape[-1]), most).astype(float)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if rows.size == 0:
        return None
    lowest, highest = rows.min(axis=0), rows.max(axis=0)
    with np.errstate(over="ignore"):
        span, size = highest - lowest, np.maximum(abs(lowest), abs(highest))
        varies = span > 0
        narrow = np.where(varies, span, np.inf)
        offset = np.where(varies, abs(highest + lowest) / 2 / np.where(varies, span, 1), 0)
    widest, narrowest, farthest, largest = (
        int(place) for place in (span.argmax(), narrow.argmin(), offset.argmax(), size.argmax())
    )
    return Inputs(
        rows=len(rows),
        columns=rows.shape[1],
        constant=int((~varies).sum()),
        widest=float(span[widest]),
        widest_column=widest,
        narrowest=float(span[narrowest]),
        narrowest_column=narrowest,
        offset=float(offset[farthest]),
        offset_column=farthest,
        largest=float(size[largest]),
        largest_column=largest,
    )


def targets_of(t: Floats, layer: str, lower: float | None, upper: float | None) -> Targets | None:
    """Targets, NaN where unknown, beside the bounds of an output layer; None if there are no bounds, or no targets."""
    known = t[~np.isnan(t)]
    if (lower is None and upper is None) or known.size == 0:
        return None
    margin = CLEARLY * (1 if lower is None or upper is None else upper - lower)
    outside = np.zeros(known.shape, bool)
    if lower is not None:
        outside |= known < lower - margin
    if upper is not None:
        outside |= known > upper + margin
    return Targets(layer, float(known.min()), float(known.max()), lower, upper, float(outside.mean()))
