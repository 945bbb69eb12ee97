"""What fits a small problem in float64: `hf.least_squares`, SciPy's solvers and, where it is installed, optimistix.

All of them differentiate the same residuals in jax.numpy. Their seconds include compilation, once for each problem.
"""

from __future__ import annotations

import importlib
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

import hessianfree as hf

Floats = NDArray[np.float64]

#: Seconds after which a run of ours ends.
LIMIT = 60
#: Steps of ours, and of the peers at tight tolerances; SciPy's default is 100 for each parameter.
STEPS = 1000
#: With these SciPy goes on to the last digit.
TIGHT: dict[str, Any] = {"ftol": 1e-15, "xtol": 1e-15, "gtol": 1e-15, "max_nfev": STEPS}
OURS, MINPACK, TRF = "ours", "SciPy lm, tight", "SciPy trf, tight"
#: What the tables count.
EVALUATIONS = "of the residuals: ours are steps + attempts, SciPy's nfev, optimistix's steps; at most 1,000 steps each"


class Task(NamedTuple):
    """What to fit: all residuals as a function of the parameters, and in the form that `hf.least_squares` takes."""

    residuals: Callable[[Any], Any]
    terms: Any


class Fit(NamedTuple):
    """Where a run ended.

    Attributes:
        params: the parameters found, (P,).
        squares: the sum of squares there, infinite if it is not a number.
        evaluations: how often the residuals were evaluated; for ours, steps and attempts together.
        jacobians: how many Jacobians were formed.
        seconds: of the run.
        reason: why it ended.
    """

    params: Floats
    squares: float
    evaluations: int
    jacobians: int
    seconds: float
    reason: str


class Ended(NamedTuple):
    """What a solver says of its run."""

    params: Any
    evaluations: int
    jacobians: int
    reason: str


Fitter = Callable[[Task, Floats], Ended]


def from_tests(name: str) -> ModuleType:
    """A module of the folder tests, which holds the problems. It comes before a script of the same name."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    return importlib.import_module(name)


def ours(task: Task, start: Floats) -> Ended:
    """`hf.least_squares` as it is."""
    result = hf.least_squares(task.terms, start, max_steps=STEPS, max_seconds=LIMIT)
    attempts = result.history["attempts"]
    return Ended(result.params, len(attempts) + int(attempts.sum()), len(attempts), result.reason)


def scipy_fitter(exact: bool = True, **options: Any) -> Fitter:
    """SciPy's least_squares with these options, and the exact Jacobian or its default, differences."""

    def run(task: Task, start: Floats) -> Ended:
        compiled, jacobian = _compiled(task.residuals)
        if exact:
            options["jac"] = lambda b: np.asarray(jacobian(b))
        found = least_squares(lambda b: np.asarray(compiled(b)), start, **options)
        return Ended(found.x, found.nfev, found.njev or 0, found.message)

    return run


def optimistix_fitter(name: str) -> Fitter:
    """A solver of optimistix; each of its steps evaluates the residuals and their Jacobian once."""
    import optimistix

    solver = getattr(optimistix, name)(rtol=1e-12, atol=1e-12)

    def run(task: Task, start: Floats) -> Ended:
        found: Any = optimistix.least_squares(
            lambda b, _: task.residuals(b), solver, jax.numpy.asarray(start), max_steps=STEPS, throw=False
        )
        steps = int(found.stats["num_steps"])
        return Ended(found.value, steps, steps, str(found.result) or "converged")

    return run


def fitters() -> dict[str, Fitter]:
    """All solvers that are installed, by name."""
    found: dict[str, Fitter] = {
        OURS: ours,
        "SciPy lm, defaults": scipy_fitter(exact=False, method="lm"),
        MINPACK: scipy_fitter(method="lm", **TIGHT),
        TRF: scipy_fitter(method="trf", x_scale="jac", **TIGHT),
    }
    if find_spec("optimistix"):
        found |= {f"optimistix {name}": optimistix_fitter(name) for name in ("LevenbergMarquardt", "Dogleg")}
    return found


def fits(fitter: Fitter, task: Task, starts: Sequence[Floats]) -> list[Fit]:
    """Run a solver from every start. One that raises ends where it starts."""
    return [_fit(fitter, task, np.asarray(start, np.float64)) for start in starts]


def _fit(fitter: Fitter, task: Task, start: Floats) -> Fit:
    began = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of overflow, which a solver has to bear
            ended = fitter(task, start)
    except (ValueError, np.linalg.LinAlgError) as error:
        ended = Ended(start, 0, 0, f"{type(error).__name__}: {error}")
    seconds = time.perf_counter() - began
    params = np.asarray(ended.params, np.float64)
    with np.errstate(over="ignore"):
        squares = float((np.asarray(_compiled(task.residuals)[0](params)) ** 2).sum())
    return Fit(
        params,
        squares if math.isfinite(squares) else math.inf,
        ended.evaluations,
        ended.jacobians,
        seconds,
        ended.reason,
    )


def _compiled(residuals: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The residuals and their Jacobian; equal functions are compiled once."""
    return jax.jit(residuals), jax.jit(jax.jacfwd(residuals))


def versions() -> str:
    """Of the solvers."""
    packages = ["scipy", "optimistix"] if find_spec("optimistix") else ["scipy"]
    known = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return known if "optimistix" in packages else f"{known}; optimistix is not installed, and left out"
