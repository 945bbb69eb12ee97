"""Running a network on given inputs, or together with the plant that generates them.

At each timestep the plant sees the network's last output of the timestep before, zeros at first, and gives the next
input. A classic plant runs in numpy, a modern one compiled, unless some layer has to run in numpy.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from hessianfree.engine.chunks import pieces
from hessianfree.engine.objective import Batch
from hessianfree.networks.assembly import Assembly, layer_of
from hessianfree.networks.core import Examples, Floats, NetworkCore
from hessianfree.networks.model.network import compiled_activity, compiled_outputs
from hessianfree.networks.model.wiring import Activity, NetworkInputs, NetworkTargets, Params, Start
from hessianfree.networks.numpy import probing
from hessianfree.networks.numpy.stepping import Feed, as_numpy, stacked
from hessianfree.networks.parts.interfaces import Plant, has_step
from hessianfree.networks.parts.nonlinearities import Continuous
from hessianfree.support import checks


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
        check_finite(net, found)
    if not deriv:
        return found
    return found, [steps[0] if net.recurrent is None else np.stack(steps, axis=1) for steps in derivatives]


def outputs(net: NetworkCore, x: Floats, W: ArrayLike | None = None) -> Floats:
    """What the last layer puts out on checked inputs, by default with the network's weights; it may not be finite."""
    with net.computing():
        params, assembly = net.params(W), net.assemble()
        if assembly.numpy_layers:
            return np.array(assembly.network.run(params, x).a[-1], net.dtype)
        number, size = pieces(len(x), net.chunk_size or len(x))
        starts = [min(piece * size, len(x) - size) for piece in range(number)]
        found = np.empty((0,))
        for start in starts:
            part = jax.device_get(compiled_outputs(assembly.model, params, NetworkInputs(x[start : start + size], {})))
            found = np.empty((len(x), *part.shape[1:]), net.dtype) if start == 0 else found
            found[start : start + size] = part
        return found


def seen(net: NetworkCore, x: Floats, W: ArrayLike | None, output: bool, hidden: bool) -> list[Any]:
    """The activations of all layers, or of the output layer, or of none; None in place of others."""
    if hidden:
        return activations(net, x, W)
    return [*[None] * (net.n_layers - 1), outputs(net, x, W) if output else None]


def _leave_states(net: NetworkCore, activity: Activity, start: Start | None) -> None:
    """Leave the last state in leaky layers, as layers that run in numpy do: another sequence may go on from it."""
    for number, layer in enumerate(net.layers):
        if isinstance(layer, Continuous):
            layer.reset(None if start is None else start.states.get(number))
            for z in np.swapaxes(np.asarray(activity.z[number]), 0, 1):
                layer.advance(z)


# ---- with a plant ----------------------------------------------------------------------------------------------------


def generate(net: NetworkCore, plant: Plant, W: ArrayLike | None = None) -> tuple[Activity, Examples]:
    """Run a network, by default with its own weights, and a plant that `check` has accepted from their beginning.

    The batch of the examples holds the generated inputs, or the plant's first state where it runs in the compiled loop.

    Raises OverflowError if an input or activation is not finite, ValueError if inputs or targets have the wrong shape.
    """
    with net.computing():
        params, assembly = net.params(W), net.assemble()
        if not has_step(plant):
            plant.reset()
            nothing = np.zeros((int(plant.shape[0]), net.shape[-1]), net.dtype)
            activity = _in_numpy(
                net, assembly, params, plant, lambda t, output, _: plant(nothing if output is None else output.copy())
            )
            vectors = plant.get_vecs()
            if not isinstance(vectors, (tuple, list)) or len(vectors) != 2:
                raise ValueError(
                    f"{type(plant).__name__}.get_vecs returned {type(vectors).__name__}; (inputs, targets) is expected."
                )
            x, t = _checked(net, plant, *vectors)
            if not np.allclose(x, activity.z[0]):
                raise ValueError(
                    f"{type(plant).__name__}.get_vecs returned inputs that differ from those its calls gave."
                )
            return activity, Examples(x, t, net.batch_of(x, t))
        state = jax.tree.map(np.asarray, plant.initial_state(int(plant.shape[0])))
        own_layer = layer_of(plant, net.layers)
        # As a layer it begins each pass of the update where it began the rollout.
        start = None if own_layer is None else Start({}, {own_layer: state})
        if assembly.numpy_layers:
            activity = _in_numpy(net, assembly, params, plant, _stepping(plant, state, own_layer), start)
        else:
            activity = looped_activity(net, plant, params, state)
            bad = ~np.isfinite(activity.z[0]).all(axis=(0, 2))
            if bad.any():
                raise _not_finite(plant, int(bad.argmax()))
            check_finite(net, activity.a)
        x, t = _checked(net, plant, activity.z[0], plant.targets)
        inputs = NetworkInputs(None, {}, None, state) if plant.closed_loop else NetworkInputs(x.copy(), {}, start)
        batch = Batch(inputs, NetworkTargets(t.copy(), {}), np.ones(len(t), net.dtype))
        return activity, Examples(x, t, jax.device_put(batch), plant if plant.closed_loop else None)


