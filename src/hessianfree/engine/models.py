"""A user's function as a pytree and as a model, and what a model may know of its layers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from jax import Array
from jaxtyping import Float

from hessianfree.engine import trees
from hessianfree.engine.objective import Model
from hessianfree.engine.trees import PyTree, Vector


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


@partial(jax.tree_util.register_dataclass, data_fields=("function", "key"), meta_fields=("stochastic",))
@dataclass(frozen=True)
class FunctionModel(Model):
    """Any function of parameters and inputs.

    Args:
        function: (params, inputs) -> outputs, any pytree with leading axis B.
        stochastic: whether it takes a random key, or None, as third argument.
        key: that key; the same one for all passes of an update.
    """

    function: Held
    stochastic: bool = False
    key: Any = None

    def outputs(self, params: Vector, inputs: PyTree) -> PyTree:
        """The function's value."""
        return self.function(params, inputs, self.key) if self.stochastic else self.function(params, inputs)

    def weigh(self, weights: Array, outputs: Vector) -> Vector:
        """Multiply what belongs to example i by weights[i]."""
        return trees.weigh_examples(weights, outputs)

    def dot(self, x: Vector, y: Vector) -> Float[Array, "B"]:
        """Inner product, example by example, (B,)."""
        return trees.dot_examples(x, y)

    @property
    def draws(self) -> bool:
        """With a key; an update without one evaluates."""
        return self.key is not None

    def of_piece(self, number: Array) -> FunctionModel:
        """The model with a key of its own for this piece."""
        return self if self.key is None else replace(self, key=jax.random.fold_in(self.key, number))


class Flow(NamedTuple):
    """What flows through one block of weights V (m, n), row by row: its gradient is x' (w * delta).

    Rows are examples, or examples at timesteps.
    """

    x: Array  # what the block multiplies, (R, m)
    deltas: Array  # derivatives with respect to what it gives, (R, n)
    weights: Array  # (R,)


@runtime_checkable
class Layered(Protocol):
    """What a model can do that knows its layers: K-FAC needs it, and squared gradients are cheaper with it."""

    @property
    def has_time(self) -> bool:
        """Whether an example takes several rows of a flow, one for each timestep."""

    def flows(
        self, params: Vector, inputs: PyTree, weights: Array, cotangents: Callable[[Vector], Vector]
    ) -> Mapping[Hashable, Flow]:
        """What flows through every block, given weights of the examples, (B,).

        The function `cotangents` gives what is back-propagated from the outputs.
        """

    def to_blocks(self, vector: Vector) -> Mapping[Hashable, Array]:
        """A vector shaped like the parameters as one matrix (m, n) per block."""

    def from_blocks(self, blocks: Mapping[Hashable, Array], like: Vector) -> Vector:
        """The inverse of `to_blocks`."""
