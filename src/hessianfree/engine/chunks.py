"""Sums over the examples of a batch, some of them at a time: memory is that of one piece.

Pieces are cut where they are used, and nothing is copied: the last one begins early enough to be as large as the
others, and examples that it shares with the piece before weigh nothing in it. Where the examples are split over the
first axis of a mesh, every device goes through its own, and sums move between devices once, after the last piece.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Int

from hessianfree.engine.trees import PyTree

#: (number of the piece, what all pieces share, its examples, their weights) -> what is summed.
OfPiece = Callable[[Int[Array, ""], PyTree, PyTree, Array], PyTree]


class Chunks(NamedTuple):
    """How a batch is cut; hashable."""

    size: int  # examples of a piece at most, on all devices together
    mesh: Mesh | None = None  # over whose first axis the examples are split

    @property
    def devices(self) -> int:
        """Devices that the examples are split over."""
        return 1 if self.mesh is None else self.mesh.shape[self.mesh.axis_names[0]]

    def over(self, count: int) -> Chunks:
        """The same for so many examples: those that the devices cannot share evenly are cut as if on one."""
        return self._replace(mesh=None) if count % self.devices else self


def chunks_of(size: int | None, batch: PyTree) -> Chunks | None:
    """Pieces of this size of a batch whose arrays, with the examples along the first axis, are where they will be.

    Example:
        >>> chunks_of(100, jnp.zeros(1000))
        Chunks(size=100, mesh=None)
    """
    if size is None:
        return None
    for leaf in jax.tree.leaves(batch):
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and sharding.spec and sharding.spec[0] is not None:
            mesh = sharding.mesh
            if isinstance(mesh, Mesh) and sharding.spec[0] in (mesh.axis_names[0], mesh.axis_names[:1]):
                return Chunks(size, mesh)
    return Chunks(size)


def pieces(count: int, size: int) -> tuple[int, int]:
    """How many pieces there are, as even as can be, and how large they are.

    Example:
        >>> pieces(7500, 1000)
        (8, 938)
    """
    number = -(-count // size)
    return number, -(-count // number)


def summed(chunks: Chunks, of_piece: OfPiece, shared: PyTree, examples: PyTree, weights: Float[Array, "B"]) -> PyTree:
    """The sum of what a function makes of each piece; it must give zero for what weighs nothing.

    Args:
        chunks: how to cut.
        of_piece: see OfPiece; it closes over no arrays.
        shared: arrays that all pieces look at.
        examples: leaves (B, ...).
        weights: of the examples.
    """

    def on_device(first: Array, shared: PyTree, examples: PyTree, weights: Array) -> PyTree:
        cut = _Cut(weights, _on_each(chunks))

        def found(number: Any) -> PyTree:
            return of_piece(first + number, shared, cut.of(examples, number), cut.weights(weights, number))

        def add(number: Array, total: PyTree) -> PyTree:
            return jax.tree.map(lax.add, total, found(number))

        form = jax.eval_shape(found, jnp.int32(0))
        return lax.fori_loop(0, cut.number, add, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), form))

    return _on_devices(chunks.over(len(weights)), on_device, True, shared, examples, weights)


def collected(
    chunks: Chunks, of_piece: OfPiece, shared: PyTree, examples: PyTree, weights: Float[Array, "B"]
) -> PyTree:
    """What a function makes of each example, leaves (B, ...), a piece at a time; arguments as `summed`."""

    def on_device(first: Array, shared: PyTree, examples: PyTree, weights: Array) -> PyTree:
        cut = _Cut(weights, _on_each(chunks))

        def found(number: Any) -> PyTree:
            return of_piece(first + number, shared, cut.of(examples, number), cut.weights(weights, number))

        def put(number: Array, whole: PyTree) -> PyTree:
            start = cut.start(number)
            return jax.tree.map(lambda a, b: lax.dynamic_update_slice_in_dim(a, b, start, 0), whole, found(number))

        form = jax.eval_shape(found, jnp.int32(0))
        blank = jax.tree.map(lambda a: jnp.zeros((len(weights), *a.shape[1:]), a.dtype), form)
        return lax.fori_loop(0, cut.number, put, blank)

    return _on_devices(chunks.over(len(weights)), on_device, False, shared, examples, weights)


class _Cut:
    """Where the pieces of the examples on one device are."""

    def __init__(self, weights: Array, size: int) -> None:
        self.count = len(weights)
        self.number, self.size = pieces(self.count, size)

    def start(self, number: Any) -> Any:
        """The first example of a piece."""
        return jnp.minimum(number * self.size, self.count - self.size)

    def of(self, examples: PyTree, number: Any) -> PyTree:
        """Those of a piece."""
        return jax.tree.map(partial(self._of, self.start(number)), examples)

    def weights(self, weights: Array, number: Any) -> Array:
        """Theirs, zero for those of the piece before."""
        start = self.start(number)
        return jnp.where(start + jnp.arange(self.size) >= number * self.size, self._of(start, weights), 0)

    def _of(self, start: Any, leaf: Any) -> Array:
        return lax.dynamic_slice_in_dim(jnp.asarray(leaf), start, self.size)


def _on_each(chunks: Chunks) -> int:
    """Examples of a piece on each device."""
    return max(1, chunks.size // chunks.devices)


def _on_devices(
    chunks: Chunks, on_device: OfPiece, sums: bool, shared: PyTree, examples: PyTree, weights: Array
) -> PyTree:
    """A function (number of the first piece, ...) on each device, its results summed or side by side."""
    if chunks.mesh is None:
        return on_device(jnp.int32(0), shared, examples, weights)
    axis = chunks.mesh.axis_names[0]
    number, _ = pieces(len(weights) // chunks.devices, _on_each(chunks))

    def local(shared: PyTree, examples: PyTree, weights: Array) -> PyTree:
        found = on_device(lax.axis_index(axis) * number, shared, examples, weights)
        return lax.psum(found, axis) if sums else found

    split = jax.shard_map(
        local,
        mesh=chunks.mesh,
        in_specs=(P(), P(axis), P(axis)),
        out_specs=P() if sums else P(axis),
        axis_names={axis},
        check_vma=False,
    )
    return split(shared, examples, weights)
