"""Row A3: seconds of a deep autoencoder to a squared error of 5.0 per test image, against Adam and kfac-jax.

Run: python benchmarks/a3_autoencoder.py [--seeds 0 1 2] [--seconds 120] [--only ours adam kfac-jax] [--data mnist.npz]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hessianfree as hf
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.kfac import KFAC
from hessianfree.networks.learner import UnusableUpdate

import arena

SHAPE, IMAGES = [784, 400, 200, 100, 30, 100, 200, 400, 784], 20_000
#: Ours: arguments of FFNet, of HessianFree, and of run_epochs.
MODEL: dict[str, Any] = {}
OURS: dict[str, Any] = {
    "CG_iter": 5,
    "init_damping": 5.0,
    "preconditioner": KFAC(every=5, decay=0.8),
    "curvature_batch": 1000,
    "warm_start": "conjugate",
    "averaging": 0.92,
    "damping_rule": LevenbergMarquardt(raise_by=5 / 3, lower_by=1 / 2, minimum=0.018),
}
RUN: dict[str, Any] = {"minibatch_size": 2_000}
#: The goal, and where our runs stop.
GOAL, STOP = 5.0, 4.9
#: Updates from one evaluation to the next; they are made after the run.
WATCHED = 5
#: Test errors to which Adam's seconds are compared with ours.
LEVELS = (20, 15, 12, 10, 8, 6)
COMPETITORS = ("ours", "adam", "kfac-jax")

Images = NDArray[np.float32]


class Limits:
    """Updates up to a limit; from then on none is usable, at which `run_epochs` ends. The optimizer is the next base.

    Args:
        seconds: counted from here.
        updates: how many.
        arguments: of the optimizer.
    """

    net: Any
    watched = WATCHED  # updates from one evaluation to the next
    average_W: Any  # noqa: N815  # as optimizers call it

    def __init__(self, seconds: float = math.inf, updates: float = math.inf, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.start = time.perf_counter()
        self.end, self.updates = self.start + seconds, updates
        self.spans: list[tuple[float, float]] = []  # when each update began and ended
        self.averages: dict[int, NDArray[Any]] = {}  # weights to evaluate, by number of updates

    def compute_update(self, printing: bool = False) -> NDArray[Any]:
        """An update, or beyond the limit an unusable one, of zeros."""
        began = time.perf_counter()
        if began >= self.end or len(self.spans) >= self.updates:
            self.record: Any = UnusableUpdate(reason="the limit is reached")
            return np.zeros_like(self.net.W)
        update: NDArray[Any] = super().compute_update(printing)  # type: ignore[misc]
        self.spans.append((began, time.perf_counter()))
        if len(self.spans) % self.watched == 0:
            average = self.average_W
            self.averages[len(self.spans)] = self.net.W + update if average is None else average
        return update

    def seconds(self, epochs: Iterable[Any]) -> list[float]:
        """Seconds from the start to the end of each update, what passed between epochs left out.

        The peers' clocks stop for evaluations too.
        """
        last = np.cumsum([len(epoch.updates) for epoch in epochs])
        found, evaluating = [], 0.0
        for number, (began, ended) in enumerate(self.spans):
            if number in last:
                evaluating += began - self.spans[number - 1][1]
            found.append(ended - self.start - evaluating)
        return found


class Limited(Limits, hf.opt.HessianFree):
    """Hessian-free updates up to a limit."""


def images(path: str) -> tuple[Images, Images]:
    """All training and all test images, (N, 784), from 0 to 1."""
    with np.load(path) as data:
        train, test = (data[key].reshape(-1, 784).astype(np.float32) / 255 for key in ("x_train", "x_test"))
    return train, test


def autoencoder(shape: Sequence[int], **arguments: Any) -> hf.FFNet:
    """Logistic layers around a linear code in the middle, cross-entropy summed over pixels."""
    layers = [hf.nl.Linear(), *[hf.nl.Logistic() for _ in shape[1:]]]
    layers[len(shape) // 2] = hf.nl.Linear()
    return hf.FFNet(list(shape), layers=layers, loss_type=hf.loss_funcs.BinaryCrossEntropy(), **arguments)


def train(
    net: hf.FFNet,
    x: Images,
    test: Images | None,
    seconds: float,
    stop: float,
    optimizer: Mapping[str, Any],
    run: Mapping[str, Any],
) -> arena.Curve:
    """One run from a cold start.

    Args:
        net: the network.
        x: training images.
        test: images that the error is measured on, those trained on if None.
        seconds: after which no update begins.
        stop: squared error below which the run ends.
        optimizer: arguments of HessianFree.
        run: further arguments of run_epochs.

    Returns:
        The curve, its errors sums over pixels of (o - t)^2, mean over images.
    """
    arena.cold()
    half = hf.loss_funcs.SquaredError()  # 1/2 sum (o - t)^2: what it prints is half of what is reported
    limits: dict[str, Any] = {"test_err": half, "target_err": stop / 2, "max_epochs": 100_000, "print_period": 1}
    measured_on = x if test is None else test
    with redirect_stdout(sys.stderr):
        timed = Limited(seconds, **optimizer)
        result = net.run_epochs(x, x, timed, test=None if test is None else (test, test), **limits, **run)
    when = timed.seconds(result.epochs)
    curve: arena.Curve = []
    for updates, weights in timed.averages.items():
        error = 2 * half.batch_loss(net.forward(measured_on, params=weights), measured_on)
        curve.append({"seconds": when[updates - 1], "updates": updates, "test error": float(error)})
    return curve


def measure(options: argparse.Namespace) -> tuple[list[arena.Run], str | None, float]:
    """Every competitor in turn: all runs, the name of Adam's best setting, and our peak memory in GB."""
    runs: list[arena.Run] = []
    best = None
    train_x, test_x = images(options.data)
    if "ours" in options.only:
        for seed in options.seeds:
            net = autoencoder(SHAPE, rng=seed, **MODEL)
            curve = train(net, train_x[: options.images], test_x, options.seconds, STOP, OURS, RUN)
            runs.append(arena.told(arena.Run("ours", seed, curve)))
    memory = arena.peak_memory_gb()
    limits = "--seconds", options.seconds, "--images", options.images, "--init", options.init
    if "adam" in options.only:
        sweep, best = arena.adam("autoencoder", options.seeds, arena.last_error, options.data, *limits)
        runs += sweep
    if "kfac-jax" in options.only:
        for seed in options.seeds if options.kfac_seeds is None else options.kfac_seeds:
            arguments = "kfac_autoencoder.py", options.data, "--seed", seed, *limits
            runs.append(arena.told(arena.Run("kfac-jax", seed, arena.peer_curve("kfac-jax", *arguments))))
    return runs, best, memory


