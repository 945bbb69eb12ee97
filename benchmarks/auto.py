"""Rows A3 and A4 with `hf.opt.Auto`, beside Adam's sweep: seconds to each level of the test error.

Both clocks include compilation and stand still during evaluations.

Run: python benchmarks/auto.py [--rows a3 a4] [--seeds 0] [--seconds 60] [--rate 3e-3] [--data mnist.npz]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import optax
from numpy.typing import NDArray

import a3_autoencoder
import hessianfree as hf
from hessianfree.demos.mnist import MINIBATCH, OPTIMIZER, classifier

import arena


class LimitedAuto(a3_autoencoder.Limits, hf.opt.Auto):
    """First-order steps and Hessian-free updates up to a limit."""


class Row(NamedTuple):
    """A problem: what peers/adam.py calls it, its data, its network from a seed, its error, and how it is trained."""

    task: str
    x: NDArray[np.float32]
    t: NDArray[np.float32]
    network: Callable[[int], hf.FFNet]
    error: Callable[[hf.FFNet, NDArray[Any]], float]
    second: dict[str, Any]
    minibatch: int
    levels: Sequence[float]
    watched: int  # updates from one evaluation to the next, about as long as Adam's


def rows(path: str) -> dict[str, Row]:
    """Both problems, with the settings of their own scripts."""
    train, test = a3_autoencoder.images(path)
    with np.load(path) as data:
        labels, test_labels = data["y_train"], data["y_test"]
    half, x = hf.loss_funcs.SquaredError(), train[: a3_autoencoder.IMAGES]
    return {
        "a3": Row(
            "autoencoder",
            x,
            x,
            lambda seed: a3_autoencoder.autoencoder(a3_autoencoder.SHAPE, rng=seed),
            lambda net, W: 2 * float(half.batch_loss(net.forward(test, params=W), test)),
            {**a3_autoencoder.OURS, "init_damping": 0.05},  # where the first phase ends, not where it begins
            a3_autoencoder.RUN["minibatch_size"],
            (*a3_autoencoder.LEVELS, a3_autoencoder.GOAL),
            5,
        ),
        "a4": Row(
            "classifier",
            train,
            np.eye(10, dtype=np.float32)[labels],
            lambda seed: classifier(784, rng=seed),
            lambda net, W: float((net.forward(test, params=W)[-1].argmax(axis=1) != test_labels).mean()),
            OPTIMIZER,
            MINIBATCH,
            (0.05, 0.04, 0.03, 0.025, 0.02),
            1,
        ),
    }


def auto(row: Row, seed: int, seconds: float, rate: float) -> arena.Run:
    """One run from a cold start."""
    arena.cold()
    net = row.network(seed)
    second = hf.opt.HessianFree(**row.second)
    optimizer: Any = LimitedAuto(seconds, first=hf.opt.FirstOrder(optax.adam(rate)), second=second, seed=seed)
    optimizer.watched = row.watched
    few = row.x[:10], row.t[:10]  # the test errors of the run are not used
    quiet: dict[str, Any] = {"print_period": None, "early_stopping": False, "target_err": -math.inf}
    result = net.run_epochs(row.x, row.t, optimizer, 100_000, row.minibatch, few, **quiet)
    when = optimizer.seconds(result.epochs)
    phases = [getattr(record, "phase", "") for epoch in result.epochs for record in epoch.updates]
    curve: arena.Curve = [
        {
            "seconds": when[n - 1],
            "updates": n,
            "test error": row.error(net, W),
            "second": float(phases[n - 1] != "first"),
        }
        for n, W in optimizer.averages.items()
    ]
    return arena.told(arena.Run("Auto", seed, curve))


def main() -> None:
    """Every row: Auto, then Adam, and a report of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", default=["a3", "a4"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rate", type=float, default=3e-3, help="Adam's in the first phase")
    parser.add_argument("--data", default=str(arena.MNIST))
    args = parser.parse_args()
    problems = rows(args.data)
    for name in args.rows:
        row = problems[name]
        runs = [auto(row, seed, args.seconds, args.rate) for seed in args.seeds]
        limits = args.data, "--seconds", args.seconds
        sweep, _ = arena.adam(row.task, args.seeds, arena.last_error, *limits)
        verdicts: dict[str, Any] = {}
        for level in row.levels:
            best, ours = arena.fastest(sweep, level), arena.fastest(runs, level)
            ratio = f" = {ours / best:.2f}" if math.isfinite(best) and math.isfinite(ours) else ""
            told = f"{arena.in_words(ours)} / {arena.in_words(best)}{ratio}"
            verdicts[f"seconds to {level:g}, Auto / fastest of Adam's sweep (bar 1.10)"] = told
        title = f"{name.upper()} with Auto (Adam {args.rate:g}, then HessianFree) and with Adam"
        table = [arena.summary(run, row.levels[-1]) for run in (*runs, *sweep)]
        arena.report(f"{name}-auto", title, table, verdicts, curves=arena.as_json([*runs, *sweep]))


if __name__ == "__main__":
    main()
