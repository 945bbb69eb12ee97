"""The parameters and batches that users pass: checked, and put into one form."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.tree_util import keystr, tree_leaves_with_path
from numpy.typing import NDArray

from hessianfree.devices.fetching import to_host
from hessianfree.engine.compilation import NOT_TRACEABLE, jit
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.support import runtime

#: What messages call the leaf of a tree that is one array.
ONLY_LEAF = "the only leaf"
_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def checked(params: PyTree) -> PyTree:
    """Parameters as a pytree of float arrays of one precision; Python's floats become arrays.

    Args:
        params: any pytree of float32 or of float64 arrays.

    Returns:
        The same, with arrays for plain numbers.

    Raises:
        TypeError: if a leaf is not an array of floats, or the leaves have two precisions.
        ValueError: if a leaf is empty, or there is none.
    """
    kinds = {np.dtype(leaf.dtype) for leaf in jax.tree.leaves(params) if getattr(leaf, "dtype", "") in _FLOATS}
    found = jax.tree.map(partial(_as_array, dtype=min(kinds, key=str) if kinds else None), params)
    named = named_leaves(found)
    if not named:
        raise ValueError(f"The parameters are {params!r}, which holds no arrays; there is nothing to optimize.")
    for name, leaf in named:
        _check_leaf(name, leaf)
    types = {np.dtype(leaf.dtype) for _, leaf in named}
    if len(types) > 1:
        listed = ", ".join(f"{name}: {leaf.dtype}" for name, leaf in named[:6])
        raise TypeError(f"The parameters have leaves of two precisions ({listed}); make all float32 or all float64.")
    return found


def precision(params: PyTree) -> np.dtype[Any]:
    """The type of checked parameters."""
    return np.dtype(jax.tree.leaves(params)[0].dtype)


#: Whether the user's own JAX holds float64, noted where `computing` overrides it.
_users_x64: ContextVar[bool | None] = ContextVar("_users_x64", default=None)


@contextmanager
def computing(params: PyTree) -> Iterator[None]:
    """Context in which float64 parameters stay what they are, whatever the global flag says."""
    outermost = _users_x64.get() is None
    token = _users_x64.set(jax.config.values["jax_enable_x64"]) if outermost else None
    try:
        with runtime.computing(precision(params), None):
            yield
    finally:
        if token is not None:
            _users_x64.reset(token)


@contextmanager
def users_own() -> Iterator[None]:
    """Inside `computing`, the precision of the user's own JAX, for functions of the user's."""
    x64 = _users_x64.get()
    with jax.enable_x64(jax.config.values["jax_enable_x64"] if x64 is None else x64):
        yield


def returned(tree: PyTree, params: PyTree) -> PyTree:
    """Results for the user: JAX arrays, but numpy where the user's JAX would not hold their precision."""
    known = _users_x64.get()
    x64 = jax.config.values["jax_enable_x64"] if known is None else known
    return tree if x64 or precision(params) != np.float64 else jax.device_get(tree)


def own(tree: PyTree) -> PyTree:
    """Copies of numpy arrays: JAX may use their memory as it is, and read it after a function has returned."""
    return jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else np.array(leaf), tree)


def raveled(params: PyTree) -> NDArray[Any]:
    """All numbers in one numpy array, in the order of the leaves."""
    return np.concatenate([np.ravel(np.asarray(leaf)) for leaf in jax.tree.leaves(params)])


def unraveled(flat: NDArray[Any], like: PyTree) -> PyTree:
    """The inverse of `raveled`, along the last axis of an array; its other axes stay in front of those of a leaf."""
    leaves, structure = jax.tree.flatten(like)
    ends = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]
    parts = zip(np.split(flat, ends, axis=-1), leaves, strict=True)
    return jax.tree.unflatten(structure, [part.reshape(flat.shape[:-1] + np.shape(leaf)) for part, leaf in parts])


def check_finite(params: PyTree) -> None:
    """Refuse parameters that are not finite, and name the leaf.

    Raises:
        ValueError: if there are any.
    """
    bad = not_finite(params)
    if bad:
        raise ValueError(f"The parameters are not finite to begin with: {bad}.")