def looped_activity(net: NetworkCore, plant: Plant, params: Params, state: Any) -> Activity:
    """What network and plant do in the compiled loop, from this state of the plant."""
    model = net.assemble(plant).model
    activity = jax.device_get(compiled_activity(model, params, NetworkInputs(None, {}, None, state)))
    return jax.tree.map(lambda a: np.array(a, net.dtype), activity)


def _stepping(plant: Plant, state: Any, own_layer: int | None) -> Feed:
    """A plant with `step`, in numpy."""
    nothing = np.zeros((int(plant.shape[0]), np.shape(plant.targets)[-1]))

    def feed(t: int, output: Floats | None, states: dict[int, Any]) -> Any:
        nonlocal state
        if own_layer is not None:
            return plant.observe(states[own_layer])
        state, x = plant.step(state, nothing if output is None else output)
        return x

    return feed


def _in_numpy(
    net: NetworkCore, assembly: Assembly, params: Params, plant: Plant, feed: Feed, start: Start | None = None
) -> Activity:
    shape = (int(plant.shape[0]), net.shape[0])

    def checked(t: int, output: Floats | None, states: dict[int, Any]) -> Floats:
        x = np.array(feed(t, output, states), net.dtype)
        if x.shape != shape:
            raise ValueError(
                f"{type(plant).__name__} generated an input of shape {x.shape} at timestep {t}; expected "
                f"{shape}: its shape[0] examples, and the network's inputs."
            )
        if not np.isfinite(x).all():
            raise _not_finite(plant, t)
        return x

    host_params = as_numpy(params)
    steps = assembly.network.steps(lambda t: host_params, checked, int(plant.shape[1]), net.dtype, start)
    activity = stacked(steps)
    check_finite(net, activity.a)
    return activity


def _not_finite(plant: Plant, t: int) -> OverflowError:
    return OverflowError(
        f"{type(plant).__name__} generated an input that is NaN or infinite at timestep {t}; its dynamics may be "
        "unstable, or the network's outputs too large for it."
    )


def check_finite(net: NetworkCore, activations: list[Floats]) -> None:
    """Raise OverflowError if an activation is not finite, naming the layer and over time the first timestep."""
    for layer, a in enumerate(activations):
        if not np.isfinite(a).all():
            when = f" at timestep {int((~np.isfinite(a).all(axis=(0, 2))).argmax())}" if a.ndim == 3 else ""
            raise OverflowError(
                f"Layer {layer} ({type(net.layers[layer]).__name__}) has activations that are not finite{when}; the "
                "weights or inputs are too large for it."
            )


def _checked(net: NetworkCore, plant: Plant, inputs: Any, targets: Any) -> tuple[Floats, Floats]:
    """Generated inputs and targets as arrays of the plant's shape."""
    expected, found = (int(plant.shape[0]), int(plant.shape[1])), (np.shape(inputs), np.shape(targets))
    if any(shape[:2] != expected for shape in found):
        raise ValueError(
            f"{type(plant).__name__} gave inputs {found[0]} and targets {found[1]}, but its shape is "
            f"{list(plant.shape)}; examples and timesteps must agree. With a minibatch_size below "
            "the plant's batch it must honour shape[0]."
        )
    x = net.check_inputs(inputs)
    return x, net.check_targets(x, targets)[0]


