"""Nonlinearities: what a unit does with its input, and its derivative.

Built-in layers work on numpy arrays and on JAX arrays alike: numpy in, numpy out. A layer of your own inherits from
`Nonlinearity` and defines `activation`; written in jax.numpy it is compiled and differentiated automatically,
written in numpy it also needs `d_activation` and runs on the host.

A layer with state, for an RNNet, has one of two forms. The modern one defines `initial_state(batch)` and
`step(state, x) -> (state, output)` in jax.numpy; derivatives are automatic. The classic one keeps its state in `self`:
`activation` advances it, `d_activation` gives three derivatives, `reset` starts anew; it runs on the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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


def has_step(layer: Nonlinearity) -> bool:
    """Whether a layer states its dynamics by `step`; a subclass that replaces `activation` alone goes by that."""
    return defines(layer, "step", "activation")


def has_activation(layer: Nonlinearity) -> bool:
    """Whether a layer has the form that keeps its state, if any, in the object."""
    return type(layer).activation is not Nonlinearity.activation


def keeps_state(layer: Nonlinearity) -> bool:
    """Whether what a layer puts out depends on what came before."""
    return layer.stateful or has_step(layer)


class Linear(Nonlinearity):
    """The identity: a = x."""

    def activation(self, x: Array) -> Array:
        """The input itself."""
        return x

    def d_activation(self, x: Array, a: Array) -> Array:
        """One."""
        return namespace(x).ones_like(x)


class Tanh(Nonlinearity):
    """Hyperbolic tangent: a = tanh(x)."""

    def activation(self, x: Array) -> Array:
        """Elementwise tanh."""
        return namespace(x).tanh(x)

    def d_activation(self, x: Array, a: Array) -> Array:
        """1 - a^2."""
        return 1 - a * a


class Logistic(Nonlinearity):
    """Logistic sigmoid: a = 1 / (1 + exp(-x))."""

    def activation(self, x: Array) -> Array:
        """Without overflow, and with its full relative accuracy in the lower tail."""
        if namespace(x) is jnp:
            return jax.nn.sigmoid(x)
        e = np.exp(-abs(x))
        return np.where(x >= 0, 1, e) / (1 + e)

    def d_activation(self, x: Array, a: Array) -> Array:
        """A (1 - a)."""
        return a * (1 - a)


class ReLU(Nonlinearity):
    """Rectified linear: a = x between 0 and `max`, constant outside; slope 1 at 0.

    Args:
        max: ceiling of the output.
    """

    def __init__(self, max: float = 1e10) -> None:
        super().__init__()
        if not max > 0:
            raise ValueError(f"ReLU: max is {max}; it must be above 0.")
        self.max = max

    def activation(self, x: Array) -> Array:
        """Clip x to [0, max]; the comparisons keep the slope at 0 at one, where a maximum would halve it."""
        xp = namespace(x)
        ceiling = xp.asarray(self.max, x.dtype)
        return xp.where(x < 0, xp.zeros_like(x), xp.where(x > ceiling, ceiling, x))

    def d_activation(self, x: Array, a: Array) -> Array:
        """One inside [0, max], zero outside."""
        return ((x >= 0) & (x <= self.max)).astype(x.dtype)


class Gaussian(Nonlinearity):
    """Bell curve: a = exp(-x^2)."""

    def activation(self, x: Array) -> Array:
        """Elementwise exp(-x^2)."""
        return namespace(x).exp(-x * x)

    def d_activation(self, x: Array, a: Array) -> Array:
        """-2 x a."""
        return -2 * x * a


class Softmax(Nonlinearity):
    """Softmax over the units of the layer: a_i = exp(x_i) / sum_j exp(x_j), clipped below at 1e-10."""

    def activation(self, x: Array) -> Array:
        """Probabilities along the last axis."""
        xp = namespace(x)
        e = xp.exp(x - x.max(axis=-1, keepdims=True))
        return xp.maximum(e / e.sum(axis=-1, keepdims=True), xp.asarray(1e-10, x.dtype))

    def d_activation(self, x: Array, a: Array) -> Array:
        """Jacobians diag(a) - a a', (..., n, n)."""
        xp = namespace(x)
        return a[..., :, None] * (xp.eye(a.shape[-1], dtype=a.dtype) - a[..., None, :])


