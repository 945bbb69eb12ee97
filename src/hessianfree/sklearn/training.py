"""How a network is trained: in numpy by Gauss-Newton steps, or compiled by an optimizer of `hf.opt`."""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from hessianfree.networks.ffnet import FFNet
from hessianfree.networks.learner import NetworkLearner
from hessianfree.networks.sources import source
from hessianfree.optimizers.base import Optimizer
from hessianfree.sklearn.dense import DenseObjective
from hessianfree.sklearn.frame import WeightedData
from hessianfree.sklearn.monitor import CONVERGED, Monitor
from hessianfree.support.runtime import one_blas_thread
from hessianfree.training.results import INTERRUPTED, Epoch
from hessianfree.training.trainee import updates

Floats = NDArray[Any]

#: Norm of the gradient at which Gauss-Newton steps end in any case; losses are of the order of one.
GRADIENT = 1e-8


def by_gauss_newton(objective: DenseObjective, start: Floats, max_iter: int, monitor: Monitor) -> None:
    """Newton steps by conjugate gradients inside a trust region, with the Gauss-Newton matrix (Steihaug 1983).

    Args:
        objective: what is minimised.
        start: weights, (P,).
        max_iter: steps at most.
        monitor: is told of each, and ends them; of none if the loss is not finite to begin with.
    """

    def note(intermediate_result: Any) -> None:
        if monitor.note(float(intermediate_result.fun), intermediate_result.x):
            raise StopIteration

    if not (np.isfinite(objective.value(start)) and np.isfinite(objective.gradient(start)).all()):
        return
    functions = {"jac": objective.gradient, "hessp": objective.product, "callback": note}
    try:
        with one_blas_thread():
            found = minimize(
                objective.value,
                start,
                method="trust-ncg",
                options={"maxiter": max_iter, "gtol": GRADIENT},
                **functions,
            )
    except KeyboardInterrupt:
        if not monitor.losses:
            raise
        monitor.ending = INTERRUPTED
        return
    if not monitor.losses:
        monitor.note(float(found.fun), found.x)
    if found.nit < max_iter:  # at the limit of precision
        monitor.ending = monitor.ending or CONVERGED


def by_optimizer(
    net: FFNet,
    data: WeightedData,
    optimizer: Optimizer,
    max_iter: int,
    batch_size: int,
    decays: Floats,
    monitor: Monitor,
) -> None:
    """Train a network as `run_epochs` does.

    Args:
        net: the network.
        data: to train on.
        optimizer: with its weight decay.
        max_iter: epochs at most.
        batch_size: examples per update.
        decays: coefficient of each weight in the penalty, (P,), which the monitor is told of, too.
        monitor: is told of each epoch, and ends the run.
    """
    x, t, weights = padded(data)
    result = net.run_epochs(
        x,
        t,
        optimizer,
        max_epochs=max_iter,
        minibatch_size=batch_size,
        target_err=-math.inf,
        print_period=None,
        max_seconds=monitor.max_seconds,
        callbacks=[_Epochs(net, decays, monitor)],
        early_stopping=False,
        weights=weights,
    )
    if len(result.epochs) < max_iter:
        monitor.ending = monitor.ending or result.reason


class _Epochs:
    """A callback that tells the monitor of each epoch: of the weights that were judged, perhaps an average."""

    def __init__(self, net: FFNet, decays: Floats, monitor: Monitor) -> None:
        self.net, self.decays, self.monitor = net, decays, monitor

    def on_epoch(self, epoch: Epoch) -> bool:
        """Whether the run ends here."""
        weights = np.array(NetworkLearner(self.net).evaluated(), float)
        return self.monitor.note(epoch.test_error + 0.5 * float(self.decays @ (weights * weights)), weights)


def padded(data: WeightedData, multiple: int | None = None) -> WeightedData:
    """The same examples, and some more that weigh nothing.

    Data of almost the same size, such as the folds of a cross-validation, then share their compiled programs.

    Args:
        data: the examples.
        multiple: of this is their number afterwards; None for a power of two, which adds a sixteenth at most.
    """
    count = len(data.x)
    step = multiple or 2 ** max(count.bit_length() - 5, 0)
    rows = np.arange(-(-count // step) * step)
    rows[count:] = 0
    weights = data.weights[rows]
    weights[count:] = 0
    return WeightedData(data.x[rows], data.t[rows], weights)


class Online:
    """A network and an optimizer that go on from one call to the next.

    Args:
        net: the network.
        optimizer: with its weight decay.
    """

    def __init__(self, net: FFNet, optimizer: Optimizer) -> None:
        self.net, self.optimizer = net, optimizer
        net.optimizer = optimizer

    def pass_over(self, data: WeightedData, batch_size: int) -> float:
        """Go through the examples once; returns the mean loss of the updates."""
        size = min(batch_size, 2 ** (len(data.x) - 1).bit_length())  # few sizes: each has a program of its own
        x, t, weights = padded(data, size)
        batches = source(self.net, x, t, weights, size)
        records = [record for _, _, record, _ in updates(NetworkLearner(self.net), batches)]
        return float(np.mean([record.value for record in records]))

    @property
    def weights(self) -> Floats:
        """The weights to predict with: those of the network, or their running average."""
        return np.array(NetworkLearner(self.net).evaluated(), float)

    def kept(self) -> dict[str, Any]:
        """What the updates to come depend on, as numpy arrays."""
        return {"W": self.net.W.copy(), "state": jax.device_get(self.optimizer.get_state())}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go on from there."""
        self.net.W = kept["W"]
        self.optimizer.set_state(kept["state"])
