"""What counts as a number: Python's, numpy's, and arrays without axes; True and False do not."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np


def is_number(value: object) -> TypeGuard[float]:
    """Whether this is a real number, possibly NaN or infinite.

    Example:
        >>> is_number(np.float32(0.5)), is_number(np.array(0.5)), is_number(True), is_number("0.5")
        (True, True, False, False)
    """
    if isinstance(value, (int, float, np.integer, np.floating)):
        return not isinstance(value, bool)
    return getattr(value, "shape", None) == () and getattr(getattr(value, "dtype", None), "kind", "") in ("i", "u", "f")


def is_positive(value: object) -> TypeGuard[float]:
    """Whether this is a finite number above 0."""
    return is_number(value) and bool(0 < value < math.inf)


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is an integer, Python's or numpy's."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)