def by_name(runs: Sequence[arena.Run], start: str) -> list[arena.Run]:
    """The runs of the competitors whose name starts like this."""
    return [run for run in runs if run.competitor.startswith(start)]


def compared(theirs: float, ours: float) -> str:
    """Two times and their ratio."""
    ratio = f" = {theirs / ours:.2f}" if math.isfinite(theirs) and math.isfinite(ours) else ""
    return f"{arena.in_words(theirs)} / {arena.in_words(ours)}{ratio}"


def verdicts(runs: Sequence[arena.Run], best: str | None, seconds: float, init: str) -> dict[str, Any]:
    """What the runs say about the row's goals, for those competitors that were run."""
    ours, adam, kfac = (by_name(runs, start) for start in ("ours", "Adam", "kfac-jax"))
    found: dict[str, Any] = {}
    if ours:
        found[f"ours, median seconds to {GOAL:g} (bar 60, aim 40)"] = arena.in_words(arena.fastest(ours, GOAL))
    if best is not None:
        error = arena.median(arena.last_error(run.curve) for run in by_name(runs, best))
        found[f"Adam's best setting after {seconds:g} s, from {init} weights"] = best
        found[f"its test error then, median (train {_train_error(by_name(runs, best)):.3g})"] = round(error, 2)
        found[f"Adam, median seconds to {GOAL:g}"] = arena.in_words(arena.fastest(adam, GOAL))
        reached = arena.fastest(ours, error)
        found["ours, median seconds to that error"] = arena.in_words(reached)
        found[f"{seconds:g} s / ours (bar 2, aim 3)"] = compared(seconds, reached)
        for level in (*LEVELS, error):
            times = arena.fastest(adam, level), arena.fastest(ours, level)
            if any(map(math.isfinite, times)):
                found[f"seconds to {level:.4g}, fastest of Adam's sweep / ours"] = compared(*times)
    if kfac:
        error = arena.median(arena.last_error(run.curve) for run in kfac)
        found[f"kfac-jax after {seconds:g} s, median test error (train {_train_error(kfac):.3g})"] = round(error, 2)
        found[f"kfac-jax, median seconds to {GOAL:g}"] = arena.in_words(arena.fastest(kfac, GOAL))
        found["ours, median seconds to kfac-jax's error"] = arena.in_words(arena.fastest(ours, error))
    return found


def _train_error(runs: Sequence[arena.Run]) -> float:
    return arena.median(run.curve[-1]["train error"] for run in runs)


def main() -> None:
    """Run the chosen competitors and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kfac-seeds", type=int, nargs="+", help="those of kfac-jax, the same by default")
    parser.add_argument("--seconds", type=float, default=120, help="for each run")
    parser.add_argument("--only", nargs="+", choices=COMPETITORS, default=COMPETITORS)
    parser.add_argument("--init", choices=("sparse", "glorot"), default="sparse", help="initial weights of the peers")
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--data", default=str(arena.MNIST))
    options = parser.parse_args()
    runs, best, memory = measure(options)
    found = verdicts(runs, best, options.seconds, options.init)
    if "ours" in options.only:
        found["peak memory of our runs, GB (bar 3)"] = round(memory, 2)
    title = f"autoencoder {'-'.join(map(str, SHAPE))}, {options.images} images: squared error per test image"
    row = "A3" if options.images == IMAGES else "A3-reduced"
    arena.draw(row, title, runs, GOAL)
    rows = [arena.summary(run, GOAL) for run in runs]
    arena.report(row, title, rows, found, curves=arena.as_json(runs))


if __name__ == "__main__":
    main()
