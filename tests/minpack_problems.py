"""The nonlinear least-squares problems of Moré, Garbow and Hillstrom, with their starts and minima.

Symbols: x (n,) are the parameters, r(x) (m,) the residuals, S = |r|^2 their sum of squares. The first eighteen are
those of MINPACK's test driver for its least-squares programs, in its sizes; the others are from the same article.
Minima were computed in float64 by SciPy from dozens of starts, and agree with the six digits in the article, but for
Chebyquad.

Source: Moré, Garbow and Hillstrom 1981, "Testing unconstrained optimization software", ACM TOMS 7, 17-41.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The starts are multiplied by these.
FACTORS = (1, 10, 100)
#: S counts as a minimum within this part of it, or below this number where the minimum is zero. Bad starts have S up to
#: 1e30, and the smallest minimum above zero is 5e-10.
RELATIVE, ABSOLUTE = 1e-6, 1e-10


class ClassicProblem(NamedTuple):
    """A test problem.

    Attributes:
        name: with n where there are several.
        residuals: r(x), in jax.numpy.
        start: the standard one, (n,).
        minimum: the least S.
        local: other minima, by S: what they are. One at infinity is approached and never reached. The list has those
            that solvers often end at, and is not complete.
    """

    name: str
    residuals: Callable[[Any], Any]
    start: Floats
    minimum: float
    local: Mapping[float, str] = MappingProxyType({})

    def start_times(self, factor: float) -> Floats:
        """The start multiplied by a factor; where all of it is zero, the factor itself, as MINPACK's driver has it."""
        return self.start * factor if self.start.any() or factor == 1 else np.full_like(self.start, factor)

    def is_minimum(self, squares: float) -> bool:
        """Whether S is the least, within RELATIVE or ABSOLUTE."""
        return squares <= max(self.minimum * (1 + RELATIVE), ABSOLUTE if self.minimum == 0 else 0)

    def local_minimum(self, squares: float) -> str:
        """The name of the local minimum that S is at, within a thousandth; empty if there is none."""
        return next((name for at, name in self.local.items() if abs(squares - at) <= 1e-3 * at), "")


# ---- MINPACK's eighteen ----------------------------------------------------------------------------------------------


def linear_full_rank(m):
    def residuals(x):
        common = -2 / m * x.sum() - 1
        return jnp.concatenate([x + common, jnp.full(m - len(x), common)])

    return residuals


def linear_rank_1(m):
    def residuals(x):
        return jnp.arange(1.0, m + 1) * (jnp.arange(1.0, len(x) + 1) @ x) - 1

    return residuals


def linear_rank_1_with_zeros(m):
    """The first and the last column and row of the Jacobian are zero."""

    def residuals(x):
        rows = jnp.arange(m - 1.0).at[0].set(0)
        inner = jnp.arange(2.0, len(x)) @ x[1:-1]
        return jnp.concatenate([rows, jnp.zeros(1)]) * inner - 1

    return residuals


def rosenbrock(x):
    return jnp.array([10 * (x[1] - x[0] ** 2), 1 - x[0]])


def helical_valley(x):
    turns = jnp.arctan(x[1] / x[0]) / (2 * jnp.pi) + jnp.where(x[0] < 0, 0.5, 0.0)
    return jnp.array([10 * (x[2] - 10 * turns), 10 * (jnp.hypot(x[0], x[1]) - 1), x[2]])


def powell_singular(x):
    return jnp.array([x[0] + 10 * x[1], 5**0.5 * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, 10**0.5 * (x[0] - x[3]) ** 2])


def freudenstein_roth(x):
    return jnp.array([-13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]])


BARD = np.array([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39])


def bard(x):
    u = np.arange(1.0, 16)
    v = 16 - u
    return BARD - (x[0] + u / (v * x[1] + np.minimum(u, v) * x[2]))


KOWALIK = np.array([0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246])
KOWALIK_AT = np.array([4, 2, 1, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])


def kowalik_osborne(x):
    u = KOWALIK_AT
    return KOWALIK - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


MEYER = np.array(
    [34780, 28610, 23650, 19630, 16370, 13720, 11540, 9744, 8261, 7030, 6005, 5147, 4427, 3820, 3307, 2872.0]
)


def meyer(x):
    return x[0] * jnp.exp(x[1] / (45 + 5 * np.arange(1.0, 17) + x[2])) - MEYER


def watson(x):
    """A polynomial p with p' = p^2 + 1 and p(0) = 0, which is the tangent."""
    j = np.arange(len(x))
    t = np.arange(1.0, 30)[:, None] / 29
    polynomial = t**j @ x
    derivative = (j[1:] * t ** j[:-1]) @ x[1:]
    return jnp.concatenate([derivative - polynomial**2 - 1, jnp.array([x[0], x[1] - x[0] ** 2 - 1])])


