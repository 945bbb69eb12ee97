"""One method on one problem from one seed, in a process of its own; prints the curve as JSON.

The seconds include compilation, of which nothing is taken from earlier runs. They do not include starting Python and
computing errors.

Run, in benchmarks/: python -m pde.run ours burgers-shock --seconds 60 [--seed 0] [--settings '{"hidden": [30, 30]}']
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import hessianfree as hf

from pde import peers
from pde.problems import PROBLEMS, Params, Problem, Settings

OURS = "ours"
METHODS = (OURS, "ssbroyden", "lbfgs", "adam")
#: The error is computed when this part of the time so far has passed again.
APART = 0.02


class Watch:
    """The curve of a run; its clock stands still while errors are computed. A callback of `hf.least_squares`."""

    def __init__(self, error: Callable[[Any], float], start: Params, seconds: float, stop: float, told: bool) -> None:
        self.error, self.limit, self.stop, self.told = error, seconds, stop, told
        self.curve = [{"seconds": 0.0, "updates": 0, "test error": error(start)}]  # compiles it
        self.began, self.stood = time.perf_counter(), 0.0
        self.latest: tuple[int, Callable[[], Params]] | None = None
        self.before, self.over = 0, False

    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self.began - self.stood

    def look(self, updates: int, params: Callable[[], Params], always: bool = False) -> bool:
        """Add a point, unless the last is close; whether the run is over."""
        now = self.seconds()
        self.latest = updates, params
        over = now > self.limit
        updates += self.before
        if over or always or now > (1 + APART) * self.curve[-1]["seconds"]:
            error = self.error(params())
            self.curve.append({"seconds": now, "updates": updates, "test error": error})
            self.latest = None
            if self.told:
                print(f"{now:8.1f} s  {updates:7} updates  {error:.2e}", file=sys.stderr, flush=True)
            over = over or error <= self.stop
            self.stood += self.seconds() - now
        self.over = over
        return over

    def begin_again(self, updates: int) -> None:
        """Another run follows that counts from 0."""
        self.before += updates

    def finish(self) -> None:
        """Add the last point, if it is not there."""
        if self.latest:
            self.look(*self.latest, always=True)

    def on_start(self, run: Any) -> None:
        """The parameters are those of the run."""
        self.live = run

    def on_epoch(self, epoch: Any) -> bool:
        """After each step."""
        return self.look(epoch.number + 1, lambda: self.live.params)


def ours(problem: Problem, settings: Settings, seed: int, watch: Watch) -> str:
    """Run `hf.least_squares`, once for each stage that is set; why it ended."""
    draw = partial(problem.points, settings, seed)
    terms, params = problem.terms(settings, seed), problem.start(settings, seed)
    options: dict[str, Any] = {"max_steps": 10**9, **settings.options, "callbacks": [watch]}
    part, loss = settings.coarse or (1, 0.0)
    some = [(r, at[::part], weight) for r, at, weight in terms]
    stages: list[tuple[Any, dict[str, Any]]] = []
    if settings.marching:
        share, steps = settings.marching

        def early(step: int) -> list[Any]:
            return [at[::part] for at in draw(step, horizon=share + (1 - share) * step / steps)]

        stages.append((some, {"max_steps": steps, "resample": early}))
    if settings.coarse:
        stages.append((some, {"target_err": loss}))
    redraw = {
        "resample_every": settings.resample_every,
        "resample": lambda step: draw(step, watch.live.params if settings.adaptive else None),
    }
    stages.append((terms, redraw if settings.resample_every else {}))
    for at, more in stages:
        found = hf.least_squares(at, params, **options | more)
        if watch.over:
            break
        params, options["init_damping"] = found.params, float(found.history["damping"][-1])
        watch.begin_again(len(found.history["value"]))
    return found.reason


def solve(method: str, problem: Problem, settings: Settings, seed: int, watch: Watch) -> str:
    """Run a method; why it ended, where that is known."""
    if method == OURS:
        return ours(problem, settings, seed, watch)

    def renew(step: int, params: Params) -> Any:
        return problem.points(settings, seed, step, params)

    terms, start = problem.terms(settings, seed), problem.start(settings, seed)
    peers.solve(method, terms, start, watch.look, renew, settings.peers)
    return ""


def main() -> None:
    """Run one method and print its curve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stop", type=float, help="error at which the run ends; the lowest of the bars by default")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: changes of the problem's settings")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the curve")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_enable_compilation_cache", False)
    problem = PROBLEMS[options.problem]
    settings = problem.settings.but(options.settings)
    start, error = problem.start(settings, options.seed), problem.error(settings)
    stop = min(problem.bars) if options.stop is None else options.stop
    watch = Watch(error, start, options.seconds, stop, not options.quiet)
    reason = solve(options.method, problem, settings, options.seed, watch)
    watch.finish()
    size = sum(np.size(leaf) for leaf in jax.tree.leaves(start))
    print(json.dumps({"curve": watch.curve, "parameters": size, "reason": reason}))


if __name__ == "__main__":
    main()
