"""Vectors with all their leaves in one array, for programs that compile in half the time.

XLA compiles what CG does with a vector for every leaf by itself. Joined, it does so once; only products with curvature
and the preconditioner take the vector apart. Measured on 16 leaves: 3.9 s become 2.2 s, and an iteration is as fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Inexact

from hessianfree.engine.trees import Vector

#: Parameters up to which vectors are joined: beyond them the copies count, and the compilation does not. A heuristic.
MOST = 4_000_000


class Packing(NamedTuple):
    """How a vector is joined and taken apart; both do nothing where it stays as it is."""

    join: Callable[[Vector], Vector]
    split: Callable[[Vector], Vector]


def joinable(x: Vector) -> bool:
    """Whether joining is useful, and moves nothing between devices: a sharded leaf would have to be gathered.

    Example:
        >>> joinable((np.ones(3), np.ones(2))), joinable(np.ones(3))
        (True, False)
    """
    leaves = jax.tree.leaves(x)
    here = all(not isinstance(leaf, Array) or leaf.sharding.is_fully_replicated for leaf in leaves)
    alike = len({leaf.dtype for leaf in leaves}) == 1
    return here and alike and len(leaves) > 1 and sum(leaf.size for leaf in leaves) <= MOST


def packing(x: Vector, joins: bool) -> Packing:
    """How vectors are joined shaped like x. Traceable.

    Example:
        >>> x = {"a": jnp.ones((2, 1)), "b": jnp.zeros(3)}
        >>> packing(x, joins=True).join(x).tolist()
        [1.0, 1.0, 0.0, 0.0, 0.0]
    """
    if not joins:
        return Packing(lambda vector: vector, lambda vector: vector)
    leaves, structure = jax.tree.flatten(x)
    shapes = [np.shape(leaf) for leaf in leaves]
    ends = np.cumsum([np.size(leaf) for leaf in leaves]).tolist()

    def split(flat: Vector) -> Vector:
        assert isinstance(flat, Array)
        parts = [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]
        return jax.tree.unflatten(structure, [part.reshape(s) for part, s in zip(parts, shapes, strict=True)])

    return Packing(_joined, split)


def _joined(x: Vector) -> Inexact[Array, "P"]:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(x)])
