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
from hessianfree.networks.model.layers import local_activation, traced_activation
from hessianfree.networks.model.scan import delayed
from hessianfree.networks.model.terms import Needs, Outputs
from hessianfree.networks.model.wiring import Activity, Drive, NetworkInputs, Params, Spec, Start, forward, swap_time
from hessianfree.support.keys import rebuild


@partial(jax.tree_util.register_dataclass, data_fields=("layer_arrays", "plant_arrays"), meta_fields=("spec", "needs"))
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
    def examples_axis(self) -> int:  # type: ignore[override]
        """The network's own order has the timesteps first."""
        return int(self.has_time)

    def activity(
        self,
        params: Params,
        inputs: NetworkInputs,
        recurrent_inputs: bool = True,
        taps: Mapping[int, Array] | None = None,
    ) -> Activity:
        """Inputs and activations of every layer, in the network's own order, traceable.

        Without `recurrent_inputs`, which cost a pass over memory, z of recurrent layers is None. Taps are added to the
        inputs of the layers.
        """
        spec, arrays = self.spec, self.layer_arrays
        if spec.loop is not None:
            return over_time.run_loop(spec, arrays, self.plant_arrays, params, inputs, taps)
        if self.has_time:
            return over_time.run(spec, arrays, params, inputs, recurrent_inputs, taps)

        def respond(layer: int, drive: Drive) -> tuple[Array, Array]:
            z, key = drive.total(), spec.layers[layer]
            if key is None:
                return z, local_activation(inputs.local[layer], z)
            return z, traced_activation(rebuild(key, arrays[layer]), z)

        return forward(len(arrays), params, inputs.x, respond, taps)

    def outputs(self, params: Params, inputs: NetworkInputs) -> Outputs:
        """What the losses look at."""
        return self.shown(self.activity(params, inputs, self.needs.logits))

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
        """What flows through the weights that lead into each layer: forward, and back-propagated.

        A block is all that leads into one layer, [W; b] of each connection below the other. What it multiplies, x, are
        the activations of the layers before, with a 1 for each bias. Over time, recurrent weights multiply the
        activations of the timestep before, and their bias counts at the first timestep of a fresh sequence alone.

        Weights are those of the examples, (B,), or in the network's own order of timesteps and examples.
        """
        shapes = jax.eval_shape(lambda: self.activity(params, inputs, False).a)
        taps = {layer: jnp.zeros(a.shape, a.dtype) for layer, a in enumerate(shapes)}

        def run(taps: Mapping[int, Array]) -> tuple[Outputs, Activity]:
            activity = self.activity(params, inputs, self.needs.logits, taps)
            return self.shown(activity), activity

        outputs, pull, activity = jax.vjp(run, taps, has_aux=True)
        deltas = pull(cotangents(outputs))[0]
        rows = jnp.broadcast_to(weights, activity.a[-1].shape[:-1]).ravel()

        def block(layer: int) -> Flow:
            parts = [_multiplied(pre, post, activity, inputs.start) for pre, post in params if post == layer]
            x = jnp.concatenate([part for pair in parts for part in pair], axis=-1)
            return Flow(x.reshape(-1, x.shape[-1]), deltas[layer].reshape(-1, deltas[layer].shape[-1]), rows)

        return {layer: block(layer) for layer in dict.fromkeys(post for _, post in params)}

    @staticmethod
    def to_blocks(vector: Params) -> dict[int, Array]:
        """All that leads into a layer as one matrix, [W; b] of each of its connections below the other."""
        into: dict[int, list[Array]] = {}
        for (_, post), (W, b) in vector.items():
            into.setdefault(post, []).extend([W, b[None]])
        return {post: jnp.concatenate(parts) for post, parts in into.items()}

    @staticmethod
    def from_blocks(blocks: Mapping[int, Array], like: Params) -> Params:
        """The inverse, for connections as in `like`."""
        used, params = dict.fromkeys(blocks, 0), {}
        for (pre, post), (W, _) in like.items():
            start = used[post]
            middle = start + len(W)
            params[pre, post] = blocks[post][start:middle], blocks[post][middle]
            used[post] = middle + 1
        return params


def _multiplied(pre: int, post: int, activity: Activity, start: Start | None) -> tuple[Array, Array]:
    """What multiplies W and b of a connection, (..., n_pre) and (..., 1)."""
    a = activity.a[pre]
    if pre != post:
        return a, jnp.ones_like(a[..., :1])
    before, fresh = delayed(a), jnp.zeros_like(a[..., :1]).at[0].set(1)
    if start is not None and post in start.activations:
        before = before.at[0].set(start.activations[post])
        fresh = fresh * (0 if start.fresh is None else start.fresh[None, :, None])
    return before, fresh


@precise
def compiled_activity(model: NetworkModel, params: Params, inputs: NetworkInputs) -> Activity:
    """Inputs and activations of every layer, (B, n_l) or (B, T, n_l), compiled."""
    activity = model.activity(params, inputs)
    return swap_time(activity) if model.has_time else activity


@precise
def compiled_outputs(model: NetworkModel, params: Params, inputs: NetworkInputs) -> Array:
    """Activations of the last layer alone, (B, n) or (B, T, n), compiled: the others need not be kept."""
    last = model.activity(params, inputs, recurrent_inputs=False).a[-1]
    return jnp.swapaxes(last, 0, 1) if model.has_time else last
