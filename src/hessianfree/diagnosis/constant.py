"""The loss of the best outputs that are the same for every example: what a network reaches that has learnt nothing.

Symbols, for one output:
    t   targets, NaN where unknown; an example of weight w counts w times
    m   mean target of the examples that count
The best constant for squared errors is m, for cross-entropies the shares of the classes, for Poisson's log m. A loss at
this level says that the inputs have no effect yet ("chance").
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


class Constant(NamedTuple):
    """The mean loss of the best constant outputs, and for classes the share of the commonest one."""

    loss: float
    commonest: float | None = None


def best_constant(
    loss: str, t: Floats, weights: Floats, lower: float | None = None, upper: float | None = None
) -> Constant | None:
    """The loss of the best constant outputs.

    Args:
        loss: "squared_error", "softmax_cross_entropy", "binary_cross_entropy" or "poisson".
        t: targets (N, ..., n), NaN where unknown; for softmax_cross_entropy also labels (N, ...), negative where
            unknown.
        weights: of the examples, (N,).
        lower: bound of the outputs, for squared errors.
        upper: likewise.

    Returns:
        The loss, summed over an example's outputs and averaged over examples; None for other losses, and where nothing
        is known.

    Example:
        >>> best_constant("squared_error", np.array([[0.0], [1.0]]), np.ones(2)).loss
        0.125
    """
    total = float(weights.sum())
    if loss not in ("squared_error", "softmax_cross_entropy", "binary_cross_entropy", "poisson") or total <= 0:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        labels = loss == "softmax_cross_entropy"
        found = _of_classes(t, weights, total) if labels else _of_numbers(loss, t, weights, total, lower, upper)
    return found if found is not None and math.isfinite(found.loss) else None


def _of_numbers(
    loss: str, t: Floats, weights: Floats, total: float, lower: float | None, upper: float | None
) -> Constant | None:
    """Targets that outputs are compared with one by one."""
    flat, w = _columns(t, weights)
    known = ~np.isnan(flat)
    mass = (w * known).sum(axis=0)
    if not mass.any():
        return None
    values, safe = np.where(known, flat, 0), np.where(mass > 0, mass, 1)
    m = (w * values).sum(axis=0) / safe
    if loss == "squared_error":
        c = np.clip(m, -np.inf if lower is None else lower, np.inf if upper is None else upper)
        return Constant(float((0.5 * w * known * (values - c) ** 2).sum() / total))
    if loss == "poisson":
        return Constant(float((mass * (m - _times_log(m, m))).sum() / total))
    commonest = float(max(m[0], 1 - m[0])) if len(m) == 1 else None
    return Constant(float(-(mass * (_times_log(m, m) + _times_log(1 - m, 1 - m))).sum() / total), commonest)


def _columns(t: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """Targets as (rows, n), and the weight of each row, (rows, 1)."""
    flat = t.reshape(-1, t.shape[-1] if t.ndim > 1 else 1).astype(float)
    return flat, np.repeat(weights.astype(float), len(flat) // len(t))[:, None]


def _of_classes(t: Floats, weights: Floats, total: float) -> Constant | None:
    """Labels, or shares of the classes, of softmax outputs."""
    if t.dtype.kind in "iu" or t.ndim == 1:
        w = np.repeat(weights.astype(float), t.size // len(t))
        counts = t.ravel() >= 0  # never for NaN
        mass = np.bincount(t.ravel()[counts].astype(np.int64), w[counts]) if counts.any() else np.zeros(1)
    else:
        flat, w_rows = _columns(t, weights)
        mass = (w_rows * np.where(np.isnan(flat), 0, flat)).sum(axis=0)
    if not mass.sum() > 0:
        return None
    p = mass / mass.sum()
    return Constant(float(-_times_log(mass, p).sum() / total), float(p.max()))


def _times_log(a: Floats, b: Floats) -> Floats:
    """The product a log b, zero where b is zero."""
    return a * np.log(np.where(b > 0, b, 1))
