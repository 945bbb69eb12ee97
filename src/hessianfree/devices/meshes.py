"""The devices of a run, from the argument `devices` or from arrays that are split already."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding

from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree

#: The axis that examples are split over, where the mesh is made here.
EXAMPLES = "examples"


def chosen(devices: Any, *data: PyTree) -> Parts | None:
    """The devices that examples are split over; None for one device, chosen by JAX.

    Args:
        devices: None, "all", or a mesh, whose first axis counts.
        data: pytrees; with None, an array among them that is split over its first axis says which devices.

    Raises:
        TypeError: if devices is of another kind.
        ValueError: if the mesh names a device twice, one that there is not, or none of this process.

    Example:
        >>> chosen(None, np.ones(3)) is None, chosen("all").count == jax.device_count()
        (True, True)
    """
    if devices is None:
        return _of_arrays(leaf for tree in data for leaf in jax.tree.leaves(tree))
    if isinstance(devices, str) and devices == "all":
        return Parts(Mesh(np.array(jax.devices()), (EXAMPLES,)), EXAMPLES)
    if not isinstance(devices, Mesh) or isinstance(devices, AbstractMesh):
        raise TypeError(
            f"devices is {devices!r}; None, 'all' or a mesh of devices is expected, such as "
            f"jax.make_mesh(({jax.device_count()},), ('examples',))."
        )
    _check(devices)
    return Parts(partitioned(devices), str(devices.axis_names[0]))


def several(parts: Parts | None) -> Parts | None:
    """The devices if they are more than one: a single one needs nothing of what many do."""
    return None if parts is None or parts.mesh.devices.size == 1 else parts


def _check(mesh: Mesh) -> None:
    held, known = list(mesh.devices.flat), jax.devices(mesh.devices.flat[0].platform)
    if len(set(held)) < len(held) or not set(held) <= set(known):
        raise ValueError(
            f"devices is a mesh of {len(held)} devices, {len(set(held) & set(known))} different ones among those that "
            f"JAX sees, which are {len(known)}: {', '.join(map(str, known[:8]))}{', ...' if len(known) > 8 else ''}. "
            "Make the mesh of those."
        )
    if not any(device.process_index == jax.process_index() for device in held):
        raise ValueError(
            f"devices is a mesh without a device of process {jax.process_index()}; use a mesh in which every process "
            "has some, or let this process not call."
        )


def _of_arrays(leaves: Iterable[Any]) -> Parts | None:
    """By the first array whose examples are split."""
    for leaf in leaves:
        sharding = getattr(leaf, "sharding", None)
        if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh) and len(sharding.spec):
            axis = sharding.spec[0]
            if isinstance(axis, str) and sharding.mesh.shape[axis] > 1:
                return Parts(partitioned(sharding.mesh), axis)
            if isinstance(axis, tuple) and set(axis) == set(sharding.mesh.axis_names):
                return _flat(sharding.mesh, axis)
    return None


def _flat(mesh: Mesh, axes: tuple[str, ...]) -> Parts:
    """All axes as one, in the order in which examples are split over them."""
    order = [mesh.axis_names.index(axis) for axis in axes]
    return Parts(Mesh(mesh.devices.transpose(order).ravel(), (EXAMPLES,)), EXAMPLES)


def partitioned(mesh: Any) -> Mesh:
    """The mesh with axes that XLA partitions, whatever they were."""
    return Mesh(mesh.devices, mesh.axis_names)


def processes_of(parts: Parts | None) -> int:
    """How many processes have devices of a mesh."""
    return 1 if parts is None else len({device.process_index for device in parts.mesh.devices.flat})
