"""Layers and losses written in numpy: found by trying to trace them, run on the host, modelled for the engine.

The forward pass then runs in numpy. For gradient and curvature, a host layer is replaced by its first-order model
around the current point, a + J (z - z0), with J from its `d_activation`; a host loss by its value, d_loss and d2_loss
there. That model is an ordinary traced objective; only loss values go back to the host.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.objective import Batch
from hessianfree.keys import UnkeyableError, rebuild, split
from hessianfree.loss_funcs import LossFunction
from hessianfree.network import (
    Activity,
    LocalLayer,
    NetworkInputs,
    NetworkObjective,
    NetworkTargets,
    forward,
    traced_activation,
)
from hessianfree.nonlinearities import Nonlinearity, has_derivative
from hessianfree.terms import ClassicTerm, LocalLoss, Outputs, matched
from hessianfree.weights import Params

logger = logging.getLogger("hessianfree")


def why_layer_is_untraceable(layer: Nonlinearity, units: int, dtype: np.dtype[Any]) -> str:
    """Why a layer must run on the host, or an empty string if it can be compiled.

    Tried on a copy: a layer that changes its attributes when called keeps state, and belongs on the host.

    Args:
        layer: the layer.
        units: its width.
        dtype: the network's.

    Raises:
        ValueError: if its output is not shaped like its input.
    """
    if layer.stateful:
        return "it keeps state"
    try:
        key, arrays = split(layer)
        changed: list[bool] = []

        def trial(arrays: tuple[Any, ...], z: Any) -> Any:
            copy = rebuild(key, arrays)
            before = _leaves(copy)
            result = jax.jvp(lambda x: traced_activation(copy, x), (z,), (z,))
            after = _leaves(copy)
            changed.append(len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True)))
            return result

        z = jax.ShapeDtypeStruct((2, units), dtype)
        shape = jax.eval_shape(trial, arrays, z)[0].shape
        if _differs_between_traces(key, arrays, z):
            return "it gives something else each time it is called"
    except UnkeyableError as error:
        return str(error)
    except Exception as error:  # whatever numpy code does with a tracer
        return _told(error)
    if shape != (2, units):
        raise ValueError(_wrong_output(layer, shape, (2, units)))
    return "calling it changes its attributes" if any(changed) else ""


def _leaves(obj: Any) -> list[Any]:
    """The values in an object's attributes and in the containers there."""
    return jax.tree.leaves([(name, value) for name, value in vars(obj).items()], is_leaf=lambda x: x is None)


def _differs_between_traces(key: Any, arrays: tuple[Any, ...], z: Any) -> bool:
    """Whether tracing twice gives two programs, as for numbers drawn by numpy while tracing."""
    programs = [jax.make_jaxpr(lambda a, x: rebuild(key, a).activation(x))(arrays, z) for _ in range(2)]
    first, second = ([str(p), *(np.asarray(c).tobytes() for c in p.consts)] for p in programs)
    return first != second


