"""A fit of three parameters to 100 points: seconds of the first call of a process and of later ones, beside SciPy.

The data are b1 exp(-b2 x) + b3 and noise, new in each call. SciPy's `curve_fit` has the model in numpy and differences
for derivatives, which is how most people call it.

Run: python benchmarks/small_fits.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

import arena

Floats = NDArray[np.float64]
Fit = Callable[[Floats], Any]

CALLS, PROCESSES, MANY = 50, 5, 1000
#: Where the data lie, the parameters that they are made of, their noise, and the start.
X = np.linspace(0, 4, 100)
TRUTH, NOISE = np.array([2.5, 1.3, 0.5]), 0.05
START = np.ones(3)


def data(count: int, seed: int = 0) -> Floats:
    """So many data sets, (count, 100): one for each call, or all for a call that fits many."""
    noise = NOISE * np.random.RandomState(seed).randn(count, len(X))
    return TRUTH[0] * np.exp(-TRUTH[1] * X) + TRUTH[2] + noise


@cache
def residual() -> Any:
    """The residual of one point, the same function each time; JAX is imported here, for what it costs is measured."""
    import jax.numpy as jnp

    return lambda b, point: b[0] * jnp.exp(-b[1] * point["x"]) + b[2] - point["y"]


def ours() -> Fit:
    """A function that fits one data set by `hf.least_squares`."""
    import hessianfree as hf

    return lambda y: hf.least_squares([(residual(), {"x": X, "y": y})], START).params


def scipy_fit() -> Fit:
    """A function that fits one data set by SciPy's `curve_fit`."""
    from scipy.optimize import curve_fit

    def model(x: Floats, b1: float, b2: float, b3: float) -> Floats:
        return b1 * np.exp(-b2 * x) + b3

    return lambda y: curve_fit(model, X, y, START)[0]


FITS = {"ours": ours, "SciPy curve_fit": scipy_fit}


def first_call(name: str) -> tuple[float, float]:
    """Seconds of the imports and of the first call of this process."""
    began = time.perf_counter()
    fit = FITS[name]()
    imported = time.perf_counter()
    fit(data(1)[0])
    return imported - began, time.perf_counter() - imported


def cold(name: str) -> tuple[float, float]:
    """Medians of these over fresh processes."""
    command = [sys.executable, __file__, name]
    answers = [subprocess.check_output(command, text=True).split() for _ in range(PROCESSES)]
    imports, calls = zip(*[map(float, answer) for answer in answers], strict=True)
    return arena.median(imports), arena.median(calls)


def warm(fit: Fit) -> float:
    """Median of the seconds of a call after the first, each with data of its own."""
    first, *others = data(CALLS + 1, seed=1)
    fit(first)
    return arena.median(arena.seconds(lambda y=y: fit(y)) for y in others)  # type: ignore[misc]


def together() -> tuple[float, float]:
    """Seconds of two calls that fit `MANY` data sets each; the first compiles."""
    import hessianfree as hf

    x, starts, sets = np.tile(X, (MANY, 1)), np.tile(START, (MANY, 1)), [data(MANY, seed) for seed in (3, 4)]

    def fit(y: Floats) -> None:
        assert hf.least_squares_batch([(residual(), {"x": x, "y": y})], starts).converged.all()

    first, second = (arena.seconds(lambda y=y: fit(y)) for y in sets)  # type: ignore[misc]
    return first, second


def difference() -> float:
    """The largest relative difference between the parameters that both find, over three data sets."""
    both = [np.array([fit(y) for y in data(3, seed=2)]) for fit in (ours(), scipy_fit())]
    return float(np.abs(both[0] / both[1] - 1).max())


def row(name: str) -> dict[str, Any]:
    """Everything about one solver."""
    importing, first = cold(name)
    return {
        "solver": name,
        "import, s": importing,
        "first call, s": first,
        "later calls, ms": 1e3 * warm(FITS[name]()),
    }


def main() -> None:
    """Measure both and report; with a solver's name, the first call of this process only."""
    if len(sys.argv) == 2:
        print(*first_call(sys.argv[1]))
        return
    many = together()
    rows = [row(name) for name in FITS]
    arena.report(
        "small_fits",
        "a fit of 3 parameters to 100 points, float64",
        rows,
        {
            "ours, first call in a process, s (bar 0.6)": round(rows[0]["first call, s"], 2),
            "ours, later calls, ms (bar 10)": round(rows[0]["later calls, ms"], 1),
            f"{MANY} fits in one call, first and later, s (bar 2)": [round(seconds, 2) for seconds in many],
            "largest relative difference between the parameters of both": f"{difference():.1e}",
            "SciPy": scipy.__version__,
        },
    )


if __name__ == "__main__":
    main()
