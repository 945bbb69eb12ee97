"""NIST's nonlinear regression sets: certified digits reached from both starts, beside SciPy and optimistix.

Run: python benchmarks/nist.py [--only NAME ...]
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NamedTuple

import jax

import arena
import fitters

nist = fitters.from_tests("nist")


class Run(NamedTuple):
    """One solver's run on a data set, from its start 1 or 2."""

    data_set: str
    start: int
    solver: str
    digits: float
    fit: fitters.Fit


def task_of(problem: Any) -> fitters.Task:
    """The problem for one solver. Its functions are new ones, so that each solver compiles for itself."""
    x, y = problem.predictors, problem.responses
    return fitters.Task(lambda b: problem.model(b, x) - y, nist.residual_term(problem))


def measured(name: str) -> list[Run]:
    """All solvers on one data set."""
    problem = nist.load(name)
    runs = [
        Run(name, start, solver, nist.digits(fit.params, problem.certified), fit)
        for solver, fitter in fitters.fitters().items()
        for start, fit in enumerate(fitters.fits(fitter, task_of(problem), problem.starts), 1)
    ]
    told = ", ".join(f"{run.solver} {run.digits:.1f}" for run in runs)
    print(f"{name}: {told}", file=sys.stderr, flush=True)
    arena.cold()
    return runs


def summary(solver: str, runs: list[Run]) -> dict[str, Any]:
    """The row of one solver; the medians are over all runs."""
    return {
        "solver": solver,
        "6 digits": sum(run.digits >= 6 for run in runs),
        "7 digits": sum(run.digits >= 7 for run in runs),
        "digits, median": round(arena.median(run.digits for run in runs), 1),
        "evaluations, median": arena.median(run.fit.evaluations for run in runs),
        "Jacobians, median": arena.median(run.fit.jacobians for run in runs),
        "seconds in all": sum(run.fit.seconds for run in runs),
    }


def detail(runs: list[Run]) -> dict[str, Any]:
    """The row of one data set and start: the digits of all solvers, and evaluations of two."""
    row: dict[str, Any] = {"data set": runs[0].data_set, "start": runs[0].start}
    row |= {f"{run.solver}, digits": f"{run.digits:.1f}" for run in runs}
    return row | {
        f"{run.solver}, evaluations": run.fit.evaluations
        for run in runs
        if run.solver in (fitters.OURS, fitters.MINPACK)
    }


def verdicts(runs: list[Run]) -> dict[str, Any]:
    """What must be reached, and what was."""
    ours = {(run.data_set, run.start): run for run in runs if run.solver == fitters.OURS}
    theirs = {(run.data_set, run.start): run for run in runs if run.solver == fitters.MINPACK}
    both = [key for key in ours if ours[key].digits >= 6 and theirs[key].digits >= 6]
    ratios = [ours[key].fit.evaluations / theirs[key].fit.evaluations for key in both]
    missed = ", ".join(f"{run.data_set} {run.start} ({run.digits:.1f})" for run in ours.values() if run.digits < 7)
    return {
        "ours, runs with 7 digits (bar 54 of 54)": f"{sum(run.digits >= 7 for run in ours.values())} of {len(ours)}",
        "ours, median of digits (bar 9)": round(arena.median(run.digits for run in ours.values()), 1),
        f"evaluations, ours / {fitters.MINPACK}, median where both have 6 digits (bar 2)": round(
            arena.median(ratios), 1
        ),
        "ours, below 7 digits": missed or "none",
        "evaluations": fitters.EVALUATIONS,
        "solvers": fitters.versions(),
    }


def main() -> None:
    """Run all solvers on the chosen data sets and report."""
    jax.config.update("jax_enable_x64", True)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(nist.MODELS), default=list(nist.MODELS))
    runs = [run for name in parser.parse_args().only for run in measured(name)]
    keys = dict.fromkeys((run.data_set, run.start) for run in runs)
    arena.report(
        "nist",
        "27 regression sets of NIST from two starts, float64; a run's digits are those of its worst parameter",
        [summary(solver, [run for run in runs if run.solver == solver]) for solver in fitters.fitters()],
        verdicts(runs),
        [detail([run for run in runs if (run.data_set, run.start) == key]) for key in keys],
        reasons={f"{run.data_set} {run.start}, {run.solver}": run.fit.reason for run in runs},
    )


if __name__ == "__main__":
    main()
