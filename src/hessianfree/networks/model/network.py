"""The objective of a network: what it shows to its losses, and what they make of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from hessianfree.engine import trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.kfac import Factors
from hessianfree.engine.objective import PRECISION, Batch, Objective, mean_squared_gradients, mean_weights
from hessianfree.engine.trees import PyTree
from hessianfree.networks.model import over_time as sequences
from hessianfree.networks.model.factors import factors
from hessianfree.networks.model.layers import local_activation, traced_activation
from hessianfree.networks.model.terms import PLAIN, HostTerm, Layout, Needs, Outputs, Term, total, traced_term
from hessianfree.networks.model.weights import Connection, Params, from_blocks, to_blocks
from hessianfree.networks.model.wiring import Activity, Drive, NetworkInputs, NetworkTargets, Spec, forward
from hessianfree.support.keys import Key, rebuild


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("layer_arrays", "loss_arrays", "plant_arrays"),
    meta_fields=("spec", "loss_keys", "needs"),
)
@dataclass(frozen=True)
class NetworkObjective(Objective):
    """A network and its losses: `spec`, `loss_keys` and `needs` are static, the arrays of layers and losses traced.

    Args:
        spec: the network.
        loss_keys: a key per loss, None for one that runs on the host.
        needs: what the losses look at.
        layer_arrays: arrays of each layer, in the order of its key's slots.
        loss_arrays: likewise for each loss.
        plant_arrays: likewise for the plant of a compiled loop.
    """

    spec: Spec
    loss_keys: tuple[Key | None, ...]
    needs: Needs
    layer_arrays: tuple[tuple[Any, ...], ...]
    loss_arrays: tuple[tuple[Any, ...], ...]
    plant_arrays: tuple[Any, ...] = ()

    def activity(self, params: Params, inputs: NetworkInputs) -> Activity:
        """Inputs and activations of every layer, (B, n_l) or (B, T, n_l), traceable."""
        activity = self._activity(params, inputs, None, True)
        return activity if self.spec.recurrent is None else sequences.swap_time(activity)

    def _activity(
        self, params: Params, inputs: NetworkInputs, taps: Mapping[int, Any] | None, recurrent_inputs: bool
    ) -> Activity:
        """The same, time-major; z of recurrent layers is None where it is not wanted."""
        if self.spec.recurrent is None:
            layers = self._layers()

            def respond(layer: int, drive: Drive) -> tuple[Array, Array]:
                z = drive.total()
                if layer in inputs.local:
                    return z, local_activation(inputs.local[layer], z)
                return z, traced_activation(layers[layer], z)

            return forward(len(layers), params, inputs.x, respond, taps)
        if self.spec.loop is not None:
            return sequences.run_loop(self.spec, self.layer_arrays, self.plant_arrays, params, inputs, taps)
        return sequences.run(self.spec, self.layer_arrays, params, inputs, recurrent_inputs, taps)

    def outputs(self, params: Params, inputs: NetworkInputs) -> Outputs:
        """What the losses look at."""
        return self.shown(self._activity(params, inputs, None, self.needs.logits))

    @property
    def layout(self) -> Layout:
        """Time-major where there is time: (T, B, n)."""
        return PLAIN if self.spec.recurrent is None else Layout(sequences.swap_time, sequences.swap_time)

    def weigh(self, weights: Array, outputs: Outputs) -> Outputs:
        """Multiply what belongs to example i by weights[i]."""
        return trees.weigh_examples(weights, outputs, axis=0 if self.spec.recurrent is None else 1)

    def losses(self, outputs: Outputs, targets: NetworkTargets) -> Array:
        """Sum of all terms, (B,)."""
        return self.loss_values(outputs, targets, self.layout)

    def loss_gradients(self, outputs: Outputs, targets: NetworkTargets) -> Outputs:
        """Sum over terms."""
        return self.gradients_in(outputs, targets, self.layout)

    def loss_curvature(self, outputs: Outputs, targets: NetworkTargets) -> Callable[[PyTree], PyTree]:
        """Sum over terms."""
        return self.curvature_in(outputs, targets, self.layout)

    def loss_values(self, outputs: Outputs, targets: NetworkTargets, layout: Layout) -> Array:
        """`losses` of outputs in this layout."""
        values = [term.values(layout.outer(outputs), targets.t) for term in self._terms(targets)]
        return sum(values[1:], values[0])

    def gradients_in(self, outputs: Outputs, targets: NetworkTargets, layout: Layout) -> Outputs:
        """`loss_gradients` of outputs in this layout."""
        terms, seen = self._terms(targets), layout.outer(outputs)
        return layout.inner(total([term.gradients(seen, targets.t) for term in terms], seen))

    def curvature_in(self, outputs: Outputs, targets: NetworkTargets, layout: Layout) -> Callable[[PyTree], PyTree]:
        """`loss_curvature` of outputs in this layout."""
        terms, seen = self._terms(targets), layout.outer(outputs)
        products = [term.curvature(seen, targets.t, layout) for term in terms]
        return lambda u: total([product(u) for product in products], outputs)

    def samples_in(self, outputs: Outputs, targets: NetworkTargets, layout: Layout, key: Array) -> Outputs:
        """Random vectors, one per example, with the curvature of the loss as their covariance."""
        terms, seen = self._terms(targets), layout.outer(outputs)
        drawn = [term.sample(seen, targets.t, jax.random.fold_in(key, i)) for i, term in enumerate(terms)]
        return layout.inner(total(drawn, seen))

    def squared_gradients(self, params: Params, batch: Batch) -> Params:
        """Exact; without time also without per-example gradients, whose squares then factorise."""
        if self.spec.recurrent is not None:
            return mean_squared_gradients(self, params, batch)
        weights = mean_weights(batch.weights)
        activity, deltas = self.back_propagated(
            params, batch.inputs, lambda outputs: self.loss_gradients(outputs, batch.targets)
        )

        def squared(connection: Connection) -> tuple[Array, Array]:
            pre, post = connection
            weighted = weights[:, None] * deltas[post] ** 2
            return (activity.a[pre] ** 2).T @ weighted, weighted.sum(axis=0)

        return {connection: squared(connection) for connection in params}

    def back_propagated(
        self, params: Params, inputs: NetworkInputs, cotangents: Callable[[Outputs], Outputs]
    ) -> tuple[Activity, dict[int, Array]]:
        """The activity, and what cotangents of the outputs become at the input of every layer with weights.

        Args:
            params: (W, b) per connection.
            inputs: the data.
            cotangents: of these outputs, in the network's own layout.

        Returns:
            The activity, time-major where there is time, and by layer the deltas in the same shapes.
        """
        shapes = jax.eval_shape(lambda: self._activity(params, inputs, None, False).a)
        taps = {layer: jnp.zeros(a.shape, a.dtype) for layer, a in enumerate(shapes)}

        def run(taps: Mapping[int, Array]) -> tuple[Outputs, Activity]:
            activity = self._activity(params, inputs, taps, self.needs.logits)
            return self.shown(activity), activity

        outputs, pull, activity = jax.vjp(run, taps, has_aux=True)
        return activity, pull(cotangents(outputs))[0]

    def kronecker_factors(self, params: Params, batch: Batch, key: Array) -> dict[int, Factors]:
        """A and S of every layer, deltas from random vectors whose covariance is the curvature of the loss."""
        activity, deltas = self.back_propagated(
            params, batch.inputs, lambda outputs: self.samples_in(outputs, batch.targets, self.layout, key)
        )
        weights = mean_weights(batch.weights)
        if self.spec.recurrent is not None:
            weights = jnp.broadcast_to(weights, activity.a[-1].shape[:2])
        return factors(params, activity, deltas, weights, batch.inputs.start)

    def to_blocks(self, vector: Params) -> dict[int, Array]:
        """One matrix per layer."""
        return to_blocks(vector)

    def from_blocks(self, blocks: Mapping[int, Array], like: Params) -> Params:
        """The inverse."""
        return from_blocks(blocks, like)

    def _layers(self) -> list[Any]:
        parts = zip(self.spec.layers, self.layer_arrays, strict=True)
        return [None if key is None else rebuild(key, arrays) for key, arrays in parts]

    def _terms(self, targets: NetworkTargets) -> list[Term]:
        output_layer = self._layers()[-1]
        return [
            HostTerm(targets.local[i]) if key is None else traced_term(key, arrays, output_layer)
            for i, (key, arrays) in enumerate(zip(self.loss_keys, self.loss_arrays, strict=True))
        ]

    def shown(self, activity: Activity) -> Outputs:
        """The part of an activity, time-major where there is time, that the losses look at.

        Everything no loss looks at is left out, so that no cotangent of zeros flows back from it.
        """
        shown = tuple(a if layer in self.needs.layers else None for layer, a in enumerate(activity.a))
        return Outputs(activity.z[-1] if self.needs.logits else None, shown)


@jit
def compiled_activity(objective: NetworkObjective, params: Params, inputs: NetworkInputs) -> Activity:
    """Inputs and activations of every layer, compiled."""
    with jax.default_matmul_precision(PRECISION):
        return objective.activity(params, inputs)
