"""First-order updates: Adam through `run_epochs` and `fit`, beside a plain jitted loop around optax.

Networks: row A3's autoencoder, minibatches of 200 and of 1,000, and one of two layers of 32 units, minibatches of 32.
The plain loop takes its minibatches from numpy, as most do. An epoch's evaluation is left out: errors are those of as
many examples as a minibatch has.

Run: python benchmarks/first_order.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

import hessianfree as hf

import arena

Floats = NDArray[np.float32]

A3 = (784, 400, 200, 100, 30, 100, 200, 400, 784)
CASES = {
    "A3, batch 200": (A3, 4_000, 200),
    "A3, batch 1,000": (A3, 10_000, 1_000),
    "16-32-32-4, batch 32": ((16, 32, 32, 4), 16_000, 32),
}
ROUNDS, EPOCHS = 7, 3


def plain(shape: tuple[int, ...], x: Floats, t: Floats, size: int) -> Callable[[], float]:
    """Seconds of an update of a plain loop, compiled before."""
    net, optimizer = network(shape), optax.adam(1e-3)
    start = {layer: net.get_weights(net.W.copy(), (layer, layer + 1)) for layer in range(len(shape) - 1)}

    def loss(params: Any, inputs: Any, targets: Any) -> Any:
        for layer in range(len(shape) - 2):
            W, b = params[layer]
            inputs = jax.nn.sigmoid(inputs @ W + b)
        W, b = params[len(shape) - 2]
        return jnp.mean(jnp.sum(0.5 * (inputs @ W + b - targets) ** 2, axis=1))

    @jax.jit
    def step(params: Any, state: Any, inputs: Any, targets: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params, inputs, targets)
        change, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, change), state, value

    def seconds() -> float:
        rng = np.random.RandomState(0)
        params, state = start, optimizer.init(start)
        began = time.perf_counter()
        for _ in range(EPOCHS):
            order = rng.permutation(len(x))
            for first in range(0, len(x), size):
                rows = order[first : first + size]
                params, state, _ = step(params, state, x[rows], t[rows])
        jax.block_until_ready(params)
        return (time.perf_counter() - began) / (EPOCHS * len(x) / size)

    return seconds


def network(shape: tuple[int, ...]) -> hf.FFNet:
    """Logistic layers, and a linear output."""
    return hf.FFNet(list(shape), layers=["Linear", *["Logistic"] * (len(shape) - 2), "Linear"], rng=0)


def by_run_epochs(shape: tuple[int, ...], x: Floats, t: Floats, size: int) -> Callable[[], float]:
    """Seconds of an update of `run_epochs`, the first epoch left out."""
    net = network(shape)

    def seconds() -> float:
        result = net.run_epochs(
            x, t, hf.opt.FirstOrder(optax.adam(1e-3)), EPOCHS + 1, size, (x[:size], t[:size]), print_period=None
        )
        return per_update(result.history["seconds"], len(x) / size)

    return seconds


def by_fit(shape: tuple[int, ...], x: Floats, t: Floats, size: int) -> Callable[[], float]:
    """Seconds of an update of `fit`, the first epoch left out."""
    net = network(shape)
    start = [net.get_weights(net.W.copy(), (layer, layer + 1)) for layer in range(len(shape) - 1)]

    def model(params: Any, inputs: Any) -> Any:
        for W, b in params[:-1]:
            inputs = jax.nn.sigmoid(inputs @ W + b)
        return inputs @ params[-1][0] + params[-1][1]

    objective = hf.Objective(model)

    def seconds() -> float:
        optimizer = hf.opt.FirstOrder(optax.adam(1e-3))
        settings: dict[str, Any] = {"max_epochs": EPOCHS + 1, "minibatch_size": size, "print_period": None}
        result = hf.fit(objective, start, (x, t), optimizer, test=(x[:size], t[:size]), **settings)
        return per_update(result.history["seconds"], len(x) / size)

    return seconds


def per_update(seconds: NDArray[np.float64], updates: float) -> float:
    """From the first epoch's end to the last one's."""
    return float(seconds[-1] - seconds[0]) / (updates * EPOCHS)


def main() -> None:
    """Measure in turn, and report medians of the ratios."""
    rows, verdicts = [], {}
    for name, (shape, count, size) in CASES.items():
        rng = np.random.RandomState(1)
        x = rng.rand(count, shape[0]).astype(np.float32)
        t = x if shape[0] == shape[-1] else np.tanh(x[:, : shape[-1]])
        doors = {"plain": plain, "run_epochs": by_run_epochs, "fit": by_fit}
        measures = {door: make(shape, x, t, size) for door, make in doors.items()}
        for measure in measures.values():
            measure()
        rounds = arena.interleaved(ROUNDS, measures)
        row = {f"{door}, ms": 1e3 * arena.median(found[door] for found in rounds) for door in doors}
        rows.append({"case": name, **row})
        for door in ("run_epochs", "fit"):
            ratio = arena.median(found[door] / found["plain"] for found in rounds)
            verdicts[f"{name}: {door} / plain (bar 1.15)"] = round(ratio, 3)
    arena.report("first-order", "an update of Adam, beside a plain loop around optax", rows, verdicts)


if __name__ == "__main__":
    main()
