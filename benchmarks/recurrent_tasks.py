"""The recurrent tasks of recurrent.py: data, network, and a plain loss of the same network for Adam."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import hessianfree as hf

import arena

Floats: TypeAlias = NDArray[np.float32]
Sequences: TypeAlias = tuple[Floats, Floats]  # inputs (N, T, n_in), targets (N, T, n_out), NaN where nothing is asked

#: Sequences that errors are measured on.
TESTED = 1_000


@dataclass(frozen=True)
class Task:
    """What to learn.

    Attributes:
        units: tanh units in the one hidden layer.
        rate: dt / tau of leaky units, 1 for units without state.
        classes: whether outputs are a softmax.
        levels: errors to reach, falling.
        make: the random source -> sequences to train and to test.
        wrong: outputs and targets where they are known, (M, n_out) each -> booleans.
        W_rec: arguments for the initial recurrent weights.
        adam: learning rate of the first phase of Auto, as tuned as Adam's own.
        minibatch: of Auto, None for all the data.
    """

    units: int
    rate: float
    classes: bool
    levels: tuple[float, ...]
    make: Callable[[np.random.RandomState], tuple[Sequences, Sequences]]
    wrong: Callable[[Floats, Floats], NDArray[np.bool_]]
    W_rec: Mapping[str, Any] = field(default_factory=lambda: {"init_type": "orthogonal"})
    adam: float = 1e-2
    minibatch: int | None = None

    def network(self, n_in: int, n_out: int, seed: int, **arguments: Any) -> hf.RNNet:
        """The network."""
        leaky = self.rate < 1
        hidden = hf.nl.Continuous(hf.nl.Tanh(), tau=1 / self.rate) if leaky else hf.nl.Tanh()
        layers = [hf.nl.Linear(), hidden, hf.nl.Softmax() if self.classes else hf.nl.Linear()]
        loss = hf.loss_funcs.CrossEntropy() if self.classes else hf.loss_funcs.SquaredError()
        model = {"W_rec_params": dict(self.W_rec), "loss_type": loss, "rng": seed, **arguments}
        return hf.RNNet([n_in, self.units, n_out], layers=layers, **model)

    def error(self, outputs: Floats, targets: Floats) -> float:
        """Share of answers that are wrong."""
        known = ~np.isnan(targets).any(axis=-1)
        return float(self.wrong(outputs[known], targets[known]).mean())

    def outputs(self, params: Any, x: Any) -> Any:
        """Outputs of the same network, written plainly: logits for classes. Traceable.

        Args:
            params: {(0, 1): (W, b), (1, 1): (W_rec, b_rec), (1, 2): (W, b)}.
            x: inputs, (B, T, n_in).
        """
        (W, b), (W_rec, b_rec), (W_out, b_out) = (params[key] for key in ((0, 1), (1, 1), (1, 2)))
        driven = jnp.swapaxes(x @ W + b, 0, 1)

        def step(carry: Any, z: Any) -> Any:
            state, recurrent = carry
            state = (1 - self.rate) * state + self.rate * (z + recurrent)
            activity = jnp.tanh(state)
            return (state, activity @ W_rec), activity

        zero = jnp.zeros_like(driven[0])
        _, activities = jax.lax.scan(step, (zero, zero + b_rec), driven)
        return jnp.swapaxes(activities, 0, 1) @ W_out + b_out

    def loss(self, params: Any, x: Any, t: Any) -> Any:
        """Loss of the same network: summed over timesteps, averaged over examples. Traceable."""
        o, known = self.outputs(params, x), ~jnp.isnan(t)
        target = jnp.where(known, t, 0)
        each = -target * jax.nn.log_softmax(o) if self.classes else 0.5 * (o - target) ** 2
        return jnp.sum(jnp.where(known, each, 0)) / len(x)


def rows_of_digits(rng: np.random.RandomState) -> tuple[Sequences, Sequences]:
    """MNIST read row by row: 4,000 sequences of 28 rows of 28 pixels, the class at the end."""
    found = []
    with np.load(arena.MNIST) as file:
        for part, count in (("train", 4_000), ("test", TESTED)):
            chosen = rng.permutation(len(file[f"x_{part}"]))[:count]
            x = (file[f"x_{part}"][chosen] / 255).astype(np.float32)
            t = np.full((count, 28, 10), np.nan, np.float32)
            t[:, -1] = np.eye(10)[file[f"y_{part}"][chosen]]
            found.append((x, t))
    return found[0], found[1]


def context(rng: np.random.RandomState) -> tuple[Sequences, Sequences]:
    """Context-dependent integration (Mante et al. 2013): the sign of the cued one of two noisy inputs, at the end.

    40 steps, of which the last ten are asked; strengths of 0.05 to 0.3, noise of deviation 0.3 per step.
    """

    def draw(count: int) -> Sequences:
        means = rng.choice([-1, 1], (count, 2)) * rng.uniform(0.05, 0.3, (count, 2))
        cued = rng.randint(0, 2, count)
        x = np.zeros((count, 40, 4), np.float32)
        x[..., :2] = means[:, None] + 0.3 * rng.randn(count, 40, 2)
        x[np.arange(count), :, 2 + cued] = 1
        t = np.full((count, 40, 1), np.nan, np.float32)
        t[:, -10:, 0] = np.sign(means[np.arange(count), cued])[:, None]
        return x, t

    return draw(800), draw(TESTED)


def flip_flop(rng: np.random.RandomState) -> tuple[Sequences, Sequences]:
    """Three bits (Sussillo and Barak 2013): each output holds the sign of the last pulse on its input, zero before one.

    50 steps, a pulse on each input with probability 0.1 per step.
    """

    def draw(count: int) -> Sequences:
        x = (rng.choice([-1, 1], (count, 50, 3)) * (rng.uniform(size=(count, 50, 3)) < 0.1)).astype(np.float32)
        t = np.zeros_like(x)
        for step in range(50):
            t[:, step] = np.where(x[:, step] != 0, x[:, step], t[:, step - 1] if step else 0)
        return x, t

    return draw(400), draw(TESTED)


def _another_class(o: Floats, t: Floats) -> NDArray[np.bool_]:
    return o.argmax(axis=-1) != t.argmax(axis=-1)


def _another_sign(o: Floats, t: Floats) -> NDArray[np.bool_]:
    return np.any(o * t <= 0, axis=-1)


def _far(o: Floats, t: Floats) -> NDArray[np.bool_]:
    return np.any(abs(o - t) > 0.5, axis=-1)


TASKS = {
    "rows of MNIST": Task(
        60, 1.0, True, (0.5, 0.34, 0.23, 0.15), rows_of_digits, _another_class, adam=3e-3, minibatch=1000
    ),
    "context": Task(50, 0.1, False, (0.3, 0.1, 0.03, 0.02), context, _another_sign, {"spectral_radius": 1.0}),
    "flip-flop": Task(30, 1.0, False, (0.5, 0.2, 0.05, 0.01), flip_flop, _far, {"spectral_radius": 0.9}),
}
