"""Layers and losses written in numpy: found by trying to trace them, checked, and called with care."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from hessianfree.networks.model.layers import traced_activation
from hessianfree.networks.model.terms import AtActivations, Outputs, Shapes, matched
from hessianfree.networks.model.wiring import Activity, Layout, NetworkTargets
from hessianfree.networks.parts.interfaces import Nonlinearity, Plant, defines, has_activation, has_step
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.support.keys import UnkeyableError, rebuild, split

logger = logging.getLogger("hessianfree")
_LISTS = (
    "takes and returns lists, with one entry for each layer; write @hf.loss_funcs.output_loss above a loss of "
    "(output, targets)."
)


class LayerShapeError(ValueError):
    """A layer returned an array of the wrong shape."""


def is_classic_state(layer: Nonlinearity) -> bool:
    """Whether a layer keeps its state in itself, so that it is never traced."""
    return layer.stateful and not has_step(layer)


def layer_runs_in_numpy(layer: Nonlinearity, units: int, dtype: np.dtype[Any]) -> bool:
    """Whether a layer must run in numpy, where it is then checked."""
    if reason := _why_layer_is_untraceable(layer, units, dtype):
        _check_numpy_layer(layer, units, reason, dtype)
    return bool(reason)


def _why_layer_is_untraceable(layer: Nonlinearity, units: int, dtype: np.dtype[Any]) -> str:
    """Why a layer must run in numpy, or an empty string if it can be compiled.

    It is tried on a copy: a layer that changes its attributes when called keeps state, and runs in numpy. Raises
    ValueError if its output is not shaped like its input, or its new state not like the old one.
    """
    if not has_activation(layer) and not has_step(layer):
        raise TypeError(
            f"{type(layer).__name__} defines neither activation(x) nor step(state, x); define activation, (B, n) -> "
            "(B, n), in jax.numpy."
        )
    if is_classic_state(layer):
        return "it keeps state"
    batch = _trial_batch(layer)
    if has_step(layer) and not has_activation(layer):
        _check_step(layer, batch, units, dtype)
    try:
        key, arrays = split(layer)
        changed: list[bool] = []

        def trial(arrays: tuple[Any, ...], z: Any) -> Any:
            copy = rebuild(key, arrays)
            before = _leaves(copy)
            found = _try(copy, z)
            after = _leaves(copy)
            changed.append(len(before) != len(after) or any(a is not b for a, b in zip(before, after, strict=True)))
            return found

        z = jax.ShapeDtypeStruct((batch, units), dtype)
        output = jax.eval_shape(trial, arrays, z)
        # Numbers drawn by numpy while tracing make each trace another program.
        if differ(*(jax.make_jaxpr(lambda a, x: _try(rebuild(key, a), x))(arrays, z) for _ in range(2))):
            return "it gives something else each time it is called"
    except UnkeyableError as error:
        return str(error)
    except Exception as error:  # whatever numpy code does with a tracer
        return _told(error)
    if output.shape != (batch, units):
        raise ValueError(wrong_output(layer, "step" if has_step(layer) else "activation", output.shape, z.shape))
    return "calling it changes its attributes" if any(changed) else ""


def _try(layer: Any, z: Any) -> Any:
    """Output of a layer under trial; its derivative is tried with it."""
    if not has_step(layer):
        return jax.jvp(lambda x: traced_activation(layer, x), (z,), (z,))[0]
    # A plant brings the state it starts from, which may be another one each time: here it is zero.
    as_traced = jnp.zeros_like if isinstance(layer, Plant) else jnp.asarray
    old = jax.tree.map(as_traced, layer.initial_state(z.shape[0]))
    new = jax.jvp(lambda x: layer.step(old, x), (z,), (z,))[0][0]
    return layer.step(new, z)[1]


def _check_step(layer: Any, batch: int, units: int, dtype: np.dtype[Any]) -> None:
    """Try initial_state and step on zeros; raise TypeError if one fails, ValueError if what it returns does not fit."""
    name, x = type(layer).__name__, jnp.zeros((batch, units), dtype)
    try:
        state = layer.initial_state(batch)
    except Exception as error:
        raise TypeError(f"{name}.initial_state({batch}) failed: {type(error).__name__}: {error}") from error
    check_rows(f"what {name}.initial_state({batch}) returned", state, batch)
    state = jax.tree.map(jnp.asarray, state)
    for _ in range(2):
        try:
            result = layer.step(state, x)
        except Exception as error:
            raise TypeError(f"{name}.step failed on zeros {x.shape}: {type(error).__name__}: {error}") from error
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise ValueError(f"{name}.step returned {result!r}; a pair (state, output) is expected.")
        if np.shape(result[1]) != x.shape or not jnp.issubdtype(jnp.result_type(result[1]), jnp.floating):
            kind = jnp.result_type(result[1]) if hasattr(result[1], "dtype") else type(result[1]).__name__
            raise ValueError(
                f"{wrong_output(layer, 'step', np.shape(result[1]), x.shape)} It is of type {kind}; "
                "floating-point numbers are expected."
            )
        check_same_structure(layer, state, result[0])
        check_rows(f"the state that {name}.step returned", result[0], batch)
        state = result[0]


def check_state(what: str, state: Any, like: Any, batch: int) -> None:
    """Raise ValueError if a state is not structured like another, or fails `check_rows`."""
    if str(jax.tree.structure(state)) != str(jax.tree.structure(like)):
        raise ValueError(
            f"{what} has the structure {jax.tree.structure(state)}; {jax.tree.structure(like)} is expected."
        )
    check_rows(what, state, batch)


def check_rows(what: str, state: Any, batch: int) -> None:
    """Raise ValueError if a state is not made of arrays with one row (or one for all) per example."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(state)]
    if not shapes or any(len(shape) == 0 or shape[0] not in (1, batch) for shape in shapes):
        raise ValueError(f"{what} has arrays of shapes {shapes}; at least one, each with {batch} rows, is expected.")


