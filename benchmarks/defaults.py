"""The default of `hf.fit`: HessianFree() against Auto() on small and middling problems, both with their own defaults.

Seconds from a cold start, compilation included, to a training loss that all reach, and the lowest test loss within the
time. Data of scikit-learn, which must be installed, and a part of MNIST, left out without its file.

Run: python benchmarks/defaults.py [--problems sine digits ...] [--seeds 0 1 2] [--seconds 10]
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import hessianfree as hf
from minibatches import Data, data

import arena

OPTIMIZERS: dict[str, Callable[[], Any]] = {"HessianFree()": hf.opt.HessianFree, "Auto()": hf.opt.Auto}


class Problem(NamedTuple):
    """Data, widths of the hidden layers, and the size of minibatches, None for all the data."""

    data: Callable[[], Data]
    hidden: tuple[int, ...]
    minibatch: int | None


def waves() -> Data:
    """A smooth function of one variable."""
    x = np.random.RandomState(0).uniform(-1, 1, (500, 1)).astype(np.float32)
    t = (np.sin(6 * x) + 0.5 * np.cos(11 * x)).astype(np.float32)
    return Data(x[:400], t[:400], x[400:], t[400:], False)


PROBLEMS: dict[str, Problem] = {
    "waves": Problem(waves, (20, 20), None),
    "diabetes": Problem(lambda: data("diabetes"), (20,), None),
    "iris": Problem(lambda: data("iris"), (10,), None),
    "wine": Problem(lambda: data("wine"), (20,), None),
    "breast_cancer": Problem(lambda: data("breast_cancer"), (20,), None),
    "digits": Problem(lambda: data("digits"), (100, 50), None),
    "digits, minibatches": Problem(lambda: data("digits"), (100, 50), 200),
    "mnist, minibatches": Problem(lambda: data("mnist"), (200, 100), 500),
}


def start(widths: tuple[int, ...], seed: int) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Weights by the rule of Glorot and Bengio, and biases of zero."""
    rng, pairs = np.random.RandomState(seed), itertools.pairwise(widths)
    return [
        (rng.normal(0, math.sqrt(2 / (m + n)), (m, n)).astype(np.float32), np.zeros(n, np.float32)) for m, n in pairs
    ]


def model(params: Any, x: Any) -> Any:
    """A network of tanh units with linear outputs."""
    for W, b in params[:-1]:
        x = jnp.tanh(x @ W + b)
    W, b = params[-1]
    return x @ W + b


class Losses:
    """The training loss after each epoch."""

    def __init__(self, objective: hf.Objective, given: tuple[Any, Any]) -> None:
        self.objective, self.given = objective, given
        self.found: list[float] = []

    def on_start(self, run: Any) -> None:
        """Remember the run."""
        self.run = run

    def on_epoch(self, epoch: Any) -> None:
        """Take the loss."""
        self.found.append(float(self.objective.value(self.run.params, self.given)))


def train(problem: Problem, optimizer: Any, seed: int, seconds: float) -> arena.Curve:
    """One run from a cold start."""
    given = problem.data()
    widths = (given.x.shape[1], *problem.hidden, given.t.shape[1])
    objective = hf.Objective(model, "softmax_cross_entropy" if given.classes else "squared_error")
    losses = Losses(objective, (given.x, given.t))
    arena.cold()
    result = hf.fit(
        objective,
        start(widths, seed),
        (given.x, given.t),
        optimizer,
        max_epochs=1_000_000,
        minibatch_size=problem.minibatch,
        test=(given.test_x, given.test_t),
        target_err=-math.inf,
        early_stopping=False,
        max_seconds=seconds,
        callbacks=[losses],
        print_period=None,
    )
    jax.clear_caches()
    return [
        {
            "seconds": epoch.seconds,
            "updates": float(epoch.number + 1),
            "training loss": loss,
            "test error": epoch.test_error,
        }
        for epoch, loss in zip(result.epochs, losses.found, strict=False)
    ]


def seconds_to(curve: arena.Curve, key: str, level: float) -> float:
    """Seconds to the first point at this level."""
    return next((point["seconds"] for point in curve if point[key] <= level), math.inf)


def lowest(curve: arena.Curve, key: str) -> float:
    """The least of the curve."""
    return min(point[key] for point in curve)


def compare(name: str, seeds: list[int], seconds: float) -> list[dict[str, Any]]:
    """A row for each optimizer: medians over seeds."""
    runs = {
        label: [train(PROBLEMS[name], make(), seed, seconds) for seed in seeds] for label, make in OPTIMIZERS.items()
    }
    rows: list[dict[str, Any]] = [{"problem": name, "optimizer": label} for label in runs]
    for key in ("training loss", "test error"):
        level = 1.1 * max(lowest(curve, key) for curves in runs.values() for curve in curves)
        for row, curves in zip(rows, runs.values(), strict=True):
            row[f"lowest {key}"] = arena.median(lowest(curve, key) for curve in curves)
            row[f"seconds to {key} that all reach"] = arena.median(seconds_to(curve, key, level) for curve in curves)
    return rows


def main() -> None:
    """Run the chosen problems, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=10, help="for each run")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in options.problems:
        if name.startswith("mnist") and not arena.MNIST.exists():
            print(f"{name} is left out: there is no file {arena.MNIST}")
            continue
        rows += compare(name, options.seeds, options.seconds)
        print(rows[-2], rows[-1], sep="\n", flush=True)
    verdicts = {}
    pairs = list(zip(rows[::2], rows[1::2], strict=True))
    for key in list(rows[0])[2:]:
        ahead = sum(plain[key] <= auto[key] for plain, auto in pairs)
        verdicts[f"{key}: HessianFree() is ahead or level"] = f"{ahead} of {len(pairs)}"
    title = f"defaults of fit, medians of {len(options.seeds)} seeds, {options.seconds:g} s each"
    arena.report("defaults", title, rows, verdicts)


if __name__ == "__main__":
    main()
