"""`run_epochs`: a network as the training loop sees it."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hessianfree.networks import arguments, debugging
from hessianfree.networks.core import Examples, NetworkCore
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.networks.sources import Evaluation, Source, source
from hessianfree.networks.weight_vector import Floats
from hessianfree.support import checks
from hessianfree.training.callbacks import ErrorSeries, Output, plots_file
from hessianfree.training.loop import RunSettings, callbacks_of, run
from hessianfree.training.results import Result
from hessianfree.training.trainee import Training, updates


class UnusableUpdate(NamedTuple):
    """The record of an update that could not be added to the weights."""

    accepted: bool = False
    reason: str = "the update, or the weights after it, are not finite"


class NetworkLearner:
    """The flat weights of a network, and the optimizer that changes them."""

    def __init__(self, net: NetworkCore) -> None:
        self.net, self.optimizer = net, net.optimizer

    @property
    def params(self) -> Floats:
        """The flat weights."""
        return self.net.W

    def update(self, batch: Examples, printing: bool) -> Any:
        """One update on these examples, unless it is not finite."""
        net, optimizer = self.net, self.optimizer
        net.cache(batch)
        if net.debug:
            debugging.check_derivatives(net)
        from_records = getattr(optimizer, "keeps_records", False) and not net.debug
        change = self._checked(optimizer.compute_update(printing=printing and not from_records))
        record = getattr(optimizer, "record", None)
        with np.errstate(over="ignore"):
            candidate = net.W + change
        if np.isfinite(candidate).all():
            net.W[:] = candidate
        elif getattr(record, "accepted", True):
            record = UnusableUpdate()
        return record

    def evaluated(self) -> Floats:
        """The optimizer's running average of the weights if it keeps one, else the weights."""
        average: Floats | None = getattr(self.optimizer, "average_W", None)
        return self.net.W if average is None else average

    def _checked(self, change: Any) -> Floats:
        """An update as the network can use it: one number per weight, zero where the mask holds the weight."""
        net, array = self.net, np.asarray(change)
        if array.shape != net.W.shape or array.dtype.kind not in "biuf":
            raise ValueError(
                f"{type(self.optimizer).__name__}.compute_update returned {array.dtype} of shape {array.shape}; "
                f"numbers of shape {net.W.shape} are expected."
            )
        return array.astype(net.dtype) if net.mask is None else np.where(net.mask, 0, array).astype(net.dtype)


def run_epochs(
    net: NetworkCore,
    inputs: Any,
    targets: Any,
    optimizer: Any,
    settings: RunSettings,
    weights: ArrayLike | None,
    test: Any,
    test_err: LossFunction | None,
) -> Result:
    """Train a network; see `FFNet.run_epochs`."""
    start = time.perf_counter()
    if isinstance(optimizer, type) or not callable(getattr(optimizer, "compute_update", None)):
        raise TypeError(
            f"optimizer is {optimizer!r}; an object with compute_update is expected, such as HessianFree()."
        )
    net.check_loss()
    arguments.check_unshared_state(net.layers)
    checks.finite("the weights", net.W, allow_nan=False)
    data = source(net, inputs, targets, weights, settings.minibatch_size)
    test_error = _test_error(net, data, test, test_err)
    net.optimizer = optimizer
    trainee = Training(
        NetworkLearner(net), data, test_error, test is not None, partial(setattr, net, "epoch"), partial(_keep, net)
    )
    plots: dict[str, list[float]] = getattr(optimizer, "plots", {})
    with callbacks_of(settings, _files(net, settings, plots)) as chosen:
        return run(trainee, settings, [ErrorSeries(plots), *chosen], start)


def run_epoch(net: NetworkCore, inputs: Any, targets: Any, minibatch_size: int | None) -> None:
    """Make the updates of one epoch and nothing else."""
    for _ in updates(NetworkLearner(net), source(net, inputs, targets, size=minibatch_size)):
        pass


def _test_error(net: NetworkCore, data: Source, test: Any, test_err: LossFunction | None) -> Evaluation:
    """The function that gives the test error, its data checked."""
    if test_err is not None:
        arguments.check_test_loss(test_err, net.shape[-1])
    if test is None:
        return data.evaluation(test_err)
    if not isinstance(test, (tuple, list)) or len(test) != 2:
        raise ValueError("test must be a pair (inputs, targets).")
    return source(net, *test).evaluation(test_err)


def _keep(net: NetworkCore, W: Floats, error: float) -> None:
    net.best_W, net.best_error = W, error


def _files(net: NetworkCore, settings: RunSettings, plots: dict[str, list[float]]) -> list[Output]:
    """What the arguments ask to write."""
    files = [plots_file(settings.file_output, plots)] if settings.plotting else []
    if settings.file_output is not None:
        path = Path(f"{settings.file_output}_weights.npy")
        files.append(Output(path, lambda file: np.save(file, net.W, allow_pickle=False)))
    return files