def _trial_batch(layer: Nonlinearity) -> int:
    """Examples to try a layer on: a plant is made for a batch of its own size."""
    return int(layer.shape[0]) if isinstance(layer, Plant) else 2


def check_same_structure(layer: Nonlinearity, old: Any, new: Any) -> None:
    """Raise ValueError if a step returned a state of another structure than the one it was given."""
    before, after = (str(jax.tree.structure(state)) for state in (old, new))
    if before != after:
        raise ValueError(
            f"{type(layer).__name__}.step returned a state of structure {after}, but initial_state one of {before}; "
            "they must agree."
        )


def _leaves(obj: Any) -> list[Any]:
    """The values in an object's attributes and in the containers there."""
    return jax.tree.leaves([(name, value) for name, value in vars(obj).items()], is_leaf=lambda x: x is None)


def differ(first: Any, second: Any) -> bool:
    """Whether two traced programs are not the same, their constants included."""
    parts = [[str(p), *(np.asarray(c).tobytes() for c in p.consts)] for p in (first, second)]
    return parts[0] != parts[1]


def _told(error: Exception) -> str:
    """What went wrong while tracing, in one line."""
    lines = str(error).splitlines()
    return f"{type(error).__name__} while tracing it: {lines[0] if lines else 'no message'}"