def _told(error: Exception) -> str:
    """What went wrong while tracing, in one line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__} while tracing it: {lines[0] if lines else 'no message'}"


def _wrong_output(layer: Nonlinearity, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    return f"{type(layer).__name__}.activation returned shape {found} for input {expected}; they must agree."


def why_loss_is_untraceable(loss: LossFunction, shape: Sequence[int], dtype: np.dtype[Any]) -> str:
    """Why a loss must run on the host, or an empty string if it can be compiled.

    Args:
        loss: the loss, not a set.
        shape: units of each layer of the network.
        dtype: the network's.
    """
    try:
        key, arrays = split(loss)

        def trial(arrays: tuple[Any, ...], activations: Any, targets: Any) -> Any:
            term, outputs = ClassicTerm(rebuild(key, arrays)), Outputs(None, activations)
            products = term.curvature(outputs, targets)(outputs)
            return term.values(outputs, targets), term.gradients(outputs, targets), products

        activations = tuple(jax.ShapeDtypeStruct((2, n), dtype) for n in shape)
        jax.eval_shape(trial, arrays, activations, activations[-1])
    except UnkeyableError as error:
        return str(error)
    except Exception as error:  # whatever numpy code does with a tracer
        return _told(error)
    return ""


def check_host_layer(layer: Nonlinearity, units: int, reason: str, dtype: np.dtype[Any]) -> None:
    """A host layer must give its derivative, of the right shape; tried on a few numbers.

    Raises:
        TypeError: if there is no `d_activation`.
        ValueError: if something has the wrong shape. Errors of the layer's own code come through as they are.
    """
    name = type(layer).__name__
    z = np.linspace(-1, 1, 2 * units, dtype=dtype).reshape(2, units)
    a = output(layer, z)
    if not has_derivative(layer, "d_activation", "activation"):
        raise TypeError(
            f"{name} cannot be compiled ({reason}) and has no d_activation. Write its activation with jax.numpy, or "
            "define d_activation(x, a)."
        )
    derivative(layer, z, a)
    logger.info("%s runs on the host: %s.", name, reason)


def check_host_loss(loss: LossFunction, shape: Sequence[int], reason: str, dtype: np.dtype[Any]) -> None:
    """A host loss must give both derivatives, of the right shapes; tried on a few numbers.

    Raises:
        TypeError: if a derivative is missing.
        ValueError: if one has the wrong shape. Errors of the loss's own code come through as they are.
    """
    name = type(loss).__name__
    missing = [method for method in ("d_loss", "d2_loss") if not has_derivative(loss, method, "loss")]
    activities = [np.full((2, n), 0.5, dtype) for n in shape]
    loss.loss(activities, activities[-1])
    if missing:
        raise TypeError(
            f"{name} cannot be compiled ({reason}) and has no {' and no '.join(missing)}. Write its loss with "
            "jax.numpy, or define both d_loss and d2_loss."
        )
    for method in (loss.d_loss, loss.d2_loss):
        found = [None if term is None else np.shape(term) for term in method(activities, activities[-1])]
        if any(f not in (None, a.shape) for f, a in zip(found, activities, strict=True)):
            expected = [a.shape for a in activities]
            raise ValueError(
                f"{name}.{method.__name__} returned shapes {found} for activations {expected}; each must be that of "
                "the layer, or None."
            )
    logger.info("%s runs on the host: %s.", name, reason)


def output(layer: Nonlinearity, z: NDArray[Any]) -> NDArray[Any]:
    """activation(z) as numpy of z's dtype.

    Raises:
        ValueError: if its shape is not that of z.
    """
    # Copies both ways: a layer may work in place, or hand out a buffer that it will use again.
    a = np.array(layer.activation(np.array(z)), z.dtype)
    if a.shape != z.shape:
        raise ValueError(_wrong_output(layer, a.shape, z.shape))
    return a


def derivative(layer: Nonlinearity, z: NDArray[Any], a: NDArray[Any]) -> NDArray[Any]:
    """d_activation(z, a) as numpy, or the Jacobians by autodiff where a traceable layer does not define it.

    Raises:
        ValueError: if its shape is neither (B, n) nor (B, n, n).
    """
    if not has_derivative(layer, "d_activation", "activation"):
        jacobian = jax.vmap(jax.jacfwd(lambda row: traced_activation(layer, row[None])[0]))
        return np.asarray(jacobian(z))
    J = np.array(layer.d_activation(np.array(z), np.array(a)), z.dtype)
    if J.shape not in (z.shape, (*z.shape, z.shape[-1])):
        raise ValueError(
            f"{type(layer).__name__}.d_activation returned shape {J.shape}; expected {z.shape} for an elementwise "
            f"layer or {(*z.shape, z.shape[-1])} for Jacobians d a_i / d x_j."
        )
    return J


@dataclass(frozen=True)
class HostProblem:
    """A network some of whose layers or losses run in numpy.

    Args:
        objective: its traced part.
        layers: all layer objects.
        losses: all loss objects.
        host_layers: numbers of the layers that run on the host.
    """

    objective: NetworkObjective
    layers: tuple[Nonlinearity, ...]
    losses: tuple[LossFunction, ...]
    host_layers: frozenset[int]

    def value(self, params: Params, batch: Batch) -> float:
        """The loss, from a forward pass in numpy."""
        activity = host_forward(self.layers, params, batch.inputs.x)
        targets, weights = np.asarray(batch.targets.t), np.asarray(batch.weights)
        values = sum(loss_values(loss, self.layers[-1], activity, targets) for loss in self.losses)
        return float(np.sum(weights * values) / max(weights.sum(), 1e-30))

    def localize(self, params: Params, batch: Batch) -> tuple[NetworkObjective, Batch]:
        """The traced objective, with the local models of host layers and losses in the batch."""
        local: dict[int, LocalLayer] = {}

        def activate(layer: int, z: Any) -> Any:
            z = np.asarray(z)
            a = output(self.layers[layer], z)
            if layer in self.host_layers:
                # Straight after the activation: a layer may have noted something for its derivative.
                local[layer] = LocalLayer(z, a, derivative(self.layers[layer], z, a))
            return a

        activity = forward(len(self.layers), _as_numpy(params), np.asarray(batch.inputs.x), activate)
        targets = np.asarray(batch.targets.t)
        losses = {
            i: self._local_loss(self.losses[i], activity, targets)
            for i, key in enumerate(self.objective.loss_keys)
            if key is None
        }
        return self.objective, Batch(
            NetworkInputs(batch.inputs.x, local), NetworkTargets(batch.targets.t, losses), batch.weights
        )

    def _local_loss(self, loss: LossFunction, activity: Activity, targets: NDArray[Any]) -> LocalLoss:
        dtype = activity.a[-1].dtype

        def lists(method: Callable[..., Sequence[Any]]) -> tuple[Any, ...]:
            terms = method([np.array(a) for a in activity.a], np.array(targets))
            return tuple(None if term is None else np.array(term, dtype) for term in terms)

        return LocalLoss(
            loss_values(loss, self.layers[-1], activity, targets).astype(dtype),
            lists(loss.d_loss),
            lists(loss.d2_loss),
        )


def loss_values(
    loss: LossFunction, output_layer: Nonlinearity, activity: Activity, targets: NDArray[Any]
) -> NDArray[Any]:
    """Value of a loss per example in numpy, (B,); from the logits where it matches the output layer."""
    term = matched(loss, output_layer)
    if term is not None:
        return np.asarray(term.values(Outputs(activity.z[-1], (None,) * len(activity.a)), targets))
    activities = [np.array(a) for a in activity.a]  # a loss may work in place
    terms = [np.asarray(t) for t in loss.loss(activities, np.array(targets)) if t is not None]
    return sum((t.reshape(len(targets), -1).sum(axis=-1) for t in terms), np.zeros(len(targets)))


def host_forward(layers: Sequence[Nonlinearity], params: Params, x: Any) -> Activity:
    """The network in numpy."""
    return forward(len(layers), _as_numpy(params), np.asarray(x), lambda layer, z: output(layers[layer], np.asarray(z)))


def _as_numpy(params: Params) -> Params:
    return {connection: (np.asarray(W), np.asarray(b)) for connection, (W, b) in params.items()}
