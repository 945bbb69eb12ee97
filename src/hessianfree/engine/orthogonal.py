"""Vectors kept in rows, and other vectors made orthogonal to them.

Rows are pytrees whose leaves have an axis of length k in front.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

from hessianfree.engine.trees import Rows, Vector

#: How many rows, or which.
Count: TypeAlias = int | Int[Array, ""]

#: Rows that are read together.
BLOCK = 32


def no_rows(like: Vector, count: int) -> Rows:
    """Rows of zeros for this many vectors, rounded up to whole blocks above one block; sharded as the vector is."""
    rows = count if count < BLOCK else -(-count // BLOCK) * BLOCK
    return jax.tree.map(lambda a: lax.broadcast(jnp.zeros_like(a), (rows,)), like)


def rows_that_fit(space: int, vector: int) -> int:
    """How many rows fit into this space next to the copy of a block that work on them needs; both in bytes."""
    count = space // max(vector, 1)
    return count // 2 if count < 2 * BLOCK else (count // BLOCK - 1) * BLOCK


def with_row(rows: Rows, index: Count, v: Vector) -> Rows:
    """The rows with row `index` replaced by v."""
    return jax.tree.map(lambda stack, a: lax.dynamic_update_index_in_dim(stack, a, index, 0), rows, v)


def inner(rows: Rows, v: Vector) -> Float[Array, "k"]:
    """Inner products of every row with v."""
    parts = jax.tree.map(lambda u, a: u.reshape(len(u), -1) @ a.reshape(-1), rows, v)
    return reduce(add, jax.tree.leaves(parts))


def combination(weights: Float[Array, "*j k"], rows: Rows) -> Vector:
    """The sum of the rows times their weights (k,). Weights (j, k) give j sums, as rows."""
    return jax.tree.map(lambda u: jnp.tensordot(weights, u, 1), rows)


def without(rows: Rows, duals: Rows, count: Count, v: Vector) -> Vector:
    """The part of v that is orthogonal to the first duals, v - sum_k (dual_k'v) row_k.

    It is orthogonal if dual_j'row_k is 1 for j = k and 0 otherwise: pass the rows as their duals if they are
    orthonormal. The count is rounded up to whole blocks. The rows after it must be zero, or the last one.
    """

    def without_block(number: Int[Array, ""], v: Vector) -> Vector:
        return jax.tree.map(lax.sub, v, combination(inner(_block(duals, number), v), _block(rows, number)))

    return lax.fori_loop(0, _blocks(rows, count), without_block, v)


def first_inner(rows: Rows, count: Count, v: Vector) -> Float[Array, "k"]:
    """Inner products of the first rows with v, as `inner`; later blocks are not read and give zero."""

    def with_block(number: Int[Array, ""], found: Float[Array, "k"]) -> Float[Array, "k"]:
        return lax.dynamic_update_slice(found, inner(_block(rows, number), v), (number * _size(rows),))

    leaf = jax.tree.leaves(rows)[0]
    return lax.fori_loop(0, _blocks(rows, count), with_block, jnp.zeros(len(leaf), leaf.dtype))


def first_combination(weights: Float[Array, "k"], rows: Rows, count: Count) -> Vector:
    """The sum of the first rows times their weights, as `combination`; later blocks are not read."""

    def with_block(number: Int[Array, ""], found: Vector) -> Vector:
        return jax.tree.map(lax.add, found, combination(_block(weights, number), _block(rows, number)))

    nothing = jax.tree.map(lambda stack: jnp.zeros_like(stack[0]), rows)
    return lax.fori_loop(0, _blocks(rows, count), with_block, nothing)


def _size(rows: Rows) -> int:
    """Rows of a block."""
    return min(len(jax.tree.leaves(rows)[0]), BLOCK)


def _blocks(rows: Rows, count: Count) -> Int[Array, ""]:
    """Blocks that hold this many rows."""
    return (jnp.int32(count) + _size(rows) - 1) // _size(rows)


def _block(rows: Rows, number: Int[Array, ""]) -> Rows:
    size = _size(rows)
    return jax.tree.map(lambda stack: lax.dynamic_slice_in_dim(stack, number * size, size), rows)