class SoftLIF(Nonlinearity):
    """Smoothed firing rate of a leaky integrate-and-fire neuron (Hunsberger and Eliasmith 2015, eq. 6).

    a = amp / (tau_ref + tau_rc log(1 + 1/j)),  j = sigma log(1 + exp(x / sigma)).

    Value and derivative are finite at every finite x: far below threshold log j is computed directly,
    log j = log sigma + x / sigma, where j itself would underflow.

    Args:
        sigma: width of the smoothing, in units of the input.
        tau_rc: membrane time constant, seconds.
        tau_ref: refractory period, seconds.
        amp: scale of the output.
    """

    def __init__(self, sigma: float = 1.0, tau_rc: float = 0.02, tau_ref: float = 0.002, amp: float = 0.01) -> None:
        super().__init__()
        if not (sigma > 0 and tau_rc > 0 and tau_ref > 0):
            raise ValueError(f"SoftLIF: sigma {sigma}, tau_rc {tau_rc}, tau_ref {tau_ref}; all three must be above 0.")
        self.sigma, self.tau_rc, self.tau_ref, self.amp = sigma, tau_rc, tau_ref, amp

    def activation(self, x: Array) -> Array:
        """Elementwise rate."""
        return self.amp / (self.tau_ref + self.tau_rc * self._log_term(x))

    def d_activation(self, x: Array, a: Array) -> Array:
        """a^2 tau_rc / amp * (dj/dx) / (j (1 + j)), (dj/dx) / j being 1 / sigma far below threshold."""
        xp, y = namespace(x), self._scaled(x)
        middle = xp.clip(y, -20.0, 20.0)
        j = self.sigma * xp.log1p(xp.exp(middle))
        relative = 1 / ((1 + xp.exp(-middle)) * j)
        low, high = y < -20.0, y > 20.0
        one_plus_j = 1 + xp.where(high, xp.maximum(self.sigma * y, self.sigma), j)
        slope = xp.where(low, 1 / self.sigma, xp.where(high, 1 / xp.maximum(self.sigma * y, self.sigma), relative))
        rate = a / self.amp
        return self.amp * self.tau_rc * rate * (rate * slope / one_plus_j)

    def _scaled(self, x: Array) -> Array:
        """X / sigma, kept where its products stay representable."""
        return namespace(x).clip(x / self.sigma, -1e15, 1e15)

    def _log_term(self, x: Array) -> Array:
        """log(1 + 1/j) in three ranges; each branch sees only arguments at which it is finite."""
        xp, y = namespace(x), self._scaled(x)
        low, high = y < -20.0, y > 20.0
        j = self.sigma * xp.log1p(xp.exp(xp.clip(y, -20.0, 20.0)))
        below = xp.log1p(j) - math.log(self.sigma) - xp.where(low, y, 0.0)
        above = xp.log1p(1 / xp.where(high, self.sigma * y, self.sigma))
        return xp.where(low, below, xp.where(high, above, xp.log1p(1 / j)))


class Continuous(Nonlinearity):
    """Leaky integration in front of another nonlinearity: s <- (1 - dt/tau) s + (dt/tau) x, a = base(s).

    Args:
        base: the nonlinearity applied to the state.
        tau: time constant, scalar or one per unit, in the units of dt.
        dt: length of a timestep.

    Example:
        >>> layer = Continuous(Tanh(), tau=20.0)
        >>> state, output = layer.step(layer.initial_state(1), np.ones((1, 2)))
        >>> state
        array([[0.05, 0.05]])
    """

    def __init__(self, base: Nonlinearity, tau: float | Array = 1.0, dt: float = 1.0) -> None:
        super().__init__(stateful=True)
        if not isinstance(base, Nonlinearity) or keeps_state(base):
            raise TypeError(f"Continuous: base is {base!r}; it must be a nonlinearity without state, such as Tanh().")
        if not dt > 0:
            raise ValueError(f"Continuous: dt is {dt}; it must be above 0.")
        self.base, self.dt = base, dt
        self.tau = tau
        self.state: Array | None = None

    @property
    def tau(self) -> Array:
        """The time constant, an array: a changed one is a changed number and not a new program."""
        return self._tau

    @tau.setter
    def tau(self, value: Any) -> None:
        tau = np.asarray(value, float)
        if not np.all(tau > 0):
            raise ValueError(f"Continuous: tau is {value}; it must be above 0.")
        if tau.ndim > 1:
            raise ValueError(f"Continuous: tau has shape {tau.shape}; a number or one per unit is expected.")
        self._tau = tau

    def _traced_attributes(self) -> dict[str, Any]:
        """All but the state in the object, which compiled programs keep elsewhere."""
        return {**vars(self), "state": None}

    def _rate(self, dtype: Any) -> Array:
        return (self.dt / self._tau).astype(dtype)

    def initial_state(self, batch: int) -> Array:
        """Zero."""
        return np.zeros((batch, 1))

    def step(self, state: Array, x: Array) -> tuple[Array, Array]:
        """Advance the state by one step of input x (B, n)."""
        state = self._integrated(state, x)
        return state, self.base.activation(state)

    def _integrated(self, state: Array, x: Array) -> Array:
        rate = self._rate(x.dtype)
        return ((1 - rate) * state + rate * x).astype(x.dtype)

    def activation(self, x: Array) -> Array:
        """Advance the layer's own state by one step of input x (B, n) and return base(state)."""
        return self.base.activation(self.advance(x))

    def advance(self, x: Array) -> Array:
        """Advance the layer's own state by one step of input x (B, n) and return it."""
        self.state = self._integrated(np.zeros_like(x) if self.state is None else self.state, x)
        return self.state

    def d_activation(self, x: Array, a: Array) -> Array:
        """d_input, d_state and d_output at the current state, (B, n, 3) or (B, n, n, 3) as the base has it."""
        if self.state is None:
            raise ValueError("Continuous: d_activation needs a state; call activation first.")
        d_output = self.base.d_activation(self.state, a)
        rate = np.broadcast_to(self._rate(x.dtype), x.shape)
        if d_output.ndim == x.ndim:
            return np.stack([rate, 1 - rate, d_output], axis=-1)
        eye = np.eye(x.shape[-1], dtype=x.dtype)
        return np.stack([rate[..., None] * eye, (1 - rate)[..., None] * eye, d_output], axis=-1)

    def reset(self, init: Array | None = None) -> None:
        """Set the state to zero, or to a copy of `init` (B, n)."""
        self.state = None if init is None else np.array(init)


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


#: The names accepted in place of an object in `FFNet(layers=["Tanh", ...])`.
BY_NAME: dict[str, type[Nonlinearity]] = {
    cls.__name__: cls for cls in (Linear, Tanh, Logistic, ReLU, Gaussian, Softmax, SoftLIF)
}