def box(x):
    t = 0.1 * np.arange(1, 11)
    return jnp.exp(-t * x[0]) - jnp.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t))


def jennrich_sampson(x):
    i = np.arange(1.0, 11)
    return 2 + 2 * i - (jnp.exp(i * x[0]) + jnp.exp(i * x[1]))


def brown_dennis(x):
    t = np.arange(1.0, 21) / 5
    return (x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + x[3] * np.sin(t) - np.cos(t)) ** 2


def chebyquad(m):
    """Equal weights for the integrals of Chebyshev polynomials over [0, 1]: the means of T_i minus their integrals."""

    def residuals(x):
        polynomials = [jnp.ones_like(x), 2 * x - 1]
        for _ in range(m - 1):
            polynomials.append(2 * (2 * x - 1) * polynomials[-1] - polynomials[-2])
        i = np.arange(1, m + 1)
        integrals = np.where(i % 2 == 0, -1 / np.maximum(i**2 - 1, 1), 0)
        return jnp.stack(polynomials[1:]).mean(axis=1) - integrals

    return residuals


def brown_almost_linear(x):
    return jnp.append(x[:-1] + x.sum() - (len(x) + 1), jnp.prod(x) - 1)


OSBORNE_1 = np.fromstring(
    """.844 .908 .932 .936 .925 .908 .881 .850 .818 .784 .751 .718 .685 .658 .628 .603 .580 .558 .538 .522 .506 .490
    .478 .467 .457 .448 .438 .431 .424 .420 .414 .411 .406""",
    sep=" ",
)
OSBORNE_2 = np.fromstring(
    """1.366 1.191 1.112 1.013 .991 .885 .831 .847 .786 .725 .746 .679 .608 .655 .616 .606 .602 .626 .651 .724 .649 .649
    .694 .644 .624 .661 .612 .558 .533 .495 .500 .423 .395 .375 .372 .391 .396 .405 .428 .429 .523 .562 .607 .653 .672
    .708 .633 .668 .645 .632 .591 .559 .597 .625 .739 .710 .729 .720 .636 .581 .428 .292 .162 .098 .054""",
    sep=" ",
)


def osborne_1(x):
    t = 10 * np.arange(33.0)
    return OSBORNE_1 - (x[0] + x[1] * jnp.exp(-t * x[3]) + x[2] * jnp.exp(-t * x[4]))


def osborne_2(x):
    t = np.arange(65) / 10
    peaks = sum(x[k] * jnp.exp(-((t - x[k + 7]) ** 2) * x[k + 4]) for k in (1, 2, 3))
    return OSBORNE_2 - (x[0] * jnp.exp(-t * x[4]) + peaks)


# ---- others of the article -------------------------------------------------------------------------------------------


def powell_badly_scaled(x):
    return jnp.array([1e4 * x[0] * x[1] - 1, jnp.exp(-x[0]) + jnp.exp(-x[1]) - 1.0001])


