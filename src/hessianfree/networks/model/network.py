"""A network as a model: what it shows to its losses, and what flows through its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessianfree.engine import trees
from hessianfree.engine.compilation import precise
from hessianfree.engine.models import Flow
from hessianfree.engine.objective import Model
from hessianfree.networks.model import over_time
from hessianfree.networks.model.flows import flows
from hessianfree.networks.model.layers import local_activation, traced_activation
from hessianfree.networks.model.layout import ByExample, Layout, TimeMajor, swap_time
from hessianfree.networks.model.terms import Needs, Outputs
from hessianfree.networks.model.weights import Params, from_blocks, to_blocks
from hessianfree.networks.model.wiring import Activity, Drive, NetworkInputs, Spec, forward
from hessianfree.support.keys import rebuild


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("layer_arrays", "plant_arrays"),
    meta_fields=("spec", "needs"),
)
@dataclass(frozen=True)
class NetworkModel(Model):
    """A network: `spec` and `needs` are static, the arrays of its layers traced.

    Args:
        spec: the network.
        needs: what its losses look at.
        layer_arrays: arrays of each layer, in the order of its key's slots.
        plant_arrays: likewise for the plant of a compiled loop.
    """

    spec: Spec
    needs: Needs
    layer_arrays: tuple[tuple[Any, ...], ...]
    plant_arrays: tuple[Any, ...] = ()

    @property
    def has_time(self) -> bool:
        """Whether examples are sequences."""
        return self.spec.recurrent is not None

    @property
    def layout(self) -> Layout:
        """How outputs are arranged."""
        return TimeMajor() if self.has_time else ByExample()

    def activity(self, params: Params, inputs: NetworkInputs) -> Activity:
        """Inputs and activations of every layer, (B, n_l) or (B, T, n_l), traceable."""
        activity = self._activity(params, inputs, None, True)
        return swap_time(activity) if self.has_time else activity

    def _activity(
        self, params: Params, inputs: NetworkInputs, taps: Mapping[int, Array] | None, recurrent_inputs: bool
    ) -> Activity:
        """The same, time-major; z of recurrent layers is None where it is not wanted."""
        if not self.has_time:
            layers = self._layers()

            def respond(layer: int, drive: Drive) -> tuple[Array, Array]:
                z = drive.total()
                if layer in inputs.local:
                    return z, local_activation(inputs.local[layer], z)
                return z, traced_activation(layers[layer], z)

            return forward(len(layers), params, inputs.x, respond, taps)
        if self.spec.loop is not None:
            return over_time.run_loop(self.spec, self.layer_arrays, self.plant_arrays, params, inputs, taps)
        return over_time.run(self.spec, self.layer_arrays, params, inputs, recurrent_inputs, taps)

    def outputs(self, params: Params, inputs: NetworkInputs) -> Outputs:
        """What the losses look at."""
        return self.shown(self._activity(params, inputs, None, self.needs.logits))

    def shown(self, activity: Activity) -> Outputs:
        """The part of an activity, in the network's own order, that the losses look at.

        Everything else is left out, so that no cotangent of zeros flows back from it.
        """
        shown = tuple(a if layer in self.needs.layers else None for layer, a in enumerate(activity.a))
        return Outputs(activity.z[-1] if self.needs.logits else None, shown)

    def weigh(self, weights: Array, outputs: Outputs) -> Outputs:
        """Multiply what belongs to example i by weights[i]."""
        return trees.weigh_examples(weights, outputs, axis=int(self.has_time))

    def dot(self, x: Outputs, y: Outputs) -> Array:
        """Inner product, example by example, (B,)."""
        return trees.dot_examples(x, y, axis=int(self.has_time))

    def flows(
        self, params: Params, inputs: NetworkInputs, weights: Array, cotangents: Callable[[Outputs], Outputs]
    ) -> dict[int, Flow]:
        """What flows through the weights that lead into each layer.

        Args:
            params: (W, b) per connection.
            inputs: the data.
            weights: of the examples, (B,), or in the network's own order of timesteps and examples.
            cotangents: of these outputs.

        Returns:
            Flows by layer.
        """
        shapes = jax.eval_shape(lambda: self._activity(params, inputs, None, False).a)
        taps = {layer: jnp.zeros(a.shape, a.dtype) for layer, a in enumerate(shapes)}

        def run(taps: Mapping[int, Array]) -> tuple[Outputs, Activity]:
            activity = self._activity(params, inputs, taps, self.needs.logits)
            return self.shown(activity), activity

        outputs, pull, activity = jax.vjp(run, taps, has_aux=True)
        deltas = pull(cotangents(outputs))[0]
        rows = jnp.broadcast_to(weights, activity.a[-1].shape[:-1])
        return flows(params, activity, deltas, rows, inputs.start)

    def to_blocks(self, vector: Params) -> dict[int, Array]:
        """One matrix per layer."""
        return to_blocks(vector)

    def from_blocks(self, blocks: Mapping[int, Array], like: Params) -> Params:
        """The inverse."""
        return from_blocks(blocks, like)

    def _layers(self) -> list[Any]:
        parts = zip(self.spec.layers, self.layer_arrays, strict=True)
        return [None if key is None else rebuild(key, arrays) for key, arrays in parts]


@precise
def compiled_activity(model: NetworkModel, params: Params, inputs: NetworkInputs) -> Activity:
    """Inputs and activations of every layer, compiled."""
    return model.activity(params, inputs)
