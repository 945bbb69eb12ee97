"""Recurrent networks to test on: each kind of layer beside a step written out in numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

import hessianfree as hf

import dense

CHAIN, SKIPS = {0: [1], 1: [2]}, {0: [1, 2], 1: [2]}


class Resonator(hf.nl.Nonlinearity):
    """Modern: two coupled states and a counter, mixing the units."""

    def __init__(self, mixing=0.3):
        super().__init__()
        self.mixing = np.asarray(mixing)

    def initial_state(self, batch):
        return {"x": jnp.full((batch, 1), 0.2), "v": jnp.zeros((batch, 1)), "count": jnp.zeros((batch,), int)}

    def step(self, state, z):
        v = 0.8 * state["v"] - 0.3 * state["x"] + jnp.tanh(z)
        x = state["x"] + 0.5 * v + self.mixing * jnp.roll(v, 1, axis=-1)
        return {"x": x, "v": v, "count": state["count"] + 1}, jnp.sin(x) * z


def resonator(state, z):
    x, v = (np.full_like(z, 0.2), np.zeros_like(z)) if state is None else state
    v = 0.8 * v - 0.3 * x + np.tanh(z)
    x = x + 0.5 * v + 0.3 * np.roll(v, 1, axis=-1)
    return (x, v), np.sin(x) * z


class Gate(hf.nl.Nonlinearity):
    """Classic: state in self, numpy, elementwise; counts its calls as 2016 programs did."""

    def __init__(self):
        super().__init__(stateful=True)
        self.reset()

    def reset(self, init=None):
        self.calls = self.d_calls = 0
        self.state = None if init is None else init

    def activation(self, x):
        self.calls += 1
        self.before = np.zeros_like(x) if self.state is None else self.state
        self.state = 0.6 * self.before * np.cos(x) + np.tanh(x)
        return self.state**2 + self.state

    def d_activation(self, x, a):
        self.d_calls += 1
        assert self.d_calls == self.calls
        d_input = -0.6 * self.before * np.sin(x) + 1 - np.tanh(x) ** 2
        return np.stack([d_input, 0.6 * np.cos(x), 2 * self.state + 1], axis=-1)


def gate(state, z):
    s = 0.6 * (np.zeros_like(z) if state is None else state) * np.cos(z) + np.tanh(z)
    return s, s**2 + s


MIX = np.array([[0.5, 0.4, 0.0], [-0.3, 0.6, 0.2], [0.1, 0.0, 0.7]])


class Rotor(hf.nl.Nonlinearity):
    """Classic with full Jacobians: s <- s R + x R', a = tanh(s R)."""

    def __init__(self):
        super().__init__(stateful=True)
        self.state = None

    def reset(self, init=None):
        self.state = init

    def activation(self, x):
        R = MIX[: x.shape[1], : x.shape[1]]
        self.state = (np.zeros_like(x) if self.state is None else self.state) @ R + x @ R.T
        return np.tanh(self.state @ R)

    def d_activation(self, x, a):
        n, R = x.shape[1], MIX[: x.shape[1], : x.shape[1]]
        J = np.empty((len(x), n, n, 3))
        J[..., 0], J[..., 1] = R, R.T
        J[..., 2] = (1 - a**2)[:, :, None] * R.T
        return J


def rotor(state, z):
    R = MIX[: z.shape[1], : z.shape[1]]
    s = (np.zeros_like(z) if state is None else state) @ R + z @ R.T
    return s, np.tanh(s @ R)


class NumpyTanh(hf.nl.Nonlinearity):
    """Host, without state."""

    def activation(self, x):
        return np.tanh(np.asarray(x))

    def d_activation(self, x, a):
        return 1 - np.asarray(a) ** 2


class Wavy(hf.nl.Nonlinearity):
    """Traced, without state and without a derivative of its own."""

    def activation(self, x):
        return jnp.sin(x) + 0.1 * x


class Kind(NamedTuple):
    layer: Callable[[], Any]
    step: dense.Step


def _built_in(name: str) -> Kind:
    return Kind(getattr(hf.nl, name), dense.without_state(name))


TAU = np.array([1.5, 2.0, 4.0])

