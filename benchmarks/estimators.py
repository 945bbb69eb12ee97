"""HFClassifier and HFRegressor beside scikit-learn's MLPClassifier and MLPRegressor, all with their defaults.

Data are bundled with scikit-learn or made by it; a quarter of them, drawn anew with each seed, is for the test. The
peers see the inputs as they are, and standardised, in a pipeline with StandardScaler; the stronger of both on a data
set, by its mean score, is the one to beat. A score is the accuracy, or R^2.

Seconds are those of a call of `fit`, without compiled programs from before, on the disk or in memory. Seconds to a
score are those until the test data first reach the stronger peer's score of that seed: ours inside of `fit`, the peer's
by one call of `partial_fit` for each epoch. Scores on the way are taken outside of the time.

Run: python benchmarks/estimators.py [--data iris wine ...] [--seeds 0 1 2]
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn import datasets
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hessianfree.sklearn import HFClassifier, HFRegressor
from hessianfree.sklearn.monitor import Monitor

import arena

Floats = NDArray[Any]

#: Scores that differ by no more than this count as level.
LEVEL = 0.01
RAW, STANDARDISED = "MLP", "MLP, standardised"


def _made(function: str, *arguments: Any, **options: Any) -> Callable[[], tuple[Floats, Floats]]:
    return lambda: getattr(datasets, function)(*arguments, random_state=0, **options)


def _bundled(name: str) -> Callable[[], tuple[Floats, Floats]]:
    return lambda: getattr(datasets, f"load_{name}")(return_X_y=True)


CLASSES: dict[str, Callable[[], tuple[Floats, Floats]]] = {
    "iris": _bundled("iris"),
    "wine": _bundled("wine"),
    "breast cancer": _bundled("breast_cancer"),
    "digits": _bundled("digits"),
    "moons": _made("make_moons", 1000, noise=0.25),
    "circles": _made("make_circles", 1000, noise=0.1, factor=0.6),
    "classification": _made(
        "make_classification", 2000, 20, n_informative=8, n_redundant=4, n_classes=4, n_clusters_per_class=2
    ),
    "quantiles": _made("make_gaussian_quantiles", n_samples=1500, n_features=6, n_classes=3),
    "classification, large": _made(
        "make_classification", 20000, 50, n_informative=15, n_redundant=10, n_classes=5, n_clusters_per_class=3
    ),
}
NUMBERS: dict[str, Callable[[], tuple[Floats, Floats]]] = {
    "diabetes": _bundled("diabetes"),
    "linnerud": _bundled("linnerud"),
    "friedman1": _made("make_friedman1", 1000, noise=1.0),
    "friedman2": _made("make_friedman2", 1000, noise=100.0),
    "friedman3": _made("make_friedman3", 1000, noise=0.1),
    "regression": _made("make_regression", 1000, 30, n_informative=10, noise=10.0),
    "swiss roll": _made("make_swiss_roll", 1500, noise=0.3),
    "friedman1, large": _made("make_friedman1", 20000, noise=1.0),
}


class Split(NamedTuple):
    """Training and test data of a seed."""

    x: Floats
    test_x: Floats
    y: Floats
    test_y: Floats


class Curve(NamedTuple):
    """The test score, and the seconds so far, after each iteration; and the whole fit."""

    seconds: list[float]
    scores: list[float]
    whole: float
    score: float

    def seconds_to(self, score: float) -> float:
        """Seconds to the first iteration with this score, infinite without one."""
        return next((s for s, found in zip(self.seconds, self.scores, strict=True) if found >= score), math.inf)


def split(name: str, seed: int) -> Split:
    """Data with this seed's choice for the test; classes keep their proportions."""
    x, y = (CLASSES | NUMBERS)[name]()
    return Split(*train_test_split(x, y, test_size=0.25, random_state=seed, stratify=y if name in CLASSES else None))


def ours(name: str, data: Split, seed: int) -> Curve:
    """A fit of ours, from cold; scores are taken afterwards, from the weights on the way."""
    model = (HFClassifier if name in CLASSES else HFRegressor)(random_state=seed)
    noted: list[tuple[float, Floats]] = []
    note = Monitor.note

    def noting(monitor: Monitor, loss: float, weights: Floats) -> bool:
        noted.append((time.perf_counter() - began, np.array(weights, float)))
        return note(monitor, loss, weights)

    arena.cold()
    with mock.patch.object(Monitor, "note", noting):
        began = time.perf_counter()
        model.fit(data.x, data.y)
        whole = time.perf_counter() - began
    kept, scores = model.weights_, []
    for _, weights in noted:
        model.weights_ = weights
        scores.append(model.score(data.test_x, data.test_y))
    model.weights_ = kept
    return Curve([seconds for seconds, _ in noted], scores, whole, model.score(data.test_x, data.test_y))


