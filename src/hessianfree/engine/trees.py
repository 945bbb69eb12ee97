"""Vector algebra on pytrees: a parameter set is a vector whose coordinates live in its leaves.

The leaves of two vectors agree in shape and type, so jax.lax is enough. What jax.numpy does on top of it takes a good
part of the time to trace an update of a network with many layers.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Inexact, Key, Shaped
from jaxtyping import PyTree as PyTree

#: A real number, as JAX returns it.
Scalar: TypeAlias = Float[Array, ""]
#: A vector: arrays of numbers, in a pytree of any structure.
Vector: TypeAlias = PyTree[Inexact[ArrayLike, "..."]]
#: Vectors in rows: every leaf has one more axis, in front.
Rows: TypeAlias = PyTree[Inexact[ArrayLike, "_ ..."]]


def dot(x: Vector, y: Vector) -> Scalar:
    """Inner product x'y over all leaves.

    Example:
        >>> float(dot({"a": jnp.ones(3)}, {"a": jnp.full(3, 2.0)}))
        6.0
    """
    products = jax.tree.map(lambda a, b: lax.reduce_sum(lax.mul(a, b), tuple(range(a.ndim))), x, y)
    return reduce(add, jax.tree.leaves(products))


def norm(x: Vector) -> Scalar:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(dot(x, x))


def safe_norm(x: Vector) -> Scalar:
    """Euclidean norm, safe for numbers whose squares the type cannot hold: 1e19 or 1e-19 in float32."""
    unit = power_of_two_near(x)
    return unit * norm(scale(1 / unit, x))


class Product(NamedTuple):
    """An inner product as mantissa times two powers of two, for numbers whose products the type cannot hold."""

    mantissa: Scalar
    left: Scalar
    right: Scalar

    def __float__(self) -> float:
        """In Python's double precision."""
        return float(self.mantissa) * float(self.left) * float(self.right)


def safe_dot(x: Vector, y: Vector) -> Product:
    """Inner product x'y over all leaves."""
    left, right = power_of_two_near(x), power_of_two_near(y)
    return Product(dot(scale(1 / left, x), scale(1 / right, y)), left, right)


def power_of_two_near(x: Vector) -> Scalar:
    """The power of two next to the largest magnitude; dividing by it does not round. 1 if x is zero or not finite."""
    largest = jnp.max(jnp.array([jnp.max(jnp.abs(leaf)) for leaf in jax.tree.leaves(x)]))
    usable = (largest > 0) & jnp.isfinite(largest)
    exponent = jnp.frexp(jnp.where(usable, largest, 1))[1]
    limit = jnp.finfo(largest.dtype).maxexp - 28  # 100 in float32: its reciprocal is a normal number too
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent, -limit, limit))


def axpy(alpha: Shaped[ArrayLike, ""], x: Vector, y: Vector) -> Vector:
    """The combination alpha x + y."""
    return jax.tree.map(lax.add, scale(alpha, x), y)


def scale(alpha: Shaped[ArrayLike, ""], x: Vector) -> Vector:
    """The multiple alpha x."""
    return jax.tree.map(lambda a: lax.mul(lax.full_like(a, alpha), a), x)


def multiply(x: Vector, y: Vector) -> Vector:
    """The elementwise product of two vectors."""
    return jax.tree.map(lax.mul, x, y)


def blend(share: Shaped[ArrayLike, ""], x: PyTree, y: PyTree) -> PyTree:
    """The point x + share (y - x) between x and y, in the types of x."""
    return jax.tree.map(lambda a, b: (a + share * (b - a)).astype(a.dtype), x, y)


def zeros(x: PyTree) -> PyTree:
    """Zeros where the leaves live: on the host, or on their devices in their own layout; on the host for shapes."""
    return jax.tree.map(lambda a: jnp.zeros_like(a) if isinstance(a, Array) else np.zeros(a.shape, a.dtype), x)


def random_normal(key: Key[Array, ""], like: PyTree, rows: tuple[int, ...] = ()) -> PyTree:
    """Independent standard normal numbers for every leaf, with these axes in front."""
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    shapes = [(*rows, *jnp.shape(leaf)) for leaf in leaves]
    return jax.tree.unflatten(structure, map(jax.random.normal, keys, shapes, map(jnp.result_type, leaves)))


def select(condition: Bool[Array, ""], x: PyTree, y: PyTree) -> PyTree:
    """Choose x where a scalar condition holds, y otherwise; a NaN in the other branch does no harm."""
    return jax.tree.map(lambda a, b: lax.select(lax.broadcast(condition, a.shape), a, b), x, y)


def all_finite(x: PyTree) -> Bool[Array, ""]:
    """Whether every coordinate is finite."""
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(x)]))


def weigh_examples(weights: Shaped[Array, "B"], x: PyTree, axis: int = 0) -> PyTree:
    """Multiply example i of every leaf, along `axis`, by weights[i]; a weight of zero gives zero, even of NaN."""

    def weigh(a: Array) -> Array:
        w = weights.reshape((-1,) + (1,) * (a.ndim - 1 - axis))
        return jnp.where(w == 0, 0, a * w)

    return jax.tree.map(weigh, x)


def dot_examples(x: PyTree, y: PyTree, axis: int = 0) -> Float[Array, "B"]:
    """Inner products x_i'y_i of every example i, along `axis` of every leaf."""

    def along(a: Array, b: Array) -> Array:
        return jnp.sum(a * b, axis=tuple(i for i in range(a.ndim) if i != axis))

    return reduce(add, jax.tree.leaves(jax.tree.map(along, x, y)))
