"""Examples and parameters on the devices of a mesh.

A batch of U examples is given n equal parts, one for each device. Where n does not divide U, parts are filled up by
examples of weight zero. The examples keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jaxtyping import Bool, Int

from hessianfree.devices.fetching import to_host
from hessianfree.devices.meshes import partitioned
from hessianfree.devices.processes import ALONE, Processes
from hessianfree.engine.objective import Batch
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree


class Arrangement(NamedTuple):
    """Which example stands where, and which are there to fill up, (n L,), L the length of a part."""

    examples: Int[np.ndarray, "M"]
    counted: Bool[np.ndarray, "M"]


class Placed(NamedTuple):
    """A batch on the devices, and which of its examples are not there to fill up, None if none is."""

    batch: Batch
    counted: Bool[np.ndarray, "M"] | None

    def without_filling(self, outputs: PyTree) -> PyTree:
        """What a model returns for the examples of the batch, in numpy, for those that were given."""
        found = to_host(outputs)
        return found if self.counted is None else jax.tree.map(lambda leaf: leaf[self.counted], found)


def laid_out(count: int, parts: int, size: int) -> Arrangement:
    """So many examples in equal parts with room for `size` of them, all parts filled alike.

    Example:
        >>> places = laid_out(3, parts=2, size=4)
        >>> places.examples.tolist(), places.counted.tolist()
        ([0, 0, 1, 2], [True, False, True, True])
    """
    length = -(-size // parts)
    edges = np.arange(parts + 1) * count // parts
    wanted = edges[:-1, None] + np.arange(length)
    counted = wanted < edges[1:, None]
    examples = np.where(counted, wanted, np.minimum(edges[:-1, None], count - 1))
    return Arrangement(examples.ravel(), counted.ravel())


def placed(parts: Parts, take: Callable[[Int[np.ndarray, "m"]], Batch], count: int, size: int) -> Batch:
    """A batch over the devices; each process reads the examples of its own devices alone.

    Args:
        parts: the devices.
        take: reads examples 0 .. count - 1 of the batch, as numpy arrays.
        count: U.
        size: room, at least U: batches of one size need one program.
    """
    places = laid_out(count, parts.count, size)
    total = (len(places.examples),)
    pieces: dict[int, Batch] = {}
    for start, stop in _own_parts(parts, total):
        pieces[start] = _weighed(take(places.examples[start:stop]), places.counted[start:stop])
    starts, structure = list(pieces), jax.tree.structure(next(iter(pieces.values())))
    leaves = zip(*(jax.tree.leaves(piece) for piece in pieces.values()), strict=True)
    found = [_joined(parts, total, dict(zip(starts, map(np.asarray, own), strict=True))) for own in leaves]
    batch: Batch = jax.tree.unflatten(structure, found)
    return batch


def placed_whole(parts: Parts, batch: Batch, size: int) -> Batch:
    """A batch over the devices, which every process holds in numpy; size as in `placed`."""
    return placed(parts, partial(_rows, batch), len(batch.weights), size)


def _rows(batch: Batch, rows: Int[np.ndarray, "m"]) -> Batch:
    found: Batch = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], batch)
    return found


def _weighed(batch: Batch, counted: Bool[np.ndarray, "m"]) -> Batch:
    """Examples that are there to fill up weigh nothing."""
    return batch._replace(weights=np.where(counted, batch.weights, 0).astype(batch.weights.dtype))


def own_examples(parts: Parts, count: int, size: int) -> Int[np.ndarray, "m"]:
    """Which examples of a batch the devices of this process get, ascending; count and size as in `placed`."""
    places = laid_out(count, parts.count, size)
    slices = _own_parts(parts, (len(places.examples),))
    return np.unique(np.concatenate([places.examples[start:stop] for start, stop in slices]))


def placed_part(parts: Parts, batch: Batch, size: int) -> Batch:
    """A batch over the devices, of which each process holds a part in numpy: room for `size` examples of each."""
    total = parts.count
    own = len(_own_parts(parts, (total,)))
    places = laid_out(len(batch.weights), own, size)
    found = _weighed(_rows(batch, places.examples), places.counted)
    length = len(places.examples) // own * total
    with jax.enable_x64(True):  # float64 stays what it is
        joined: Batch = jax.tree.map(
            lambda leaf: jax.make_array_from_process_local_data(parts.split, leaf, (length, *leaf.shape[1:])), found
        )
    return joined


def _own_parts(parts: Parts, total: tuple[int]) -> list[tuple[int, int]]:
    """Where the parts of this process's devices start and stop."""
    found = parts.split.addressable_devices_indices_map(total).values()
    return sorted({where[0].indices(*total)[:2] for where in found if where is not None})


