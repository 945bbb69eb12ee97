"""Layers as the compiled network sees them: their activations with the right derivatives, alone and over time.

Symbols:
    z   input of a layer (pre-activation)      a   its output (activation)
    s   its state, any pytree, () for none     J   d a / d z, diagonal (B, n) or full (B, n, n)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessianfree.engine.trees import PyTree
from hessianfree.networks.parts import nonlinearities
from hessianfree.networks.parts.interfaces import Nonlinearity, defines, has_step
from hessianfree.networks.parts.nonlinearities import BY_NAME, Continuous, Softmax
from hessianfree.support.keys import Key, rebuild


class LocalLayer(NamedTuple):
    """A layer in numpy around the current point: input z, output a and derivative J, (B, n) or (B, n, n)."""

    z: Any
    a: Any
    J: Any


class LocalState(NamedTuple):
    """A layer with state in numpy around the current point: ds = D_input dz + D_state ds_before, da = D_output ds."""

    z: Any
    a: Any
    d_input: Any
    d_state: Any
    d_output: Any


class Cell(NamedTuple):
    """A layer over time: (s_t, a_t) = step(arrays, local_t, s_{t-1}, z_t); the step itself holds nothing traced."""

    step: Callable[[Any, Any, PyTree, Array], tuple[PyTree, Array]]
    # of the layer, the same at every timestep; its local model, leaves (T, B, ...); the state at the start, (B, ...)
    arrays: Any
    local: Any
    start: PyTree


def traced_activation(layer: Nonlinearity, z: Array) -> Array:
    """A layer written in jax.numpy; a derivative of the user's own replaces the automatic one."""
    return _with_derivative(layer, z) if has_own_derivative(layer) else layer.activation(z)


def _with_derivative(layer: Nonlinearity, z: Array) -> Array:
    """activation(z), differentiated by d_activation."""
    activation = jax.custom_jvp(layer.activation)

    @activation.defjvp
    def tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        a = layer.activation(primals[0])
        return a, apply_derivative(layer.d_activation(primals[0], a), tangents[0])

    return activation(z)


def has_own_derivative(layer: Nonlinearity) -> bool:
    """Whether the user gave the derivative; those of the built-in layers equal the automatic ones."""
    owner = next(cls for cls in type(layer).__mro__ if "d_activation" in vars(cls))
    return (
        owner.__module__ != nonlinearities.__name__
        and owner is not Nonlinearity
        and defines(layer, "d_activation", "activation")
    )


def apply_derivative(J: Array, dz: Array) -> Array:
    """J dz for a diagonal (B, n) or Jacobians (B, n, n)."""
    return J * dz if J.ndim == dz.ndim else jnp.einsum("...ij,...j->...i", J, dz)


def local_activation(local: LocalLayer, z: Array) -> Array:
    """First-order model of a layer in numpy: a + J (z - z0)."""
    return local.a + apply_derivative(local.J, z - local.z)


# ---- over time -------------------------------------------------------------------------------------------------------


def traced_cell(key: Key, arrays: Any, batch: int, start: PyTree = None) -> Cell:
    """The cell of a layer written in jax.numpy, from this state before the first timestep or the layer's own."""
    layer = rebuild(key, arrays)
    if start is None:
        start = layer.initial_state(batch) if has_step(layer) else ()
    return Cell(partial(_traced_step, key), arrays, (), start)


def _traced_step(key: Key, arrays: Any, local: tuple[()], state: PyTree, z: Array) -> tuple[PyTree, Array]:
    layer = rebuild(key, arrays)
    if not has_step(layer):
        return state, _stepping_activation(layer, z)
    if type(layer) is Continuous:
        layer.base = _Stepping(layer.base)
    return layer.step(state, z)


def _stepping_activation(layer: Nonlinearity, z: Array) -> Array:
    """As traced_activation; an elementwise built-in layer leaves one array to a linear scan, its derivative.

    The automatic derivatives of tanh or of a clip keep two arrays, and a scan reads them at every timestep.
    """
    elementwise = type(layer) in BY_NAME.values() and type(layer) is not Softmax
    return _with_derivative(layer, z) if elementwise else traced_activation(layer, z)


class _Stepping(Nonlinearity):
    """The base of a Continuous layer, with its derivative as a scan wants it."""

    def __init__(self, layer: Nonlinearity) -> None:
        super().__init__()
        self.layer = layer

    def activation(self, x: Array) -> Array:
        return _stepping_activation(self.layer, x)


def local_cell(local: LocalLayer | LocalState) -> Cell:
    """The cell of a layer in numpy's first-order model; leaves of `local` are (T, B, ...), its state is s - s0."""
    if isinstance(local, LocalLayer):
        return Cell(_local_step, (), local, ())
    return Cell(_local_state_step, (), local, jnp.zeros_like(local.z[0]))


def _local_step(arrays: tuple[()], local: LocalLayer, state: tuple[()], z: Array) -> tuple[tuple[()], Array]:
    return state, local_activation(local, z)


def _local_state_step(arrays: tuple[()], local: LocalState, state: Array, z: Array) -> tuple[Array, Array]:
    state = apply_derivative(local.d_input, z - local.z) + apply_derivative(local.d_state, state)
    return state, local.a + apply_derivative(local.d_output, state)
