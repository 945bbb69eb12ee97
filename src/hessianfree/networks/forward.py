"""Running a network on given inputs or with a plant: activations of every layer, and their derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike

from hessianfree.networks import rollouts
from hessianfree.networks.core import NetworkCore
from hessianfree.networks.model.network import compiled_activity
from hessianfree.networks.model.wiring import Activity, NetworkInputs, Start
from hessianfree.networks.numpy import probing
from hessianfree.networks.parts.interfaces import Plant, has_step, keeps_state
from hessianfree.networks.parts.nonlinearities import Continuous
from hessianfree.networks.weight_vector import Floats


def start_of(net: NetworkCore, activations: Sequence[Any] | None, states: Sequence[Any] | None) -> Start | None:
    """Where sequences begin, from one entry or None per layer.

    Raises TypeError for what is not a list, ValueError if its length is wrong, activations have the wrong width, or a
    layer with a state given keeps none.
    """
    if activations is None and states is None:
        return None
    for name, values in (("init_activations", activations), ("init_state", states)):
        if values is None:
            continue
        if not isinstance(values, (list, tuple)):
            raise TypeError(
                f"{name} is a {type(values).__name__}; a list with one entry (or None) per layer is expected."
            )
        if len(values) != net.n_layers:
            raise ValueError(
                f"{name} has {len(values)} entries for {net.n_layers} layers; give one (or None) per layer."
            )
    given = {i: np.asarray(a, net.dtype) for i, a in enumerate(activations or ()) if a is not None}
    for i, a in given.items():
        if a.ndim != 2 or a.shape[1] != net.shape[i]:
            raise ValueError(
                f"init_activations of layer {i} has shape {a.shape}; (examples, {net.shape[i]}) is expected."
            )
    given_states = {i: s for i, s in enumerate(states or ()) if s is not None}
    for i in given_states:
        if not keeps_state(net.layers[i]):
            raise ValueError(f"init_state is given for layer {i}, but {type(net.layers[i]).__name__} keeps no state.")
    return Start({i: a for i, a in given.items() if i in (net.recurrent or ())}, given_states)


def activations(
    net: NetworkCore,
    x: Floats,
    W: ArrayLike | None = None,
    deriv: bool = False,
    start: Start | None = None,
    leave_states: bool = False,
) -> Any:
    """Activations, and derivatives if wanted, of every layer on checked inputs, by default with the network's weights.

    With `leave_states` leaky layers are left in their last state. Raises OverflowError if an activation is not finite.
    """
    with net.computing():
        params, assembly = net.params(W), net.assemble()
        derivatives: list[list[Floats]] = [[] for _ in net.layers]
        if deriv:
            # In numpy, step by step: a layer gives its derivative straight after its activation.
            def note(layer: int, z: Floats, a: Floats, state: Any) -> None:
                derivatives[layer].append(probing.derivative(net.layers[layer], z, a, state))

            activity = assembly.network.run(params, x, start, note)
        elif assembly.numpy_layers:
            activity = assembly.network.run(params, x, start)
        else:
            inputs = NetworkInputs(x, {}, start)
            activity = jax.device_get(compiled_activity(assembly.model, params, inputs))
            if leave_states:
                _leave_states(net, activity, start)
        found = [np.array(a, net.dtype) for a in activity.a]
        rollouts.check_finite(net, found)
    if not deriv:
        return found
    return found, [steps[0] if net.recurrent is None else np.stack(steps, axis=1) for steps in derivatives]


def _leave_states(net: NetworkCore, activity: Activity, start: Start | None) -> None:
    """Leave the last state in leaky layers, as layers that run in numpy do: another sequence may go on from it."""
    for number, layer in enumerate(net.layers):
        if isinstance(layer, Continuous):
            layer.reset(None if start is None else start.states.get(number))
            for z in np.swapaxes(np.asarray(activity.z[number]), 0, 1):
                layer.advance(z)


def forward_over_time(net: NetworkCore, inputs: Any, W: ArrayLike | None, deriv: bool, start: Start | None) -> Any:
    """RNNet.forward: on given inputs, or with a plant."""
    if not isinstance(inputs, Plant):
        x = net.check_inputs(inputs)
        if start is not None:
            _check_start(net, start, len(x))
        return activations(net, x, W, deriv, start, leave_states=True)
    if start is not None:
        raise ValueError("init_activations and init_state go with given inputs; a plant starts from its own state.")
    rollouts.check(net, inputs)
    activity, examples = rollouts.generate(net, inputs, W)
    return activations(net, examples.x, W, True) if deriv else activity.a


def _check_start(net: NetworkCore, start: Start, batch: int) -> None:
    for layer, a in start.activations.items():
        if len(a) != batch:
            raise ValueError(f"init_activations of layer {layer} has {len(a)} rows for {batch} inputs; give one each.")
    for layer, state in start.states.items():
        if has_step(net.layers[layer]):
            probing.check_state(f"init_state of layer {layer}", state, net.layers[layer].initial_state(batch), batch)