def _joined(parts: Parts, total: tuple[int], own: dict[int, np.ndarray[Any, Any]]) -> Array:
    """One array from the pieces that this process has of it, by where they start."""
    shape = total + next(iter(own.values())).shape[1:]

    def piece(where: tuple[slice, ...] | None) -> np.ndarray[Any, Any]:
        assert where is not None
        return own[where[0].indices(*total)[0]]

    with jax.enable_x64(True):  # float64 stays what it is
        return jax.make_array_from_callback(shape, parts.split, piece)


def on_mesh(parts: Parts | None, tree: PyTree) -> PyTree:
    """Arrays that lie on the devices of the mesh with axes that XLA partitions, whatever they were. Others stay."""

    def there(leaf: Any) -> Any:
        sharding = getattr(leaf, "sharding", None)
        if parts is None or not isinstance(sharding, NamedSharding):
            return leaf
        if sharding.device_set != parts.whole.device_set or sharding.mesh == parts.mesh:
            return leaf
        return jax.device_put(leaf, NamedSharding(partitioned(sharding.mesh), sharding.spec))

    with jax.enable_x64(True):
        return jax.tree.map(there, tree)


def whole(parts: Parts, tree: PyTree) -> PyTree:
    """Arrays on every device, but those that are split over devices of the mesh already stay so.

    Raises:
        ValueError: if an array is split over another mesh of the same devices.
    """
    with jax.enable_x64(True):
        return jax.tree.map(lambda leaf: _on_all(parts, leaf), tree)


def _on_all(parts: Parts, leaf: Any) -> Array:
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding) or sharding.device_set != parts.whole.device_set:
        return jax.device_put(leaf, parts.whole)
    if sharding.is_fully_replicated:
        return jax.device_put(leaf, parts.whole)
    mesh = partitioned(sharding.mesh)
    if mesh != parts.mesh:
        raise ValueError(
            f"Parameters of shape {leaf.shape} are split as {sharding.spec} over the mesh {dict(mesh.shape)}, but the "
            f"examples go to the mesh {dict(parts.mesh.shape)} of these devices; pass the mesh of the parameters as "
            "devices."
        )
    return jax.device_put(leaf, NamedSharding(mesh, sharding.spec))


class Placer:
    """Puts whole data on the devices, once.

    Args:
        parts: the devices; None for the data as they are.
        processes: those that share them.
    """

    def __init__(self, parts: Parts | None, processes: Processes = ALONE) -> None:
        self.parts, self.processes = parts, processes
        self._known: dict[int, tuple[Batch, Placed]] = {}

    def of(self, batch: Batch) -> Placed:
        """All examples of a batch, filled up where needed."""
        if self.parts is None:
            return Placed(batch, None)
        if id(batch) not in self._known:  # the batch is kept, so that no other has its id
            self._known[id(batch)] = batch, self._placed(self.parts, batch)
        return self._known[id(batch)][1]

    @staticmethod
    def _placed(parts: Parts, batch: Batch) -> Placed:
        already = split_already(parts, batch)
        if already is not None:
            return Placed(already, None)
        count = len(batch.weights)
        return Placed(placed_whole(parts, batch, count), laid_out(count, parts.count, count).counted)


def lies_split(parts: Parts, batch: Batch) -> bool:
    """Whether arrays of a batch lie on the devices of the mesh, split somehow, and can be split in equal parts."""
    held = [getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(batch)]
    there = [s for s in held if isinstance(s, NamedSharding) and s.device_set == parts.whole.device_set]
    return any(any(s.spec) for s in there) and len(batch.weights) % parts.count == 0


def split_already(parts: Parts, batch: Batch) -> Batch | None:
    """A batch that lies split on the devices of the mesh, split over its axis; None for another."""
    if not lies_split(parts, batch):
        return None
    with jax.enable_x64(True):
        found: Batch = jax.tree.map(lambda leaf: jax.device_put(leaf, parts.split), batch)
    return found
