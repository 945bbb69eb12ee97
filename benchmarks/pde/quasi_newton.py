"""Quasi-Newton methods with a full matrix: BFGS, and the self-scaled Broyden method that PINNs are trained with.

Symbols: f the loss, g its gradient, H a positive definite matrix (P, P) for the inverse of its Hessian, s the step,
y the change of g, a number alpha with s = -alpha H g.

    b = s'H^-1 s / y's = -alpha s'g / y's,   h = y'H y / y's,   a = b h - 1 >= 0
    H <- (H - H y y'H / y'H y + phi y'H y v v') / tau + s s' / y's,   v = s / y's - H y / y'H y

Every phi and tau give H y = s. BFGS has phi = tau = 1. The self-scaled Broyden method chooses both (`self_scaled`).

Source: Al-Baali and Khalfan 2005; Urban, Stefanou and Pons 2025, "Unveiling the optimization process of physics
informed neural networks", equations 9 to 23; Kiyani et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas
from scipy.optimize import line_search

Floats = NDArray[np.float64]
#: f and g at parameters.
ValueAndGradient = Callable[[Floats], tuple[float, Floats]]
#: phi and tau from b, h and the number of parameters.
Choice = Callable[[float, float, int], tuple[float, float]]


def bfgs(b: float, h: float, size: int) -> tuple[float, float]:
    """The choice phi = tau = 1."""
    return 1.0, 1.0


def self_scaled(b: float, h: float, size: int) -> tuple[float, float]:
    """The choice of Urban et al. 2025, equations 13 to 23.

    With c = sqrt(a / (1 + a)), rho = min(1, h (1 - c)) and theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b)),
    phi = (1 - theta) / sigma with sigma = 1 + a theta, and

        tau = min(1, 1 / b) min(sigma^(1 / (1 - P)), 1 / theta)      if theta > 0,
        tau = min(min(1, 1 / b) sigma^(1 / (1 - P)), sigma)          otherwise.
    """
    a = max(b * h - 1, 1e-14)  # rounding can make it negative
    rho = min(1.0, h * (1 - math.sqrt(a / (1 + a))))
    theta = max((rho - 1) / a, min(1 / rho, (1 - b) / b))
    sigma = 1 + a * theta
    power = abs(sigma) ** (1 / (1 - size)) if size > 1 else 1.0
    scale = min(1.0, 1 / b)
    tau = scale * min(power, 1 / theta) if theta > 0 else min(scale * power, sigma)
    return (1 - theta) / sigma, tau


class Inverse:
    """The matrix H, of which the upper triangle is kept; it is changed in place."""

    def __init__(self, size: int) -> None:
        self.matrix = np.eye(size, order="F")
        self.fresh = True

    def times(self, x: Floats) -> Floats:
        """The product H x."""
        return np.asarray(blas.dsymv(1.0, self.matrix, x))

    def update(self, s: Floats, y: Floats, energy: float, choose: Choice) -> bool:
        """Learn from a step with s'H^-1 s = energy; whether y's was positive, without which nothing changes."""
        curvature = float(y @ s)
        if not curvature > 0 or not energy > 0:
            return False
        b = energy / curvature
        if self.fresh:  # H has the unit of s / y from the first step on (Nocedal and Wright, equation 6.20)
            scale = curvature / float(y @ y)
            self.matrix *= scale
            b, self.fresh = b / scale, False
        product = self.times(y)
        along = float(y @ product)
        phi, tau = choose(b, along / curvature, len(s))
        mixed = (phi * along / curvature / tau + 1) / (2 * curvature) * s - phi / (curvature * tau) * product
        if tau != 1:
            self.matrix /= tau
        self.matrix = blas.dsyr2(1.0, s, mixed, a=self.matrix, overwrite_a=1)
        self.matrix = blas.dsyr((phi - 1) / (along * tau), product, a=self.matrix, overwrite_a=1)
        return True


def minimise(
    function: ValueAndGradient,
    x: Floats,
    choose: Choice = self_scaled,
    after: Callable[[Floats], Any] = lambda x: None,
    renew: Callable[[int, Floats], bool] = lambda step, x: False,
    max_steps: int = 10**9,
) -> Floats:
    """Minimise f with steps that meet the strong Wolfe conditions (c1 = 1e-4, c2 = 0.9).

    Where the line search fails, H is the identity again; where it fails from there too, the run ends.

    Args:
        function: f and g.
        x: where to start.
        choose: phi and tau.
        after: called with the parameters after each step; an exception ends the run.
        renew: called with the number of the next step and the parameters; whether it has changed f. H stays as it is.
        max_steps: limit on steps.

    Returns:
        The last parameters.
    """
    seen = _Last(function)
    inverse, before = Inverse(len(x)), None
    for step in range(max_steps):
        if renew(step, x):
            seen, before = _Last(function), None
        f, g = seen.both(x)
        if not g.any():
            return x
        direction = -inverse.times(g)
        previous = before if before is not None else f + float(np.linalg.norm(g)) / 2  # a first step of length 1
        alpha = _step_length(seen, x, direction, f, g, previous)
        if alpha is None:
            if inverse.fresh:
                return x
            inverse, before = Inverse(len(x)), None
            continue
        s, before = alpha * direction, f
        x = x + s
        y = seen.both(x)[1] - g
        inverse.update(s, y, -alpha * float(s @ g), choose)
        after(x)
    return x


def _step_length(seen: _Last, x: Floats, direction: Floats, f: float, g: Floats, previous: float) -> float | None:
    """A length that meets the Wolfe conditions, None without one."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the line search, that it did not converge: it returns None then
        found = line_search(seen.value, seen.gradient, x, direction, g, f, previous, c1=1e-4, c2=0.9, maxiter=30)[0]
    return None if found is None or not found > 0 else float(found)


class _Last:
    """A function of parameters, computed once for the last two that were asked for."""

    def __init__(self, function: ValueAndGradient) -> None:
        self.function = function
        self.known: list[tuple[Floats, tuple[float, Floats]]] = []

    def both(self, x: Floats) -> tuple[float, Floats]:
        for at, found in self.known:
            if np.array_equal(at, x):
                return found
        found = self.function(x)
        self.known = [(x.copy(), found), *self.known[:1]]
        return found

    def value(self, x: Floats) -> float:
        return self.both(x)[0]

    def gradient(self, x: Floats) -> Floats:
        return self.both(x)[1]
