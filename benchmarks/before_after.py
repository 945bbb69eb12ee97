"""This checkout against another one, measured in turn: rows A1 and A2, the small demos (A7) and the import.

With --fits row A6 and the gallery, by `least_squares`: seconds to an error, compiled, of which the report holds medians
over starts.

Run: python benchmarks/before_after.py OTHER_CHECKOUT [--fits]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import arena

HERE, ROUNDS = Path(__file__).resolve().parents[1], 9
DEMOS = ("xor", "crossentropy", "connections")

#: A worker imports a checkout's own scripts, and answers each line "a1" or "a2" with the seconds of one product.
WORKER = """
import sys
import numpy as np
import a1_product, a2_recurrent_product
if hasattr(a1_product, "cg_seconds"):  # in older checkouts
    product_seconds = a1_product.cg_seconds
else:
    from hessianfree.console.measuring import product_seconds
make = {
    "a1": lambda: product_seconds(a1_product.network(np.random.RandomState(0))),
    "a2": lambda: product_seconds(a2_recurrent_product.network(np.random.RandomState(0))),
}
measure = {}
for line in sys.stdin:
    row = line.strip()
    if row not in measure:
        measure[row] = make[row]()
    print(measure[row](), flush=True)
"""


#: A worker that answers each line "name solver seed error" with the seconds of a fit to that error, and the last error.
FITTER = """
import importlib, sys, time
import hessianfree as hf
from hessianfree.demos.pinn import random_params

class Until:
    def __init__(self, problem, error):
        self.problem, self.error = problem, error
    def on_start(self, run):
        self.run = run
    def on_epoch(self, epoch):
        self.last = self.problem.error(self.run.params)
        return self.last <= self.error

def fit(name, solver, seed, error, limit):
    problem = importlib.import_module("hessianfree.demos." + name.removesuffix("-a6")).PROBLEM
    start = random_params([2, 64, 1], seed) if name.endswith("-a6") else problem.start(seed)
    until, began = Until(problem, error), time.perf_counter()
    hf.least_squares(problem.terms, start, solver=solver, max_steps=limit, callbacks=[until], max_seconds=60)
    return time.perf_counter() - began, until.last

known = set()
for line in sys.stdin:
    name, solver, seed, error = line.split()
    if (name, solver) not in known:
        fit(name, solver, int(seed), float(error), 2)
        known.add((name, solver))
    print(*fit(name, solver, int(seed), float(error), 3000), flush=True)
"""
#: Name of the problem, solver, and the error to reach.
FITS = {
    "A6, auto, 1e-8": ("poisson2d-a6", "auto", 1e-8),
    "A6, cg, 1e-6": ("poisson2d-a6", "cg", 1e-6),
    "poisson2d, 1e-5": ("poisson2d", "auto", 1e-5),
    "heat1d, 1e-4": ("heat1d", "auto", 1e-4),
    "sinc, 1e-9": ("sinc", "auto", 1e-9),
    "convection, 1e-2": ("convection", "auto", 1e-2),
}
STARTS = range(5)


def environment(checkout: Path) -> dict[str, str]:
    """Variables with which Python imports the package and the scripts of a checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout / "src"), str(checkout / "benchmarks")])}


class Products:
    """A process that times Gauss-Newton products of one checkout.

    Args:
        checkout: its folder.
    """

    def __init__(self, checkout: Path, script: str = WORKER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script],
            env=environment(checkout),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def seconds(self, row: str) -> float:
        """Of one product of this row."""
        return self.answer(row)[0]

    def answer(self, line: str) -> list[float]:
        """What the process says to a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return list(map(float, self.process.stdout.readline().split()))

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def process_seconds(checkout: Path, statement: str) -> float:
    """Seconds of a whole process that executes one statement."""
    command = [sys.executable, "-c", statement]
    return arena.seconds(
        lambda: subprocess.run(command, check=True, capture_output=True, env=environment(checkout)) and None
    )


def fits(checkouts: dict[str, Path]) -> None:
    """Fit from several starts in turn, and report medians."""
    workers = {name: Products(place, FITTER) for name, place in checkouts.items()}
    rows, verdicts = [], {}
    for what, (problem, solver, error) in FITS.items():
        found: dict[str, list[list[float]]] = {name: [] for name in workers}
        for seed in STARTS:
            for name, worker in workers.items():
                found[name].append(worker.answer(f"{problem} {solver} {seed} {error}"))
        row: dict[str, object] = {"what": what}
        for name, answers in found.items():
            row[f"{name}, s"] = arena.median(seconds for seconds, _ in answers)
            row[f"{name}, reached"] = f"{sum(last <= error for _, last in answers)} of {len(STARTS)}"
        rows.append(row)
        pairs = zip(found["this"], found["other"], strict=True)
        verdicts[f"{what}: this / other"] = round(arena.median(ours[0] / theirs[0] for ours, theirs in pairs), 3)
    for worker in workers.values():
        worker.close()
    arena.report("before-after-fits", "least squares of two checkouts in one run", rows, verdicts)


def main() -> None:
    """Measure everything in turn, several rounds over, and report medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--fits", action="store_true", help="row A6 and the gallery, and nothing else")
    arguments = parser.parse_args()
    checkouts = {"this": HERE, "other": arguments.other.resolve()}
    if arguments.fits:
        fits(checkouts)
        return
    products = {name: Products(checkout) for name, checkout in checkouts.items()}
    tasks: dict[str, dict[str, Callable[[], float]]] = {
        row: {name: partial(worker.seconds, row) for name, worker in products.items()} for row in ("a1", "a2")
    }
    statements = {demo: f"import hessianfree as hf; hf.demos.{demo}()" for demo in DEMOS}
    for what, statement in {**statements, "import": "import hessianfree"}.items():
        tasks[what] = {name: partial(process_seconds, place, statement) for name, place in checkouts.items()}
    tasks["import"]["jax"] = partial(process_seconds, HERE, "import jax")

    rows, verdicts = [], {}
    for what, competitors in tasks.items():
        for measure in competitors.values():
            measure()  # compile, and fill the caches
        rounds = arena.interleaved(ROUNDS, competitors)
        medians = {name: arena.median(r[name] for r in rounds) for name in competitors}
        rows.append({"what": what, **{f"{name}, s": value for name, value in medians.items()}})
        verdicts[f"{what}: this / other"] = round(arena.median(r["this"] / r["other"] for r in rounds), 3)
        if "jax" in competitors:
            verdicts["import: this / jax (bar 1.25)"] = round(arena.median(r["this"] / r["jax"] for r in rounds), 3)
    for worker in products.values():
        worker.close()
    arena.report("before-after", "two checkouts in one run", rows, verdicts)


if __name__ == "__main__":
    main()
