"""Nonlinearities: what a unit does with its input, and its derivative.

Built-in layers work on numpy arrays and on JAX arrays alike: numpy in, numpy out. A layer of your own inherits from
`Nonlinearity` and defines `activation`; written in jax.numpy it is compiled and differentiated automatically,
written in numpy it also needs `d_activation`, and it is not compiled. For layers with state and plants see
`interfaces`.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessianfree.networks.parts.interfaces import Array, keeps_state, namespace
from hessianfree.networks.parts.interfaces import Nonlinearity as Nonlinearity
from hessianfree.networks.parts.interfaces import Plant as Plant


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
        """The product a (1 - a)."""
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
        """Clip x to [0, max]; the comparisons keep the slope at 0 at one, where JAX's own clip would halve it."""
        if namespace(x) is np:
            return np.clip(x, 0, np.asarray(self.max, x.dtype))
        ceiling = jnp.asarray(self.max, x.dtype)
        return jnp.where(x < 0, jnp.zeros_like(x), jnp.where(x > ceiling, ceiling, x))

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
        largest = x.max(axis=-1, keepdims=True)
        if xp is jnp:
            # It cancels. Its derivative compares x with it, and a compiled program that rounds the two differently
            # finds no largest: 0 / 0.
            largest = jax.lax.stop_gradient(largest)
        e = xp.exp(x - largest)
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
        """The quotient x / sigma, kept where its products stay representable."""
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


#: The names accepted in place of an object in `FFNet(layers=["Tanh", ...])`.
BY_NAME: dict[str, type[Nonlinearity]] = {
    cls.__name__: cls for cls in (Linear, Tanh, Logistic, ReLU, Gaussian, Softmax, SoftLIF)
}
