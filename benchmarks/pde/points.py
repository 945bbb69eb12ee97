"""Where residuals are taken: random points of a box or of its faces, by a seed."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

Floats = NDArray[np.float64]

#: How points are drawn: independently, one in each of n layers of every axis, evenly (scrambled Sobol points), or as a
#: lattice, the most even of all in two dimensions.
SAMPLINGS = ("uniform", "latin", "sobol", "lattice")


class Region(NamedTuple):
    """A box; with `faces`, the two ends of the box along these axes."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    faces: tuple[int, ...] = ()


class Cluster(NamedTuple):
    """A share of the points that is moved towards a place: there a Cauchy density of this width, within the box."""

    share: float
    axis: int
    centre: float
    width: float


def draw(
    region: Region, count: int, sampling: str, rng: np.random.Generator, clusters: tuple[Cluster, ...] = ()
) -> Floats:
    """Points of a region.

    Args:
        region: a box or faces of it.
        count: of points.
        sampling: one of `SAMPLINGS`.
        rng: makes the choices.
        clusters: which parts of the points lie closer together. Their shares add up to 1 at most.

    Returns:
        (count, d).

    Raises:
        ValueError: if the sampling is not known.
    """
    low, high = np.array(region.low), np.array(region.high)
    unit = _unit(count, len(low), sampling, rng)
    first = 0
    for cluster in clusters:
        some = slice(first, first + round(cluster.share * count))
        unit[some, cluster.axis] = _gathered(unit[some, cluster.axis], cluster, region)
        first = some.stop
    points = low + (high - low) * unit
    if region.faces:
        axes = rng.choice(region.faces, count)
        points[np.arange(count), axes] = np.where(rng.random(count) < 0.5, low[axes], high[axes])
    return points


def _unit(count: int, d: int, sampling: str, rng: np.random.Generator) -> Floats:
    """Points of the unit cube, in random order."""
    if sampling == "uniform":
        return rng.random((count, d))
    if sampling == "latin":
        return np.asarray(qmc.LatinHypercube(d, rng=rng).random(count))
    if sampling == "sobol":
        found = qmc.Sobol(d, rng=rng).random_base2(math.ceil(math.log2(max(count, 2))))
        return np.asarray(rng.permutation(found[:count]))
    if sampling == "lattice":
        shift = rng.random(d)
        shift[0] /= count  # the first axis is not closed to a ring
        return np.asarray(rng.permutation((_lattice(count, d) + shift) % 1))
    raise ValueError(f"sampling is {sampling!r}; one of {', '.join(SAMPLINGS)} is expected.")


def _lattice(count: int, d: int) -> Floats:
    """The points i (1 / n, 1 / g, 1 / g^2, ...) with g^d = g + 1, which in two dimensions is the golden ratio.

    Source: Roberts 2018, "The unreasonable effectiveness of quasirandom sequences", with i / n as one more axis.
    """
    g = 1.5
    for _ in range(50):
        g = (1 + g) ** (1 / d)
    steps = np.concatenate([[1 / count], g ** -np.arange(1.0, d)])
    return np.arange(count)[:, None] * steps


def _gathered(unit: Floats, cluster: Cluster, region: Region) -> Floats:
    """Coordinates of the unit interval, by the quantiles of the cluster's density on it."""
    low, high = region.low[cluster.axis], region.high[cluster.axis]
    ends = np.arctan((np.array([low, high]) - cluster.centre) / cluster.width)
    placed = cluster.centre + cluster.width * np.tan(ends[0] + (ends[1] - ends[0]) * unit)
    return np.asarray((placed - low) / (high - low))


def chosen(sizes: Floats, count: int, k: float, c: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """Which points to take of those whose residuals have these sizes: in proportion to sizes^k / their mean + c.

    Source: Wu et al. 2023, "A comprehensive study of non-adaptive and residual-based adaptive sampling for PINNs".
    """
    shares = sizes**k / np.mean(sizes**k) + c
    return rng.choice(len(sizes), count, replace=False, p=shares / shares.sum())
