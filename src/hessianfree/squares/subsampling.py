"""The points of steps that are made from a part of them."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.residuals import Points


def shuffled(inputs: tuple[Points, ...], step: int) -> tuple[Points, ...]:
    """The points of each term in a random order, which depends on the number of the step alone.

    Args:
        inputs: points of each term; a term without points stays as it is.
        step: its number.

    Example:
        >>> (points,) = shuffled((Points(np.arange(4), 1.0, np.arange(4) + 10),), 0)
        >>> sorted(points.at.tolist()), (points.sigma - points.at).tolist()
        ([0, 1, 2, 3], [10, 10, 10, 10])
    """
    return tuple(_shuffled(points, np.random.default_rng([step, term])) for term, points in enumerate(inputs))


def _shuffled(points: Points, rng: np.random.Generator) -> Points:
    if points.at is None:
        return points
    order = rng.permutation(points.many)
    sigma = _taken(points.sigma, order) if np.ndim(points.sigma) else points.sigma
    return points._replace(at=jax.tree.map(lambda leaf: _taken(leaf, order), points.at), sigma=sigma)


def _taken(leaf: Any, order: NDArray[np.intp]) -> Any:
    return np.asarray(leaf)[order]
