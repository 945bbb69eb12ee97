"""Shift and scale arrays by what training data are like, and back again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Scaling(NamedTuple):
    """The map x -> (x - shift) / factor of the last axis.

    Attributes:
        shift: (n,).
        factor: (n,), not 0.
    """

    shift: Floats
    factor: Floats

    def apply(self, x: NDArray[Any]) -> Floats:
        """Scaled values, shaped like x, (..., n)."""
        return np.asarray((x - self.shift) / self.factor)

    def undo(self, x: NDArray[Any]) -> Floats:
        """The values that `apply` made x of."""
        return np.asarray(x * self.factor + self.shift)

    def as_lists(self) -> dict[str, list[float]]:
        """Both as lists, for JSON."""
        return {"shift": self.shift.tolist(), "factor": self.factor.tolist()}


def fitted(kind: str, x: NDArray[Any]) -> Scaling:
    """The scaling that brings data to mean 0 and deviation 1, or into [0, 1]; a constant stays a constant, 0.

    Args:
        kind: "standard", "range", or "none" for one that changes nothing.
        x: (..., n); NaN does not count.

    Example:
        >>> scaling = fitted("standard", np.array([[1.0], [3.0]]))
        >>> scaling.apply(np.array([[1.0], [3.0], [5.0]])).ravel().tolist()
        [-1.0, 1.0, 3.0]
        >>> fitted("range", np.array([[2.0, 7.0], [6.0, 7.0]])).apply(np.array([3.0, 7.0])).tolist()
        [0.25, 0.0]
    """
    rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
    if kind == "none" or not len(rows):
        return Scaling(np.zeros(rows.shape[1]), np.ones(rows.shape[1]))
    known = np.where(np.isfinite(rows).any(axis=0), rows, 0.0)
    if kind == "standard":
        shift, factor = np.nanmean(known, axis=0), np.nanstd(known, axis=0)
    else:
        shift, factor = np.nanmin(known, axis=0), np.nanmax(known, axis=0) - np.nanmin(known, axis=0)
    return Scaling(shift, np.where(factor > 0, factor, 1.0))


def from_lists(described: dict[str, list[float]]) -> Scaling:
    """What `as_lists` described."""
    return Scaling(np.array(described["shift"], np.float64), np.array(described["factor"], np.float64))
