"""How well outputs agree with targets, as one number: accuracy and R^2.

Symbols: outputs o and targets t, (B, n) or (B, T, n), targets NaN where they do not count; weights of examples, (B,).
A row is an example, over time a timestep of an example.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.networks.labels import places_of

Floats = NDArray[Any]


def accuracy(o: Floats, t: Floats, weights: Floats | None = None) -> float:
    """The share of rows whose largest output is where the largest target is; NaN if no target is known.

    Outputs that are not finite are wrong. One output says the second class above 1/2.

    Example:
        >>> accuracy(np.array([[0.2], [0.9]]), np.array([[1.0], [1.0]]))
        0.5
    """
    known = np.asarray(~np.isnan(t).any(axis=-1))
    right = (places_of(o) == places_of(np.where(known[..., None], t, 0))) & np.isfinite(o).all(axis=-1)
    counts = _weighted(known, weights)
    total = counts.sum()
    return float((right * counts).sum() / total) if total else float("nan")


def r_squared(o: Floats, t: Floats, weights: Floats | None = None) -> float:
    """The coefficient of determination R^2 = 1 - sum (t - o)^2 / sum (t - mean t)^2, averaged over the outputs.

    An output whose targets are all equal counts 1 if it meets them and 0 if not, as in scikit-learn.

    Example:
        >>> r_squared(np.array([[1.0], [2.0], [4.0]]), np.array([[1.0], [2.0], [3.0]]))
        0.5
    """
    known = ~np.isnan(t)
    counts = _weighted(known, weights).reshape(-1, t.shape[-1])
    o, t = (np.where(known, a.astype(float), 0).reshape(-1, a.shape[-1]) for a in (o, t))
    total = counts.sum(axis=0)
    used = total > 0
    counts, o, t, total = counts[:, used], o[:, used], t[:, used], total[used]
    left = (counts * (t - o) ** 2).sum(axis=0)
    spread = (counts * (t - (counts * t).sum(axis=0) / total) ** 2).sum(axis=0)
    constant = spread == 0
    return float(np.mean(np.where(constant, left == 0, 1 - left / np.where(constant, 1, spread))))


def _weighted(known: NDArray[np.bool_], weights: Floats | None) -> Floats:
    """How much each entry counts."""
    if weights is None:
        return known.astype(float)
    return known * weights.astype(float).reshape(-1, *(1,) * (known.ndim - 1))
