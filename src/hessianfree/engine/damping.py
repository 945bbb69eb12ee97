"""Levenberg-Marquardt adaptation of the damping lambda (Martens 2010, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Raise lambda when the quadratic model promises too much, lower it when the model is trusted.

    With the reduction ratio rho = (f(theta + d) - f(theta)) / q(d), where q(d) = g'd + 1/2 d'(G + lambda I)d is
    the DAMPED model, as in the paper: lambda is multiplied by `raise_by` when rho < `low`, by `lower_by`
    when rho > `high`. A rejected step multiplies it by `reject_by`. The thresholds are heuristics.

    Args:
        raise_by: factor above 1.
        lower_by: factor in (0, 1).
        reject_by: factor above 1, after an update without any usable step.
        low: ratio below which lambda rises.
        high: ratio above which it falls.
        minimum: lower bound of lambda, above 0.
        maximum: upper bound of lambda.

    Raises:
        ValueError: if a value is outside these ranges.

    Example:
        >>> LevenbergMarquardt().adapt(1.0, ratio=0.1)
        1.5
    """

    raise_by: float = 3 / 2
    lower_by: float = 2 / 3
    reject_by: float = 4.0
    low: float = 1 / 4
    high: float = 3 / 4
    minimum: float = 1e-12
    maximum: float = 1e12

    def __post_init__(self) -> None:
        if not (self.raise_by > 1 and self.reject_by > 1 and 0 < self.lower_by < 1):
            raise ValueError(
                f"LevenbergMarquardt: raise_by {self.raise_by}, reject_by {self.reject_by}, lower_by {self.lower_by}; "
                "the first two must exceed 1 and the last lie strictly between 0 and 1."
            )
        if not (self.low < self.high and 0 < self.minimum < self.maximum):
            raise ValueError(
                f"LevenbergMarquardt: low {self.low}, high {self.high}, minimum {self.minimum}, maximum "
                f"{self.maximum}; low must be below high, and 0 < minimum < maximum."
            )

    def adapt(self, damping: float, ratio: float) -> float:
        """The damping after an accepted step with this reduction ratio. NaN counts as a low ratio."""
        if ratio > self.high:
            return self.clip(damping * self.lower_by)
        return self.clip(damping * self.raise_by) if not ratio >= self.low else damping

    def reject(self, damping: float) -> float:
        """The damping after a rejected step."""
        return self.clip(damping * self.reject_by)

    def clip(self, damping: float) -> float:
        """The damping, or the bound that it exceeds."""
        return min(max(damping, self.minimum), self.maximum)

    def at_bound(self, damping: float) -> bool:
        """Whether the damping is at one of its bounds."""
        return math.isclose(damping, self.minimum) or math.isclose(damping, self.maximum)
