"""Rows pde-...: seconds of networks to solve partial differential equations to a relative error, in float64.

Each problem of pde/problems.py is a row. Ours is `hf.least_squares`; the peers are the self-scaled Broyden method,
L-BFGS and Adam, on the same residuals, points and start. L-BFGS and the Broyden method begin with a thousand updates
of Adam. Every run has a process of its own; seconds include compilation and leave out the computation of errors.

Run: python benchmarks/pde_rows.py --problems burgers-shock [--only ours ssbroyden lbfgs adam] [--seeds 0 1 2]
     [--peer-seeds 0] [--seconds 300] [--peer-seconds 300] [--settings '{"hidden": [30, 30]}'] [--stop 1e-11]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import arena
from pde.problems import PROBLEMS, Problem
from pde.run import METHODS, OURS

NAMES = {OURS: "hf.least_squares", "ssbroyden": "self-scaled Broyden", "lbfgs": "L-BFGS", "adam": "Adam"}


def run(method: str, problem: Problem, seed: int, seconds: float, options: argparse.Namespace) -> dict[str, Any]:
    """What pde/run.py prints at last."""
    command = [sys.executable, "-m", "pde.run", method, problem.name, "--seed", str(seed), "--seconds", str(seconds)]
    command += ["--settings", json.dumps(options.settings), "--quiet"]
    command += [] if options.stop is None else ["--stop", str(options.stop)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent).stdout
    found: dict[str, Any] = json.loads(answer.splitlines()[-1])
    return found


def verdicts(problem: Problem, runs: Sequence[arena.Run]) -> dict[str, Any]:
    """Median seconds of everyone to the levels, and their lowest errors."""
    found: dict[str, Any] = {}
    names = list(dict.fromkeys(run.competitor for run in runs))
    for level, bar in problem.bars.items():
        limit = f" (bar {bar:g})" if math.isfinite(bar) else ""
        for name in names:
            reached = [arena.seconds_to(run.curve, level) for run in runs if run.competitor == name]
            here = limit if name == NAMES[OURS] else ""
            found[f"{name}, median seconds to {level:g}{here}"] = arena.in_words(arena.median(reached))
    for name in names:
        lowest = [min(point["test error"] for point in run.curve) for run in runs if run.competitor == name]
        found[f"{name}, lowest error, median"] = f"{arena.median(lowest):.2e}"
    return found


def row(problem: Problem, options: argparse.Namespace) -> None:
    """Measure one problem and write its page."""
    runs, reasons, size = [], {}, 0
    for method in [method for method in METHODS if method in options.only]:
        for seed in options.seeds if method == OURS else options.peer_seeds:
            found = run(method, problem, seed, options.seconds if method == OURS else options.peer_seconds, options)
            size = found["parameters"]
            if found["reason"]:
                reasons[f"{NAMES[method]}, seed {seed}"] = found["reason"]
            runs.append(arena.told(arena.Run(NAMES[method], seed, found["curve"])))
    settings = problem.settings.but(options.settings)
    title = f"{problem.title}, {settings.form} form, {size} parameters: {problem.measure}"
    first, last = max(problem.bars), min(problem.bars)
    name = f"pde-{problem.name}{options.page and f'-{options.page}'}"
    arena.draw(name, title, runs, last, problem.measure)
    rows = [{**arena.summary(run, first), f"seconds to {last:g}": in_words(run, last)} for run in runs]
    more: dict[str, Any] = {"settings": asdict(settings), "reasons": reasons, "curves": arena.as_json(runs)}
    arena.report(name, title, rows, verdicts(problem, runs), **more)


def in_words(run: arena.Run, level: float) -> float | str:
    """Seconds of a run to an error."""
    return arena.in_words(arena.seconds_to(run.curve, level))


def main() -> None:
    """Measure the chosen problems."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--only", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peer-seeds", type=int, nargs="+", help="those of the peers; the same by default")
    parser.add_argument("--seconds", type=float, default=300, help="for each run")
    parser.add_argument("--peer-seconds", type=float, help="for each run of the peers; as for ours by default")
    parser.add_argument("--stop", type=float, help="error at which runs end; the lowest of the bars by default")
    parser.add_argument("--page", default="", help="what the name of the page ends with")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: changes of the problems' settings")
    options = parser.parse_args()
    if options.peer_seeds is None:
        options.peer_seeds = options.seeds
    if options.peer_seconds is None:
        options.peer_seconds = options.seconds
    arena.VERSIONS["scipy and optax"] = {name: metadata.version(name) for name in ("scipy", "optax")}
    for name in options.problems:
        row(PROBLEMS[name], options)


if __name__ == "__main__":
    main()
