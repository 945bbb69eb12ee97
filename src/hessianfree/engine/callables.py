"""A user's function as a pytree: its arrays are traced, everything else about it is static."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax


class _Form(NamedTuple):
    """What is static about a function: its structure as a pytree, and its leaves that are not arrays, by position."""

    structure: jax.tree_util.PyTreeDef
    static: tuple[tuple[int, Hashable], ...]


@partial(jax.tree_util.register_dataclass, data_fields=("arrays",), meta_fields=("form",))
@dataclass(frozen=True)
class Held:
    """A function that compiled code may take as an argument.

    A plain function has no arrays and is compared by identity. A callable that JAX knows as a pytree (an Equinox
    module, `jax.tree_util.Partial`, a registered dataclass) is taken apart: its arrays are traced, so that other
    numbers in them compile nothing, and its other leaves are compared by value.
    """

    arrays: tuple[Any, ...]
    form: _Form

    @property
    def function(self) -> Any:
        """The function itself, put together again."""
        static, arrays = dict(self.form.static), iter(self.arrays)
        leaves = [static[i] if i in static else next(arrays) for i in range(len(self.arrays) + len(self.form.static))]
        return jax.tree.unflatten(self.form.structure, leaves)

    def __call__(self, *args: Any) -> Any:
        """Call it."""
        return self.function(*args)


def held(function: Callable[..., Any]) -> Held:
    """The same function as a pytree. Raises TypeError if a part of it that is not an array cannot be hashed.

    Example:
        >>> import jax.numpy as jnp
        >>> scaled = jax.tree_util.Partial(jnp.multiply, jnp.float32(2))
        >>> [float(a) for a in held(scaled).arrays], float(held(scaled)(3))
        ([2.0], 6.0)
    """
    leaves, structure = jax.tree.flatten(function)
    static = tuple((i, leaf) for i, leaf in enumerate(leaves) if not hasattr(leaf, "dtype"))
    hash((structure, static))
    return Held(tuple(leaf for leaf in leaves if hasattr(leaf, "dtype")), _Form(structure, static))
