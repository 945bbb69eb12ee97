"""Vector algebra on pytrees: a parameter set is a vector whose coordinates live in its leaves.

Written with jax.lax: leaves of two vectors agree in shape and type, so that nothing jax.numpy does on top is needed,
which for networks of many layers is a good part of the time it takes to trace an update.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

PyTree = Any


def dot(x: PyTree, y: PyTree) -> Array:
    """Inner product x'y over all leaves.

    Example:
        >>> float(dot({"a": jnp.ones(3)}, {"a": jnp.full(3, 2.0)}))
        6.0
    """
    products = jax.tree.map(lambda a, b: lax.reduce_sum(lax.mul(a, b), tuple(range(a.ndim))), x, y)
    return reduce(add, jax.tree.leaves(products))


def norm(x: PyTree) -> Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(dot(x, x))


def safe_norm(x: PyTree) -> Array:
    """Euclidean norm, also of numbers whose squares are beyond their type: in float32 1e19 or 1e-19."""
    unit = power_of_two_near(x)
    return unit * norm(scale(1 / unit, x))


class Product(NamedTuple):
    """An inner product in parts, mantissa times two powers of two, for numbers whose products are beyond their type."""

    mantissa: Array
    left: Array
    right: Array

    def __float__(self) -> float:
        """In Python's double precision."""
        return float(self.mantissa) * float(self.left) * float(self.right)


def safe_dot(x: PyTree, y: PyTree) -> Product:
    """Inner product x'y over all leaves."""
    left, right = power_of_two_near(x), power_of_two_near(y)
    return Product(dot(scale(1 / left, x), scale(1 / right, y)), left, right)


def power_of_two_near(x: PyTree) -> Array:
    """The power of two next to the largest magnitude, to divide by without rounding; 1 for zero or non-finite x."""
    largest = jnp.max(jnp.array([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(x)]))
    usable = (largest > 0) & jnp.isfinite(largest)
    exponent = jnp.frexp(jnp.where(usable, largest, 1))[1]
    limit = jnp.finfo(largest.dtype).maxexp - 28  # 100 in float32: its reciprocal is a normal number too
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -limit, limit))


def axpy(alpha: ArrayLike, x: PyTree, y: PyTree) -> PyTree:
    """The combination alpha x + y."""
    return jax.tree.map(lax.add, scale(alpha, x), y)


def scale(alpha: ArrayLike, x: PyTree) -> PyTree:
    """The multiple alpha x, alpha a number."""
    return jax.tree.map(lambda a: lax.mul(lax.full_like(a, alpha), a), x)


def multiply(x: PyTree, y: PyTree) -> PyTree:
    """The elementwise product of two vectors."""
    return jax.tree.map(lax.mul, x, y)


def blend(share: ArrayLike, x: PyTree, y: PyTree) -> PyTree:
    """The way from x to y gone to this share, x + share (y - x), in the types of x."""
    return jax.tree.map(lambda a, b: (a + share * (b - a)).astype(a.dtype), x, y)


def random_normal(key: Array, like: PyTree, rows: tuple[int, ...] = ()) -> PyTree:
    """Independent standard normal numbers in the place of every leaf, with these axes in front."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    drawn = [
        jax.random.normal(k, (*rows, *jnp.shape(leaf)), jnp.result_type(leaf))
        for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)


def select(condition: Array, x: PyTree, y: PyTree) -> PyTree:
    """Choose x where a scalar condition holds, y otherwise; a NaN in the other branch does no harm."""
    return jax.tree.map(lambda a, b: lax.select(lax.broadcast(condition, a.shape), a, b), x, y)


def all_finite(x: PyTree) -> Array:
    """Whether every coordinate is finite."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]))


def weigh_examples(weights: Array, x: PyTree, axis: int = 0) -> PyTree:
    """Multiply example i of every leaf (B, ...) by weights[i]; a weight of zero gives zero whatever stands there.

    Args:
        weights: (B,).
        x: leaves with B examples along `axis`.
        axis: where the examples are.
    """

    def weigh(a: Array) -> Array:
        w = weights.reshape((-1,) + (1,) * (a.ndim - 1 - axis))
        return jnp.where(w == 0, 0, a * w)

    return jax.tree.map(weigh, x)


def dot_examples(x: PyTree, y: PyTree, axis: int = 0) -> Array:
    """Inner products of x and y over everything that belongs to example i, (B,).

    Args:
        x: leaves with B examples along `axis`.
        y: likewise.
        axis: where the examples are.
    """

    def along(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=tuple(i for i in range(a.ndim) if i != axis))

    return reduce(add, jax.tree.leaves(jax.tree.map(along, x, y)))
