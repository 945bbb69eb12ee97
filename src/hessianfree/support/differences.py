"""Derivatives from values alone, with an estimate of their own error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

#: Steps are FIRST / RATIO^k, in units of a displacement over which the function changes notably.
FIRST, RATIO, LEVELS = 2.0**-4, 4.0, 14
#: A value is taken to be uncertain by the rounding of numbers of its own size, and of numbers around 1.
ROUNDING = 4 * float(np.finfo(np.float64).eps)
#: Relative error at which no smaller step is tried.
ENOUGH = 1e-6


def derivative(
    function: Callable[[Floats], Floats], unit: Floats, noise: Floats, levels: int = LEVELS
) -> tuple[Floats, Floats]:
    """Central differences with Ridders' extrapolation, entry by entry at the step that suits it.

    Args:
        function: of a displacement shaped like `unit`.
        unit: displacement over which the function changes notably; it broadcasts against the values.
        noise: rounding error of the values.
        levels: number of steps to try at most.

    Returns:
        Derivative and error estimate; the error is infinite where no step gave a finite value.
    """
    best, error = np.zeros(noise.shape), np.full(noise.shape, np.inf)
    row: list[Floats] = []
    for level in range(levels):
        h = FIRST / RATIO**level * unit
        ahead, behind = function(h), function(-h)
        rounding = (noise + ROUNDING * np.maximum(abs(ahead), abs(behind))) / h
        previous, row = row, [(ahead - behind) / (2 * h)]
        for k, coarser in enumerate(previous, 1):
            row.append(row[-1] + (row[-1] - coarser) / (RATIO ** (2 * k) - 1))
            found = np.maximum(abs(row[k] - row[k - 1]), abs(row[k] - coarser)) + rounding
            better = found < error
            best, error = np.where(better, row[k], best), np.where(better, found, error)
        if level >= 2 and ((error <= ENOUGH * abs(best)) | (error <= RATIO * rounding)).all():
            break
    return best, error
