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
    """V - sum_k (dual_k'v) row_k: what of v is orthogonal to the first duals, if dual_j'row_k is 1 for j = k, else 0.

    Args:
        rows: of `no_rows` and `with_row`.
        duals: likewise; the rows themselves if they are orthonormal.
        count: how many rows to look at, rounded up to whole blocks: those beyond must be zero, or the last one.
        v: the vector.
    """
    size = min(len(jax.tree.leaves(rows)[0]), BLOCK)

    def without_block(number: Array, v: PyTree) -> PyTree:
        def block(stack: Array) -> Array:
            return lax.dynamic_slice_in_dim(stack, number * size, size)

        parts = combination(inner(jax.tree.map(block, duals), v), jax.tree.map(block, rows))
        return jax.tree.map(lax.sub, v, parts)

    return lax.fori_loop(0, (jnp.int32(count) + size - 1) // size, without_block, v)
