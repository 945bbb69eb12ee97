"""Metrics of the parameters of least squares: how long a step is.

Symbols:
    J    Jacobian of the residuals, J_j its column of parameter j
    h_j  size of parameter j: its largest magnitude so far
    u_j  its unit, given
    D    the metric, (P,): a step d has the length |D d|
The first two turn with the units of the parameters, so that the steps do not.
    norms     D_j is the largest norm so far of column j of J (More 1978, "The Levenberg-Marquardt algorithm").
    sizes     D_j^2 = |J_j|^2 + (max_k |J_k| h_k / h_j)^2: one unit is the size of the parameter. It keeps parameters of
              little effect from steps of many times their size, which the first one allows far from the solution.
    units     D_j = max_k |J_k| u_k / u_j, with given units u, 1 by default: Levenberg's own. The weights of a network
              have a common unit, and norms that are small only because other weights are: there this one is faster.
    mixed     D_j is the first one for the few parameters whose norm is far from the others', and the third one, with
              these left out, for the others: an unknown coefficient in a unit of its own beside weights of a network.
`Metric.OPEN` takes the units if the norms of all columns at the start lie within a factor of 1e5; else mixed ones if
the norms of few parameters lie further than a factor of 1e4 from the median; else the norms. Heuristics, these too.
"""

from __future__ import annotations

from enum import IntEnum

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

#: Spread of the norms of columns up to which the parameters are taken to have a common unit. A heuristic.
SPREAD = 1e5
#: How far from the median of the norms a parameter has a unit of its own, and the share of such ones that are few.
FAR, FEW = 1e4, 0.1


class Metric(IntEnum):
    """How steps are measured."""

    NORMS = 0
    SIZES = 1
    UNITS = 2
    OPEN = 3  # to be chosen at the first step
    MIXED = 4


def chosen(given: Int[ArrayLike, ""], scaled: Float[Array, "P"], far: Bool[Array, "P"]) -> Int[Array, ""]:
    """Which metric to use, a `Metric`; the choice is made once, from norms in given units and which are `apart`."""
    least = jnp.min(jnp.where(scaled > 0, scaled, jnp.inf))
    few = jnp.sum(far) <= FEW * scaled.size
    best = jnp.where(few, Metric.MIXED, Metric.NORMS)
    best = jnp.where(jnp.max(scaled) <= SPREAD * least, Metric.UNITS, best)
    return jnp.where(jnp.asarray(given) == Metric.OPEN, best, given)


def apart(scaled: Float[Array, "P"]) -> Bool[Array, "P"]:
    """Which of these norms are far from the median; none that is zero."""
    middle = jnp.nan_to_num(jnp.nanmedian(jnp.where(scaled > 0, scaled, jnp.nan)))
    return (scaled > 0) & ((scaled > FAR * middle) | (middle > FAR * scaled))


def metric(
    given: Int[ArrayLike, ""],
    norms: Float[Array, "P"],
    lasting: Float[Array, "P"],
    sizes: Float[Array, "P"],
    units: Float[ArrayLike, "P"],
) -> tuple[Int[Array, ""], Float[Array, "P"]]:
    """Which metric is used, and its D, from the norms of the columns, the largest of them so far, h and u."""
    scaled = lasting * units
    far = apart(scaled)
    kind = chosen(given, scaled, far)
    effect = jnp.max(norms * sizes)
    by_size = jnp.where(sizes > 0, effect / jnp.where(sizes > 0, sizes, 1), 0)
    own = (kind == Metric.MIXED) & far
    by_unit = jnp.where(own, lasting, jnp.max(jnp.where(own, 0, scaled)) / units)
    by_norm = jnp.where(kind == Metric.SIZES, jnp.hypot(norms, by_size), lasting)
    return kind, jnp.where((kind == Metric.UNITS) | (kind == Metric.MIXED), by_unit, by_norm)


def size_of(v: Float[Array, "... n"]) -> Float[Array, "..."]:
    """The largest magnitude; 1 for a vector that is zero or not finite."""
    largest = jnp.max(jnp.abs(v), axis=-1)
    return jnp.where((largest > 0) & (largest < jnp.inf), largest, 1)


def length_of(v: Float[Array, "... n"]) -> Float[Array, "..."]:
    """The norm, safe for numbers whose squares the type cannot hold; of each of several rows."""
    size = size_of(v)
    return size * jnp.sqrt(jnp.sum((v / size[..., None]) ** 2, axis=-1))
