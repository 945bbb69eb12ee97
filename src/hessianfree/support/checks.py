"""Checks of arguments, made before any work starts. Messages say what was given, what is expected, what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hessianfree.engine.numbers import is_number, is_whole


def network_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Units per layer. Raises ValueError if there are fewer than two layers, or a layer without units."""
    if isinstance(shape, Mapping) or not np.iterable(shape):
        raise ValueError(f"shape is {shape!r}; give the units of each layer in a list: [2, 5, 1].")
    sizes = list(shape)
    whole = all(is_whole(n) and n >= 1 for n in sizes)
    if len(sizes) < 2 or not whole:
        raise ValueError(f"shape is {sizes}; give the units of at least two layers, whole numbers >= 1: [2, 5, 1].")
    return tuple(int(n) for n in sizes)


def connections(conns: Mapping[int, Sequence[int]] | None, n_layers: int) -> dict[int, list[int]]:
    """The connections `{pre: [post, ...]}`, by `pre` ascending; a chain by default.

    Raises TypeError if conns is not a dict of lists of whole numbers, and ValueError if a connection does not go
    forward, appears twice or names a layer that does not exist, or if a layer has no input.
    """
    if conns is None:
        return {pre: [pre + 1] if pre + 1 < n_layers else [] for pre in range(n_layers)}
    if not isinstance(conns, Mapping) or not all(isinstance(posts, (list, tuple)) for posts in conns.values()):
        raise TypeError(f"conns is {conns!r}; a dict of lists is expected, such as {{0: [1, 2], 1: [2]}}.")
    numbers = [*conns, *(post for posts in conns.values() for post in posts)]
    if not all(is_whole(number) for number in numbers):
        raise TypeError(f"conns is {conns!r}; name layers by whole numbers.")
    ordered = {pre: [int(post) for post in conns.get(pre, ())] for pre in range(n_layers)}
    if unknown := sorted(pre for pre in conns if pre not in ordered):
        raise ValueError(f"conns has connections from layers {unknown}; the layers are numbered 0 to {n_layers - 1}.")
    for pre, posts in ordered.items():
        for post in posts:
            if not 0 <= post < n_layers:
                raise ValueError(f"conns has {pre} -> {post}, but the layers are numbered 0 to {n_layers - 1}.")
            if pre >= post:
                raise ValueError(f"conns has {pre} -> {post}; connections must go forward, to a higher layer.")
        if len(set(posts)) != len(posts):
            raise ValueError(f"conns lists a connection from layer {pre} twice: {posts}.")
    reached = {post for posts in ordered.values() for post in posts}
    if missing := [layer for layer in range(1, n_layers) if layer not in reached]:
        raise ValueError(f"conns leaves layers {missing} without input; let a lower layer project to each.")
    return ordered


def recurrent_layers(layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """Numbers of the recurrent layers, ascending; all but the first and the last by default.

    Raises TypeError if layers is not a list of whole numbers, ValueError if one does not exist or is named twice.
    """
    if layers is None:
        return tuple(range(1, n_layers - 1))
    if not np.iterable(layers) or not all(is_whole(n) for n in layers):
        raise TypeError(f"rec_layers is {layers!r}; a list of layer numbers is expected, such as [1].")
    numbers = sorted(int(n) for n in layers)
    if unknown := [n for n in numbers if not 0 <= n < n_layers]:
        raise ValueError(f"rec_layers lists {unknown}, but the layers are numbered 0 to {n_layers - 1}.")
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"rec_layers lists a layer twice: {numbers}.")
    return tuple(numbers)


