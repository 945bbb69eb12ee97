"""Row A6: seconds of a physics-informed network for Poisson's equation to a root mean square error, in float64.

The network is 2-64-1 tanh (257 parameters), with 900 points inside and 120 at the edge of the unit square; the error is
taken on 9,000 others. Ours runs with solver "auto", with "cg", and by HessianFree() with its defaults, beside Adam and
L-BFGS from the same weights; and once with 9,873 parameters. All seconds include compilation. Ours is reported apart,
too: as it is in a first process, and in later ones, which find the program on the disk.

Run: python benchmarks/a6_poisson.py [--seeds 0 1 2] [--seconds 60] [--only auto cg defaults wide adam l-bfgs]
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

import hessianfree as hf
from hessianfree.demos.pinn import random_params
from hessianfree.demos.poisson2d import BOUNDARY, INTERIOR, PROBLEM
from hessianfree.training.results import Epoch, Run

import arena

WIDE = (64, 64, 48, 48)
RATES = (1e-3, 3e-3, 1e-2)
LEVELS = (1e-3, 1e-4, 1e-5, 1e-6, 6e-8, 1e-8, 1e-10)
#: What to reach: seconds without compilation, by solver and error.
BARS: dict[str, dict[float, float]] = {
    "auto": {1e-4: 1.5, 1e-6: 8, 6e-8: 60},
    "cg": {1e-4: 3, 1e-6: 20},
    "defaults": {},
    "wide": {1e-4: 25},
}
#: Seconds for "auto" to 1e-8, compilation included.
WITH_COMPILATION = 2
OURS = ("auto", "cg", "defaults", "wide")
COMPETITORS = (*OURS, "adam", "l-bfgs")


class Compiling(NamedTuple):
    """Seconds that a first step takes longer than a second of the like."""

    first: float  # in a first process
    later: float  # where the program is on the disk


def ours(solver: str, seed: int, hidden: Sequence[int], limit: float, stop: float) -> tuple[arena.Curve, Compiling]:
    """The curve of a run, and what compilation takes besides."""
    params = random_params([2, *hidden, 1], seed)
    run = by_defaults if solver == "defaults" else partial(hf.least_squares, PROBLEM.terms, solver=solver)

    def first_step() -> float:
        began = time.perf_counter()
        run(params, max_steps=1)
        return time.perf_counter() - began

    def beside_the_second() -> float:
        jax.clear_caches()
        return first_step() - first_step()

    arena.cold()
    cold = beside_the_second()
    with tempfile.TemporaryDirectory() as folder, programs_kept_in(folder):
        beside_the_second()
        compiling = Compiling(cold, beside_the_second())
    curve: arena.Curve = []

    class Watch:
        evaluating, began = 0.0, time.perf_counter()

        def on_start(self, run: Run) -> None:
            self.run = run

        def on_epoch(self, epoch: Epoch) -> bool:
            now = time.perf_counter()
            seconds = now - self.began - self.evaluating
            curve.append(
                {"seconds": seconds, "updates": epoch.number + 1, "test error": PROBLEM.error(self.run.params)}
            )
            self.evaluating += time.perf_counter() - now
            return curve[-1]["test error"] < stop or seconds > limit

    run(params, max_steps=1_000_000, callbacks=[Watch()])
    return curve, compiling


@contextmanager
def programs_kept_in(folder: str) -> Iterator[None]:
    """Keep compiled programs there, however small; afterwards none are kept."""
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    arena.cold()


def all_residuals(params: Any, points: Any) -> list[Any]:
    """Of every term, scaled so that half the sum of their squares is the loss; points are one example."""
    return [
        jax.vmap(jax.vmap(r, (None, 0)), (None, 0))(params, at) / math.sqrt(at.shape[1])
        for (r, _), at in zip(PROBLEM.terms, points, strict=True)
    ]


def by_defaults(params: Any, max_steps: int, callbacks: Sequence[object] = ()) -> None:
    """The same residuals by HessianFree() as it is."""
    objective = hf.Objective(all_residuals, "squared_error")
    points = [at[None] for _, at in PROBLEM.terms]
    batch = points, [np.zeros(at.shape[:2]) for at in points]
    hf.fit(objective, params, batch, max_epochs=max_steps, callbacks=callbacks, print_period=None, target_err=-math.inf)


def write_problem(path: Path, seed: int) -> Path:
    """Weights and points for the peers."""
    arrays = {"inside": INTERIOR, "edge": BOUNDARY, "test": PROBLEM.grid.reshape(-1, 2)}
    for number, (W, b) in enumerate(PROBLEM.start(seed)):
        arrays |= {f"w{number}": W, f"b{number}": b}
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def peers(options: argparse.Namespace, folder: Path) -> list[arena.Run]:
    """Adam's sweep from the first seed and its best rate from the others; L-BFGS from all."""
    problems = {seed: write_problem(folder / f"{seed}.npz", seed) for seed in options.seeds}

    def run(method: str, seed: int, *more: object) -> arena.Run:
        arguments = method, problems[seed], "--seconds", options.seconds, *more
        name = "L-BFGS" if method == "l-bfgs" else f"Adam {more[-1]:g}"
        return arena.told(arena.Run(name, seed, arena.peer_curve("optax", "poisson.py", *arguments)))

    found = []
    if "adam" in options.only:
        sweep = {rate: run("adam", options.seeds[0], "--rate", rate) for rate in RATES}
        best = min(sweep, key=lambda rate: arena.last_error(sweep[rate].curve))
        found += [*sweep.values(), *(run("adam", seed, "--rate", best) for seed in options.seeds[1:])]
    if "l-bfgs" in options.only:
        found += [run("l-bfgs", seed) for seed in options.seeds]
    return found