#: Every built-in nonlinearity, and every form a layer may have.
KINDS = {
    **{name: _built_in(name) for name in hf.nl.BY_NAME},
    "Continuous": Kind(lambda: hf.nl.Continuous(hf.nl.Tanh(), tau=2.5), dense.leaky("Tanh", 1 / 2.5)),
    "Continuous, tau per unit": Kind(
        lambda: hf.nl.Continuous(hf.nl.Logistic(), tau=TAU, dt=0.5), dense.leaky("Logistic", 0.5 / TAU)
    ),
    "Continuous softmax": Kind(lambda: hf.nl.Continuous(hf.nl.Softmax(), tau=1.7), dense.leaky("Softmax", 1 / 1.7)),
    "Continuous numpy": Kind(lambda: hf.nl.Continuous(NumpyTanh(), tau=2.0), dense.leaky("Tanh", 0.5)),
    "modern": Kind(Resonator, resonator),
    "classic": Kind(Gate, gate),
    "classic, full": Kind(Rotor, rotor),
    "numpy": Kind(NumpyTanh, dense.without_state("Tanh")),
    "jax.numpy": Kind(Wavy, lambda state, z: (state, np.sin(z) + 0.1 * z)),
}


class Case(NamedTuple):
    """A 2-3-2 network and its reference."""

    hidden: str = "Tanh"
    output: str = "Linear"
    loss: str = "SquaredError"
    conns: dict[int, list[int]] = CHAIN
    rec_layers: tuple[int, ...] = (1,)

    def network(self, seed: int = 0, **kwargs: Any) -> hf.RNNet:
        net = hf.RNNet(
            [2, 3, 2],
            rec_layers=list(self.rec_layers),
            layers=[hf.nl.Linear(), KINDS[self.hidden].layer(), KINDS[self.output].layer()],
            conns=self.conns,
            **{"loss_type": getattr(hf.loss_funcs, self.loss)(), "dtype": np.float64, **kwargs},
            rng=seed,
            W_init_params={"init_type": "gaussian", "coeff": 0.7},
            W_rec_params={"init_type": "gaussian", "coeff": 0.5},
        )
        net.W += 0.1 * np.random.RandomState(seed + 1).randn(net.W.size)
        return net

    @property
    def steps(self) -> list[dense.Step]:
        return [dense.without_state("Linear"), KINDS[self.hidden].step, KINDS[self.output].step]

    def run(self, W: Any, x: Any, **kwargs: Any) -> Any:
        """z and a of every layer by the reference."""
        return dense.run_over_time([2, 3, 2], self.conns, list(self.rec_layers), self.steps, W, x, **kwargs)


def data(seed: int, loss: str = "SquaredError", batch: int = 3, steps: int = 5) -> tuple[Any, Any]:
    """Inputs, and targets of which the first two timesteps and one more count for nothing."""
    rng = np.random.RandomState(seed)
    x, t = rng.randn(batch, steps, 2), rng.rand(batch, steps, 2)
    if loss == "CrossEntropy":
        t /= t.sum(axis=-1, keepdims=True)
    t[:, :2] = np.nan
    t[0, 3] = np.nan
    return x, t


#: Every kind of layer recurrent and not, every place of recurrence, and the losses that look elsewhere.
CASES = {
    **{f"{kind}, recurrent": Case(kind) for kind in KINDS},
    **{f"{kind}, not recurrent": Case(kind, rec_layers=()) for kind in KINDS if kind not in hf.nl.BY_NAME},
    "output recurrent": Case(rec_layers=(2,)),
    "input recurrent": Case(rec_layers=(0, 1)),
    "all recurrent, skips": Case("Continuous", conns=SKIPS, rec_layers=(0, 1, 2)),
    "state in the output": Case("Tanh", "modern"),
    "classic in the output": Case("modern", "classic", rec_layers=(1, 2)),
    "softmax cross-entropy": Case("Tanh", "Softmax", "CrossEntropy"),
    "recurrent softmax cross-entropy": Case("Tanh", "Softmax", "CrossEntropy", SKIPS, (1, 2)),
    "logistic cross-entropy": Case("Continuous", "Logistic", "BinaryCrossEntropy"),
}
