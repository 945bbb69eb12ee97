"""How `hf.fit` judges parameters: the error on test data or on all the data, and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from hessianfree.devices.fetching import to_host
from hessianfree.devices.placing import Placer
from hessianfree.engine import losses
from hessianfree.engine.objective import Batch, Loss
from hessianfree.engine.trees import PyTree
from hessianfree.io import stored
from hessianfree.objective import data as data_checks
from hessianfree.objective import parameters
from hessianfree.objective.diagnosis import outputs_of, why_not_finite
from hessianfree.objective.objective import Objective
from hessianfree.objective.pieces import in_pieces, outputs_in_pieces
from hessianfree.support.names import unknown_name
from hessianfree.training.batches import ONE
from hessianfree.training.judging import Evaluated, Judged, checked_metrics, read_only, value_of
from hessianfree.training.stored import PIECE, StoredArrays

#: (outputs, targets), pytrees of numpy arrays -> a number.
Metric: TypeAlias = Callable[[PyTree, PyTree], Any]


class Judge(NamedTuple):
    """How a run is judged: what its numbers are, and a function of parameters; None for the mean loss of updates."""

    judged: Judged
    evaluate: Callable[[PyTree], Evaluated] | None


def judge_of(
    objective: Objective,
    params: PyTree,
    whole: Batch | None,
    test: Any,
    test_err: Any,
    metrics: Any,
    size: int | None = None,
    placer: Placer = ONE,
    minibatch_size: int | None = None,
) -> Judge:
    """How a run is judged, from the arguments of `fit`, its data checked; metrics are tried once.

    Data are worked through in pieces of `size` examples, if it is given, and test data on a disk in pieces of
    `minibatch_size`.

    Raises:
        TypeError: if a metric is of the wrong kind.
        ValueError: if the data do not fit, or there are metrics and no data to compute them on.
    """
    if stored.any_stored(test):
        pieces = StoredArrays(test, minibatch_size or PIECE, objective, params, np.random.default_rng(0))
        return _judge_in_pieces(objective, params, pieces, test_err, metrics)
    batch = whole if test is None else parameters.as_batch(test, params)
    if batch is None:
        if checked_metrics(metrics):
            raise ValueError(
                "metrics are computed on test data, or on data in memory; pass test=(inputs, targets), as the batches "
                "of an iterable, and minibatches of stored arrays, are not kept."
            )
        return Judge(Judged("updates"), None)
    error = _error_on(objective, params, batch, placer.of(batch).batch, test is not None, test_err, size)
    computed = _metrics_on(objective, params, batch, placer, metrics, size)

    def evaluate(params: PyTree) -> Evaluated:
        return Evaluated(error(params), computed(params))

    if metrics:
        computed(params)  # raises if a metric cannot be computed
    counted = "accuracy" not in (metrics or {}) and _labelled(objective, params, batch)
    return Judge(Judged("test" if test is not None else "training", ("accuracy",) if counted else ()), evaluate)


def _evaluated_with(objective: Objective, test_err: Any) -> Objective:
    """The objective with the loss to evaluate with."""
    return objective if test_err is None else Objective(objective.model, test_err, stochastic=objective.stochastic)


def _error_on(
    objective: Objective,
    params: PyTree,
    batch: Batch,
    placed: Batch,
    tested: bool,
    test_err: Any,
    size: int | None,
) -> Callable[[PyTree], float]:
    """The error on a batch, which is checked, from its examples on the devices."""
    loss = _evaluated_with(objective, test_err)
    if tested:
        data_checks.check_some_known("test data", loss.loss, batch)

    def error(params: PyTree, new_data: bool = False) -> float:
        with parameters.computing(params):
            traced = loss.traced(params, batch, curved=False, new_data=new_data)
            # A test error may look at the whole batch.
            cut = traced if isinstance(traced.loss, losses.Mean) else in_pieces(traced, size, placed)
            return cut.value(params, placed)

    at_start = error(params, new_data=tested)  # raises if the data do not fit
    if tested and math.isnan(at_start) and isinstance(loss.loss, str):
        with parameters.computing(params):
            why = why_not_finite(loss.traced(params, batch, curved=False), params, batch)
        raise ValueError(f"The test error is {at_start} at the start; {why}.")
    return error


# ---- test data on a disk ---------------------------------------------------------------------------------------------


def _judge_in_pieces(objective: Objective, params: PyTree, test: StoredArrays, test_err: Any, metrics: Any) -> Judge:
    """How a run is judged on test data of which one piece after the other is read."""
    loss, first = _evaluated_with(objective, test_err), test.take(np.arange(test.size))
    labelled, given = _labelled(objective, params, first), checked_metrics(metrics)
    weights = test.whole.weights
    named = {name: _function(name, metric, objective, params, first, weights) for name, metric in given.items()}

    def evaluate(params: PyTree, new_data: bool = False) -> Evaluated:
        total, seen = 0.0, []
        with parameters.computing(params):
            for part in test.in_order(test.size):
                batch = test.made(part, len(part.weights))
                traced = loss.traced(params, batch, curved=False, new_data=new_data)
                if loss.reduction == "mean":
                    raise ValueError(_NOT_IN_PIECES)
                total += traced.value(params, batch) * float(np.sum(batch.weights, dtype=float))
                if labelled or named:
                    seen.append((outputs_of(traced.model, params, batch.inputs), batch.targets))
            # Without what fills up the last piece.
            outputs, targets = (
                jax.tree.map(lambda *leaves: read_only(np.concatenate(leaves)[: test.examples]), *to_host(seen))
                if seen
                else (None, None)
            )
        functions = ({"accuracy": partial(_accuracy, weights)} if labelled else {}) | named
        found = {name: value_of(name, function, outputs, targets) for name, function in functions.items()}
        return Evaluated(total / float(np.sum(weights, dtype=float)), found)

    at_start = evaluate(params, new_data=True)
    if math.isnan(at_start.error) and isinstance(loss.loss, str):
        raise ValueError(
            f"The test error is {at_start.error} at the start: look for NaN or infinity in the inputs of the test data."
        )
    counted = labelled and "accuracy" not in given
    return Judge(Judged("test", ("accuracy",) if counted else ()), evaluate)


_NOT_IN_PIECES = (
    "The loss returns one number for the batch, and test data on a disk are evaluated in pieces; make it return a "
    "value for each example, or read the test data into memory: np.asarray(array)."
)


# ---- metrics ---------------------------------------------------------------------------------------------------------


def _metrics_on(
    objective: Objective, params: PyTree, batch: Batch, placer: Placer, metrics: Any, size: int | None
) -> Callable[[PyTree], Mapping[str, float]]:
    """The metrics on a batch, after the accuracy where targets are labels."""
    labelled, given = _labelled(objective, params, batch), checked_metrics(metrics)
    functions: dict[str, Metric] = {"accuracy": partial(_accuracy, to_host(batch.weights))} if labelled else {}
    functions |= {
        name: _function(name, metric, objective, params, batch, to_host(batch.weights))
        for name, metric in given.items()
    }
    targets = _read_only(batch.targets) if functions else None

    def compute(params: PyTree) -> Mapping[str, float]:
        if not functions:
            return {}
        with parameters.computing(params):
            traced = objective.traced(params, batch, curved=False, new_data=False)
            found, placed = outputs_of if size is None else partial(outputs_in_pieces, size), placer.of(batch)
            outputs = _read_only(placed.without_filling(found(traced.model, params, placed.batch.inputs)))
            return {name: value_of(name, function, outputs, targets) for name, function in functions.items()}

    return compute


def _function(name: str, metric: Any, objective: Objective, params: PyTree, batch: Batch, weights: Any) -> Metric:
    """A metric as a function of outputs and targets, from a function, a loss of networks, or the name of a loss.

    The batch may be a part of the examples, the weights are those of all.
    """
    if isinstance(metric, str):
        if metric not in losses.BY_NAME:
            raise ValueError(f"The metric {name!r}: {unknown_name('loss', metric, losses.BY_NAME)}")
        data_checks.check_targets(metric, _shapes(objective, params, batch), batch.targets)
        return partial(_mean, losses.BY_NAME[metric], weights)
    if callable(getattr(metric, "batch_loss", None)) and not isinstance(metric, type):
        return lambda outputs, targets: metric.batch_loss([outputs], targets)
    if isinstance(metric, type) or not callable(metric):
        raise TypeError(
            f"The metric {name!r} is {metric!r}; a function (outputs, targets) -> number is expected, or the name of a "
            f"loss: {', '.join(map(repr, losses.BY_NAME))}."
        )
    return metric


def _mean(loss: Loss, weights: Any, outputs: PyTree, targets: PyTree) -> float:
    """The mean loss of the examples by their weights."""
    return float(np.average(np.asarray(loss.values(outputs, targets), float), weights=np.asarray(weights)))


def _accuracy(weights: Any, outputs: Any, targets: Any) -> float:
    """The share of labels, but the unknown ones, where the largest output is."""
    known = (targets >= 0) & (targets == targets)
    counts = known * np.asarray(weights, float).reshape(-1, *(1,) * (targets.ndim - 1))
    right = (outputs.argmax(axis=-1) == targets) & np.isfinite(outputs).all(axis=-1)
    return float((right * counts).sum() / counts.sum())


def _labelled(objective: Objective, params: PyTree, batch: Batch) -> bool:
    """Whether the targets are labels, as those of "softmax_cross_entropy" can be."""
    if not isinstance(objective.loss, str) or objective.loss != "softmax_cross_entropy":
        return False
    outputs, targets = jax.tree.leaves(_shapes(objective, params, batch)), jax.tree.leaves(batch.targets)
    return len(outputs) == len(targets) == 1 and targets[0].ndim == len(outputs[0].shape) - 1


def _shapes(objective: Objective, params: PyTree, batch: Batch) -> PyTree:
    with parameters.computing(params):
        model = objective.traced(params, batch, curved=False, new_data=False).model
        return jax.eval_shape(model.outputs, params, batch.inputs)


def _read_only(tree: PyTree) -> PyTree:
    """In numpy, and not to be written to."""
    return jax.tree.map(lambda leaf: read_only(np.asarray(leaf)), to_host(tree))
