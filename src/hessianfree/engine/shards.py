"""Examples that are split over the devices of a mesh, one part on each.

A sum over examples is then the sum over devices of what each finds on its own part. Inside of `over_parts` a device
sees its part of the batch as the whole batch, and `Parts.total` adds what the devices found. So nothing but such sums
moves between devices: no data, no activations.

Symbols:
    n     parts, as many as the axis of the mesh has devices
    W_k   sum of the weights of part k
    a_k   its share W_k / sum_j W_j: a mean over all examples is sum_k a_k (mean over part k)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from hessianfree.engine.compilation import jit
from hessianfree.engine.objective import Batch
from hessianfree.engine.settings import Settings
from hessianfree.engine.trees import PyTree

#: Room in each part for picks from it, beyond an equal share of them: so many more it may have.
ROOM = 3


@dataclass(frozen=True)
class Parts:
    """A mesh over one axis of which examples are split; hashable.

    Attributes:
        mesh: of devices, with axes that XLA partitions (`AxisType.Auto`).
        axis: the name of the axis.
    """

    mesh: Mesh
    axis: str

    @property
    def count(self) -> int:
        """n."""
        return int(self.mesh.shape[self.axis])

    @property
    def split(self) -> NamedSharding:
        """The sharding of examples."""
        return NamedSharding(self.mesh, PartitionSpec(self.axis))

    @property
    def whole(self) -> NamedSharding:
        """The sharding of what every device holds."""
        return NamedSharding(self.mesh, PartitionSpec())

    def spread(self, array: NDArray[Any]) -> Array:
        """An array that every process holds, over the devices along its first axis, which they divide."""
        with jax.enable_x64(True):  # float64 stays what it is
            return jax.make_array_from_callback(array.shape, self.split, array.__getitem__)

    def over_parts(self, function: Callable[..., Any], split: Sequence[bool]) -> Callable[..., Any]:
        """A function of parts of some arguments, and of all of others, run on each device. Traceable.

        Args:
            function: returns what is the same on every device.
            split: for each argument whether it is split over the devices along its first axis.
        """
        specs = tuple(PartitionSpec(self.axis) if cut else PartitionSpec() for cut in split)
        # Other axes of the mesh, over which parameters may be split, are left to XLA.
        return jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=specs,
            out_specs=PartitionSpec(),
            axis_names={self.axis},
            check_vma=False,
        )

    def share(self, weights: Float[Array, "B"]) -> Float[Array, ""]:
        """Inside of `over_parts`: a_k; zero if nothing weighs anything."""
        own = jnp.sum(weights)
        total = lax.psum(own, self.axis)
        return own / jnp.where(total > 0, total, 1)

    def total(self, x: PyTree) -> PyTree:
        """Inside of `over_parts`: the sum over the devices, one all-reduce for each leaf."""
        return lax.psum(x, self.axis)


def parts_of(batch: Batch, params: PyTree) -> Parts | None:
    """How a batch is split over devices; None if it is not, or in a way that is left to XLA.

    It is left to XLA if axes of the mesh are explicit, leaves are split in different ways, or the parameters are split
    over the same axis.
    """
    sharding = getattr(batch.weights, "sharding", None)
    if not isinstance(sharding, NamedSharding) or not isinstance(sharding.mesh, Mesh) or len(sharding.spec) != 1:
        return None
    (axis,), mesh = sharding.spec, sharding.mesh
    if not isinstance(axis, str) or mesh.shape[axis] == 1 or any(kind != AxisType.Auto for kind in mesh.axis_types):
        return None
    parts = Parts(mesh, axis)
    alike = all(
        isinstance(leaf, Array) and leaf.sharding.is_equivalent_to(parts.split, leaf.ndim)
        for leaf in jax.tree.leaves(batch)
    )
    return parts if alike and not any(_uses(leaf, axis) for leaf in jax.tree.leaves(params)) else None


def _uses(leaf: Any, axis: str) -> bool:
    """Whether an array is split over this axis of a mesh."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return False
    return any(axis in (entry if isinstance(entry, tuple) else (entry,)) for entry in sharding.spec)


# ---- picks -----------------------------------------------------------------------------------------------------------


def spread_picks(
    picks: NDArray[np.intp], parts: int, length: int, room: int
) -> tuple[Int[np.ndarray, "n room"], Bool[np.ndarray, "n room"]]:
    """Picks among all examples as picks within each part, filled up to a common number.

    Args:
        picks: positions among all examples, ascending, (C,).
        parts: n.
        length: examples of a part.
        room: the common number, at least the largest number of picks in a part.

    Returns:
        Positions within the parts, and which of them count.

    Example:
        >>> rows, counted = spread_picks(np.array([0, 2, 5]), parts=2, length=3, room=2)
        >>> rows.tolist(), counted.tolist()
        ([[0, 2], [2, 0]], [[True, True], [True, False]])
    """
    owner, place = np.divmod(picks, length)
    number = np.arange(len(picks)) - np.searchsorted(owner, owner)  # within its part
    rows, counted = np.zeros((parts, room), np.int32), np.zeros((parts, room), bool)
    rows[owner, number] = place
    counted[owner, number] = True
    return rows, counted


def picked(parts: Parts, batch: Batch, picks: NDArray[np.intp], room: int | None = None) -> Batch:
    """Some examples of a batch that is split, each on the device that has it; nothing moves between devices.

    Parts are filled up to a common number of examples, `room`, by some of weight zero. Where picks are spread unevenly
    it is larger than asked for.
    """
    length = len(batch.weights) // parts.count
    most = int(np.bincount(picks // length, minlength=parts.count).max())
    room = -(-len(picks) // parts.count) + ROOM if room is None else room
    while room < most:  # few different numbers: each is compiled
        room *= 2
    rows, counted = spread_picks(picks, parts.count, length, min(max(room, most), length))
    return _picked(parts, batch, parts.spread(rows), parts.spread(counted))


@partial(jit, static_argnums=0)
def _picked(parts: Parts, batch: Batch, rows: Int[Array, "n c"], counted: Bool[Array, "n c"]) -> Batch:
    def of_part(batch: Batch, rows: Int[Array, "c"], counted: Bool[Array, "c"]) -> Batch:
        found: Batch = jax.tree.map(lambda leaf: leaf[rows], batch)
        return found._replace(weights=jnp.where(counted, found.weights, 0))

    spec = PartitionSpec(parts.axis)
    mapped = jax.shard_map(
        of_part, mesh=parts.mesh, in_specs=spec, out_specs=spec, axis_names={parts.axis}, check_vma=False
    )
    return mapped(batch, rows.reshape(-1), counted.reshape(-1))


@partial(jit, static_argnums=0)
def _gathered(parts: Parts, weights: Float[Array, "B"]) -> Bool[Array, "B"]:
    return lax.with_sharding_constraint(weights > 0, parts.whole)


def usable_examples(parts: Parts | None, weights: Any) -> Bool[np.ndarray, "B"]:
    """Which examples weigh something, on every process."""
    return np.asarray(weights) > 0 if parts is None else np.asarray(_gathered(parts, weights))


def curvature_batch(
    settings: Settings, parts: Parts | None, batch: Batch, update: int
) -> NDArray[np.intp] | Batch | None:
    """The examples that curvature is computed on, None for all; of a batch that is split the batch itself."""
    if settings.curvature_batch is None:
        return None
    picks = settings.curvature_examples(usable_examples(parts, batch.weights), update)
    return picks if parts is None or picks is None else picked(parts, batch, picks)
