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
