"""Default settings on minibatches, with the damping's hindsight and without: does training diverge?

Data of scikit-learn, which must be installed, and row A4's network on a part of MNIST, left out without its file.
Inputs are standardised, those of digits divided by 16. Losses are those of all training data after each epoch, medians
over seeds.

Run: python benchmarks/minibatches.py [--data digits iris ...] [--sizes 50 200] [--seeds 0 1 2] [--epochs 20]
"""

from __future__ import annotations

import argparse
import importlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import hessianfree as hf
from hessianfree.demos.mnist import classifier

import arena

Floats = NDArray[np.float32]

RULES = {
    "without hindsight": hf.opt.LevenbergMarquardt(hindsight=False),
    "with it (default)": hf.opt.LevenbergMarquardt(),
}
#: Layers between inputs and outputs, their nonlinearity, and sizes of minibatches.
PROBLEMS: dict[str, tuple[tuple[int, ...], str, tuple[int, ...]]] = {
    "digits": ((100, 50), "ReLU", (50, 200)),
    "iris": ((10,), "Tanh", (20, 60)),
    "wine": ((20,), "Tanh", (20, 60)),
    "breast_cancer": ((20,), "Tanh", (50, 150)),
    "diabetes": ((20,), "Tanh", (50, 150)),
    "mnist": ((), "", (500,)),
}
#: Of MNIST.
TRAINED_ON, TESTED_ON = 5_000, 2_000


class Data(NamedTuple):
    """Training and test data, and whether targets are classes, one-hot."""

    x: Floats
    t: Floats
    test_x: Floats
    test_t: Floats
    classes: bool


def data(name: str) -> Data:
    """A data set: all but a fifth of the examples, drawn with seed 0, are to train."""
    if name == "mnist":
        with np.load(arena.MNIST) as file:
            x = np.concatenate([file["x_train"][:TRAINED_ON], file["x_test"][:TESTED_ON]])
            labels = np.concatenate([file["y_train"][:TRAINED_ON], file["y_test"][:TESTED_ON]])
        return _split(x.reshape(len(x), -1) / 255, _one_hot(labels), np.arange(len(x)), TRAINED_ON, True)
    loaded = getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")()
    x, classes = np.asarray(loaded.data), name != "diabetes"
    x = x / 16 if name == "digits" else _standard(x)
    t = _one_hot(loaded.target) if classes else _standard(np.asarray(loaded.target, float)[:, None])
    return _split(x, t, np.random.RandomState(0).permutation(len(x)), len(x) * 4 // 5, classes)


def _standard(x: NDArray[Any]) -> NDArray[Any]:
    return (x - x.mean(axis=0)) / x.std(axis=0)


def _one_hot(labels: NDArray[Any]) -> NDArray[Any]:
    return np.eye(int(labels.max()) + 1)[labels]


def _split(x: NDArray[Any], t: NDArray[Any], order: NDArray[np.intp], count: int, classes: bool) -> Data:
    x, t = x[order].astype(np.float32), t[order].astype(np.float32)
    return Data(x[:count], t[:count], x[count:], t[count:], classes)


class Losses:
    """The loss of all training data after each epoch."""

    def __init__(self, net: hf.FFNet, data: Data) -> None:
        self.net, self.data = net, data
        self.values: list[float] = []

    def on_epoch(self, epoch: Any) -> None:
        """Add one."""
        self.values.append(float(self.net.error(self.net.W, self.data.x, self.data.t)))


def network(name: str, found: Data, seed: int) -> hf.FFNet:
    """The network for a data set."""
    hidden, nonlinearity, _ = PROBLEMS[name]
    inputs, outputs = found.x.shape[1], found.t.shape[1]
    if name == "mnist":
        return classifier(inputs, rng=seed)
    layers = ["Linear", *[nonlinearity] * len(hidden), "Softmax" if found.classes else "Linear"]
    loss = hf.loss_funcs.CrossEntropy() if found.classes else hf.loss_funcs.SquaredError()
    return hf.FFNet([inputs, *hidden, outputs], layers=layers, loss_type=loss, rng=seed)


def run(name: str, found: Data, rule: str, size: int, seed: int, epochs: int) -> dict[str, float]:
    """One run of the defaults."""
    net = network(name, found, seed)
    losses = Losses(net, found)
    measure = hf.loss_funcs.ClassificationError() if found.classes else hf.loss_funcs.SquaredError()
    result = net.run_epochs(
        found.x,
        found.t,
        hf.opt.HessianFree(damping_rule=RULES[rule], plotting=False),
        max_epochs=epochs,
        minibatch_size=size,
        test=(found.test_x, found.test_t),
        test_err=measure,
        print_period=None,
        early_stopping=False,
        callbacks=[losses],
    )
    errors = [epoch.test_error for epoch in result.epochs]
    return {
        "lowest training loss": min(losses.values),
        "last training loss": losses.values[-1],
        "worst after lowest": max(losses.values[int(np.argmin(losses.values)) :]),
        "lowest test error": min(errors),
        "last test error": errors[-1],
        "last damping": float(result.history["damping"][-1]),
    }


def main() -> None:
    """Run every data set, size and rule, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--sizes", type=int, nargs="+", help="of minibatches; by default two for each data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=20)
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    better = 0
    for name in args.data:
        if name == "mnist" and not arena.MNIST.exists():
            print(f"mnist is left out: there is no file {arena.MNIST}")
            continue
        found = data(name)
        for size in args.sizes or PROBLEMS[name][2]:
            last = []
            for rule in RULES:
                runs = [run(name, found, rule, size, seed, args.epochs) for seed in args.seeds]
                medians = {key: arena.median(one[key] for one in runs) for key in runs[0]}
                rows.append({"data": name, "minibatch": size, "rule": rule, **medians})
                print(rows[-1], flush=True)
                last.append(medians["last training loss"])
            better += last[1] < last[0]
    title = f"default settings on minibatches, {args.epochs} epochs, medians of {len(args.seeds)} seeds"
    arena.report(
        "minibatches", title, rows, {"last training loss lower with hindsight": f"{better} of {len(rows) // 2}"}
    )


if __name__ == "__main__":
    main()
