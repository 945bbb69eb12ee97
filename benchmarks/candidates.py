"""Every candidate for damping, step and preconditioner, one change at a time: errors after as many updates.

Deep networks: the autoencoder of row A3 and the classifier of row A4, one seed, a process for each candidate. Small
ones: xor, integrator and plant, medians over several seeds.

Run: python benchmarks/candidates.py [deep] [small] [--rows A3 A4]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

import a3_autoencoder
import hessianfree as hf
from hessianfree.demos.integrator import signals
from hessianfree.demos.mnist import MINIBATCH, OPTIMIZER, classifier
from hessianfree.demos.plant import NumpyBody, network
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.kfac import KFAC
from hessianfree.engine.nystrom import Nystrom

import arena

CLASSIC = LevenbergMarquardt()
FOLLOWING = LevenbergMarquardt(raise_by=5 / 3, lower_by=1 / 2, low=0.8, high=1.0)

#: Updates after which the deep networks are compared.
UPDATES = {"A3": 60, "A4": 16}
#: What each candidate changes of the settings of rows A3 and A4.
DEEP: dict[str, dict[str, Any]] = {
    "as in A3 and A4": {},
    "damping 3/2 and 2/3 (classic), no lower bound": {"damping_rule": CLASSIC},
    "damping 5/3 and 1/2, no lower bound": {"damping_rule": LevenbergMarquardt(raise_by=5 / 3, lower_by=1 / 2)},
    "damping keeps the ratio between 0.8 and 1, no lower bound": {"damping_rule": FOLLOWING},
    "decayed warm start": {"warm_start": "decayed"},
    "no warm start": {"warm_start_decay": 0.0},
    "CG stays orthogonal to its residuals": {"cg_memory": 20},
    "no averaging": {"averaging": 0.0},
    "no preconditioner": {"preconditioner": None},
    "diagonal": {"preconditioner": "diagonal"},
    "Nystrom": {"preconditioner": Nystrom(rank=10, every=4)},
    "K-FAC measured at every update": {"preconditioner": KFAC(decay=0.95)},
    "K-FAC alone: one CG iteration": {"CG_iter": 1},
    "20 CG iterations": {"CG_iter": 20},
    "curvature on the whole minibatch": {"curvature_batch": None},
}
#: What each candidate changes of HessianFree's own defaults.
SMALL: dict[str, dict[str, Any]] = {
    "classic: 3/2 and 2/3": {"damping_rule": CLASSIC},
    "3/2 and 1/2": {"damping_rule": LevenbergMarquardt(lower_by=1 / 2)},
    "5/3 and 1/2, ratio between 0.8 and 1": {"damping_rule": FOLLOWING},
    "2 and 0.4": {"damping_rule": LevenbergMarquardt(raise_by=2, lower_by=0.4)},
    "classic, conjugate warm start": {"damping_rule": CLASSIC, "warm_start": "conjugate"},
    "classic, no warm start": {"damping_rule": CLASSIC, "warm_start_decay": 0.0},
    "classic, CG without memory": {"damping_rule": CLASSIC, "cg_memory": 0},
    "classic, CG tolerance 5e-6": {"damping_rule": CLASSIC, "cg_tolerance": 5e-6},
    "classic, diagonal": {"damping_rule": CLASSIC, "preconditioner": "diagonal"},
    "classic, K-FAC": {"damping_rule": CLASSIC, "preconditioner": "kfac"},
}


def deep(row: str, name: str, updates: int) -> dict[str, Any]:
    """Test error after these updates, the lower one of the last weights' and their average's, and the time it took."""
    data = np.load(arena.MNIST)
    x, test = (data[key].reshape(-1, 784).astype(np.float32) / 255 for key in ("x_train", "x_test"))
    if row == "A3":
        x = x[: a3_autoencoder.IMAGES]
        t, settings, size = x, a3_autoencoder.OURS, a3_autoencoder.RUN["minibatch_size"]
        net = a3_autoencoder.autoencoder(a3_autoencoder.SHAPE, rng=0)

        def evaluate(W: Any) -> float:
            return float(((net.forward(test, W)[-1] - test) ** 2).sum(axis=1).mean())

    else:
        t, settings, size = np.eye(10, dtype=np.float32)[data["y_train"]], OPTIMIZER, MINIBATCH
        net = classifier(x.shape[1])

        def evaluate(W: Any) -> float:
            return float((net.forward(test, W)[-1].argmax(axis=1) != data["y_test"]).mean())

    optimizer = a3_autoencoder.Limited(updates=updates, **{**settings, **DEEP[name]})
    # The training loss of a hundred examples stands in for a test error that nobody looks at.
    few = x[:100], t[:100]
    quiet: dict[str, Any] = {"target_err": -np.inf, "print_period": None}
    net.run_epochs(x, t, optimizer, minibatch_size=size, max_epochs=10_000, test=few, restore_best=False, **quiet)
    ends = [net.W] if optimizer.average_W is None else [net.W, optimizer.average_W]
    return {"error": min(map(evaluate, ends)), "seconds": sum(end - began for began, end in optimizer.spans)}


def small(name: str) -> dict[str, float]:
    """Median error of xor (CG_iter=2, 40 epochs), integrator and plant over eight seeds."""
    arguments = SMALL[name]
    x, t = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32), np.array([[0], [1], [1], [0]], np.float32)
    found: dict[str, list[float]] = {"xor": [], "integrator": [], "plant": []}
    for seed in range(8):
        net = hf.FFNet([2, 5, 1], rng=seed)
        result = net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=2, **arguments), max_epochs=40, print_period=None)
        found["xor"].append(min(result.test_errors))
        recurrent = hf.RNNet([1, 10, 1], rng=seed)
        optimizer = hf.opt.HessianFree(CG_iter=100, **arguments)
        result = recurrent.run_epochs(*signals(15, 10), optimizer, max_epochs=30, print_period=None)
        found["integrator"].append(min(result.test_errors))
        body = NumpyBody(np.random.RandomState(100 + seed).uniform(-0.5, 0.5, (32, 2)))
        steering = network(body, np.random.RandomState(seed))
        optimizer = hf.opt.HessianFree(CG_iter=20, init_damping=10, **arguments)
        result = steering.run_epochs(body, None, optimizer, max_epochs=150, print_period=None)
        found["plant"].append(min(result.test_errors))
    return {task: arena.median(errors) for task, errors in found.items()}


def in_process(*arguments: str) -> dict[str, Any]:
    """Run one candidate in a process of its own and return what it reports."""
    command = [sys.executable, str(Path(__file__)), *arguments]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(answer.splitlines()[-1])
    print(*arguments, result, file=sys.stderr)
    return result


def main() -> None:
    """Run every candidate and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", default=["deep", "small"])
    parser.add_argument("--rows", nargs="+", default=["A3", "A4"])
    parser.add_argument("--one", nargs=2, metavar=("ROW", "NAME"))
    args = parser.parse_args()
    if args.one:
        row, name = args.one
        print(json.dumps(small(name) if row == "small" else deep(row, name, UPDATES[row])))
        return
    if "deep" in args.tables:
        rows = []
        for name in DEEP:
            found = {row: in_process("--one", row, name) for row in args.rows}
            rows.append(
                {
                    "candidate": name,
                    **{f"{row}, {key}": value for row, result in found.items() for key, value in result.items()},
                }
            )
        counts = " and ".join(f"{UPDATES[row]} updates ({row})" for row in args.rows)
        title = f"test error and seconds after {counts}, compilation included"
        arena.report("candidates-deep", title, rows, {})
    if "small" in args.tables:
        rows = [{"candidate": name, **in_process("--one", "small", name)} for name in SMALL]
        arena.report("candidates-small", "errors of the small demos, medians over eight seeds", rows, {})


if __name__ == "__main__":
    main()
