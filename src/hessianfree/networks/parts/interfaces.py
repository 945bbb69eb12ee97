"""What a layer and a plant are: the classes that users inherit from, and the questions asked of their objects.

A layer with state, for an RNNet, has one of two forms. The modern one defines `initial_state(batch)` and
`step(state, x) -> (state, output)` in jax.numpy; derivatives are automatic. The classic one keeps its state in `self`:
`activation` advances it, `d_activation` gives three derivatives, `reset` clears it; it runs in numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import recursive_repr
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from hessianfree.engine import reprs

Array = Any  # numpy or JAX


def namespace(x: Array) -> ModuleType:
    """Numpy for numpy arrays and plain numbers, jax.numpy for everything else (tracers included)."""
    return np if isinstance(x, (np.ndarray, np.generic, float, int)) else jnp


def defines(obj: object, method: str, of: str) -> bool:
    """Whether an object defines a method that goes with another, such as a derivative with its function.

    What is inherited beside a function that a subclass replaced does not count.

    Args:
        obj: a layer or loss.
        method: name of the method, such as "d_activation".
        of: name of the function it belongs to, such as "activation".
    """
    mro = type(obj).__mro__
    owner = {name: next(i for i, cls in enumerate(mro) if name in vars(cls)) for name in (method, of)}
    is_base = owner[method] == next(
        i for i, cls in enumerate(mro) if cls.__module__.startswith("hessianfree") and cls.__bases__ == (object,)
    )
    return not is_base and owner[method] <= owner[of]


class Nonlinearity:
    """Base class of all layers.

    Args:
        stateful: whether the output depends on what came before; such layers belong in an RNNet.

    Example:
        >>> class Square(Nonlinearity):
        ...     def activation(self, x):
        ...         return x**2
        ...     def d_activation(self, x, a):
        ...         return 2 * x
        >>> Square().activation(np.array([[3.0]]))
        array([[9.]])
    """

    stateful = False

    def __init__(self, stateful: bool = False) -> None:
        self.stateful = stateful

    def activation(self, x: Array) -> Array:
        """Output of the layer for its input.

        Args:
            x: input of the units, (B, n).

        Returns:
            Output, (B, n).
        """
        raise NotImplementedError(f"{type(self).__name__} must define activation(x).")

    def d_activation(self, x: Array, a: Array) -> Array:
        """Derivative of the output with respect to the input.

        Needed only for layers written in numpy; where a layer in jax.numpy defines it, it is used in place of
        the automatic derivative (surrogate gradients).

        Args:
            x: input, (B, n).
            a: activation(x), (B, n).

        Returns:
            (B, n) for elementwise layers, else Jacobians (B, n, n) with [b, i, j] = d a_i / d x_j. Stateful layers:
            d_input, d_state and d_output along a new last axis of size 3.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define d_activation(x, a).")

    def reset(self, init: Array | None = None) -> None:
        """Forget all state, or set it to `init` (B, n); nothing to do for a layer without state."""

    def initial_state(self, batch: int) -> Any:
        """State before the first timestep, for a layer that defines `step`.

        Args:
            batch: number of examples B.

        Returns:
            Any pytree of arrays (B, ...); they may broadcast to what `step` returns.
        """
        raise NotImplementedError(f"{type(self).__name__} must define initial_state(batch) beside step.")

    def step(self, state: Any, x: Array) -> tuple[Any, Array]:
        """One timestep of a layer with state, written in jax.numpy and without changing `self`.

        Args:
            state: what `initial_state` or the last step returned.
            x: input of the units, (B, n).

        Returns:
            The new state, and the output (B, n).
        """
        raise NotImplementedError(f"{type(self).__name__} does not define step(state, x).")

    @recursive_repr()
    def __repr__(self) -> str:
        return reprs.call(self)


def has_step(layer: Nonlinearity) -> bool:
    """Whether a layer states its dynamics by `step`; a subclass that replaces `activation` alone goes by that."""
    return defines(layer, "step", "activation")


def has_activation(layer: Nonlinearity) -> bool:
    """Whether a layer has the form that keeps its state, if any, in the object."""
    return type(layer).activation is not Nonlinearity.activation


def keeps_state(layer: Nonlinearity) -> bool:
    """Whether what a layer puts out depends on what came before."""
    return layer.stateful or has_step(layer)


class Plant(Nonlinearity):
    """A system that generates the network's inputs from its outputs; it may also be one of the layers.

    Passed as `inputs` to `RNNet.run_epochs` or `RNNet.forward`, with None as targets. The input at each timestep
    depends on the network's last output at the timestep before (zeros at first).

    The classic form, in numpy with state in `self`, defines `__call__`, `get_vecs` and `reset`; the inputs it
    generated are held fixed during an update. The modern form, in jax.numpy, defines `initial_state`, `step` and an
    attribute `targets` (B, T, n_out), and runs compiled; with `closed_loop=True` the derivative goes through it.

    A modern plant that is also a layer advances when the layer does, and the next input is `observe(state)`.

    Args:
        stateful: as for any nonlinearity.
        closed_loop: whether the derivative goes through the plant (modern form only); if not, the inputs of an
            update are held fixed, and the plant's answer to a changed output is left out of gradient and curvature.

    Attributes:
        shape: [B, T, dim] of the inputs it generates.
        targets: desired output of the network (B, T, n_out), for the modern form.

    Example:
        >>> class Integrator(Plant):
        ...     shape = [4, 10, 1]
        ...     targets = np.ones((4, 10, 1))
        ...     def initial_state(self, batch):
        ...         return jnp.zeros((batch, 1))
        ...     def step(self, state, x):
        ...         return state + x, state + x
    """

    stateful, closed_loop = True, False  # also for a subclass that does not call __init__
    shape: Sequence[int]
    targets: Array

    def __init__(self, stateful: bool = True, closed_loop: bool = False) -> None:
        super().__init__(stateful)
        self.closed_loop = closed_loop

    def __call__(self, x: Array) -> Array:
        """The next input, (B, dim), for the network's last output x (B, n_out) of the timestep before."""
        raise NotImplementedError(f"{type(self).__name__} must define __call__(x), or initial_state and step.")

    def get_vecs(self) -> tuple[Array, Array]:
        """The inputs generated since the last reset (B, T, dim), and the targets (B, T, n_out)."""
        raise NotImplementedError(f"{type(self).__name__} must define get_vecs().")

    def observe(self, state: Any) -> Array:
        """The input (B, dim) for a state, of a modern plant that is also a layer; by default the state itself."""
        return state
