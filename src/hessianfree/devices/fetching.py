"""Arrays on the host, wherever their parts lie."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import NamedSharding, PartitionSpec

from hessianfree.engine.compilation import jit
from hessianfree.engine.trees import PyTree


def to_host(tree: PyTree) -> PyTree:
    """Every JAX array of a tree as a numpy array. If parts lie on other processes, all processes must call this."""
    return jax.tree.map(_on_host, tree)


def within_reach(tree: PyTree) -> bool:
    """Whether this process can look at all arrays by itself.

    Example:
        >>> within_reach({"x": np.ones(3)})
        True
    """
    return all(_near(leaf) for leaf in jax.tree.leaves(tree))


def fetched(tree: PyTree) -> PyTree:
    """The tree with those of its arrays on the host that this process cannot look at by itself."""
    return jax.tree.map(lambda leaf: leaf if _near(leaf) else _on_host(leaf), tree)


def off_mesh(tree: PyTree) -> PyTree:
    """The tree with those of its arrays on the host of which several devices hold parts."""
    return jax.tree.map(lambda leaf: _on_host(leaf) if _on_several(leaf) else leaf, tree)


def on_one_device(tree: PyTree) -> PyTree:
    """Arrays that several devices hold whole as arrays of one of them, without a copy; others as they are."""
    return jax.tree.map(_of_one, tree)


def _near(leaf: Any) -> bool:
    return not isinstance(leaf, Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def _on_several(leaf: Any) -> bool:
    concrete = isinstance(leaf, Array) and not isinstance(leaf, jax.core.Tracer)
    return concrete and len(leaf.sharding.device_set) > 1


def _on_host(leaf: Any) -> Any:
    if not isinstance(leaf, Array):
        return leaf
    if _near(leaf):
        return np.asarray(leaf)
    assert isinstance(leaf.sharding, NamedSharding)
    return np.asarray(_whole(NamedSharding(leaf.sharding.mesh, PartitionSpec()), leaf))


@partial(jit, static_argnums=0)
def _whole(sharding: NamedSharding, array: Array) -> Array:
    return jax.lax.with_sharding_constraint(array, sharding)


def _of_one(leaf: Any) -> Any:
    if isinstance(leaf, Array) and leaf.is_fully_replicated and len(leaf.sharding.device_set) > 1:
        return leaf.addressable_data(0)
    return leaf
