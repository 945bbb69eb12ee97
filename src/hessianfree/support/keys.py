"""Split an object into a hashable key and its arrays, and put it together again.

The static parts of an object are the key under which compiled functions are cached. Two layers of one class with equal
plain options have equal keys. Their arrays (time constants, loss weights) are traced: changing a number in one compiles
nothing. A key holds values, never the object that it came from, so that objects are freed.
"""

from __future__ import annotations

import enum
import functools
import math
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

#: Objects nested deeper than this are taken for a graph, not for options.
MAX_DEPTH = 8


class UnkeyableError(TypeError):
    """An attribute can be neither compared by value nor traced."""


class Unkeyable:
    """Marker base: objects that must never become part of a key (networks, optimizers)."""


class Key(NamedTuple):
    """A frozen object: `node` is a nested tuple of values in which arrays are numbered slots."""

    node: Hashable


#: Types whose values never change.
PLAIN = {bool, int, float, complex, str, bytes, type(None), type(...)}
_BY_IDENTITY = (
    *(type, types.BuiltinFunctionType, types.ModuleType, np.ufunc),
    *(type(jax.jit(len)), jax.custom_jvp, jax.custom_vjp, jnp.ufunc),
)


def split(obj: Any) -> tuple[Key, tuple[Any, ...]]:
    """Split an object into a key and the arrays among its attributes.

    A method `_traced_attributes() -> dict` of the object says which attributes matter. Without it, all of `vars(obj)`
    matter, and so do the data and code of the user's own classes.

    Args:
        obj: any object whose attributes are plain values, arrays, containers or such objects.

    Returns:
        A hashable key, and the arrays in the order of its slots.

    Raises:
        UnkeyableError: naming the attribute that can be neither compared by value nor traced.

    Example:
        >>> class Gain:
        ...     def __init__(self, value): self.value = value
        >>> split(Gain(2))[0] == split(Gain(2))[0], split(Gain(2))[0] == split(Gain(3))[0]
        (True, False)
    """
    arrays: list[Any] = []
    return Key(_freeze(obj, arrays, type(obj).__name__, 0)), tuple(arrays)


def rebuild(key: Key, arrays: tuple[Any, ...]) -> Any:
    """Make a new object from a key, with these arrays (or tracers) in its slots."""
    return _thaw(key.node, arrays)


def _freeze(value: Any, arrays: list[Any], name: str, depth: int) -> Hashable:
    if depth > MAX_DEPTH:
        raise UnkeyableError(f"{name} is nested more than {MAX_DEPTH} objects deep (or refers to itself)")
    if type(value) in PLAIN or isinstance(value, (enum.Enum, np.generic, np.dtype)):
        # The type is part of the key (1, 1.0 and True are equal); repr tells 0.0 from -0.0; one NaN is like another.
        return ("value", type(value), repr(value), math.nan if type(value) is float and value != value else value)
    if isinstance(value, (np.ndarray, jax.Array)):
        if getattr(value.dtype, "kind", "?") not in "biufc":
            raise UnkeyableError(f"{name} is an array of {value.dtype}")
        arrays.append(value)
        return ("array", len(arrays) - 1)
    return _freeze_composite(value, arrays, name, depth)


def _freeze_composite(value: Any, arrays: list[Any], name: str, depth: int) -> Hashable:
    def frozen(parts: Iterable[Any]) -> tuple[Hashable, ...]:
        return tuple(_freeze(part, arrays, f"{name}[{i}]", depth + 1) for i, part in enumerate(parts))

    kind = type(value)
    if isinstance(value, _BY_IDENTITY):
        return ("value", kind, None, value)
    if isinstance(value, types.FunctionType):
        return ("value", kind, _function_key(value, name, depth), value)
    if kind in (slice, range):
        return ("call", kind, frozen((value.start, value.stop, value.step)))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return ("call", kind, frozen(value))
    if kind in (tuple, list):
        return ("sequence", kind, frozen(value))
    if kind in (set, frozenset):
        return ("value", kind, frozenset(frozen(value)), frozenset(value))
    if kind in (dict, OrderedDict):
        values = (_freeze(v, arrays, f"{name}[{k!r}]", depth + 1) for k, v in value.items())
        return ("mapping", kind, tuple(zip(frozen(value), values, strict=True)))
    if kind is functools.partial:
        return ("partial", *frozen((value.func, value.args, value.keywords)))
    return _freeze_object(value, arrays, name, depth)