def check(net: NetworkCore, plant: Plant) -> None:
    """Refuse a plant that cannot work with a network, before any work starts.

    Raises TypeError if a method is missing or a closed loop cannot be compiled, ValueError if shapes disagree.
    """
    name, shape = type(plant).__name__, getattr(plant, "shape", None)
    if shape is None or np.shape(shape) != (3,):
        raise ValueError(f"{name}.shape is {shape!r}; [examples, timesteps, width of the inputs] is expected.")
    for part, size in zip(("examples", "timesteps", "width"), shape, strict=True):
        checks.at_least(f"{name}.shape: {part}", size, 1)
    if shape[2] != net.shape[0]:
        raise ValueError(f"{name} generates inputs of width {shape[2]}, but the input layer has {net.shape[0]} units.")
    if has_step(plant):
        with net.computing():
            _check_modern(net, plant)
    elif type(plant).__call__ is Plant.__call__ or type(plant).get_vecs is Plant.get_vecs:
        raise TypeError(f"{name} must define __call__, get_vecs and reset, or initial_state and step.")
    elif plant.closed_loop:
        raise TypeError(
            f"{name} runs in numpy, which has no derivative; closed_loop=True needs initial_state and step."
        )


def _check_modern(net: NetworkCore, plant: Plant) -> None:
    name, batch = type(plant).__name__, int(plant.shape[0])
    if not hasattr(plant, "targets"):
        raise TypeError(f"{name} has no attribute `targets`; an array (B, T, {net.shape[-1]}) is expected.")
    expected = (*map(int, plant.shape[:2]), net.shape[-1])
    if np.shape(plant.targets) != expected:
        raise ValueError(f"{name}.targets has shape {np.shape(plant.targets)}; {expected} is expected.")
    assembly = net.assemble()
    if plant.closed_loop and not assembly.is_compiled:
        raise TypeError("closed_loop=True needs layers and losses that can be compiled; some of these run in numpy.")
    if plant.closed_loop and assembly.truncation is not None:
        raise ValueError("truncation cuts a sequence into windows, but closed_loop=True needs it whole; choose one.")
    is_layer = layer_of(plant, net.layers) is not None
    start = plant.initial_state(batch)
    probing.check_rows(f"what {name}.initial_state({batch}) returned", start, batch)
    if any(np.shape(leaf)[0] != batch for leaf in jax.tree.leaves(start)):
        raise ValueError(f"{name}.initial_state({batch}) returned arrays with one row; {batch} rows are expected.")

    def next_input(output: Any) -> Any:
        state = jax.tree.map(jnp.asarray, start)
        if is_layer:
            return plant.observe(state)
        result = plant.step(state, output)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise ValueError(f"{name}.step returned a {type(result).__name__}; a pair (state, output) is expected.")
        probing.check_same_structure(plant, state, result[0])
        return result[1]

    output = jax.ShapeDtypeStruct((batch, net.shape[-1]), net.dtype)
    try:
        found = jax.eval_shape(next_input, output)
        # Each time in a function of its own: JAX remembers what it traced.
        if probing.differ(*(jax.make_jaxpr(lambda o: next_input(o))(output) for _ in range(2))):
            raise TypeError(
                f"{name} gives something else each time it is called, as with random numbers drawn by numpy, which a "
                "compiled plant would draw once. Draw them in initial_state."
            )
    except jax.errors.TracerArrayConversionError as error:
        raise TypeError(f"{name}.step cannot be compiled; write it with jax.numpy, not numpy.") from error
    if getattr(found, "shape", None) != (batch, net.shape[0]):
        method = "observe" if is_layer else "step"
        shape = getattr(found, "shape", None)
        raise ValueError(f"{name}.{method} gives an input of shape {shape}; {(batch, net.shape[0])} is expected.")