def not_finite(tree: PyTree) -> str:
    """Which leaves hold numbers that are not finite, and how many, in words; empty if none."""
    found = []
    for name, leaf in named_leaves(tree):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue  # integers and random keys always are
        leaf = to_host(leaf)
        bad = int(np.size(leaf) - np.isfinite(leaf).sum())
        if bad:
            found.append(f"{name} holds {bad} of {np.size(leaf)} that are NaN or infinite")
    return "; ".join(found)


def layout(tree: PyTree) -> Any:
    """Structure, shapes and types, hashable, to be compared."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def same_shapes(a: PyTree, b: PyTree) -> bool:
    """Whether structure and shapes agree, whatever the types."""
    structure: Any = jax.tree.structure(a)
    if structure != jax.tree.structure(b):
        return False
    return all(np.shape(x) == np.shape(y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def shapes(tree: PyTree) -> str:
    """Structure, types and shapes of a pytree, for messages."""
    return str(jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", tree)).replace("'", "")


def as_batch(batch: Any, params: PyTree) -> Batch:
    """A batch as the engine takes it.

    Args:
        batch: a `Batch`, or (inputs, targets) or (inputs, targets, weights): pytrees whose leaves, arrays of any
            kind, have the examples along their first axis.
        params: checked; floats take their precision.

    Returns:
        The batch, with weights of one if none were given.

    Raises:
        TypeError: if the batch is not a tuple of two or three.
        ValueError: if there are no examples, leaves differ in their number, or a weight is negative or not finite.
    """
    dtype, (inputs, targets, weights) = precision(params), parts_of(batch)
    with computing(params):
        inputs, targets = (as_data(part, dtype) for part in (inputs, targets))
        size = examples_in(inputs, targets)
        given = np.ones(size, dtype) if weights is None else checked_weights(weights, size, dtype)
        return Batch(inputs, targets, given)


def parts_of(batch: Any) -> tuple[Any, Any, Any]:
    """Inputs, targets and weights, or None, of a batch.

    Raises:
        TypeError: if it is not a tuple of two or three.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
        kind = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise TypeError(f"A batch is (inputs, targets) or (inputs, targets, weights); given a {kind}.")
    return batch[0], batch[1], batch[2] if len(batch) == 3 else None


def examples_in(inputs: PyTree, targets: PyTree) -> int:
    """How many examples arrays hold along their first axis.

    Raises:
        ValueError: if there are none, or leaves differ in their number.
    """
    named = [*named_leaves(inputs, "inputs"), *named_leaves(targets, "targets")]
    if not named:
        raise ValueError("The batch holds no arrays: neither its inputs nor its targets.")
    sizes = {name: int(leaf.shape[0]) if leaf.shape else None for name, leaf in named}
    size = next(iter(sizes.values()))
    if size is None or len(set(sizes.values())) > 1:
        raise ValueError(f"All leaves of a batch need as many examples along their first axis; given {sizes}.")
    if size == 0:
        raise ValueError("The batch holds no examples.")
    return size


def checked_weights(weights: Any, size: int, dtype: np.dtype[Any]) -> Any:
    """Weights of so many examples, in this precision.

    Raises:
        TypeError: if they are not real numbers.
        ValueError: if there is not one for each example, or one is negative or not finite.
    """
    _check_not_traced(weights)
    on_device = isinstance(weights, jax.Array)
    try:
        given = weights if on_device else np.asarray(weights)
    except ValueError as error:
        raise ValueError(
            f"The weights are {reprlib.repr(weights)}; one number for each of {size} examples is expected. Several "
            "batches are given as a list of them, not as a tuple."
        ) from error
    if given.shape != (size,):
        raise ValueError(f"The weights have shape {given.shape}; one for each of {size} examples is expected.")
    if not (jnp.issubdtype(given.dtype, jnp.floating) or np.dtype(given.dtype).kind in "biu"):
        raise TypeError(f"The weights are {given.dtype}; real numbers are expected.")
    with np.errstate(over="ignore"):
        given = given.astype(dtype)
    # On a device they stay there: what is fetched is one answer.
    if not (_usable(given) if on_device else (np.isfinite(given) & (given >= 0)).all()):
        raise ValueError(f"The weights must be finite in {dtype}, and none negative.")
    return given


@jit
def _usable(weights: Any) -> Any:
    return jnp.all(jnp.isfinite(weights) & (weights >= 0))


