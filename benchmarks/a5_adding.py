"""Row A5: the adding problem with the demo's network and settings, until the test error is reached.

Run: python benchmarks/a5_adding.py [--steps 50] [--target 1e-4] [--seeds 0 1 2] [--epochs 10]
     python benchmarks/a5_adding.py --steps 200 --target 2e-5 --seeds 0 --epochs 25
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import hessianfree as hf
from hessianfree import tasks
from hessianfree.demos.adding import MINIBATCH, OPTIMIZER, SEQUENCES, TRAINED_ON, network

import arena

TASK = tasks.ALL["addition"]


def train(seed: int, steps: int, target: float, epochs: int) -> dict[str, Any]:
    """One run from a cold start, compilation included: data from the seed, initial weights those of the demo."""
    arena.cold()
    inputs, targets = TASK.generate(SEQUENCES, steps, np.random.RandomState(seed))
    test = inputs[TRAINED_ON:], targets[TRAINED_ON:]
    start = time.perf_counter()
    optimizer = hf.opt.HessianFree(**OPTIMIZER)
    net = network(optimizer)
    result = net.run_epochs(
        inputs[:TRAINED_ON],
        targets[:TRAINED_ON],
        optimizer,
        max_epochs=epochs,
        minibatch_size=MINIBATCH,
        test=test,
        test_err=hf.loss_funcs.SquaredError(),
        target_err=target,
        print_period=1,
    )
    seconds = time.perf_counter() - start
    wrong = int(TASK.wrong(net.forward(test[0])[-1], test[1]).sum())
    return {
        "seed": seed,
        "seconds": seconds,
        "epochs": len(result.epochs),
        "test error": result.test_errors[-1],
        "test sequences off by more than 0.04": wrong,
        "path": [(epoch.seconds, epoch.test_error) for epoch in result.epochs],
    }


def main() -> None:
    """Run every seed and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--target", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    runs = [train(seed, options.steps, options.target, options.epochs) for seed in options.seeds]
    paths = [run.pop("path") for run in runs]
    reached = [run["seconds"] for run in runs if run["test error"] < options.target]
    verdicts: dict[str, Any] = {f"runs that reached {options.target:g}": f"{len(reached)} of {len(runs)}"}
    if len(reached) == len(runs):
        verdicts["seconds, median (bar 15 for 50 steps, 300 for 200)"] = round(arena.median(reached), 1)
    verdicts["peak memory, GB"] = round(arena.peak_memory_gb(), 2)
    arena.report(
        f"A5-{options.steps}", f"adding problem, {options.steps} timesteps, 2-32-64-1", runs, verdicts, paths=paths
    )


if __name__ == "__main__":
    main()
