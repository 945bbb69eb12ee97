"""The leaves of pytrees as the arrays of a checkpoint, and back again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from hessianfree.devices.fetching import to_host
from hessianfree.engine.trees import PyTree
from hessianfree.io.trees import Arrays


class OtherRunError(ValueError):
    """A checkpoint belongs to another network, optimizer or data."""


def pack_leaves(tree: PyTree, arrays: Arrays, name: str) -> list[str]:
    """Put the leaves among the arrays; returns their key paths."""
    keys = []
    for place, (path, leaf) in enumerate(tree_leaves_with_path(tree)):
        arrays[f"{name}.{place}"] = _numbers(leaf)
        keys.append(keystr(path))
    return keys


def unpack_leaves(keys: Any, arrays: Arrays, like: PyTree, name: str) -> PyTree:
    """A tree like the given one, its leaves from the arrays. Raises OtherRunError where they do not fit."""
    leaves, found = tree_leaves_with_path(like), []
    for place, (path, leaf) in enumerate(leaves):
        own, array = _numbers(leaf), arrays.get(f"{name}.{place}")
        given = f"{array.dtype} {array.shape}" if array is not None and place < len(keys) else "nothing"
        if keys[place : place + 1] != [keystr(path)] or given != f"{own.dtype} {own.shape}":
            raise OtherRunError(
                f"The checkpoint is of another run: its {name} has {given} at {''.join(keys[place : place + 1])}; here "
                f"is {own.dtype} {own.shape} at {keystr(path)}."
            )
        found.append(_like(leaf, array))
    if len(keys) != len(leaves):
        raise OtherRunError(f"The checkpoint is of another run: its {name} has {len(keys)} arrays, not {len(leaves)}.")
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _like(leaf: Any, array: Any) -> Any:
    """An array of the same kind, on the same devices; a number for a number."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array):
        with jax.enable_x64(True):  # float64 stays what it is
            return jax.device_put(array, leaf.sharding if leaf.committed else None)
    return array if isinstance(leaf, (np.ndarray, np.generic)) else type(leaf)(array.item())


def _is_key(leaf: Any) -> bool:
    """Whether this is a random key of JAX, as optax.add_noise keeps one."""
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _numbers(leaf: Any) -> np.ndarray[Any, Any]:
    return np.asarray(to_host(jax.random.key_data(leaf) if _is_key(leaf) else leaf))


def size_of(tree: PyTree) -> int:
    """Bytes of all leaves."""
    return sum(_numbers(leaf).nbytes for leaf in jax.tree.leaves(tree))


def copied(tree: PyTree) -> PyTree:
    """The same tree with arrays of its own, for those that somebody may change in place or give away."""
    return jax.tree.map(lambda leaf: leaf.copy() if isinstance(leaf, (np.ndarray, jax.Array)) else leaf, tree)
