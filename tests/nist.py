"""NIST's nonlinear regression sets (StRD): their files, and their models written from the formulas in the files.

Symbols: b (P,) are the parameters, x a predictor (for Nelson a pair of them), y = f(b, x) the response. Start 1 is far
from the solution, start 2 is near. Certified values have eleven digits.

Source: https://www.itl.nist.gov/div898/strd/nls/nls_main.shtml
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "nist"
#: The certified values have as many digits; more that agree say nothing.
MOST_DIGITS = 11

Floats = NDArray[np.float64]


class NistProblem(NamedTuple):
    """A data set with its model.

    Attributes:
        name: of the data set.
        model: f(b, x), in jax.numpy, for one x or for all.
        predictors: x, (N,); for Nelson (N, 2).
        responses: y, (N,); for Nelson log y, as in its model.
        starts: far from the solution, and near it; (P,) each.
        certified: the parameters of the least sum of squares, (P,).
        deviations: their certified standard deviations, (P,).
        sum_of_squares: the least sum of squares. That of Lanczos1, 1.4e-25, is below what eleven digits of its
            parameters give.
    """

    name: str
    model: Callable[[Any, Any], Any]
    predictors: Floats
    responses: Floats
    starts: tuple[Floats, Floats]
    certified: Floats
    deviations: Floats
    sum_of_squares: float


def bennett5(b, x):
    return b[0] * (b[1] + x) ** (-1 / b[2])


def saturating(b, x):
    """BoxBOD and Misra1a."""
    return b[0] * (1 - jnp.exp(-b[1] * x))


def chwirut(b, x):
    return jnp.exp(-b[0] * x) / (b[1] + b[2] * x)


def danwood(b, x):
    return b[0] * x ** b[1]


def enso(b, x):
    """One wave of twelve months and two whose periods, b4 and b7, are sought."""
    year, second, third = (2 * jnp.pi * x / period for period in (12, b[3], b[6]))
    waves = b[1] * jnp.cos(year) + b[2] * jnp.sin(year)
    waves += b[4] * jnp.cos(second) + b[5] * jnp.sin(second)
    waves += b[7] * jnp.cos(third) + b[8] * jnp.sin(third)
    return b[0] + waves


def eckerle4(b, x):
    return b[0] / b[1] * jnp.exp(-0.5 * ((x - b[2]) / b[1]) ** 2)


def gauss(b, x):
    """Two peaks on a decay."""
    first = b[2] * jnp.exp(-((x - b[3]) ** 2) / b[4] ** 2)
    second = b[5] * jnp.exp(-((x - b[6]) ** 2) / b[7] ** 2)
    return b[0] * jnp.exp(-b[1] * x) + first + second


def cubic_over_cubic(b, x):
    """Hahn1 and Thurber."""
    return (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)


def kirby2(b, x):
    return (b[0] + b[1] * x + b[2] * x**2) / (1 + b[3] * x + b[4] * x**2)


def lanczos(b, x):
    return b[0] * jnp.exp(-b[1] * x) + b[2] * jnp.exp(-b[3] * x) + b[4] * jnp.exp(-b[5] * x)


def mgh09(b, x):
    return b[0] * (x**2 + x * b[1]) / (x**2 + x * b[2] + b[3])


def mgh10(b, x):
    return b[0] * jnp.exp(b[1] / (x + b[2]))


def mgh17(b, x):
    return b[0] + b[1] * jnp.exp(-x * b[3]) + b[2] * jnp.exp(-x * b[4])


def misra1b(b, x):
    return b[0] * (1 - (1 + b[1] * x / 2) ** -2)


def misra1c(b, x):
    return b[0] * (1 - (1 + 2 * b[1] * x) ** -0.5)


def misra1d(b, x):
    return b[0] * b[1] * x / (1 + b[1] * x)


def nelson(b, x):
    """The logarithm of the breakdown strength, x = (weeks, temperature)."""
    return b[0] - b[1] * x[..., 0] * jnp.exp(-b[2] * x[..., 1])


def rat42(b, x):
    return b[0] / (1 + jnp.exp(b[1] - b[2] * x))


def rat43(b, x):
    return b[0] / (1 + jnp.exp(b[1] - b[2] * x)) ** (1 / b[3])


def roszman1(b, x):
    return b[0] - b[1] * x - jnp.arctan(b[2] / (x - b[3])) / jnp.pi


MODELS: dict[str, Callable[[Any, Any], Any]] = {
    "Bennett5": bennett5,
    "BoxBOD": saturating,
    "Chwirut1": chwirut,
    "Chwirut2": chwirut,
    "DanWood": danwood,
    "ENSO": enso,
    "Eckerle4": eckerle4,
    "Gauss1": gauss,
    "Gauss2": gauss,
    "Gauss3": gauss,
    "Hahn1": cubic_over_cubic,
    "Kirby2": kirby2,
    "Lanczos1": lanczos,
    "Lanczos2": lanczos,
    "Lanczos3": lanczos,
    "MGH09": mgh09,
    "MGH10": mgh10,
    "MGH17": mgh17,
    "Misra1a": saturating,
    "Misra1b": misra1b,
    "Misra1c": misra1c,
    "Misra1d": misra1d,
    "Nelson": nelson,
    "Rat42": rat42,
    "Rat43": rat43,
    "Roszman1": roszman1,
    "Thurber": cubic_over_cubic,
}


def load(name: str, folder: Path = FOLDER) -> NistProblem:
    """Read one data set.

    Args:
        name: one of MODELS.
        folder: where its file, {name}.dat, lies.
    """
    text = (folder / f"{name}.dat").read_text("ascii")
    # A parameter's line: "b1 = start 1, start 2, certified value, standard deviation".
    table = [line.split("=")[1].split() for line in text.splitlines() if re.match(r"\s*b\d+ =", line)]
    first, second, certified, deviations = np.array(table, float).T
    least = re.search(r"Residual Sum of Squares:\s+(\S+)", text)
    last = re.search(r"Data\s+\(lines (\d+) to\s+(\d+)\)", text)
    assert least, f"{name}.dat lacks the residual sum of squares."
    assert last, f"{name}.dat does not say where its data are."
    rows = text.splitlines()[int(last[1]) - 1 : int(last[2])]
    y, *x = np.array([row.split() for row in rows], float).T
    return NistProblem(
        name=name,
        model=MODELS[name],
        predictors=np.stack(x, axis=1) if len(x) > 1 else x[0],
        responses=np.log(y) if name == "Nelson" else y,
        starts=(first, second),
        certified=certified,
        deviations=deviations,
        sum_of_squares=float(least[1]),
    )


def problems(folder: Path = FOLDER) -> list[NistProblem]:
    """All 27 data sets, in the order of MODELS."""
    return [load(name, folder) for name in MODELS]


def residual_term(problem: NistProblem) -> list[tuple[Callable[[Any, Any], Any], dict[str, Floats]]]:
    """The residuals as `hf.least_squares` takes them; the parameters are one array, (P,)."""

    def residual(b, point):
        return problem.model(b, point["x"]) - point["y"]

    return [(residual, {"x": problem.predictors, "y": problem.responses})]


def digits(found: Any, certified: Floats) -> float:
    """Digits in which the worst parameter agrees: min_j -log10(|found_j - b_j| / |b_j|), between 0 and 11."""
    error = np.abs((np.asarray(found, float) - certified) / certified).max()
    if not np.isfinite(error):
        return 0.0
    return float(np.clip(-np.log10(max(error, 10.0**-MOST_DIGITS)), 0, MOST_DIGITS))
