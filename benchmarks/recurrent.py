"""Recurrent networks of the usual kind: seconds to each error, beside Adam in a plain jitted loop around optax.

Rows of MNIST (60 tanh units, 4,000 sequences), context-dependent integration (50 leaky units, 40 steps, 800 trials),
and the 3-bit flip-flop (30 tanh units, 50 steps). All competitors start from the same weights. Seconds include
compilation; the clock stands still during evaluations, one after each epoch.

Run: python benchmarks/recurrent.py [--tasks flip-flop ...] [--only plain kfac ...] [--seeds 0 1 2] [--seconds 30]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
import optax

import hessianfree as hf
from recurrent_tasks import TASKS, Sequences, Task

import arena

RATES, ADAMS_BATCH = (1e-3, 3e-3, 1e-2), 100


class Ours(NamedTuple):
    """An optimizer of this package, and the size of its minibatches, None for all the data."""

    make: Callable[[], Any]
    minibatch: int | None


#: Names of the optimizers of ours that are compared.
COMPARED = ("defaults", "minibatches", "kfac", "auto")


def ours(task: Task, name: str) -> Ours:
    """An optimizer of ours for a task."""
    if name == "defaults":
        return Ours(lambda: hf.opt.HessianFree(plotting=False), None)
    second = hf.opt.HessianFree(CG_iter=30, plotting=False)
    if name == "minibatches":
        return Ours(lambda: second, 400)
    if name == "auto":
        first = hf.opt.FirstOrder(optax.adam(task.adam))
        return Ours(lambda: hf.opt.Auto(first, second, batch_size=100), task.minibatch)
    kfac = hf.opt.KFAC(every=4, decay=0.9)
    settings: dict[str, Any] = {"CG_iter": 5, "init_damping": 0.1, "warm_start": "conjugate", "plotting": False}
    return Ours(lambda: hf.opt.HessianFree(preconditioner=kfac, **settings), 200)


class Judge(Protocol):
    """What a watch needs of a task."""

    @property
    def levels(self) -> tuple[float, ...]:
        """Errors to reach, falling."""

    @property
    def error(self) -> Callable[[Any, Any], float]:
        """The error of outputs, given the targets."""


class Watch:
    """Evaluates after each epoch, its own clock stopped, and ends the run when the last level or the limit is reached.

    Args:
        task: with the levels.
        evaluate: gives the outputs for the test inputs.
        test: sequences.
        seconds: limit.
    """

    def __init__(self, task: Judge, evaluate: Callable[[], Any], test: tuple[Any, Any], seconds: float) -> None:
        self.task, self.evaluate, self.test, self.limit = task, evaluate, test, seconds
        self.start, self.updates = time.perf_counter(), 0
        self.curve: arena.Curve = []

    def on_epoch(self, epoch: Any) -> bool:
        """Add a point to the curve; whether this is the end."""
        self.updates += len(epoch.updates)
        return self.add()

    def add(self) -> bool:
        """The same, the updates counted already."""
        stopped = time.perf_counter()
        error = self.task.error(jax.device_get(self.evaluate()), self.test[1])
        seconds = stopped - self.start
        self.curve.append({"seconds": seconds, "updates": self.updates, "test error": error})
        self.start += time.perf_counter() - stopped
        return error <= self.task.levels[-1] or seconds > self.limit


def train_ours(task: Task, name: str, data: Sequences, test: Sequences, seed: int, seconds: float) -> arena.Curve:
    """One run of one of our optimizers, from a cold start."""
    arena.cold()
    (x, t), chosen = data, ours(task, name)
    net = task.network(x.shape[2], t.shape[2], seed)
    watch = Watch(task, lambda: net.forward(test[0])[-1], test, seconds)
    net.run_epochs(
        x,
        t,
        chosen.make(),
        minibatch_size=chosen.minibatch,
        max_epochs=100_000,
        test=(x[:10], t[:10]),  # the errors of the run itself are not used
        target_err=0,
        print_period=None,
        callbacks=[watch],
        early_stopping=False,
    )
    return watch.curve


def train_plainly(task: Task, rate: float, data: Sequences, test: Sequences, seed: int, seconds: float) -> arena.Curve:
    """One run of Adam in a plain loop, from a cold start and the weights of our network."""
    arena.cold()
    x, t = data
    net = task.network(x.shape[2], t.shape[2], seed)
    params: Any = {key: net.get_weights(net.W.copy(), key) for key in ((0, 1), (1, 1), (1, 2))}
    optimizer = optax.adam(rate)
    state = optimizer.init(params)

    @jax.jit
    def step(params: Any, state: Any, inputs: Any, targets: Any) -> Any:
        change, state = optimizer.update(jax.grad(task.loss)(params, inputs, targets), state, params)
        return optax.apply_updates(params, change), state

    outputs = jax.jit(task.outputs)
    watch = Watch(task, lambda: outputs(params, test[0]), test, seconds)
    order, ended = np.random.RandomState(seed), False
    while not ended:
        for chosen in order.permutation(len(x)).reshape(-1, ADAMS_BATCH):
            params, state = step(params, state, x[chosen], t[chosen])
        jax.block_until_ready(params)
        watch.updates += len(x) // ADAMS_BATCH
        ended = watch.add()
    return watch.curve


def measure(name: str, options: argparse.Namespace) -> list[arena.Run]:
    """Every competitor and seed on a task, in turn."""
    task, runs = TASKS[name], []
    for seed in options.seeds:
        data, test = task.make(np.random.RandomState(100 + seed))
        for competitor in COMPARED:
            if competitor in options.only:
                curve = train_ours(task, competitor, data, test, seed, options.seconds)
                runs.append(arena.told(arena.Run(competitor, seed, curve)))
        for rate in RATES if "plain" in options.only else ():
            curve = train_plainly(task, rate, data, test, seed, options.seconds)
            runs.append(arena.told(arena.Run(f"Adam {rate:g}", seed, curve)))
    return runs


def summaries(name: str, runs: list[arena.Run]) -> list[dict[str, Any]]:
    """A row for each competitor: median seconds and updates to each level."""
    rows = []
    for competitor in dict.fromkeys(run.competitor for run in runs):
        curves = [run.curve for run in runs if run.competitor == competitor]
        row: dict[str, Any] = {"task": name, "competitor": competitor}
        row["lowest error"] = arena.median(min(point["test error"] for point in curve) for curve in curves)
        for number, level in enumerate(TASKS[name].levels, 1):
            seconds = arena.median(arena.seconds_to(curve, level) for curve in curves)
            updates = arena.median(updates_to(curve, level) for curve in curves)
            reached = math.isfinite(seconds)
            row[f"level {number}"] = f"{level:g}: {seconds:.1f} s, {updates:.0f}" if reached else f"{level:g}: -"
        rows.append(row)
    return rows


def updates_to(curve: arena.Curve, level: float) -> float:
    """Updates to the first point with this error or less, infinite without one."""
    return next((point["updates"] for point in curve if point["test error"] <= level), math.inf)


def main() -> None:
    """Run the chosen tasks and competitors, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--only", nargs="+", choices=("plain", *COMPARED), default=["plain", *COMPARED])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=30, help="for each run")
    options = parser.parse_args()
    rows, verdicts, curves = [], {}, {}
    for name in options.tasks:
        if name == "rows of MNIST" and not arena.MNIST.exists():
            print(f"{name} are left out: there is no file {arena.MNIST}")
            continue
        runs = measure(name, options)
        rows += summaries(name, runs)
        curves[name] = arena.as_json(runs)
        mine, adam = ([run for run in runs if run.competitor.startswith("Adam") == peer] for peer in (False, True))
        for level in TASKS[name].levels:
            words = [arena.in_words(arena.fastest(some, level)) for some in (adam, mine)]
            verdicts[f"{name}, seconds to {level:g}, fastest of Adam's sweep / of ours"] = f"{words[0]} / {words[1]}"
    title = f"recurrent networks: error, seconds and updates to it, medians of {len(options.seeds)} seeds"
    arena.report("recurrent", title, rows, verdicts, curves=curves)


if __name__ == "__main__":
    main()
