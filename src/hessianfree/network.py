"""A network as one forward function, and the objective that puts a loss on it.

`forward` says what a network computes; it runs on numpy arrays and under a trace alike, told by `activate` what
each layer does with its input. Everything else (gradients, curvature products) is automatic differentiation of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessianfree.engine.compilation import jit
from hessianfree.engine.objective import PRECISION, Batch, Objective, mean_weights
from hessianfree.engine.trees import PyTree
from hessianfree.keys import Key, rebuild
from hessianfree.nonlinearities import Nonlinearity, has_derivative
from hessianfree.terms import HostTerm, LocalLoss, Needs, Outputs, Term, total, traced_term
from hessianfree.weights import Connection, Params

Activate = Callable[[int, Any], Any]


@dataclass(frozen=True)
class Spec:
    """What is static about a network: units per layer, connections in layout order, a key per layer (None: host)."""

    shape: tuple[int, ...]
    connections: tuple[Connection, ...]
    layers: tuple[Key | None, ...]


class Activity(NamedTuple):
    """Pre-activations z and activations a of every layer, each (B, n_l)."""

    z: list[Any]
    a: list[Any]


class LocalLayer(NamedTuple):
    """A host layer around the current point: input z, output a and derivative J, (B, n) or (B, n, n)."""

    z: Any
    a: Any
    J: Any


class NetworkInputs(NamedTuple):
    """The data, and for each host layer its local model."""

    x: Any
    local: Mapping[int, LocalLayer]


class NetworkTargets(NamedTuple):
    """The targets, and for each host loss its local model, by position among the losses."""

    t: Any
    local: Mapping[int, LocalLoss]


def forward(
    n_layers: int, params: Params, x: Any, activate: Activate, taps: Mapping[int, Any] | None = None
) -> Activity:
    """Run the network: z_post = sum over pre of (a_pre W + b), a = activate(layer, z).

    Args:
        n_layers: number of layers, the input layer included.
        params: (W, b) per connection.
        x: input of the first layer, (B, n_0).
        activate: (layer, z) -> a.
        taps: added to the pre-activations of these layers; their derivatives are the back-propagated deltas.

    Returns:
        z and a of every layer.
    """
    z, a = [x], [activate(0, x)]
    for post in range(1, n_layers):
        terms = [a[pre] @ W + b for (pre, to), (W, b) in params.items() if to == post]
        total_input = sum(terms[1:], terms[0])
        z.append(total_input if taps is None else total_input + taps[post])
        a.append(activate(post, z[-1]))
    return Activity(z, a)


def traced_activation(layer: Nonlinearity, z: Array) -> Array:
    """A layer written in jax.numpy; a derivative of the user's own replaces the automatic one."""
    if not has_own_derivative(layer):
        return layer.activation(z)
    with_derivative = jax.custom_jvp(layer.activation)

    @with_derivative.defjvp
    def tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        a = layer.activation(primals[0])
        return a, apply_derivative(layer.d_activation(primals[0], a), tangents[0])

    return with_derivative(z)


def has_own_derivative(layer: Nonlinearity) -> bool:
    """Whether the user gave the derivative; those of the built-in layers equal the automatic ones."""
    owner = next(cls for cls in type(layer).__mro__ if "d_activation" in vars(cls))
    return owner.__module__ != Nonlinearity.__module__ and has_derivative(layer, "d_activation", "activation")


def apply_derivative(J: Array, dz: Array) -> Array:
    """J dz for a diagonal (B, n) or Jacobians (B, n, n)."""
    return J * dz if J.ndim == dz.ndim else jnp.einsum("...ij,...j->...i", J, dz)


def local_activation(local: LocalLayer, z: Array) -> Array:
    """First-order model of a host layer: a + J (z - z0)."""
    return local.a + apply_derivative(local.J, z - local.z)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("layer_arrays", "loss_arrays"),
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
    """

    spec: Spec
    loss_keys: tuple[Key | None, ...]
    needs: Needs
    layer_arrays: tuple[tuple[Any, ...], ...]
    loss_arrays: tuple[tuple[Any, ...], ...]

    def activity(self, params: Params, inputs: NetworkInputs, taps: Mapping[int, Any] | None = None) -> Activity:
        """Pre-activations and activations of every layer, traceable."""
        layers = self._layers()

        def activate(layer: int, z: Array) -> Array:
            if layer in inputs.local:
                return local_activation(inputs.local[layer], z)
            return traced_activation(layers[layer], z)

        return forward(len(layers), params, inputs.x, activate, taps)

    def outputs(self, params: Params, inputs: NetworkInputs) -> Outputs:
        """What the losses look at."""
        return self._shown(self.activity(params, inputs))

    def losses(self, outputs: Outputs, targets: NetworkTargets) -> Array:
        """Sum of all terms, (B,)."""
        values = [term.values(outputs, targets.t) for term in self._terms(targets)]
        return sum(values[1:], values[0])

    def loss_gradients(self, outputs: Outputs, targets: NetworkTargets) -> Outputs:
        """Sum over terms."""
        return total([term.gradients(outputs, targets.t) for term in self._terms(targets)], outputs)

    def loss_curvature(self, outputs: Outputs, targets: NetworkTargets) -> Callable[[PyTree], PyTree]:
        """Sum over terms."""
        products = [term.curvature(outputs, targets.t) for term in self._terms(targets)]
        return lambda u: total([product(u) for product in products], outputs)

    def squared_gradients(self, params: Params, batch: Batch) -> Params:
        """Exact and without per-example gradients: each is the outer product a delta', whose square factorises."""
        weights = mean_weights(batch.weights)
        sizes = list(enumerate(self.spec.shape))[1:]
        taps = {layer: jnp.zeros((len(weights), n), weights.dtype) for layer, n in sizes}
        activity = self.activity(params, batch.inputs)
        outputs, pull = jax.vjp(lambda t: self._shown(self.activity(params, batch.inputs, t)), taps)
        (deltas,) = pull(self.loss_gradients(outputs, batch.targets))

        def squared(connection: Connection) -> tuple[Array, Array]:
            pre, post = connection
            weighted = weights[:, None] * deltas[post] ** 2
            return (activity.a[pre] ** 2).T @ weighted, weighted.sum(axis=0)

        return {connection: squared(connection) for connection in params}

    def _layers(self) -> list[Any]:
        parts = zip(self.spec.layers, self.layer_arrays, strict=True)
        return [None if key is None else rebuild(key, arrays) for key, arrays in parts]

    def _terms(self, targets: NetworkTargets) -> list[Term]:
        output_layer = self._layers()[-1]
        return [
            HostTerm(targets.local[i]) if key is None else traced_term(key, arrays, output_layer)
            for i, (key, arrays) in enumerate(zip(self.loss_keys, self.loss_arrays, strict=True))
        ]

    def _shown(self, activity: Activity) -> Outputs:
        """Everything no loss looks at is left out, so that no cotangent of zeros flows back from it."""
        shown = (a if layer in self.needs.layers else None for layer, a in enumerate(activity.a))
        return Outputs(activity.z[-1] if self.needs.logits else None, tuple(shown))


@jit
def compiled_activity(objective: NetworkObjective, params: Params, inputs: NetworkInputs) -> Activity:
    """Pre-activations and activations of every layer, compiled."""
    with jax.default_matmul_precision(PRECISION):
        return objective.activity(params, inputs)
