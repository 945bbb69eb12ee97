"""Reference solutions of the equations in `problems.py`: exact, or computed until refining changes nothing.

u is the solution, x the place, t the time, nu a viscosity. Three of them are computed:

- `burgers` is an integral (Cole 1951, Hopf 1950), which the trapezoidal rule finds to rounding;
- `allen_cahn` and `korteweg_de_vries` are Fourier series. ETDRK4 steps them in time (Cox and Matthews 2002), with the
  coefficients of Kassam and Trefethen 2005. Twice the steps, or more modes, change them by 2e-14 and 4e-14 of their
  size; `python -m pde.references`, in benchmarks/, measures this.

The initial value of the Allen-Cahn equation, x^2 cos(pi x), is continuous as a function of period 2, but its slope
jumps from -2 to 2 at x = 1. The solution is smooth for t > 0, and even, so that its slope is 0 there at once. It
changes as sqrt(t) at first, within a distance of about sqrt(1e-4 t). Steps of one length would lose digits; steps that
double from 1e-10 on keep them. The coefficients of a kink fall as 1 / k^2, but viscosity soon multiplies them by
exp(-1e-3 k^2 t). What 3,072 cosines leave out is largest at x = 1 at the first time, below 2e-12.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Floats = NDArray[np.float64]

#: What has been computed before; git ignores it.
STORED = Path(__file__).resolve().parents[1] / ".references"
#: Points on the circle that the coefficients of ETDRK4 are means over.
CIRCLE = 64


# ---- exact -----------------------------------------------------------------------------------------------------------


def burgers(x: Floats, t: Floats, nu: float, width: float = 14.0, spacing: float = 0.02) -> Floats:
    """Burgers' equation u_t + u u_x = nu u_xx from u = -sin(pi x), with u = 0 at x = -1 and 1.

    With y = x - 2 sqrt(nu t) z and weights w = exp(-z^2 - cos(pi y) / (2 pi nu)),
    u = -int sin(pi y) w dz / int w dz.

    Args:
        x: places, any shape.
        t: times of that shape, 0 or more.
        nu: viscosity.
        width: the integrals go over |z| < width; beyond it w is below exp(-width^2 + 1 / (pi nu)) of its largest value.
        spacing: of the trapezoidal rule, whose error falls exponentially with 1 / spacing.

    Returns:
        u, in the shape of x.
    """
    z = np.arange(-round(width / spacing), round(width / spacing) + 1) * spacing
    flat = [_burgers(*chunk, nu, z) for chunk in _chunks(x.ravel(), t.ravel())]
    return np.concatenate(flat).reshape(x.shape)


def _burgers(x: Floats, t: Floats, nu: float, z: Any) -> Any:
    y = x[:, None] - 2 * np.sqrt(nu * t)[:, None] * z
    exponents = -(z**2) - np.cos(np.pi * y) / (2 * np.pi * nu)
    weights = np.exp(exponents - exponents.max(axis=1, keepdims=True))
    return -(np.sin(np.pi * y) * weights).sum(axis=1) / weights.sum(axis=1)


def _chunks(x: Floats, t: Floats, size: int = 512) -> list[tuple[Floats, Floats]]:
    return [(x[i : i + size], t[i : i + size]) for i in range(0, len(x), size)]


def cosines(x: Floats) -> Floats:
    """The solution sum_i cos(pi x_i) of -Laplace u = pi^2 u; x is (..., d)."""
    return np.cos(np.pi * x).sum(axis=-1)


def convection(x: Floats, t: Floats, velocity: float = 40.0) -> Floats:
    """The solution of u_t + velocity u_x = 0 from u = sin x."""
    return np.sin(x - velocity * t)


def reaction(x: Floats, t: Floats, rate: float = 5.0) -> Floats:
    """The solution of u_t = rate u (1 - u) from u = exp(-(x - pi)^2 / (2 (pi / 4)^2))."""
    grown = np.exp(rate * t - 8 * (x / np.pi - 1) ** 2)
    return grown / (grown + 1 - np.exp(-8 * (x / np.pi - 1) ** 2))


def wave(x: Floats, t: Floats, beta: float = 5.0) -> Floats:
    """The solution of u_tt = 4 u_xx at rest from u = sin(pi x) + 1/2 sin(beta pi x), with u = 0 at x = 0 and 1."""
    first = np.sin(np.pi * x) * np.cos(2 * np.pi * t)
    return first + 0.5 * np.sin(beta * np.pi * x) * np.cos(2 * beta * np.pi * t)


# ---- computed --------------------------------------------------------------------------------------------------------


def allen_cahn(points: int, times: int, modes: int = 3072, steps: int = 8) -> Floats:
    """The Allen-Cahn equation u_t = 1e-4 u_xx + 5 (u - u^3) of period 2 from u = x^2 cos(pi x).

    The first value enters by its exact coefficients: those of its values would be off by 1 / modes^2. Products are
    taken on 4 places a mode, so that none is mistaken for another.

    Args:
        points: places, -1 + 2 j / points; a divisor of 4 modes.
        times: from 0 to 1, both included.
        modes: cosines that are kept.
        steps: between two times, and for each of the doublings before the first; the result is extrapolated from these
            and twice as many.

    Returns:
        u, (points, times).
    """
    k, places = np.arange(modes), 4 * modes
    rates = -1e-4 * (np.pi * k) ** 2

    def rest(u: Any) -> Any:
        values = fft.irfft(u, places)
        return 5 * fft.rfft(values - values**3)[:modes]

    def square(m: Any) -> Any:
        """The integral of x^2 cos(m pi x) over the period."""
        return np.where(m == 0, 2 / 3, 4 * (-1.0) ** m / (np.pi * np.where(m == 0, 1, m)) ** 2)

    start = places / 4 * (-1.0) ** k * (square(k - 1) + square(k + 1))  # the grid starts at -1: a factor (-1)^k
    levels = 0.5 ** np.arange(27, 0, -1) / (times - 1)  # the slope's jump asks for short steps at first
    instants = np.concatenate([[0], levels, np.linspace(0, 1, times)[1:]])
    found = _extrapolated(rates, rest, start + 0j, instants, steps)[len(levels) + 1 :]
    x = -1 + 2 * np.arange(points) / points
    values = [fft.irfft(u, places)[:: places // points] for u in found]
    return np.stack([x**2 * np.cos(np.pi * x), *values], axis=1)


def korteweg_de_vries(points: int, times: int, modes: int = 256, steps: int = 128, mu: float = 0.022) -> Floats:
    """The Korteweg-de Vries equation u_t + u u_x + mu^2 u_xxx = 0 of period 2 from u = cos(pi x).

    Args:
        points: places, -1 + 2 j / points; a divisor of 2 modes.
        times: from 0 to 1, both included.
        modes: waves that are kept.
        steps: between two times; the result is extrapolated from these and twice as many.
        mu: its square is the dispersion.

    Returns:
        u, (points, times).
    """
    k, places = np.pi * np.arange(modes), 2 * modes
    x = -1 + 2 * np.arange(places) / places

    def rest(u: Any) -> Any:
        return -0.5j * k * fft.rfft(fft.irfft(u, places) ** 2)[:modes]

    start, instants = fft.rfft(np.cos(np.pi * x))[:modes], np.linspace(0, 1, times)
    found = _extrapolated(1j * mu**2 * k**3, rest, start, instants, steps)
    return np.stack([fft.irfft(u, places)[:: places // points] for u in found], axis=1)


def _extrapolated(rates: Any, rest: Callable[[Any], Any], u: Any, times: Floats, steps: int) -> Any:
    """As `_etdrk4`, whose error of fourth order cancels between `steps` and twice as many (Richardson)."""
    coarse, fine = (np.array(_etdrk4(rates, rest, u, times, n)) for n in (steps, 2 * steps))
    return fine + (fine - coarse) / 15


def _etdrk4(rates: Any, rest: Callable[[Any], Any], u: Any, times: Floats, steps: int) -> list[Any]:
    """u' = rates u + rest(u) at all times, the first of which u belongs to; `steps` lie between two of them.

    Source: Cox and Matthews 2002, equations 26 to 29.
    """
    found = [u]
    gaps = np.diff(times)
    known = None
    for gap in gaps / steps:
        if known is None or abs(gap - known) > 1e-9 * gap:
            known, (whole, half, q, f1, f2, f3) = gap, _coefficients(rates * gap, gap)
        for _ in range(steps):
            at_u = rest(u)
            a = u + (half * u + q * at_u)
            at_a = rest(a)
            at_b = rest(u + (half * u + q * at_a))
            at_c = rest(a + (half * a + q * (2 * at_b - at_u)))
            u = u + (whole * u + f1 * at_u + f2 * (at_a + at_b) + f3 * at_c)
        found.append(u)
    return found


def _coefficients(z: Any, h: float) -> tuple[Any, ...]:
    """exp z - 1, exp z/2 - 1 and the weights of ETDRK4, which are means over circles, where nothing cancels.

    The powers are less 1, for their rounding is the same in every step and would add up.
    """
    around = z[:, None] + np.exp(2j * np.pi * (np.arange(CIRCLE) + 0.5) / CIRCLE)
    e = np.exp(around)
    cube = around**3
    means = [
        (np.exp(around / 2) - 1) / around,
        (-4 - around + e * (4 - 3 * around + around**2)) / cube,
        2 * (2 + around + e * (-2 + around)) / cube,
        (-4 - 3 * around - around**2 + e * (4 - around)) / cube,
    ]
    weights = [h * mean.mean(axis=1) for mean in means]
    if not np.iscomplexobj(z):
        weights = [weight.real for weight in weights]
    return np.expm1(z), np.expm1(z / 2), *weights


# ---- kept ------------------------------------------------------------------------------------------------------------


@cache
def stored(name: str, compute: Callable[[], Floats]) -> Floats:
    """What `compute` returns, from the file benchmarks/.references/NAME.npz if there is one."""
    path = STORED / f"{name}.npz"
    if not path.exists():
        STORED.mkdir(exist_ok=True)
        with path.with_suffix(".part").open("wb") as file:
            np.savez(file, u=compute())
        path.with_suffix(".part").rename(path)
    with np.load(path) as file:
        return np.asarray(file["u"])


def main() -> None:
    """Print by how much refining changes what is computed."""
    cases: list[tuple[Callable[..., Floats], dict[str, int], list[dict[str, int]]]] = [
        (allen_cahn, {"modes": 3072, "steps": 8}, [{"modes": 4096}, {"steps": 16}]),
        (korteweg_de_vries, {"modes": 256, "steps": 128}, [{"modes": 512}, {"steps": 256}]),
    ]
    for solution, settings, changes in cases:
        used = solution(512, 101, **settings)
        for change in changes:
            difference = solution(512, 101, **settings | change) - used
            relative = np.linalg.norm(difference) / np.linalg.norm(used)
            print(f"{solution.__name__}, {change}: {relative:.1e}, at most {np.abs(difference).max():.1e}")


if __name__ == "__main__":
    main()
