"""Levenberg-Marquardt adaptation of the damping lambda (Martens 2010, section 4.1)."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hessianfree.engine import reprs


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Raise lambda when the quadratic model promises too much, lower it when the model is trusted.

    With the reduction ratio rho = (f(theta + d) - f(theta)) / q(d), where q(d) = g'd + 1/2 d'(G + lambda I)d is
    the DAMPED model, as in the paper: lambda is multiplied by `raise_by` when rho < `low`, by `lower_by`
    when rho > `high`. A rejected step multiplies it by `reject_by`. The thresholds are heuristics.

    On minibatches rho flatters: a step that fits its own minibatch too well lowers the loss there, whatever it does
    elsewhere, and lambda falls until training diverges. So the next update judges the last change c in hindsight, on
    its own minibatch, which that change has not seen. Let phi(a) = f(theta - (1 - a) c) be the loss there, a = 0 before
    the change and a = 1 after it. The parabola through phi(0), phi(1/2) and phi(1) has the slope s at 0 and the
    curvature k, with its minimum at -s/k if k > 0:

        s = -3 phi(0) + 4 phi(1/2) - phi(1),    k = 4 (phi(0) - 2 phi(1/2) + phi(1)).

    The change has overshot if phi(1) > phi(0) and k > |s|/2: the loss rose, and it rose because it curves, not because
    this minibatch wants to go the other way, which no lambda can help. Then lambda rises whatever rho is, once. This is
    a heuristic; it costs two evaluations of the loss per update.

    Args:
        raise_by: factor above 1.
        lower_by: factor in (0, 1).
        reject_by: factor above 1, after an update without any usable step.
        low: ratio below which lambda rises.
        high: ratio above which it falls.
        minimum: lower bound of lambda, above 0.
        maximum: upper bound of lambda.
        hindsight: whether lambda rises too if the last change has overshot; by default where `run_epochs` or `fit` cut
            the data into minibatches. In a loop of your own over minibatches give True.

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
    hindsight: bool | None = None

    def __repr__(self) -> str:
        return reprs.call(self)

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

    def adapt(self, damping: float, ratio: float, overshot: bool = False) -> float:
        """The damping after an accepted step.

        Args:
            damping: lambda of the step.
            ratio: its reduction ratio; NaN counts as a low one.
            overshot: whether the change before it proved too long.
        """
        if overshot or not ratio >= self.low:
            return self.clip(damping * self.raise_by)
        return self.clip(damping * self.lower_by) if ratio > self.high else damping

    def reject(self, damping: float) -> float:
        """The damping after a rejected step."""
        return self.clip(damping * self.reject_by)

    def clip(self, damping: float) -> float:
        """The damping, or the bound that it exceeds."""
        return min(max(damping, self.minimum), self.maximum)

    def at_bound(self, damping: float) -> bool:
        """Whether the damping is at one of its bounds."""
        return math.isclose(damping, self.minimum) or math.isclose(damping, self.maximum)


#: Changes of the loss, relative to it and in units of rounding, that say nothing.
NOISE = 100


def overshot(before: float, halfway: float, after: float, eps: float) -> bool:
    """Whether the loss rose along a change because it curves; see `LevenbergMarquardt`.

    Args:
        before: loss before the change.
        halfway: loss after half of it.
        after: loss after all of it.
        eps: spacing of the numbers that losses are computed in, relative to them.

    Returns:
        Whether it did; False if a loss is not finite.

    Example:
        >>> overshot(1.0, 0.5, 2.0, eps=1e-7)
        True
    """
    if not all(map(math.isfinite, (before, halfway, after))):
        return False
    slope, curvature = parabola(before, halfway, after)
    return after - before > NOISE * eps * abs(after) and curvature > abs(slope) / 2


def parabola(before: float, halfway: float, after: float) -> tuple[float, float]:
    """Slope at 0 and second derivative of the parabola through (0, before), (1/2, halfway), (1, after)."""
    return -3 * before + 4 * halfway - after, 4 * (before - 2 * halfway + after)
