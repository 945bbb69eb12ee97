"""Row large-networks: cheaper steps for networks of 5,000 and more parameters, and for 20,000 points.

All ways start from the same weights and see other points in each step. Those of pde/ways.py take the place of the
solver of `hf.least_squares`; "auto" is what it chooses: a quarter of the points at first, and then all of them. Every
run has a process of its own; seconds include compilation and leave out the computation of errors.

Run: python benchmarks/large_networks.py [--cases 0 1 2] [--only auto ...] [--seconds 90] [--seed 0]
     [--page few]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hessianfree.engine.normal_equations import Dual
from hessianfree.objective import parameters
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options
from hessianfree.squares.parting import part_for
from hessianfree.squares.steps import begun, made_step

import arena
from pde import ways
from pde.problems import PROBLEMS, Problem, Settings
from pde.run import Watch


class Case(NamedTuple):
    """A large problem."""

    title: str
    problem: str
    settings: Mapping[str, Any]
    levels: tuple[float, ...]


POISSON = {"sampling": "uniform"}
CASES = [
    Case(
        "Poisson in five dimensions, 10,065 parameters, 3,500 points",
        "poisson5d",
        POISSON | {"hidden": [64, 64, 48, 48], "counts": {"equation": 3000, "edge": 500}},
        (1e-2, 1e-3, 1e-4),
    ),
    Case(
        "Poisson in five dimensions, 34,369 parameters, 3,500 points",
        "poisson5d",
        POISSON | {"hidden": [128, 128, 96, 48], "counts": {"equation": 3000, "edge": 500}},
        (1e-1, 1e-2, 1e-3),
    ),
    Case(
        "Burgers' equation, viscosity 0.01, 5,121 parameters, 20,000 points",
        "burgers",
        {"hidden": [40, 40, 40, 40], "counts": {"equation": 20_000}},
        (1e-1, 1e-2, 1e-3),
    ),
]
AUTO = "auto"
#: Options of `hf.least_squares`, by way.
OPTIONS: dict[str, dict[str, Any]] = {
    AUTO: {},
    "all points": {"subsample": 1.0},
    "cg": {"solver": "cg"},
    "subsample=0.25": {"subsample": 0.25},
    "subsample=0.1": {"subsample": 0.1},
    "subsample=0.03": {"subsample": 0.03},
}
#: Methods in the place of the one that "auto" chooses, by way; sums and Nystrom approximations stand for a tenth.
METHODS: dict[str, Any] = {
    "float32 products": lambda method, rows: ways.SingleDual() if isinstance(method, Dual) else ways.SingleDense(),
    "sums of rows": lambda method, rows: ways.Sums(Dual(), rows // 10),
    "Nystrom": lambda method, rows: ways.Nystrom(rank=rows // 10),
}
SPRING = "SPRING, a tenth of the points"
DAMPING, MOMENTUM = 1e-6, 0.9
WAYS = (*OPTIONS, *METHODS, SPRING)


def prepared_for(way: str, terms: Any, params: Any) -> Prepared:
    """The residuals with the solver of a way."""
    found = prepare(Options(**OPTIONS.get(way, {})), terms, params)
    if way in METHODS:
        rows = sum(int(np.prod(shape)) for shape in found.shapes)
        found = found._replace(form=found.form._replace(method=METHODS[way](found.form.method, rows)))
    return found


def steps(way: str, problem: Problem, settings: Settings, seed: int) -> Iterator[Any]:
    """The parameters after each step of a way."""
    few = settings.but({"counts": {name: count // 10 for name, count in settings.counts.items()}})
    chosen = few if way == SPRING else settings
    params = parameters.own(problem.start(settings, seed))
    terms = problem.terms(chosen, seed)
    prepared = prepared_for(way, terms, params)

    def inputs(step: int) -> Any:
        new = problem.points(chosen, seed, step)
        return tuple(term.points._replace(at=at) for term, at in zip(prepared.terms, new, strict=True))

    if way == SPRING:
        yield from ways.spring(prepared.functions, inputs, params, DAMPING, MOMENTUM)
    part = part_for(Options(), prepared, terms, params) if way == AUTO else None
    state = begun(prepared, params)
    with prepared.threads():
        for step in itertools.count():
            taken = part.prepared if part else prepared
            params, state, record = made_step(taken, params, taken.points(step, inputs(step)), state)
            if part:
                part.note(record)
                part = None if part.over else part
            yield params


def run(way: str, case: Case, seed: int, seconds: float) -> None:
    """One way in this process; prints its curve as JSON."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    problem = PROBLEMS[case.problem]
    settings = problem.settings.but(case.settings)
    start = problem.start(settings, seed)
    with parameters.computing(start):
        watch = Watch(problem.error(settings), start, seconds, min(case.levels), told=False)
        for number, params in enumerate(steps(way, problem, settings, seed)):
            if watch.look(number + 1, partial(jax.block_until_ready, params)):
                break
    print(json.dumps(watch.curve))


def row(case: Case, way: str, seed: int, seconds: float) -> dict[str, Any]:
    """A line of the table, from a fresh process."""
    words = [sys.executable, __file__, "--one", str(CASES.index(case)), way, "--seed", str(seed)]
    answer = subprocess.run(
        [*words, "--seconds", str(seconds)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent
    )
    line: dict[str, Any] = {"problem": case.title, "way": way}
    if answer.returncode:
        return line | {"steps": "failed"}
    curve = json.loads(answer.stdout.splitlines()[-1])
    line |= {"steps": curve[-1]["updates"], "lowest error": min(point["test error"] for point in curve)}
    return line | {f"seconds to {level:g}": arena.in_words(arena.seconds_to(curve, level)) for level in case.levels}


def main() -> None:
    """Measure the chosen cases, or one way in this process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, nargs="+", default=list(range(len(CASES))))
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", default="", help="what the name of the page ends with")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run(options.one[1], CASES[int(options.one[0])], options.seed, options.seconds)
        return
    verdicts: dict[str, Any] = {}
    rows = []
    for case in [CASES[number] for number in options.cases]:
        found = [row(case, way, options.seed, options.seconds) for way in options.only]
        lowest = min(found, key=lambda line: line.get("lowest error", np.inf))
        verdicts[f"{case.title}: lowest error"] = f"{lowest['way']}, {lowest['lowest error']:.2e}"
        rows += found
    name = f"large-networks{options.page and f'-{options.page}'}"
    arena.report(name, f"cheaper steps, {options.seconds:g} s each", rows, verdicts)


if __name__ == "__main__":
    main()