def verdicts(runs: Sequence[arena.Run], compiling: Mapping[str, Compiling]) -> dict[str, Any]:
    """Median seconds of ours to every error with its bar, and the lowest errors of all."""
    found: dict[str, Any] = {}
    for name, level in itertools.product(compiling, LEVELS):
        reached = arena.median(arena.seconds_to(run.curve, level) for run in runs if run.competitor == name)
        said = f"{name}, median seconds to {level:g}"
        bar = f" (bar {WITH_COMPILATION})" if (name, level) == ("auto", 1e-8) else ""
        if name in ("auto", "defaults") or level in BARS[name]:
            found[said + bar] = arena.in_words(reached)
        if bar:
            later = reached - compiling[name].first + compiling[name].later
            found[f"{said}, the program on the disk"] = arena.in_words(later)
        if level in BARS[name]:
            found[f"{said}, without compilation (bar {BARS[name][level]:g})"] = arena.in_words(
                reached - compiling[name].first
            )
    for name in dict.fromkeys(run.competitor for run in runs):
        lowest = arena.median(min(point["test error"] for point in run.curve) for run in runs if run.competitor == name)
        found[f"{name}, lowest error, median"] = f"{lowest:.2e}"
    return found


def main() -> None:
    """Run the chosen competitors and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=60, help="for each run")
    parser.add_argument("--only", nargs="+", choices=COMPETITORS, default=COMPETITORS)
    options = parser.parse_args()
    runs: list[arena.Run] = []
    compiling: dict[str, Compiling] = {}
    for name in [name for name in OURS if name in options.only]:
        hidden, solver = (WIDE, "auto") if name == "wide" else ((64,), name)
        stop = {"auto": 2e-11, "wide": 1e-5}.get(name, 1e-6)
        for seed in options.seeds:
            curve, extra = ours(solver, seed, hidden, options.seconds, stop)
            compiling.setdefault(name, extra)
            runs.append(arena.told(arena.Run(name, seed, curve)))
    with tempfile.TemporaryDirectory() as folder:
        runs += peers(options, Path(folder))
    found = verdicts(runs, compiling)
    for name, (first, later) in compiling.items():
        found[f"{name}, seconds of compilation in a first process and in later ones"] = f"{first:.2f}, {later:.2f}"
    title = "Poisson's equation, 2-64-1 tanh (wide: 2-64-64-48-48-1): root mean square error on 9,000 points"
    arena.draw("A6", title, runs, 1e-6)
    arena.report("A6", title, [arena.summary(run, 1e-4) for run in runs], found, curves=arena.as_json(runs))


if __name__ == "__main__":
    main()
