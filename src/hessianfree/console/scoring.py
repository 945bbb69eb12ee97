"""How good a model is on examples: loss, accuracy and confusion of classes, errors of numbers in their own unit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.console.examples import FileExamples
from hessianfree.console.preparation import Preparation
from hessianfree.networks.ffnet import FFNet

#: Classes that a confusion table has at most.
MOST_CLASSES = 30


def measures(net: FFNet, preparation: Preparation, examples: FileExamples) -> dict[str, float]:
    """Loss and score of a model, and for numbers the errors in their own unit.

    Returns:
        "loss"; for classes "accuracy", for numbers "R2", and "RMSE" and "MAE", with the name of the target where there
        are several.
    """
    x, y = preparation.x(examples), preparation.y(examples)
    found = {"loss": net.error(net.W, x, y)}
    if preparation.layout.task == "classes":
        return found | {"accuracy": net.score(x, y)}
    found["R2"] = net.score(x, y)
    difference = preparation.numbers(np.asarray(net.predict(x), np.float64)) - np.asarray(examples.y)
    errors = difference.reshape(-1, difference.shape[-1])
    names = preparation.layout.targets if len(preparation.layout.targets) == errors.shape[1] else ()
    for place, column in enumerate(errors.T):
        of = f" of {names[place] if names else f'output {place}'}" if errors.shape[1] > 1 else ""
        found[f"RMSE{of}"] = float(np.sqrt(np.nanmean(column**2)))
        found[f"MAE{of}"] = float(np.nanmean(np.abs(column)))
    return found


def confusion(net: FFNet, preparation: Preparation, examples: FileExamples) -> tuple[list[str], NDArray[np.int64]]:
    """How often each class was taken for each.

    Returns:
        The classes, and counts (K, K): of the rows' class, how many were predicted as the columns'. Both are empty
        where the model predicts numbers.
    """
    if preparation.layout.task != "classes" or net.classes is None:
        return [], np.zeros((0, 0), np.int64)
    classes = net.classes
    predicted: NDArray[Any] = np.ravel(net.predict(preparation.x(examples)))
    places = [np.searchsorted(classes, values) for values in (np.ravel(np.asarray(examples.y)), predicted)]
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, tuple(places), 1)
    return [str(label) for label in classes], counts


def confusion_rows(classes: list[str], counts: NDArray[np.int64]) -> tuple[list[str], list[list[Any]]]:
    """Header and rows of the table of `confusion`; empty for none, or for too many classes to be read."""
    if not classes or len(classes) > MOST_CLASSES:
        return [], []
    recall = counts.diagonal() / np.maximum(counts.sum(axis=1), 1)
    rows = [[name, *row.tolist(), f"{share:.0%}"] for name, row, share in zip(classes, counts, recall, strict=True)]
    return ["is \\ predicted", *classes, "right"], rows
