"""Residuals that see a few rows of the parameters each, and their sparse Jacobian by blocks.

Symbols as in residuals.py, and
    leaf    an array of the parameters, taken as a matrix (n, w) of rows; one that is seen as a whole is a single row
    block   what one term has in one leaf: J_b (N, d, w), of d residuals at N points by the row that each point sees,
            and the number of that row, (N,)
A product with J takes as many operations as the blocks have entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from hessianfree.engine.trees import PyTree

Sight: TypeAlias = Literal["rows", "all", "none"]
#: Which rows of each leaf that is seen by rows a point sees: integers, or arrays of them, in the order of the leaves.
Rows: TypeAlias = Sequence[ArrayLike]
#: (params, point) -> residuals of one point, raveled.
Local: TypeAlias = Callable[..., Float[Array, "d"]]


@dataclass(frozen=True)
class Seeing:
    """A residual of a part of the parameters, as a residual of all of them at the points (rows, at)."""

    residual: Callable[..., Array]
    sights: tuple[Sight, ...]  # what it sees of each leaf

    def __call__(self, params: PyTree, point: tuple[Rows, PyTree]) -> Array:
        """At one point."""
        rows, at = point
        return self.residual(self.part(params, rows), at)

    def part(self, params: PyTree, rows: Rows) -> PyTree:
        """What the residual sees at one point; None for a leaf of which it sees nothing."""
        leaves, structure = jax.tree.flatten(params)
        given = iter(rows)
        seen = {"rows": lambda leaf: leaf[next(given)], "all": lambda leaf: leaf, "none": lambda leaf: None}
        parts = [seen[sight](leaf) for sight, leaf in zip(self.sights, leaves, strict=True)]
        return jax.tree.unflatten(structure, parts)

    @property
    def __name__(self) -> str:
        """That of the residual, for messages."""
        return getattr(self.residual, "__name__", "r")


class Block(NamedTuple):
    """The Jacobian of one term by the rows of one leaf that it sees; `leaf` and `rows` are static."""

    leaf: int
    rows: int  # of the leaf
    row: Int[Array, "N"]
    jacobian: Float[Array, "N d w"]

    def seen(self, leaves: Sequence[Float[Array, "_"]]) -> Float[Array, "N w"]:
        """What each point sees of a vector, given by leaves."""
        return leaves[self.leaf].reshape(self.rows, -1)[self.row]


class Blocks(NamedTuple):
    """The Jacobian of all residuals, of one term after the other."""

    terms: tuple[tuple[Block, ...], ...]
    sizes: tuple[int, ...]  # of the leaves, static

    def push(self, v: Float[Array, "P"]) -> Float[Array, "N"]:
        """The product Jv."""
        leaves = self.split(v)
        parts = []
        for blocks in self.terms:
            products = [jnp.einsum("ndw,nw->nd", b.jacobian, b.seen(leaves)) for b in blocks]
            parts.append(jnp.sum(jnp.stack(products), axis=0).ravel())
        return jnp.concatenate(parts)

    def pull(self, b: Float[Array, "N"]) -> Float[Array, "P"]:
        """The product J'b."""
        shares, place = [jnp.zeros(size, b.dtype) for size in self.sizes], 0
        for blocks in self.terms:
            count, d, _ = blocks[0].jacobian.shape
            part = b[place : place + count * d].reshape(count, d)
            place += count * d
            for block in blocks:
                share = summed(block, jnp.einsum("ndw,nd->nw", block.jacobian, part))
                shares[block.leaf] = shares[block.leaf] + share.ravel()
        return jnp.concatenate(shares)

    def column_norms(self) -> Float[Array, "P"]:
        """The norms of the columns of J, safe for numbers whose squares the type cannot hold.

        Where a point names one row twice, its share is counted as that of two points.
        """
        squares, units = [], self._units()
        for leaf, size in enumerate(self.sizes):
            found = jnp.zeros(size, units[leaf].dtype)
            for block in (block for blocks in self.terms for block in blocks if block.leaf == leaf):
                own = block.jacobian / block.seen(units)[:, None, :]
                found += summed(block, jnp.sum(own**2, axis=1)).ravel()
            squares.append(units[leaf] * jnp.sqrt(found))
        return jnp.concatenate(squares)

    def scaled(self, inverse: Float[Array, "P"]) -> Blocks:
        """The blocks of A = J D^-1."""
        leaves = self.split(inverse)
        scaled = lambda b: b._replace(jacobian=b.jacobian * b.seen(leaves)[:, None, :])  # noqa: E731
        terms = tuple(tuple(map(scaled, blocks)) for blocks in self.terms)
        return self._replace(terms=terms)

    def split(self, v: Float[Array, "P"]) -> list[Float[Array, "_"]]:
        """The part of each leaf."""
        ends = [sum(self.sizes[: leaf + 1]) for leaf in range(len(self.sizes))]
        return jnp.split(v, ends[:-1])

    def _units(self) -> list[Array]:
        """The largest magnitude in each column, by leaves; 1 where it is zero or not finite."""
        kind = self.terms[0][0].jacobian.dtype
        units = [jnp.zeros(size, kind) for size in self.sizes]
        for block in (block for blocks in self.terms for block in blocks):
            largest = jax.ops.segment_max(jnp.max(jnp.abs(block.jacobian), axis=1), block.row, block.rows)
            units[block.leaf] = jnp.maximum(units[block.leaf], largest.ravel())  # -inf for a row that no point sees
        return [jnp.where((unit > 0) & jnp.isfinite(unit), unit, 1) for unit in units]


