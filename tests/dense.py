"""Independent truths: the mathematics written out densely in numpy float64, without the package's code or autodiff."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def activation(name: str, z: Floats) -> Floats:
    """Each built-in nonlinearity by its textbook formula."""
    if name == "Softmax":
        e = np.exp(z - z.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
    return {
        "Linear": lambda: z,
        "Tanh": lambda: np.tanh(z),
        "Logistic": lambda: 1 / (1 + np.exp(-z)),
        "ReLU": lambda: np.maximum(z, 0),
        "Gaussian": lambda: np.exp(-(z**2)),
        "SoftLIF": lambda: 0.01 / (0.002 + 0.02 * np.log1p(1 / np.log1p(np.exp(z)))),
    }[name]()


def loss(name: str, o: Floats, t: Floats) -> Floats:
    """Each output loss per example; NaN targets count for nothing."""
    known = ~np.isnan(t)
    t = np.where(known, t, 0)
    if name == "SquaredError":
        terms = 0.5 * np.where(known, o - t, 0) ** 2
    elif name == "CrossEntropy":
        terms = -t * np.log(o)
    else:
        terms = -np.where(known, t * np.log(o) + (1 - t) * np.log(1 - o), 0)
    return terms.sum(axis=-1)


def run(
    shape: list[int], conns: dict[int, list[int]], names: list[str], W: Floats, x: Floats
) -> tuple[list[Any], list[Any]]:
    """z and a of every layer, unpacking the flat vector by the documented layout."""
    matrices, start = {}, 0
    for pre in sorted(conns):
        for post in conns[pre]:
            size = shape[pre] * shape[post]
            matrices[pre, post] = (
                W[start : start + size].reshape(shape[pre], shape[post]),
                W[start + size : start + size + shape[post]],
            )
            start += size + shape[post]
    assert start == len(W)
    z, a = [x], [activation(names[0], x)]
    for post in range(1, len(shape)):
        z.append(sum(a[pre] @ M + b for (pre, to), (M, b) in matrices.items() if to == post))
        a.append(activation(names[post], z[post]))
    return z, a


Step = Callable[[Any, Floats], tuple[Any, Floats]]


def without_state(name: str) -> Step:
    """A built-in nonlinearity as a step over time."""
    return lambda state, z: (state, activation(name, z))


def leaky(name: str, rate: Any) -> Step:
    """A leaky integrator in front of a nonlinearity; None is its zero state."""

    def step(state: Any, z: Floats) -> tuple[Any, Floats]:
        s = (1 - rate) * (np.zeros_like(z) if state is None else state) + rate * z
        return s, activation(name, s)

    return step


def run_over_time(
    shape: list[int],
    conns: dict[int, list[int]],
    rec_layers: list[int],
    steps: list[Step],
    W: Floats | Callable[[int], Floats],
    inputs: Floats | Callable[[int, Any], Floats],
    count: int = 0,
) -> tuple[list[Floats], list[Floats]]:
    """z and a of every layer, (B, T, n), one timestep, layer and connection after another.

    W may differ from timestep to timestep; inputs may be made from the last output of the timestep before.
    """
    weights = W if callable(W) else lambda t: W
    feed = inputs if callable(inputs) else lambda t, y: inputs[:, t]
    states, a_before, history = [None] * len(shape), [None] * len(shape), []
    for t in range(count or inputs.shape[1]):
        matrices, recurrent, start = {}, {}, 0
        for pre, post in [(p, q) for p in sorted(conns) for q in conns[p]] + [(n, n) for n in sorted(rec_layers)]:
            middle = start + shape[pre] * shape[post]
            block = weights(t)[start:middle].reshape(shape[pre], shape[post]), weights(t)[middle : middle + shape[post]]
            (recurrent if pre == post else matrices)[pre, post] = block
            start = middle + shape[post]
        assert start == len(weights(t))
        x, z, a = feed(t, a_before[-1]), [], []
        for layer in range(len(shape)):
            total = x if layer == 0 else 0
            for (pre, post), (M, b) in matrices.items():
                if post == layer:
                    total = total + a[pre] @ M + b
            if layer in rec_layers:
                M, b = recurrent[layer, layer]
                total = total + (b if t == 0 else a_before[layer] @ M)
            states[layer], output = steps[layer](states[layer], total)
            z.append(total)
            a.append(output)
        a_before = a
        history.append((z, a))
    return tuple([np.stack([step[k][n] for step in history], axis=1) for n in range(len(shape))] for k in (0, 1))


def jacobian(function: Callable[[Floats], Floats], at: Floats, h: float = 1e-6) -> Floats:
    """Central differences, (outputs..., P)."""
    columns = [(function(at + h * e) - function(at - h * e)) / (2 * h) for e in np.eye(len(at))]
    return np.stack(columns, axis=-1)


def hessian_blocks(per_example: Callable[[Floats], Floats], at: Floats, h: float = 1e-4) -> Floats:
    """Second differences of per-example losses at (B, n) outputs: (B, n, n)."""
    B, n = at.shape
    H = np.empty((B, n, n))
    for i in range(n):
        for j in range(n):
            ei, ej = np.eye(n)[i] * h, np.eye(n)[j] * h
            H[:, i, j] = (
                per_example(at + ei + ej)
                - per_example(at + ei - ej)
                - per_example(at - ei + ej)
                + per_example(at - ei - ej)
            ) / (4 * h * h)
    return H


def gauss_newton(outputs: Callable[[Floats], Floats], per_example: Callable[[Floats], Floats], W: Floats) -> Floats:
    """mean over examples of J_i' H_i J_i."""
    J = jacobian(outputs, W)
    H = hessian_blocks(per_example, outputs(W))
    return np.einsum("bip,bij,bjq->pq", J, H, J) / len(H)


def conjugate_gradient(B: Floats, b: Floats, iterations: int) -> list[Floats]:
    """Every iterate of Hestenes and Stiefel's CG on B x = b from zero."""
    x, r = np.zeros_like(b), b.copy()
    p, iterates = r.copy(), []
    for _ in range(iterations):
        alpha = (r @ r) / (p @ B @ p)
        x, new_r = x + alpha * p, r - alpha * B @ p
        p, r = new_r + (new_r @ new_r) / (r @ r) * p, new_r
        iterates.append(x)
    return iterates


def quadratic(B: Floats, b: Floats, x: Floats) -> float:
    """phi(x) = 1/2 x'Bx - b'x."""
    return 0.5 * x @ B @ x - b @ x


def damped_system(net, damping):
    """G + damping I of a network's cached examples, column by column, and the gradient."""
    G = np.stack([net.calc_G(e) for e in np.eye(net.W.size)])
    return G + damping * np.eye(net.W.size), net.calc_grad()