def wrong_output(layer: Nonlinearity, method: str, found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """What to say of an output that is not shaped like the input."""
    return f"{type(layer).__name__}.{method} returned an output of shape {found} for input {expected}; they must agree."


def loss_runs_in_numpy(loss: LossFunction, shapes: Shapes, dtype: np.dtype[Any], check: bool) -> bool:
    """Whether a loss must run in numpy, where it is then checked if asked."""
    reason = why_loss_is_untraceable(loss, shapes, dtype)
    if reason and check:
        _check_numpy_loss(loss, shapes, reason, dtype)
    return bool(reason)


def why_loss_is_untraceable(loss: LossFunction, shapes: Shapes, dtype: np.dtype[Any]) -> str:
    """Why a loss, not a set, must run in numpy, or an empty string if it can be compiled."""
    try:
        key, arrays = split(loss)

        def trial(arrays: tuple[Any, ...], activations: Any, targets: Any) -> Any:
            term, outputs, known = AtActivations(key, arrays), Outputs(None, activations), NetworkTargets(targets, {})
            products = term.curvature(outputs, known, Layout())(outputs)
            return term.values(outputs, known), term.gradients(outputs, known), products

        activations = tuple(jax.ShapeDtypeStruct((2, *s), dtype) for s in shapes)
        jax.eval_shape(trial, arrays, activations, activations[-1])
    except UnkeyableError as error:
        return str(error)
    except Exception as error:  # whatever numpy code does with a tracer
        return _told(error)
    return ""


def _check_numpy_layer(layer: Nonlinearity, units: int, reason: str, dtype: np.dtype[Any]) -> None:
    """Try a layer in numpy on a few numbers; errors of its own code come through as they are.

    Raises TypeError if there is no `d_activation`, ValueError if something has the wrong shape.
    """
    name, batch = type(layer).__name__, _trial_batch(layer)
    z = np.linspace(-1, 1, batch * units, dtype=dtype).reshape(batch, units)
    if not has_activation(layer):
        raise TypeError(
            f"{name} cannot be compiled ({reason}). Write its step with jax.numpy, or give it the classic form: "
            "activation, d_activation and reset."
        )
    trial = layer
    with suppress(Exception):  # whatever it holds
        trial = copy.deepcopy(layer)  # a layer that keeps state must not begin with the state of a trial
    try:
        trial.reset()
        a = output(trial, z)
    except LayerShapeError:
        raise
    except Exception as error:
        if not layer.stateful or isinstance(layer, Plant):
            raise
        # It may be made for a batch of one size, which is not known yet.
        logger.info("%s runs in numpy: %s; not tried beforehand (%s).", name, reason, _told(error))
        a = None
    if not defines(layer, "d_activation", "activation"):
        form = "initial_state and step" if layer.stateful else "its activation"
        which = "has no d_activation"
        if type(layer).d_activation is not Nonlinearity.d_activation:
            which = "only inherits d_activation, which belongs to another activation"
        raise TypeError(
            f"{name} cannot be compiled ({reason}) and {which}. Write {form} with jax.numpy, or define "
            "d_activation(x, a) beside activation."
        )
    if a is not None:
        derivative(trial, z, a)
        logger.info("%s runs in numpy: %s.", name, reason)


def _check_numpy_loss(loss: LossFunction, shapes: Shapes, reason: str, dtype: np.dtype[Any]) -> None:
    """Try a loss in numpy on a few numbers; errors of its own code come through as they are.

    Raises TypeError if a derivative is missing, ValueError if one has the wrong shape.
    """
    name = type(loss).__name__
    if type(loss).loss is LossFunction.loss:
        raise TypeError(f"{name} does not define loss(activities, targets); define it in jax.numpy.")
    missing = [method for method in ("d_loss", "d2_loss") if not defines(loss, method, "loss")]
    activities = [np.full((2, *s), 0.5, dtype) for s in shapes]
    try:
        terms = loss.loss(activities, activities[-1])
    except Exception as error:
        if not getattr(type(loss).loss, "output_only", False):
            error.add_note(f"{name}.loss {_LISTS}")
        raise
    _check_terms(name, terms, activities)
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
    logger.info("%s runs in numpy: %s.", name, reason)


def _check_terms(name: str, terms: Any, activities: Sequence[NDArray[Any]]) -> None:
    """Raise ValueError unless a loss returned a list with an array of one row per example, or None, for each layer."""
    if not isinstance(terms, (list, tuple)) or len(terms) != len(activities):
        raise ValueError(
            f"{name}.loss returned {type(terms).__name__}; a list of {len(activities)} is expected: it {_LISTS}"
        )
    batch = len(activities[0])
    if wrong := [np.shape(term) for term in terms if term is not None and np.shape(term)[:1] != (batch,)]:
        raise ValueError(
            f"{name}.loss returned shape {wrong[0]} for {batch} examples; give each its own value, without a mean or "
            "a sum over the examples: (B,), or (B, n)."
        )


def output(layer: Nonlinearity, z: NDArray[Any]) -> NDArray[Any]:
    """activation(z) as numpy of z's dtype; raises ValueError if its shape is not that of z."""
    # Copies both ways: a layer may work in place, or hand out a buffer that it will use again.
    a = np.array(layer.activation(np.array(z)), z.dtype)
    if a.shape != z.shape:
        raise LayerShapeError(wrong_output(layer, "activation", a.shape, z.shape))
    return a


def derivative(layer: Nonlinearity, z: NDArray[Any], a: NDArray[Any], state: Any = None) -> NDArray[Any]:
    """d_activation(z, a) as numpy, or Jacobians d a_i / d x_j by autodiff where a traceable layer does not define it.

    The Jacobians of a layer that has only `step` are those at this state. Raises ValueError if the shape is neither
    (B, n) nor (B, n, n), for a layer with state followed by 3.
    """
    if not has_activation(layer):
        expand = partial(jax.tree.map, lambda s: s[None])
        rows = jax.tree.map(lambda s: np.broadcast_to(s, (len(z), *np.shape(s)[1:])), state)
        return np.asarray(jax.vmap(jax.jacfwd(lambda x, s: layer.step(expand(s), x[None])[1][0]))(z, rows))
    if not defines(layer, "d_activation", "activation"):
        return np.asarray(jax.vmap(jax.jacfwd(lambda x: traced_activation(layer, x[None])[0]))(z))
    J = np.array(layer.d_activation(np.array(z), np.array(a)), z.dtype)
    last = (3,) if layer.stateful else ()
    diagonal, full = (*z.shape, *last), (*z.shape, z.shape[-1], *last)
    if J.shape not in (diagonal, full):
        parts = ", the last axis holding d_input, d_state and d_output" if layer.stateful else ""
        raise LayerShapeError(
            f"{type(layer).__name__}.d_activation returned shape {J.shape}; expected {diagonal} for an elementwise "
            f"layer or {full} for Jacobians d a_i / d x_j{parts}."
        )
    return J


def loss_values(
    loss: LossFunction, output_layer: Nonlinearity, activity: Activity, targets: NDArray[Any]
) -> NDArray[Any]:
    """Value of a loss per example in numpy, (B,); from the logits where it matches the output layer."""
    term = matched(loss, output_layer)
    if term is not None:
        logits = Outputs(activity.z[-1], (None,) * len(activity.a))
        return np.asarray(term.values(logits, NetworkTargets(targets, {})))
    activities = [np.array(a) for a in activity.a]  # a loss may work in place
    terms = [np.asarray(t) for t in loss.loss(activities, np.array(targets)) if t is not None]
    return sum((t.reshape(len(targets), -1).sum(axis=-1) for t in terms), np.zeros(len(targets)))