def summed(block: Block, values: Float[Array, "N w"]) -> Float[Array, "n w"]:
    """The sums of values over the points that see each row."""
    if block.rows == 1:
        return jnp.sum(values, axis=0, keepdims=True)
    return jax.ops.segment_sum(values, block.row, block.rows)


def product(x: Block, y: Block) -> Float[Array, "nx wx ny wy"]:
    """The part x'y of J'J, of two blocks of one term."""
    (count, d, wx), wy = x.jacobian.shape, y.jacobian.shape[2]
    if x.rows == y.rows == 1:
        whole = x.jacobian.reshape(count * d, wx).T @ y.jacobian.reshape(count * d, wy)
        return whole.reshape(1, wx, 1, wy)
    each = jnp.einsum("ndv,ndw->nvw", x.jacobian, y.jacobian).reshape(count, wx * wy)
    sums = jax.ops.segment_sum(each, x.row * y.rows + y.row, x.rows * y.rows)
    return sums.reshape(x.rows, y.rows, wx, wy).swapaxes(1, 2)


def local_jacobian(
    seeing: Seeing, term: Local, forward: bool, params: PyTree, sigma: Array, axis: int | None, at: tuple[Rows, PyTree]
) -> tuple[Float[Array, "N d p"], Int[Array, "N p"]]:
    """The derivatives of one term by the parameters that each point sees, and the places of these in theta.

    Args:
        seeing: what the term sees.
        term: its residuals (part, sigma, at) -> (d,).
        forward: whether to differentiate in forward mode.
        params: all parameters.
        sigma: deviations.
        axis: of the deviations to map over.
        at: the points (rows, at).
    """
    numbers = _places(params)
    derivative = jax.jacfwd if forward else jax.jacrev

    def of_point(deviation: Array, point: tuple[Rows, PyTree]) -> tuple[Array, Array]:
        rows, own = point
        theta, unravel = ravel_pytree(seeing.part(params, rows))
        places = jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(seeing.part(numbers, rows))])
        return derivative(lambda local: term(unravel(local), deviation, own))(theta), places

    return jax.vmap(of_point, (axis, 0))(sigma, at)


def split_by_leaf(seeing: Seeing, jacobian: Float[Array, "N d p"], params: PyTree, rows: Rows) -> tuple[Block, ...]:
    """The blocks of one term, from its derivatives by all that its points see."""
    given, blocks, place = iter(rows), [], 0
    for leaf, (sight, array) in enumerate(zip(seeing.sights, jax.tree.leaves(params), strict=True)):
        if sight == "none":
            continue
        if sight == "all":
            width, named = array.size, jnp.zeros((len(jacobian), 1), jnp.int32)
        else:
            width, named = math.prod(array.shape[1:]), jnp.asarray(next(given))
        count = array.size // max(width, 1)
        for row in named.reshape(len(jacobian), -1).T:
            blocks.append(Block(leaf, count, row, jacobian[:, :, place : place + width]))
            place += width
    return tuple(blocks)


def _places(params: PyTree) -> PyTree:
    """The place of every parameter in theta, a pytree like the parameters."""
    leaves, structure = jax.tree.flatten(params)
    starts = [sum(leaf.size for leaf in leaves[:number]) for number in range(len(leaves))]
    places = [start + jnp.arange(leaf.size).reshape(leaf.shape) for start, leaf in zip(starts, leaves, strict=True)]
    return jax.tree.unflatten(structure, places)
