"""The tasks of published.py: networks, losses and data as their authors describe them, written anew from that.

A row holds a traceable network and loss, for peers in plain loops, and what our optimizers need beside them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import hessianfree as hf
from recurrent_tasks import TASKS

Params: TypeAlias = Any
Data: TypeAlias = tuple[Any, Any]  # inputs and targets, the examples along the first axis
Sampler: TypeAlias = Callable[[Any, int], Data]  # random key, number of examples -> examples; traceable

#: Examples that errors are measured on.
TESTED = 1_024


@dataclass(frozen=True)
class Row:
    """What to learn.

    Attributes:
        levels: errors to reach, falling; the last is the one that was published, or asked for.
        goal: seconds to the last one that we aim at, None where there is no such aim.
        initial: the seed -> initial parameters.
        outputs: parameters and inputs -> outputs; traceable.
        loss: parameters, inputs and targets -> the loss that peers minimise, of their authors; traceable.
        sample: draws examples.
        test: the seed -> examples to measure the error on.
        error: outputs and targets -> the error, as the authors measure it.
        examples: that our optimizers learn from, in all; peers draw new ones for each update.
        network: the seed -> our network without its weights; None for a function that hf.fit trains.
        objective: what hf.fit minimises; None for a network.
    """

    levels: tuple[float, ...]
    goal: float | None
    initial: Callable[[int], Params]
    outputs: Callable[[Params, Any], Any]
    loss: Callable[[Params, Any, Any], Any]
    sample: Sampler
    test: Callable[[int], Data]
    error: Callable[[Any, Any], float]
    examples: int
    network: Callable[[int], hf.RNNet] | None = None
    objective: hf.Objective | None = None


def drawn(sample: Sampler, seed: int, count: int) -> Data:
    """Examples as numpy arrays; another number draws others, so that those to test on are never learned from."""
    return jax.device_get(jax.jit(sample, static_argnums=1)(jax.random.key(seed * 100_000 + count), count))


def mean_squared_error(outputs: Any, targets: Any) -> float:
    """Over examples, timesteps and units."""
    return float(np.mean((np.asarray(outputs) - targets) ** 2))


# ---- the integrator of computation-thru-dynamics -----------------------------------------------------------------

INTEGRATOR = replace(TASKS["flip-flop"], units=100)


def integrated_noise(key: Any, count: int) -> Data:
    """25 steps of white noise of deviation 0.125 and mean up to 0.01, to be summed up."""
    ours, theirs = jax.random.split(key)
    mean = jax.random.uniform(ours, (count, 1, 1), minval=-0.01, maxval=0.01)
    x = mean + 0.125 * jax.random.normal(theirs, (count, 25, 1))
    return x, jnp.cumsum(x, axis=1)


def integrators_weights(seed: int) -> Params:
    """Normal weights, recurrent ones of deviation 0.85 / sqrt(n); the first hidden state is a parameter."""
    rng, n = np.random.RandomState(seed), INTEGRATOR.units
    W_in, W_rec, first = rng.randn(1, n), 0.85 * rng.randn(n, n) / np.sqrt(n), 0.1 * rng.randn(n)
    W_out = rng.randn(n, 1) / np.sqrt(n)
    # What the first state sends through the recurrent weights is our recurrent bias: as free as the state itself.
    weights = {(0, 1): (W_in, np.zeros(n)), (1, 1): (W_rec, first @ W_rec), (1, 2): (W_out, np.zeros(1))}
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), weights)


def integrators_loss(params: Params, x: Any, t: Any) -> Any:
    """Mean squared error, and the squares of all weights."""
    penalty = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))
    return jnp.mean((INTEGRATOR.outputs(params, x) - t) ** 2) + 0.0002 * penalty


# ---- context-dependent integration, 256 units --------------------------------------------------------------------

CONTEXT = replace(TASKS["context"], units=256)


def cued_evidence(key: Any, count: int) -> Data:
    """The sign of the cued one of two noisy inputs: 40 steps, asked in the last ten, as in recurrent_tasks.py."""
    keys = jax.random.split(key, 4)
    signs = jax.random.rademacher(keys[0], (count, 2), float)
    means = signs * jax.random.uniform(keys[1], (count, 2), minval=0.05, maxval=0.3)
    cues = jax.nn.one_hot(jax.random.randint(keys[2], (count,), 0, 2), 2)
    evidence = means[:, None] + 0.3 * jax.random.normal(keys[3], (count, 40, 2))
    x = jnp.concatenate([evidence, jnp.broadcast_to(cues[:, None], (count, 40, 2))], axis=-1)
    answers = jnp.broadcast_to(jnp.sum(signs * cues, axis=1)[:, None, None], (count, 40, 1))
    return x, answers.at[:, :-10].set(jnp.nan)


def wrong_choices(outputs: Any, targets: Any) -> float:
    """Share of trials whose mean answer has the wrong sign."""
    answers = np.asarray(outputs)[:, -10:, 0].mean(axis=1)
    return float(np.mean(answers * targets[:, -1, 0] <= 0))


def weights_of(net: hf.RNNet) -> Params:
    """The weights of a network as recurrent_tasks.py takes them."""
    parts: Any = {key: net.get_weights(net.W, key) for key in ((0, 1), (1, 1), (1, 2))}
    return jax.tree.map(np.array, parts)


# ---- the Lorenz system of SOFO ------------------------------------------------------------------------------------

UNITS, STEPS = 400, 50


@cache
def lorenz_paths() -> NDArray[np.float32]:
    """5,120 paths of the Lorenz attractor, (N, 1 + STEPS, 3), 0.01 apart, each of the three of mean 0 and variance 1.

    Runge-Kutta of fourth order; each path begins ten units of time after a start at random.
    """

    def flow(y: NDArray[Any]) -> NDArray[Any]:
        return np.stack([10 * (y[1] - y[0]), y[0] * (28 - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]])

    state, found = np.random.RandomState(0).randn(3, 5_120), []
    for step in range(1_000 + STEPS + 1):
        if step >= 1_000:
            found.append(state.T)
        k1 = flow(state)
        k2 = flow(state + 0.005 * k1)
        k3 = flow(state + 0.005 * k2)
        k4 = flow(state + 0.01 * k3)
        state = state + 0.01 / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    paths = np.stack(found, axis=1)
    return ((paths - paths.mean((0, 1))) / paths.std((0, 1))).astype(np.float32)


def lorenz_examples(key: Any, count: int) -> Data:
    """Starts, and the paths from there: of all but the last 1,024, with replacement."""
    paths = jnp.asarray(lorenz_paths()[:-TESTED])
    chosen = paths[jax.random.choice(key, len(paths), (count,))]
    return chosen[:, 0], chosen[:, 1:]


def lorenz_weights(seed: int) -> Params:
    """At first the next state is about the present one."""
    rng = np.random.RandomState(seed)
    weights = {
        "A": np.eye(3),
        "C": rng.randn(3, UNITS) / 2,
        "b": rng.randn(UNITS) / 2,
        "W": 0.1 * rng.randn(UNITS, 3) / np.sqrt(UNITS),
    }
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), weights)


def lorenz_outputs(params: Params, x: Any) -> Any:
    """The path that the network takes on its own: y <- y A + relu(y C + b) W. Traceable."""

    def step(y: Any, _: None) -> Any:
        y = y @ params["A"] + jax.nn.relu(y @ params["C"] + params["b"]) @ params["W"]
        return y, y

    return jnp.swapaxes(jax.lax.scan(step, x, None, STEPS)[1], 0, 1)


# ---- a point mass that reaches, in the manner of feedbax ----------------------------------------------------------

MOVES, DT, GRU = 99, 0.05, 50


def reaches(key: Any, count: int) -> Data:
    """Start and goal anywhere in [-1, 1]^2, (N, 4); nothing is asked but what the loss says of the motion."""
    return jax.random.uniform(key, (count, 4), minval=-1, maxval=1), jnp.zeros((count, 1))


def center_out(_: int) -> Data:
    """The seven reaches of length 1/2 from the middle that validate."""
    angles = 2 * np.pi * np.arange(7) / 7
    goals = 0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return np.concatenate([np.zeros((7, 2)), goals], axis=1).astype(np.float32), np.zeros((7, 1), np.float32)


def reachers_weights(seed: int) -> Params:
    """Uniform within 1 / sqrt(units), the bias of the forces zero."""
    rng, bound = np.random.RandomState(seed), 1 / np.sqrt(GRU)
    shapes = {"in": (8, 3 * GRU), "rec": (GRU, 3 * GRU), "b": (3 * GRU,), "b_new": (GRU,), "out": (GRU, 2)}
    weights = {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}
    return weights | {"b_out": np.zeros(2, np.float32)}


def reaching(params: Params, x: Any) -> Any:
    """What the loss squares and sums, of a point mass that gated units push by feedback of its motion. Traceable."""
    goal, batch = x[:, 2:], len(x)

    def step(carry: Any, weight: Any) -> Any:
        position, velocity, h = carry
        seen = jnp.concatenate([goal, jnp.zeros_like(goal), position, velocity], axis=1)
        driven, recurrent = seen @ params["in"] + params["b"], h @ params["rec"]
        gates = jax.nn.sigmoid(driven[:, : 2 * GRU] + recurrent[:, : 2 * GRU])
        reset, keep = gates[:, :GRU], gates[:, GRU:]
        new = jnp.tanh(driven[:, 2 * GRU :] + reset * (recurrent[:, 2 * GRU :] + params["b_new"]))
        h = new + keep * (h - new)
        force = h @ params["out"] + params["b_out"]
        position, velocity = position + DT * velocity, velocity + DT * force
        return (position, velocity, h), (jnp.sqrt(weight) * (position - goal), 1e-5**0.5 * force, 1e-5**0.5 * h)

    weights = jnp.linspace(1 / MOVES, 1, MOVES) ** 6
    start = x[:, :2], jnp.zeros((batch, 2)), jnp.zeros((batch, GRU))
    (_, velocity, _), series = jax.lax.scan(step, start, weights)
    return [velocity, *(jnp.swapaxes(part, 0, 1) for part in series)]


def cost_of_reaches(residuals: Any, _: Any) -> Any:
    """The loss of each reach: distance from the goal, mostly late, the last velocity, forces and activity."""
    return sum(jnp.sum(part**2, axis=range(1, part.ndim)) for part in residuals)


def reaching_loss(params: Params, x: Any, t: Any) -> Any:
    """Their mean. Traceable."""
    return jnp.mean(cost_of_reaches(reaching(params, x), t))


# ---- all of them --------------------------------------------------------------------------------------------------


def plain_loss(outputs: Callable[[Params, Any], Any], params: Params, x: Any, t: Any) -> Any:
    """Mean squared error of what is asked. Traceable."""
    known = ~jnp.isnan(t)
    return jnp.sum(jnp.where(known, outputs(params, x) - jnp.where(known, t, 0), 0) ** 2) / jnp.sum(known)


ROWS = {
    "integrator": Row(
        levels=(1e-2, 1e-3, 1e-4, 2e-5),
        goal=10,
        initial=integrators_weights,
        outputs=INTEGRATOR.outputs,
        loss=integrators_loss,
        sample=integrated_noise,
        test=lambda seed: drawn(integrated_noise, seed, TESTED),
        error=mean_squared_error,
        examples=500,
        network=lambda seed: INTEGRATOR.network(1, 1, seed),
    ),
    "context, 256 units": Row(
        levels=(0.3, 0.1, 0.05),
        goal=120,
        initial=lambda seed: weights_of(CONTEXT.network(4, 1, seed)),
        outputs=CONTEXT.outputs,
        loss=partial(plain_loss, CONTEXT.outputs),
        sample=cued_evidence,
        test=lambda seed: drawn(cued_evidence, seed, TESTED),
        error=wrong_choices,
        examples=500,
        network=lambda seed: CONTEXT.network(4, 1, seed),
    ),
    "Lorenz": Row(
        levels=(1e-1, 1e-2, 1e-3, 1e-4),
        goal=None,
        initial=lorenz_weights,
        outputs=lorenz_outputs,
        loss=partial(plain_loss, lorenz_outputs),
        sample=lorenz_examples,
        test=lambda _: (lorenz_paths()[-TESTED:, 0], lorenz_paths()[-TESTED:, 1:]),
        error=mean_squared_error,
        examples=256,
        objective=hf.Objective(lorenz_outputs),
    ),
    "reach": Row(
        levels=(1e-2, 1e-3, 7e-4, 5.83e-4),
        goal=20,
        initial=reachers_weights,
        outputs=reaching,
        loss=reaching_loss,
        sample=reaches,
        test=center_out,
        error=lambda outputs, t: float(np.mean(cost_of_reaches(outputs, t))),
        examples=100,
        objective=hf.Objective(reaching, cost_of_reaches),
    ),
}
