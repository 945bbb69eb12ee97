"""How far to go along a CG solution: backtracking over its iterates, then shrinking the step.

Both are a few loss evaluations in plain Python; a loss that is not finite never looks like an improvement.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Candidate(NamedTuple):
    """A candidate and its loss."""

    iterate: int
    value: float


class Length(NamedTuple):
    """The step length alpha and the loss there; alpha is 0 when no length was good enough."""

    length: float
    value: float
    evaluations: int


def backtrack(value_of: Callable[[int], float], last: int) -> Candidate:
    """Walk over the stored iterates from last to first while the loss keeps falling (Martens 2010, section 4.6).

    Returns the iterate to use and its loss, which is infinite if no iterate has a finite one.

    Example:
        >>> backtrack([3.0, 1.0, 2.0].__getitem__, last=2)
        Candidate(iterate=1, value=1.0)
    """
    best = Candidate(last, _or_infinite(value_of(last)))
    for index in range(last - 1, -1, -1):
        value = _or_infinite(value_of(index))
        # An infinite loss tells nothing of the iterates before it: keep walking.
        if value >= best.value and math.isfinite(best.value):
            break
        best = Candidate(index, value)
    return best


def shrink(
    value_at: Callable[[float], float],
    full_value: float,
    start_value: float,
    slope: float,
    *,
    factor: float = 0.8,
    sufficient: float = 0.01,
    attempts: int = 60,
) -> Length:
    """Armijo line search: alpha <- factor alpha until f(alpha) <= f(0) + sufficient alpha min(slope, 0), and < f(0).

    The second is more than the first where the promised decrease is lost in the rounding of f(0).

    Args:
        value_at: loss at step length alpha.
        full_value: loss at alpha = 1, already known.
        start_value: loss at alpha = 0.
        slope: g'd, the directional derivative at 0.
        factor: how much shorter each attempt is.
        sufficient: share of the promised decrease that is demanded.
        attempts: how many shorter steps to try.

    Returns:
        The first step that is good enough, or length 0.

    Example:
        >>> shrink(lambda a: (2 * a - 1) ** 2, full_value=1.0, start_value=1.0, slope=-4.0).length
        0.8
    """
    if not math.isfinite(start_value):
        return Length(0.0, start_value, 0)  # nothing to compare with: spare the evaluations
    alpha, value = 1.0, _or_infinite(full_value)
    for attempt in range(attempts + 1):
        if attempt > 0:
            alpha *= factor
            value = _or_infinite(value_at(alpha))
        if value < start_value and value <= start_value + sufficient * alpha * min(slope, 0.0):
            return Length(alpha, value, attempt)
    return Length(0.0, start_value, attempts)


def _or_infinite(value: float) -> float:
    return value if math.isfinite(value) else math.inf
