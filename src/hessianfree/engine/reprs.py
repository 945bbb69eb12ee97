"""Short representations: what an object is, in a line or two, whatever the size of what it holds."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

#: Characters of a value among others, and of a list of them.
MOST, MOST_LISTED = 60, 4


def call(value: Any, given: Mapping[str, Any] | None = None) -> str:
    """An object as the call that makes it, with the arguments that are not the default ones.

    Args:
        value: the object.
        given: the arguments that it was made with; by default its attributes of the same names.

    Example:
        >>> class Scaled:
        ...     def __init__(self, by=1.0, shift=0.0):
        ...         self.by, self.shift = by, shift
        >>> call(Scaled(2.0))
        'Scaled(by=2.0)'
    """
    held = vars_of(value) if given is None else given
    usual = _defaults(type(value))
    shown = [f"{name}={brief(held[name])}" for name in usual if name in held and _differ(held[name], usual[name])]
    return f"{type(value).__name__}({', '.join(shown)})"


def fields(record: Any, **instead: str) -> str:
    """A named tuple or dataclass with its fields, each in a few characters.

    Args:
        record: the named tuple or dataclass.
        **instead: what to show for some of the fields.

    Example:
        >>> from typing import NamedTuple
        >>> class Step(NamedTuple):
        ...     value: float
        ...     direction: np.ndarray
        >>> fields(Step(0.123456789, np.zeros((100, 3))))
        'Step(value=0.123457, direction=float64 (100, 3))'
    """
    named = hasattr(record, "_fields")
    names = record._fields if named else [item.name for item in dataclasses.fields(record) if item.repr]
    shown = [f"{name}={instead[name] if name in instead else brief(getattr(record, name))}" for name in names]
    return f"{type(record).__name__}({', '.join(shown)})"


def brief(value: Any) -> str:
    """A value in a few characters: arrays by type and shape, containers of arrays by their number.

    Example:
        >>> brief({"W": np.zeros((20, 3)), "b": np.zeros(3)}), brief(np.float32(0.5)), brief([1, 2, 3, 4, 5, 6])
        ('2 arrays of 63 numbers', '0.5', '[1, 2, 3, ...]')
    """
    if isinstance(value, (np.ndarray, jax.Array, np.generic)):
        return _array(value)
    if isinstance(value, float):
        return repr(value) if len(repr(value)) <= 8 else f"{value:.6g}"
    if isinstance(value, str):
        return repr(cut(value))
    if isinstance(value, (list, tuple, dict)) and not hasattr(value, "_fields"):
        return _container(value)
    if isinstance(value, type) or inspect.isroutine(value):
        return str(getattr(value, "__qualname__", type(value).__name__))
    plain = getattr(type(value), "__repr__", None) is object.__repr__
    text = f"{type(value).__name__}(...)" if plain else " ".join(repr(value).split())
    return text if len(text) <= MOST else f"{type(value).__name__}(...)"


def cut(text: str, most: int = MOST) -> str:
    """A text of so many characters at most.

    Example:
        >>> cut("all 100 epochs are done", 12)
        'all 100 e...'
    """
    return text if len(text) <= most else f"{text[: most - 3]}..."


def vars_of(value: Any) -> dict[str, Any]:
    """The arguments of an object's constructor that it holds as attributes."""
    return {name: getattr(value, name) for name in _defaults(type(value)) if hasattr(value, name)}


def _defaults(cls: type) -> dict[str, Any]:
    try:
        parameters: Mapping[str, inspect.Parameter] = inspect.signature(cls).parameters
    except (TypeError, ValueError):  # of a class that says nothing of its constructor
        return {}
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: one.default for name, one in parameters.items() if one.kind not in several}


def _differ(value: Any, usual: Any) -> bool:
    if value is usual:
        return False
    if isinstance(value, (np.ndarray, jax.Array)):
        return not (np.ndim(usual) == np.ndim(value) == 0 and bool(np.asarray(value) == usual))
    try:
        return bool(value != usual)
    except (TypeError, ValueError):  # what cannot be compared
        return True


def _array(value: Any) -> str:
    known = getattr(value.dtype, "kind", "") in tuple("biufcUS") and not isinstance(value, jax.core.Tracer)
    if known and value.ndim == 0:
        return brief(np.asarray(value).item())
    if known and value.ndim == 1 and value.size <= MOST_LISTED:
        return f"[{', '.join(map(brief, np.asarray(value).tolist()))}]"
    return f"{value.dtype} {tuple(value.shape)}"


def _container(value: Any) -> str:
    leaves = jax.tree.leaves(value)
    arrays = [leaf for leaf in leaves if isinstance(leaf, (np.ndarray, jax.Array))]
    if arrays and (len(leaves) > 1 or not isinstance(value, dict)):
        total = sum(int(np.size(leaf)) for leaf in leaves)
        return f"{len(leaves)} array{'s' * (len(leaves) != 1)} of {total:,} numbers"
    pairs = isinstance(value, dict)
    items = [f"{key!r}: {brief(item)}" for key, item in value.items()] if pairs else list(map(brief, value))
    left, right = ("{", "}") if pairs else ("[", "]") if isinstance(value, list) else ("(", ")")
    inner = _joined(items)
    return f"{left}{inner}{',' if not pairs and isinstance(value, tuple) and len(items) == 1 else ''}{right}"


def _joined(items: list[str]) -> str:
    """The first items, as many as are short together."""
    shown: list[str] = []
    for item in items:
        enough = len(shown) == MOST_LISTED - 1 and len(items) > MOST_LISTED + 1
        if enough or len(", ".join([*shown, item])) > MOST:
            return ", ".join([*shown, "..."])
        shown.append(item)
    return ", ".join(shown)