def named_leaves(tree: PyTree, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves with their key paths."""
    return [(prefix + keystr(path) or ONLY_LEAF, leaf) for path, leaf in tree_leaves_with_path(tree)]


def _as_array(leaf: Any, dtype: Any) -> Any:
    """Python's floats in the type of the arrays beside them, or in JAX's own."""
    if isinstance(leaf, float) and not isinstance(leaf, np.floating):
        return np.asarray(leaf, dtype or jax.dtypes.canonicalize_dtype(np.float64))
    return leaf


def _check_not_traced(leaf: Any) -> None:
    if isinstance(leaf, jax.core.Tracer):
        raise TypeError(NOT_TRACEABLE)


def _check_leaf(name: str, leaf: Any) -> None:
    _check_not_traced(leaf)
    if type(leaf) is int:
        raise TypeError(f"The parameters hold the whole number {leaf} at {name}; floats are trained: write {leaf}.0.")
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        raise TypeError(
            f"The parameters hold a {type(leaf).__name__} at {name}; every leaf must be an array of floats. Keep what "
            "is not trained apart from them: for Equinox eqx.partition(model, eqx.is_inexact_array), for Flax NNX "
            "nnx.split(model, nnx.Param, ...). Register a class of your own with jax.tree_util.register_dataclass."
        )
    if not jnp.issubdtype(leaf.dtype, np.floating) or np.dtype(leaf.dtype) not in _FLOATS:
        whole = jnp.issubdtype(leaf.dtype, np.integer) or leaf.dtype == np.bool_
        remedy = "If they are meant to be trained, write floats, such as np.array([1.0, 3.0]). " if whole else ""
        raise TypeError(
            f"The parameters hold {leaf.dtype} at {name}; float32 or float64 is needed. {remedy}Numbers that are not "
            "trained belong to the model or the inputs."
        )
    if leaf.size == 0:
        raise ValueError(f"The parameters hold an empty array of shape {leaf.shape} at {name}; leave it out.")
    sharding = getattr(leaf, "sharding", None)
    if isinstance(sharding, NamedSharding) and any(sharding.spec) and AxisType.Explicit in sharding.mesh.axis_types:
        raise ValueError(
            f"The parameters are cut over an explicit axis of a mesh at {name}: {sharding.spec}; make the mesh with "
            "jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,)), or keep them whole and cut the data."
        )


def as_data(tree: PyTree, dtype: np.dtype[Any]) -> PyTree:
    """Arrays of any kind as numpy's or JAX's, floats in this precision.

    Raises:
        TypeError: if a leaf does not hold numbers.
    """
    leaves = jax.tree.leaves(tree)
    if isinstance(tree, (list, tuple)) and leaves and all(isinstance(leaf, (bool, int, float)) for leaf in leaves):
        try:
            tree = np.asarray(tree)
        except ValueError as error:
            raise ValueError(f"The data hold lists of different lengths, {reprlib.repr(tree)}: {error}") from error
    return jax.tree.map(lambda leaf: _as_data(leaf, dtype), tree)


def _as_data(leaf: Any, dtype: np.dtype[Any]) -> Any:
    _check_not_traced(leaf)
    if isinstance(leaf, jax.Array):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf
    if isinstance(leaf, np.ma.MaskedArray):
        raise TypeError("The data hold a masked array; fill it first (NaN targets count for nothing).")
    array: NDArray[Any] = np.asarray(leaf)  # torch tensors too
    if jnp.issubdtype(array.dtype, jnp.floating):
        return array.astype(dtype)
    if array.dtype.kind not in "biuc":
        raise TypeError(f"The data hold {array.dtype} (such as {reprlib.repr(leaf)}); arrays of numbers are expected.")
    _check_integers(array, dtype)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_integers(array: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Beside float32, JAX makes 32 bits of 64, silently."""
    if array.dtype.kind not in "iu" or array.dtype.itemsize < 8 or dtype == np.float64 or not array.size:
        return
    limits = np.iinfo(np.int32 if array.dtype.kind == "i" else np.uint32)
    if array.max() > limits.max or array.min() < limits.min:
        raise ValueError(
            f"The data hold {array.dtype} from {array.min()} to {array.max()}, and beside float32 parameters integers "
            f"have 32 bits; make them floats, or the parameters float64."
        )