def _freeze_object(value: Any, arrays: list[Any], name: str, depth: int) -> Hashable:
    """By class, attributes (those of the user's classes included) and the code of the user's methods."""
    if isinstance(value, Unkeyable) or not hasattr(value, "__dict__") or _has_slots(type(value)):
        raise UnkeyableError(f"{name} is a {type(value).__name__}, which cannot be compared by value")
    data, methods = _class_contents(type(value))
    chosen: Callable[[], Mapping[str, Any]] | None = getattr(value, "_traced_attributes", None)
    attributes = {**data, **(chosen() if chosen is not None else vars(value))}
    items = ((k, _freeze(v, arrays, f"{name}.{k}", depth + 1)) for k, v in sorted(attributes.items()))
    code = ((k, _function_key(method, f"{name}.{k}", depth)) for k, method in sorted(methods.items()))
    return ("object", type(value), tuple(items), tuple(code))


def _class_contents(cls: type) -> tuple[dict[str, Any], dict[str, types.FunctionType]]:
    """Data and functions that a user's classes define; those of this package and of Python do not change."""
    data: dict[str, Any] = {}
    methods: dict[str, types.FunctionType] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] in ("hessianfree", "builtins", "abc", "typing", "types"):
            continue
        for name, value in vars(base).items():
            if isinstance(value, types.FunctionType):
                methods[name] = value
            elif not (name.startswith("__") or callable(value) or hasattr(value, "__get__") or name == "_abc_impl"):
                data[name] = value
    return data, methods


def _function_key(function: types.FunctionType, name: str, depth: int) -> Hashable:
    """What a function does: its code, and the values it closes over, which must be comparable.

    A decorator's wrapper closes over the function it wraps; the class cell of `super()` is the class itself.
    """
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    held += [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
    arrays: list[Any] = []
    frozen = tuple(_freeze(value, arrays, f"a value that {name} closes over", depth + 1) for value in held)
    if arrays:
        raise UnkeyableError(f"{name} closes over an array; make it an attribute of the layer or loss instead")
    return (function.__code__, frozen)


def _has_slots(cls: type) -> bool:
    """Whether instances keep state outside `__dict__`: slots, or a class written in C."""
    if cls is types.SimpleNamespace:
        return False
    return any("__slots__" in vars(base) and vars(base)["__slots__"] for base in cls.__mro__) or not (
        cls.__flags__ & (1 << 9)  # Py_TPFLAGS_HEAPTYPE: made by a class statement
    )


def _thaw(node: Any, arrays: tuple[Any, ...]) -> Any:
    kind = node[0]
    if kind == "value":
        return set(node[3]) if node[1] is set else node[3]
    if kind == "array":
        return arrays[node[1]]
    if kind == "sequence":
        return node[1](_thaw(item, arrays) for item in node[2])
    if kind == "mapping":
        return node[1]((_thaw(k, arrays), _thaw(v, arrays)) for k, v in node[2])
    if kind == "call":
        return node[1](*(_thaw(item, arrays) for item in node[2]))
    if kind == "partial":
        function, args, keywords = (_thaw(part, arrays) for part in node[1:])
        return functools.partial(function, *args, **keywords)
    made = node[1]() if node[1] is types.SimpleNamespace else object.__new__(node[1])
    made.__dict__.update({name: _thaw(item, arrays) for name, item in node[2]})
    return made
