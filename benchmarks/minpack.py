"""The classic test problems of Moré, Garbow and Hillstrom: minima found from starts x1, x10 and x100, beside SciPy.

A run finds the minimum if its sum of squares is within 1e-6 of the least one, relatively, or below 1e-10 where that is
zero. Runs that end at another minimum that is known are counted apart.

Run: python benchmarks/minpack.py [--only NAME ...]
"""

from __future__ import annotations

import argparse
import math
import sys
from typing import Any, NamedTuple

import jax

import arena
import fitters

minpack = fitters.from_tests("minpack_problems")
SOLVERS = (fitters.OURS, fitters.MINPACK, fitters.TRF)


class Run(NamedTuple):
    """One solver's run on a problem, from its start times a factor.

    Attributes:
        problem: its name.
        factor: 1, 10 or 100.
        solver: its name.
        found: whether it ended at the least sum of squares.
        local: the name of the other minimum that it ended at; empty if none that is known.
        above: how far its sum of squares is above the least; infinite if it is not a number.
        fit: where it ended.
    """

    problem: str
    factor: int
    solver: str
    found: bool
    local: str
    above: float
    fit: fitters.Fit

    @property
    def outcome(self) -> str:
        """In words, where it ended."""
        elsewhere = f"{self.above:.1e} above" if math.isfinite(self.above) else "not finite"
        return "found" if self.found else self.local or elsewhere


def run_of(problem: Any, factor: int, solver: str, fit: fitters.Fit) -> Run:
    """A fit, judged."""
    found, local = problem.is_minimum(fit.squares), problem.local_minimum(fit.squares)
    return Run(problem.name, factor, solver, found, local, fit.squares - problem.minimum, fit)


def task_of(problem: Any) -> fitters.Task:
    """The problem for one solver. Its function is a new one, so that each solver compiles for itself."""

    def residuals(x: Any) -> Any:
        return problem.residuals(x)

    return fitters.Task(residuals, residuals)


def measured(problem: Any) -> list[Run]:
    """All solvers on one problem."""
    starts = [problem.start_times(factor) for factor in minpack.FACTORS]
    by_name = fitters.fitters()
    runs = [
        run_of(problem, factor, solver, fit)
        for solver in SOLVERS
        for factor, fit in zip(minpack.FACTORS, fitters.fits(by_name[solver], task_of(problem), starts), strict=True)
    ]
    told = "; ".join(f"{run.solver} x{run.factor}: {run.outcome}" for run in runs)
    print(f"{problem.name}: {told}", file=sys.stderr, flush=True)
    arena.cold()
    return runs


def summary(solver: str, runs: list[Run]) -> dict[str, Any]:
    """The row of one solver; the medians are over the runs that found the minimum."""
    found = [run for run in runs if run.found]
    return {
        "solver": solver,
        **{f"found from x{factor}": sum(run.factor == factor for run in found) for factor in minpack.FACTORS},
        "found in all": len(found),
        "other minima": sum(bool(run.local) and not run.found for run in runs),
        "elsewhere": sum(not run.local and not run.found for run in runs),
        "evaluations, median": arena.median(run.fit.evaluations for run in found) if found else "none",
        "Jacobians, median": arena.median(run.fit.jacobians for run in found) if found else "none",
        "seconds in all": sum(run.fit.seconds for run in runs),
    }


def detail(runs: list[Run]) -> dict[str, Any]:
    """The row of one problem and start: where all solvers ended, and after how many evaluations."""
    row: dict[str, Any] = {"problem": runs[0].problem, "start": f"x{runs[0].factor}"}
    row |= {run.solver: run.outcome for run in runs}
    return row | {f"{run.solver}, evaluations": run.fit.evaluations for run in runs}


def verdicts(runs: list[Run]) -> dict[str, Any]:
    """What must be reached, and what was."""
    found = {solver: {(r.problem, r.factor) for r in runs if r.found and r.solver == solver} for solver in SOLVERS}
    ours, theirs = found[fitters.OURS], found[fitters.MINPACK]

    def named(keys: set[tuple[str, int]]) -> str:
        return "; ".join(f"{problem} x{factor}" for problem, factor in sorted(keys)) or "none"

    return {
        f"minima found, ours and {fitters.MINPACK} (bar: 10 more)": f"{len(ours)} and {len(theirs)}",
        "ours alone": named(ours - theirs),
        f"{fitters.MINPACK} alone": named(theirs - ours),
        "neither": named({(run.problem, run.factor) for run in runs} - ours - theirs),
        "evaluations": fitters.EVALUATIONS,
        "solvers": fitters.versions(),
    }


def main() -> None:
    """Run all solvers on the chosen problems and report."""
    jax.config.update("jax_enable_x64", True)
    names = [problem.name for problem in minpack.PROBLEMS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    chosen = parser.parse_args().only
    runs = [run for problem in minpack.PROBLEMS if problem.name in chosen for run in measured(problem)]
    keys = dict.fromkeys((run.problem, run.factor) for run in runs)
    arena.report(
        "minpack",
        f"{len(chosen)} problems of More, Garbow and Hillstrom from three starts, float64",
        [summary(solver, [run for run in runs if run.solver == solver]) for solver in SOLVERS],
        verdicts(runs),
        [detail([run for run in runs if (run.problem, run.factor) == key]) for key in keys],
        reasons={f"{run.problem} x{run.factor}, {run.solver}": run.fit.reason for run in runs},
    )


if __name__ == "__main__":
    main()