def peer(name: str, seed: Any) -> Any:
    """A perceptron of scikit-learn."""
    return (MLPClassifier if name in CLASSES else MLPRegressor)(random_state=seed)


def peer_fit(name: str, data: Split, seed: int, standardised: bool) -> tuple[float, float, int]:
    """Seconds, test score and epochs of a peer's fit."""
    network = peer(name, seed)
    model = make_pipeline(StandardScaler(), network) if standardised else network
    seconds = arena.seconds(lambda: model.fit(data.x, data.y) and None)
    return seconds, model.score(data.test_x, data.test_y), network.n_iter_


def peer_curve(name: str, data: Split, seed: int, standardised: bool, epochs: int) -> Curve:
    """The same peer by one call of partial_fit for each epoch."""
    began = time.perf_counter()
    scaler = StandardScaler().fit(data.x) if standardised else None
    x, test_x = (data.x, data.test_x) if scaler is None else (scaler.transform(data.x), scaler.transform(data.test_x))
    seconds = time.perf_counter() - began
    # A RandomState goes on from epoch to epoch, as it does inside of fit.
    model = peer(name, np.random.RandomState(seed))
    options = {"classes": np.unique(data.y)} if name in CLASSES else {}
    curve = Curve([], [], math.nan, math.nan)
    for _ in range(epochs):
        seconds += arena.seconds(lambda: model.partial_fit(x, data.y, **options) and None)
        curve.seconds.append(seconds)
        curve.scores.append(model.score(test_x, data.test_y))
    return curve


def row(name: str, seeds: list[int]) -> dict[str, Any]:
    """All seeds of a data set: means of scores, medians of seconds."""
    splits = [split(name, seed) for seed in seeds]
    peers = {
        kind: [peer_fit(name, data, seed, kind == STANDARDISED) for data, seed in zip(splits, seeds, strict=True)]
        for kind in (RAW, STANDARDISED)
    }
    means = {kind: float(np.mean([score for _, score, _ in fits])) for kind, fits in peers.items()}
    stronger = max(means, key=lambda kind: means[kind])
    found: dict[str, list[float]] = {"ours": [], "peer": [], "score": [], "fit": []}
    for data, seed, (whole, score, epochs) in zip(splits, seeds, peers[stronger], strict=True):
        curve, own = peer_curve(name, data, seed, stronger == STANDARDISED, epochs), ours(name, data, seed)
        found["score"].append(own.score)
        found["fit"].append(own.whole)
        found["ours"].append(own.seconds_to(score))
        found["peer"].append(min(curve.seconds_to(score), whole))
    return {
        "data": name,
        "train": "{} x {}".format(*splits[0].x.shape),
        "ours": float(np.mean(found["score"])),
        **means,
        "stronger": stronger,
        "ours, s to fit": arena.median(found["fit"]),
        "stronger, s to fit": arena.median(seconds for seconds, _, _ in peers[stronger]),
        "ours, s to its score": in_words(arena.median(found["ours"])),
        "stronger, s to its score": arena.median(found["peer"]),
    }


def in_words(seconds: float) -> float | str:
    """Seconds, or that they never came."""
    return seconds if math.isfinite(seconds) else "not reached"


def verdicts(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows say together."""
    gains = [found["ours"] - max(found[RAW], found[STANDARDISED]) for found in rows]
    pairs = [(found["ours, s to its score"], found["stronger, s to its score"]) for found in rows]
    sooner = [isinstance(own, float) and own < other for own, other in pairs]
    fits = [found["stronger, s to fit"] / found["ours, s to fit"] for found in rows]
    ratios = [other / own for own, other in pairs if isinstance(own, float)]
    return {
        f"ahead of the stronger peer by more than {LEVEL}": f"{sum(gain > LEVEL for gain in gains)} of {len(rows)}",
        f"ahead of it, or level within {LEVEL} (bar 8 of 10)": f"{sum(g >= -LEVEL for g in gains)} of {len(rows)}",
        "sooner at its score (bar half)": f"{sum(sooner)} of {len(rows)}",
        "its seconds to its score / ours, median where ours gets there": round(arena.median(ratios), 2),
        "its seconds to fit / ours, median": round(arena.median(fits), 2),
        "scikit-learn": sklearn.__version__,
    }


def main() -> None:
    """Measure, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", choices=[*CLASSES, *NUMBERS], default=[*CLASSES, *NUMBERS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # peers say that they have not converged
    rows = []
    for name in args.data:
        rows.append(row(name, args.seeds))
        print(rows[-1], flush=True)
    title = "scikit-learn's perceptrons and ours, with their defaults, from cold; means of scores, medians of seconds"
    arena.report("estimators", title, rows, verdicts(rows))


if __name__ == "__main__":
    main()