def truncation(pair: Any) -> tuple[int, int]:
    """The pair (n, k), both whole numbers >= 1. Raises ValueError for anything else."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"truncation is {pair!r}; a pair (n, k) is expected: a window every n timesteps, k long.")
    return at_least("truncation: n", pair[0], 1), at_least("truncation: k", pair[1], 1)


def float_type(dtype: DTypeLike) -> np.dtype[Any]:
    """The type float32 or float64. Raises TypeError for anything else."""
    found = np.dtype(dtype) if dtype is not None else None
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise TypeError(f"dtype is {found}; the choices are np.float32 and np.float64.")
    return found


def examples(
    name: str, data: Any, width: int, dtype: np.dtype[Any], *, layer: str, time: bool = False, allow_nan: bool = False
) -> NDArray[Any]:
    """Data as (B, width), over time (B, T, width), of the network's dtype.

    Args:
        name: what to call it in messages.
        data: anything numpy can convert, integers and booleans included.
        width: expected width.
        dtype: type of the result.
        layer: the layer with that width, for messages.
        time: whether there is a time axis.
        allow_nan: whether NaN has a meaning (a target that counts for nothing).

    Raises:
        TypeError: if the data are not numeric.
        ValueError: if the shape is wrong, or if there are no examples, NaN or infinity.
    """
    array = numeric(name, data)
    if array.ndim != 2 + time or array.shape[-1] != width:
        raise ValueError(_wrong_shape(name, array, width, layer, time))
    if array.shape[0] == 0:
        raise ValueError(f"{name} hold no examples: their shape is {array.shape}.")
    if array.shape[1] == 0 and time:
        raise ValueError(f"{name} hold no timesteps: their shape is {array.shape}.")
    finite(name, array, allow_nan=allow_nan)
    if array.size and np.nanmax(np.abs(array), initial=0) > np.finfo(dtype).max:
        raise ValueError(
            f"{name} hold values too large for {dtype}, so infinite there; scale them, or use dtype=np.float64."
        )
    return array.astype(dtype, copy=False)


def numeric(name: str, data: Any) -> NDArray[Any]:
    """Data as a real array. Raises TypeError for text, objects or complex numbers, ValueError for ragged lists."""
    if isinstance(data, np.ma.MaskedArray):
        raise TypeError(f"{name} are a masked array; fill it first (NaN targets count for nothing).")
    if data is None:
        raise TypeError(f"{name} are None; numbers are expected.")
    array = np.asarray(data)
    if array.dtype.kind not in "biuf":
        hint = (
            " If they are numbers all the same, array.astype(np.float32) makes them so."
            if array.dtype.kind in "OUS"
            else ""
        )
        raise TypeError(f"{name} are of type {array.dtype}; numbers are expected.{hint}")
    return array


def _wrong_shape(name: str, array: NDArray[Any], width: int, layer: str, time: bool) -> str:
    expected = f"(examples, timesteps, {width})" if time else f"(examples, {width})"
    units = f"{width} unit{'s' * (width != 1)}"
    if array.ndim == 2 + time:
        return f"{name} have width {array.shape[-1]}, but {layer} has {units}; make them {expected}."
    hint = ""
    if time and array.ndim == 2 and name.endswith("targets") and array.shape[1] == width:
        hint = " For targets at the last timestep alone, give NaN at all others: they count for nothing."
    elif array.ndim == 1 + time:
        axes = "[:, :, None]" if time else "[:, None]"
        hint = f" A single example is array[None, {':, :' if time else ':'}]" + (
            f", a single column array{axes}." if width == 1 else "."
        )
    elif time and array.ndim == 1:
        hint = " A single sequence of one unit is array[None, :, None]."
    elif array.ndim == 3:
        hint = " Sequences are for RNNet."
    return f"{name} have shape {array.shape}, but {layer} has {units}: {expected} is expected.{hint}"


def finite(name: str, array: NDArray[Any], *, allow_nan: bool) -> None:
    """Reject infinity, and NaN unless it has a meaning, by a ValueError that counts them and locates the first."""
    bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        what = "infinite" if allow_nan else "NaN or infinite"
        raise ValueError(f"{name} hold {int(bad.sum())} {what} values, the first at {where}; remove or replace them.")


def same_length(inputs: NDArray[Any], targets: NDArray[Any]) -> None:
    """Raise ValueError unless there are as many targets as inputs, and as many timesteps."""
    if len(inputs) != len(targets):
        raise ValueError(f"There are {len(inputs)} inputs but {len(targets)} targets; give one target per input.")
    if inputs.ndim == 3 and inputs.shape[1] != targets.shape[1]:
        raise ValueError(
            f"The inputs have {inputs.shape[1]} timesteps, the targets {targets.shape[1]}; give one target per "
            "timestep, NaN where it counts for nothing."
        )


def mask(index: Any, size: int) -> NDArray[np.bool_]:
    """Booleans (size,) that are True where an index of weights points.

    Raises ValueError if the index does not fit, or if it holds zeros and ones that look like booleans.
    """
    chosen = np.zeros(size, bool)
    array = np.asarray(index) if not isinstance(index, (slice, tuple)) else None
    if array is not None and array.dtype.kind != "b" and array.size == size and np.isin(array, (0, 1)).all():
        raise ValueError("mask holds zeros and ones; make it boolean with mask.astype(bool), or list the positions.")
    if isinstance(index, (bool, np.bool_)):
        raise ValueError(f"mask is {index}; booleans ({size},), positions or a slice are expected.")
    try:
        chosen[index if array is None or array.dtype.kind in "bi" else list(index)] = True
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"mask does not index the {size} weights: {error}.") from error
    return chosen


def at_least(name: str, value: Any, minimum: int) -> int:
    """A whole number >= minimum. Raises ValueError for anything else."""
    if not is_whole(value) or value < minimum:
        raise ValueError(f"{name} is {value!r}; a whole number >= {minimum} is expected.")
    return int(value)


def time_limit(name: str, seconds: Any) -> None:
    """Raise ValueError unless this is a positive number, or None."""
    if seconds is not None and not (is_number(seconds) and seconds > 0):
        raise ValueError(f"{name} is {seconds!r}; a positive number is expected, or None for no limit.")


def threshold(name: str, value: Any) -> None:
    """Raise TypeError unless this is a number to stop below, which may be infinite."""
    if not is_number(value):
        raise TypeError(f"{name} is {value!r}; a number is expected, -np.inf for none.")


def is_true(answer: Any) -> bool:
    """Whether a user's function returned True, of Python, numpy or JAX; other values that count as true do not."""
    of_arrays = getattr(answer, "dtype", None) == np.bool_ and np.ndim(answer) == 0
    return (isinstance(answer, bool) or of_arrays) and bool(answer)