def brown_badly_scaled(x):
    return jnp.array([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def beale(x):
    return np.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** np.array([1, 2, 3]))


def wood(x):
    return jnp.array(
        [
            10 * (x[1] - x[0] ** 2),
            1 - x[0],
            90**0.5 * (x[3] - x[2] ** 2),
            1 - x[2],
            10**0.5 * (x[1] + x[3] - 2),
            (x[1] - x[3]) / 10**0.5,
        ]
    )


def biggs_exp6(x):
    t = 0.1 * np.arange(1, 14)
    y = np.exp(-t) - 5 * np.exp(-10 * t) + 3 * np.exp(-4 * t)
    return x[2] * jnp.exp(-t * x[0]) - x[3] * jnp.exp(-t * x[1]) + x[5] * jnp.exp(-t * x[4]) - y


GAUSSIAN = np.array([0.0009, 0.0044, 0.0175, 0.0540, 0.1295, 0.2420, 0.3521, 0.3989])


def gaussian(x):
    t = (8 - np.arange(1.0, 16)) / 2
    return x[0] * jnp.exp(-x[1] * (t - x[2]) ** 2 / 2) - np.concatenate([GAUSSIAN, GAUSSIAN[-2::-1]])


def gulf(x):
    """Gulf research and development, with |y - x2|, where the article has a misprint."""
    t = np.arange(1, 100) / 100
    y = 25 + (-50 * np.log(t)) ** (2 / 3)
    return jnp.exp(-(jnp.abs(y - x[1]) ** x[2]) / x[0]) - t


def _problem(
    name: str, residuals: Callable[[Any], Any], start: Any, minimum: float, local: Mapping[float, str] | None = None
) -> ClassicProblem:
    return ClassicProblem(name, residuals, np.asarray(start, float), minimum, MappingProxyType(dict(local or {})))


PROBLEMS = (
    _problem("linear, full rank, m = 10", linear_full_rank(10), np.ones(5), 5),
    _problem("linear, full rank, m = 50", linear_full_rank(50), np.ones(5), 45),
    _problem("linear, rank 1, m = 10", linear_rank_1(10), np.ones(5), 15 / 7),
    _problem("linear, rank 1, m = 50", linear_rank_1(50), np.ones(5), 1225 / 101),
    _problem("linear, rank 1 with zeros, m = 10", linear_rank_1_with_zeros(10), np.ones(5), 62 / 17),
    _problem("linear, rank 1 with zeros, m = 50", linear_rank_1_with_zeros(50), np.ones(5), 1322 / 97),
    _problem("Rosenbrock", rosenbrock, [-1.2, 1], 0),
    _problem("helical valley", helical_valley, [-1, 0, 0], 0),
    _problem("Powell singular", powell_singular, [3, -1, 0, 1], 0),
    _problem("Freudenstein and Roth", freudenstein_roth, [0.5, -2], 0, {48.9842536792: "local"}),
    _problem("Bard", bard, [1, 1, 1], 0.00821487730658, {17.4286933333: "at infinity"}),
    _problem(
        "Kowalik and Osborne",
        kowalik_osborne,
        [0.25, 0.39, 0.415, 0.39],
        0.000307505603849,
        {0.00102734304870: "at infinity", 0.00042367462647: "between poles", 0.00159435202602: "between poles"},
    ),
    _problem("Meyer", meyer, [0.02, 4000, 250], 87.945855170),
    _problem("Watson, n = 6", watson, np.zeros(6), 0.00228767005355),
    _problem("Watson, n = 9", watson, np.zeros(9), 1.39976013809e-6),
    _problem("Watson, n = 12", watson, np.zeros(12), 4.7223811010e-10),
    _problem("Box", box, [0, 10, 20], 0, {0.075588740755: "at infinity"}),
    _problem("Jennrich and Sampson", jennrich_sampson, [0.3, 0.4], 124.362182356, {259.580190134: "at infinity"}),
    _problem("Brown and Dennis", brown_dennis, [25, 5, -5, -1], 85822.2016264),
    _problem(
        "Chebyquad, n = 1",
        chebyquad(8),
        [0.5],
        3.0665272324,
        {3.23908600125: "local", 3.49148217014: "local", 3.55039129768: "local", 3.55789: "at a maximum"},
    ),
    _problem("Chebyquad, n = 8", chebyquad(8), np.arange(1, 9) / 9, 0.00351687372568),
    _problem("Chebyquad, n = 9", chebyquad(9), np.arange(1, 10) / 10, 0),
    _problem(
        "Chebyquad, n = 10",
        chebyquad(10),
        np.arange(1, 11) / 11,
        0.00477271369638,
        {0.00650395480088: "the article's", 0.00950063: "local"},
    ),
    *(
        _problem(
            f"Brown almost linear, n = {n}", brown_almost_linear, np.full(n, 0.5), 0, {1.0: "at (0, ..., 0, n + 1)"}
        )
        for n in (10, 30, 40)
    ),
    _problem("Osborne 1", osborne_1, [0.5, 1.5, -1, 0.01, 0.02], 5.46489469748e-5, {1.10604: "at infinity"}),
    _problem(
        "Osborne 2",
        osborne_2,
        [1.3, 0.65, 0.65, 0.7, 0.6, 3, 5, 7, 2, 4.5, 5.5],
        0.0401377362935,
        {0.202565195904: "local", 0.304506388709: "local", 0.309321142475: "local", 1.78981: "at infinity"},
    ),
    _problem(
        "Powell badly scaled",
        powell_badly_scaled,
        [0, 1],
        0,
        {1.0e-8: "at infinity", 1.04029400396: "local"},
    ),
    _problem("Brown badly scaled", brown_badly_scaled, [1, 1], 0),
    _problem("Beale", beale, [1, 1], 0, {0.452: "at infinity"}),
    _problem("Wood", wood, [-3, -1, -3, -1], 0),
    _problem(
        "Biggs EXP6",
        biggs_exp6,
        [1, 2, 1, 1, 1, 1],
        0,
        {0.0056556499255: "local", 0.306366772625: "at infinity", 0.00446813: "at infinity"},
    ),
    _problem("Gaussian", gaussian, [0.4, 1, 0], 1.12793276962e-8, {0.56422337: "a single point"}),
    _problem("Gulf", gulf, [5, 2.5, 0.15], 0, {32.835: "at infinity"}),
)
