"""Values as JSON beside arrays: what an archive holds, packed and unpacked without running anything.

Symbols of a packed value: numbers, text, booleans and None stand for themselves; {"array": name} for an array of the
archive, {"scalar": name} for a number of numpy, {"bytes": name} for bytes; {"list": [...]}, {"tuple": [...]} and
{"dict": [[key, value], ...]} for containers; {"float": text} for NaN and infinities, which JSON does not have;
{"object": i} for anything else, which the caller packs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
_NUMBERS = "biuf"
#: A longer name of an array is replaced by a number.
MAX_NAME = 200
#: Containers nested deeper than this are refused.
MAX_DEPTH = 60


class NeedsMoreError(TypeError):
    """A file can be read only with something that the caller has to pass; the message says what."""


def refuse(name: str, value: Any) -> Any:
    """Refuse a value that has no form in a file; the message says where it is."""
    raise TypeError(
        f"{name} is a {type(value).__name__}, which a file cannot hold; arrays, numbers, text, and lists, tuples and "
        "dicts of them can be saved."
    )


def pack(value: Any, arrays: Arrays, name: str, other: Callable[[str, Any], Any] = refuse, depth: int = 0) -> Any:
    """A value as JSON.

    Args:
        value: numbers, text, None, arrays, and lists, tuples and dicts of them.
        arrays: where the arrays go, under names that start with `name`.
        name: of the value, for arrays and messages.
        other: packs anything else, from its name and value.
        depth: how many containers it is in.

    Returns:
        What `unpack` makes the value from. JAX's arrays come back as numpy's.

    Raises:
        TypeError: naming the part that cannot be packed.

    Example:
        >>> arrays = {}
        >>> packed = pack({"a": [np.ones(2), math.inf]}, arrays, "p")
        >>> packed, list(arrays)
        ({'dict': [['a', {'list': [{'array': "p['a'][0]"}, {'float': 'inf'}]}]]}, ["p['a'][0]"])
        >>> unpack(packed, arrays)
        {'a': [array([1., 1.]), inf]}
    """
    kind = type(value)
    if depth > MAX_DEPTH:
        raise TypeError(f"{name[:200]} is nested deeper than {MAX_DEPTH} containers, which a file does not hold.")
    if value is None or kind in (bool, int, str):
        return value
    if kind is bytes:
        place = name if len(name) <= MAX_NAME and name.isprintable() else f"array {len(arrays)}"
        arrays[place] = np.frombuffer(value, np.uint8)
        return {"bytes": place}
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)) and getattr(value.dtype, "kind", "") in tuple(_NUMBERS):
        place = name if len(name) <= MAX_NAME and name.isprintable() else f"array {len(arrays)}"
        arrays[place] = np.asarray(value)
        return {"scalar" if isinstance(value, np.generic) else "array": place}
    if kind in (list, tuple):
        return {kind.__name__: [pack(item, arrays, f"{name}[{i}]", other, depth + 1) for i, item in enumerate(value)]}
    if kind is dict and all(type(key) in (str, int) for key in value):
        return {
            "dict": [[key, pack(item, arrays, f"{name}[{key!r}]", other, depth + 1)] for key, item in value.items()]
        }
    return other(name, value)


def _refuse_object(number: Any) -> Any:
    raise ValueError("it holds an object where plain values are expected")


def unpack(node: Any, arrays: Arrays, made: Callable[[Any], Any] = _refuse_object, depth: int = 0) -> Any:
    """The value that was packed.

    Args:
        node: what `pack` returned.
        arrays: of the archive.
        made: makes a value from what `other` returned under "object".
        depth: how many containers it is in.

    Returns:
        The value.

    Raises:
        ValueError: if the node is of no known form.
    """
    if node is None or isinstance(node, (bool, int, str, float)):
        return node
    if depth > MAX_DEPTH:
        raise ValueError(f"it nests containers deeper than {MAX_DEPTH}")
    form, content = next(iter(node.items())) if isinstance(node, dict) and len(node) == 1 else ("", None)
    if form == "object":
        return made(content)
    if form == "float" and content in ("nan", "inf", "-inf"):
        return float(content)
    if form == "bytes" and isinstance(content, str) and content in arrays:
        return arrays[content].tobytes()
    if form in ("array", "scalar") and isinstance(content, str) and content in arrays:
        array = arrays[content]
        if form == "scalar" and array.ndim:
            raise ValueError(f"it has a number of shape {array.shape}")
        return array[()] if form == "scalar" else array
    if form in ("list", "tuple") and isinstance(content, list):
        items = [unpack(item, arrays, made, depth + 1) for item in content]
        return items if form == "list" else tuple(items)
    if form == "dict" and isinstance(content, list) and all(map(_is_pair, content)):
        return {key: unpack(item, arrays, made, depth + 1) for key, item in content}
    raise ValueError(f"it holds a value of an unknown form, {str(node)[:60]}")


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], (str, int))
