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
from hessianfree.networks.model.wiring import Activity, LocalLoss, NetworkInputs, NetworkTargets, Params
from hessianfree.networks.numpy import probing
from hessianfree.networks.numpy.stepping import HostNetwork, stacked
from hessianfree.networks.parts.loss_funcs import LossFunction

Floats = NDArray[Any]


@dataclass(frozen=True)
class NumpyProblem:
    """Its traced part with the terms of its loss; all layer and loss objects; numbers of the layers in numpy."""

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
                J, stateful = probing.derivative(self.network.layers[layer], z, a), self.network.layers[layer].stateful
                steps[layer].append(LocalState(z, a, *np.moveaxis(J, -1, 0)) if stateful else LocalLayer(z, a, J))

        activity = self.network.run(params, np.asarray(batch.inputs.x), batch.inputs.start, note)
        has_time = self.network.recurrent is not None
        local = {layer: stacked(models) if has_time else models[0] for layer, models in steps.items()}
        targets = np.asarray(batch.targets.t)
        places = [i for i, term in enumerate(self.terms) if isinstance(term, InNumpy)]
        losses = {i: self._local_loss(self.losses[i], activity, targets) for i in places}
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

        values = probing.loss_values(loss, self.network.layers[-1], activity, targets).astype(dtype)
        return LocalLoss(values, lists(loss.d_loss), lists(loss.d2_loss))
