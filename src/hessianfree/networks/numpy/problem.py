"""A network some of whose layers or losses run in numpy, as the engine takes it.

The forward pass runs in numpy. For gradient and curvature, a layer in numpy is replaced by its first-order model
around the current point, a + J (z - z0), with J from its `d_activation`. So is a layer with state, whose deviation from
its path starts at zero. A loss in numpy is replaced by its value, d_loss and d2_loss there. That model is an ordinary
traced objective whose batch carries these numbers; only loss values go back to numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.objective import Batch, TracedObjective
from hessianfree.networks.model.layers import LocalLayer, LocalState
from hessianfree.networks.model.terms import InNumpy, LossTerm
from hessianfree.networks.model.weights import Params
from hessianfree.networks.model.wiring import Activity, LocalLoss, NetworkInputs, NetworkTargets
from hessianfree.networks.numpy import probing
from hessianfree.networks.numpy.stepping import HostNetwork
from hessianfree.networks.parts.interfaces import Nonlinearity
from hessianfree.networks.parts.loss_funcs import LossFunction

Floats = NDArray[Any]


@dataclass(frozen=True)
class NumpyProblem:
    """A network some of whose layers or losses run in numpy.

    Args:
        objective: its traced part.
        terms: of its loss.
        network: all layer objects.
        losses: all loss objects.
        numpy_layers: numbers of the layers that run in numpy.
    """

    objective: TracedObjective
    terms: tuple[LossTerm, ...]
    network: HostNetwork
    losses: tuple[LossFunction, ...]
    numpy_layers: frozenset[int]

    def value(self, params: Params, batch: Batch) -> float:
        """The loss, from a forward pass in numpy."""
        activity = self.network.run(params, np.asarray(batch.inputs.x), batch.inputs.start)
        targets, weights = np.asarray(batch.targets.t), np.asarray(batch.weights)
        values = sum(probing.loss_values(loss, self.network.layers[-1], activity, targets) for loss in self.losses)
        return float(np.sum(weights * values) / max(weights.sum(), 1e-30))

    def localize(self, params: Params, batch: Batch) -> tuple[TracedObjective, Batch]:
        """The traced objective, with the local models of layers and losses in numpy in the batch."""
        steps: dict[int, list[LocalLayer | LocalState]] = {layer: [] for layer in sorted(self.numpy_layers)}

        def note(layer: int, z: Floats, a: Floats, state: Any) -> None:
            if layer in steps:
                # Straight after the activation: a layer may have noted something for its derivative.
                steps[layer].append(_local_model(self.network.layers[layer], z, a))

        activity = self.network.run(params, np.asarray(batch.inputs.x), batch.inputs.start, note)
        has_time = self.network.recurrent is not None
        local = {layer: _stacked(models) if has_time else models[0] for layer, models in steps.items()}
        targets = np.asarray(batch.targets.t)
        losses = {
            i: self._local_loss(self.losses[i], activity, targets)
            for i, term in enumerate(self.terms)
            if isinstance(term, InNumpy)
        }
        return self.objective, Batch(
            NetworkInputs(batch.inputs.x, local, batch.inputs.start),
            NetworkTargets(batch.targets.t, losses),
            batch.weights,
        )

    def _local_loss(self, loss: LossFunction, activity: Activity, targets: Floats) -> LocalLoss:
        dtype = activity.a[-1].dtype

        def lists(method: Callable[..., Sequence[Any]]) -> tuple[Any, ...]:
            terms = method([np.array(a) for a in activity.a], np.array(targets))
            pairs = zip(terms, activity.a, strict=True)
            return tuple(None if d is None else np.broadcast_to(np.array(d, dtype), a.shape) for d, a in pairs)

        return LocalLoss(
            probing.loss_values(loss, self.network.layers[-1], activity, targets).astype(dtype),
            lists(loss.d_loss),
            lists(loss.d2_loss),
        )


def _local_model(layer: Nonlinearity, z: Floats, a: Floats) -> LocalLayer | LocalState:
    J = probing.derivative(layer, z, a)
    return LocalState(z, a, J[..., 0], J[..., 1], J[..., 2]) if layer.stateful else LocalLayer(z, a, J)


def _stacked(models: Sequence[Any]) -> Any:
    """Models of single timesteps (B, ...) as one, (B, T, ...)."""
    return type(models[0])(*(np.stack(parts, axis=1) for parts in zip(*models, strict=True)))
