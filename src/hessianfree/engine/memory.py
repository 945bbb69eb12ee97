"""What an update needs of memory, counted from shapes before anything is computed, and what there is.

Counts are those of the compiled programs: of vectors exactly, of activations about.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from hessianfree.engine.linearization import linear_map
from hessianfree.engine.objective import Batch, TracedObjective
from hessianfree.engine.settings import Settings
from hessianfree.engine.trees import PyTree, Vector

#: Vectors of the parameters' size in an update besides those that are counted one by one: the parameters, the last
#: solution and the last change; in CG right-hand side, solution, residual, direction, product, and two to work with.
VECTORS = 9
#: The same in a first-order update: parameters, gradient, change and where it leads.
FIRST_ORDER_VECTORS = 4


class Memory(NamedTuple):
    """Bytes that an update needs on each device, by what they are for."""

    vectors: int  # of the parameters' size
    iterates: int  # solutions of CG, for backtracking
    residuals: int  # that CG stays orthogonal to
    preconditioner: int
    data: int  # the batch
    activations: int  # what is remembered of the model for derivatives, of one piece of the batch

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)

    def __str__(self) -> str:
        parts = sorted(zip(self._fields, self, strict=True), key=lambda part: -part[1])
        named = ", ".join(f"{name} {_gb(count)}" for name, count in parts if count)
        return f"{_gb(self.total)} GB ({named})"


#: What makes each part smaller.
REMEDIES = {
    "vectors": "dtype float32 in place of float64, or fewer parameters",
    "iterates": "a smaller CG_iter",
    "residuals": "cg_memory=0",
    "preconditioner": 'preconditioner=None or "diagonal", or a smaller rank',
    "data": "minibatch_size, or devices",
    "activations": "chunk_size, minibatch_size, or devices",
}


def check(needed: Memory, there: int | None) -> None:
    """Refuse an update that cannot fit.

    Args:
        needed: by the update; its parameters and data are there already.
        there: bytes that are free, None if that is not known.

    Raises:
        MemoryError: if it needs more, with the estimate by parts, and what lowers the largest ones.
    """
    if there is None or needed.total - needed.data <= there:
        return
    parts = sorted(zip(needed._fields, needed, strict=True), key=lambda part: -part[1])
    remedies = "; ".join(f"{name}: {REMEDIES[name]}" for name, count in parts if 10 * count >= needed.total)
    raise MemoryError(f"An update needs about {needed}, and {_gb(there)} GB are free. To lower it, {remedies}.")


def of_update(settings: Settings | None, objective: TracedObjective, params: Vector, batch: Batch) -> Memory:
    """What an update needs, at least where a preconditioner measures by means of its own.

    Args:
        settings: of Hessian-free updates; None for a first-order one, without the state of its rule.
        objective: model and loss; its batches are cut as it says.
        params: arrays or shapes.
        batch: likewise.
    """
    vector, share = of_arrays(params), _share(batch)
    data = of_arrays(batch) // share
    seen = activations(objective, params, batch)
    if settings is None:
        return Memory(FIRST_ORDER_VECTORS * vector, 0, 0, 0, data, seen)
    recipe = settings.preconditioner
    schedule, kept = settings.iterates_stored(vector), settings.residuals_kept(vector, recipe is not None)
    more = (settings.averaging > 0) + (settings.warm_start == "conjugate") + (kept > 0)
    rows = (kept + 1) * (1 if recipe is None else 2) if kept else 0
    return Memory(
        vectors=(VECTORS + more) * vector,
        iterates=schedule * vector,
        residuals=rows * vector,
        preconditioner=0 if recipe is None else _of_recipe(recipe, objective, params, batch),
        data=data,
        activations=seen,
    )


def activations(objective: TracedObjective, params: Vector, batch: Batch) -> int:
    """Bytes for what is remembered of the model, on one device and of one piece, found without computing anything."""
    share, count = _share(batch), len(batch.weights)
    if objective.chunks is not None:
        count = min(count, objective.chunks.size)
    count = max(1, count // share)
    piece = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *np.shape(leaf)[1:]), leaf.dtype), batch)
    found = []

    def look(params: Vector, batch: Batch) -> None:
        there = linear_map(lambda p: objective.model.outputs(p, batch.inputs), params)
        given = {id(leaf) for leaf in jax.tree.leaves((params, batch))}
        kept = {id(leaf): leaf for leaf in jax.tree.leaves((there.push, there.outputs)) if id(leaf) not in given}
        # A product also holds Jv and HJv, which are as large as the outputs.
        found.append(of_arrays(list(kept.values())) + 2 * of_arrays(there.outputs))

    jax.eval_shape(look, params, piece)
    return found[0]


def _of_recipe(recipe: Any, objective: TracedObjective, params: Vector, batch: Batch) -> int:
    """Bytes for what a preconditioner has measured, measures now and has prepared."""
    measured = jax.eval_shape(recipe.measure, objective, params, batch, jax.random.key(0))
    prepared = jax.eval_shape(recipe.prepare, measured, jax.ShapeDtypeStruct((), jax.tree.leaves(params)[0].dtype))
    return 2 * of_arrays(measured) + of_arrays(prepared)


def _share(batch: Batch) -> int:
    """Into how many parts the examples are split over devices."""
    sharding = getattr(batch.weights, "sharding", None)
    if sharding is None:
        return 1
    shape = np.shape(batch.weights)
    return max(1, shape[0] // max(1, int(sharding.shard_shape(shape)[0])))


def of_arrays(tree: PyTree) -> int:
    """Bytes of all arrays, or of arrays of these shapes."""
    return sum(int(leaf.size) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree) if hasattr(leaf, "dtype"))


def _gb(count: float) -> str:
    return f"{count / 1e9:.3g}"


# ---- what there is ---------------------------------------------------------------------------------------------------


def free_bytes() -> int | None:
    """Bytes that are free on the first device, or on the host where it is a CPU; None if the system does not say."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    found = [free for free in (_of_host(), _of_group()) if free is not None]
    return min(found) if found else None


def _of_host() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _of_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Where a container limits memory: what its limit leaves, file caches not counted as used."""
    for place, limit, usage in (
        (folder, "memory.max", "memory.current"),
        (folder / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most = int((place / limit).read_text())
            used = int((place / usage).read_text())
            stat = dict(line.split() for line in (place / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        return most - used + int(stat.get("inactive_file", 0))
    return None
