"""Vectors kept in rows, and others made orthogonal to them: pytrees with k rows in front of every leaf."""

from __future__ import annotations

from functools import reduce
from operator import add

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from hessianfree.engine.trees import PyTree

#: Rows that are looked at together.
BLOCK = 32


def no_rows(like: PyTree, count: int) -> PyTree:
    """Rows of zeros for this many vectors, in whole blocks if it is more than one; sharded as the vector is."""
    rows = count if count < BLOCK else -(-count // BLOCK) * BLOCK
    return jax.tree.map(lambda a: lax.broadcast(jnp.zeros_like(a), (rows,)), like)


def rows_that_fit(space: int, vector: int) -> int:
    """How many rows this space holds, beside the copies of a block that work on them takes; both in bytes."""
    count = space // max(vector, 1)
    return count // 2 if count < 2 * BLOCK else (count // BLOCK - 1) * BLOCK


def with_row(rows: PyTree, index: ArrayLike, v: PyTree) -> PyTree:
    """The same rows but for one."""
    return jax.tree.map(lambda stack, a: lax.dynamic_update_index_in_dim(stack, a, index, 0), rows, v)


def inner(rows: PyTree, v: PyTree) -> Array:
    """Inner products of every row with v, (k,)."""
    parts = jax.tree.map(lambda u, a: u.reshape(len(u), -1) @ a.reshape(-1), rows, v)
    return reduce(add, jax.tree.leaves(parts))


def combination(weights: Array, rows: PyTree) -> PyTree:
    """The sum of the rows times their weights, (k,); of (j, k) weights j of them, as rows."""
    return jax.tree.map(lambda u: jnp.tensordot(weights, u, 1), rows)


def without(rows: PyTree, duals: PyTree, count: ArrayLike, v: PyTree) -> PyTree:
    """The part of v orthogonal to the first duals, v - sum_k (dual_k'v) row_k, if dual_j'row_k is 1 for j = k, else 0.

    Args:
        rows: of `no_rows` and `with_row`.
        duals: likewise; the rows themselves if they are orthonormal.
        count: how many rows to look at, rounded up to whole blocks: those beyond must be zero, or the last one.
        v: the vector.
    """

    def without_block(number: Array, v: PyTree) -> PyTree:
        parts = combination(inner(_block(duals, number), v), _block(rows, number))
        return jax.tree.map(lax.sub, v, parts)

    return lax.fori_loop(0, _blocks(rows, count), without_block, v)


def first_inner(rows: PyTree, count: ArrayLike, v: PyTree) -> Array:
    """Inner products of the first rows with v, as `inner`; zero for blocks beyond them, which are not looked at."""

    def with_block(number: Array, found: Array) -> Array:
        return lax.dynamic_update_slice(found, inner(_block(rows, number), v), (number * _size(rows),))

    leaf = jax.tree.leaves(rows)[0]
    return lax.fori_loop(0, _blocks(rows, count), with_block, jnp.zeros(len(leaf), leaf.dtype))


def first_combination(weights: Array, rows: PyTree, count: ArrayLike) -> PyTree:
    """The sum of the first rows times their weights, (k,), as `combination`; blocks beyond are not looked at."""

    def with_block(number: Array, found: PyTree) -> PyTree:
        return jax.tree.map(lax.add, found, combination(_block(weights, number), _block(rows, number)))

    nothing = jax.tree.map(lambda stack: jnp.zeros_like(stack[0]), rows)
    return lax.fori_loop(0, _blocks(rows, count), with_block, nothing)


def _size(rows: PyTree) -> int:
    """Rows of a block."""
    return min(len(jax.tree.leaves(rows)[0]), BLOCK)


def _blocks(rows: PyTree, count: ArrayLike) -> Array:
    """Blocks that hold this many rows."""
    return (jnp.int32(count) + _size(rows) - 1) // _size(rows)


def _block(rows: PyTree, number: Array) -> PyTree:
    size = _size(rows)
    return jax.tree.map(lambda stack: lax.dynamic_slice_in_dim(stack, number * size, size), rows)
