"""Layers, losses and plants as JSON beside arrays, and back again. Nothing is imported or run because a file says so.

A part of this package is written as its class name and the arguments of its constructor. One of a user's own class is
written as the import path of the class and the attributes of the object; it is made again only from a class that the
caller of `hf.load` passes. Objects are numbered, so that what several layers share stays shared.
"""

from __future__ import annotations

import enum
import functools
import inspect
import logging
import types
from collections.abc import Iterable, Mapping
from typing import Any

from hessianfree.io.trees import Arrays, NeedsMoreError, pack, unpack
from hessianfree.networks.parts import loss_funcs, nonlinearities
from hessianfree.networks.parts.interfaces import Nonlinearity
from hessianfree.networks.parts.loss_funcs import LossFunction, LossSet
from hessianfree.support.keys import Unkeyable

_OURS: dict[str, type] = {
    name: cls
    for module in (nonlinearities, loss_funcs)
    for name, cls in vars(module).items()
    if isinstance(cls, type) and issubclass(cls, (Nonlinearity, LossFunction)) and not name.startswith("_")
}
#: Code, and what stands for itself alone.
_CODE = (
    *(type, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType),
    *(functools.partial, enum.Enum),
)
logger = logging.getLogger("hessianfree")


def import_path(cls: type) -> str:
    """Where a class is defined, such as "my_layers:Spiking"."""
    return f"{cls.__module__}:{cls.__qualname__}"


def by_import_path(custom: Iterable[type]) -> Mapping[str, type]:
    """Classes by their import paths; raises TypeError if `custom` is not a list of classes."""
    if isinstance(custom, type) or not all(isinstance(cls, type) for cls in custom):
        raise TypeError(f"custom is {custom!r}; a list of classes is expected, such as [MyLayer].")
    return {import_path(cls): cls for cls in custom}


class Describer:
    """Turns parts into JSON.

    Args:
        arrays: where their arrays go.

    Attributes:
        objects: what to write for each part, in the order in which `unpack` needs them.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays, self.objects = arrays, list[Any]()
        self._numbers: dict[int, int] = {}
        self._open: set[int] = set()

    def part(self, name: str, value: Any) -> dict[str, Any]:
        """The number of an object, which is described on its first appearance.

        Raises TypeError, naming the attribute, if it holds what a file cannot.
        """
        if isinstance(value, Unkeyable):
            return {"object": None}  # an optimizer, whose damping a loss follows: it is not part of the network
        if id(value) not in self._numbers:
            self._check(name, value)
            self._open.add(id(value))
            described = self._described(name, value)
            self._open.discard(id(value))
            self._numbers[id(value)] = len(self.objects)
            self.objects.append(described)
        return {"object": self._numbers[id(value)]}

    def _check(self, name: str, value: Any) -> None:
        cls = type(value)
        if isinstance(value, _CODE):
            raise TypeError(
                f"{name} is {value!r}, which a file cannot hold. Make it a method of a class of your own, and pass the "
                "class to hf.load; or save the weights alone: np.save(path, net.W)."
            )
        if not hasattr(value, "__dict__") or cls.__module__.partition(".")[0] in ("numpy", "jax", "jaxlib", "builtins"):
            raise TypeError(
                f"{name} is a {cls.__name__}, which a file cannot hold. Keep what it does in numbers and arrays, or "
                "delete it before you save; or save the weights alone: np.save(path, net.W)."
            )
        if id(value) in self._open:
            raise TypeError(f"{name} refers to an object that it is itself a part of; a file cannot hold that.")

    def _described(self, name: str, value: Any) -> dict[str, Any]:
        cls = type(value)
        ours = _OURS.get(cls.__name__) is cls
        held = {key: getattr(value, key) for key in _arguments(cls)} if ours else vars(value)
        packed = {key: pack(item, self.arrays, f"{name}.{key}", self.part) for key, item in held.items()}
        return {"class": cls.__name__ if ours else import_path(cls), "holds": packed}


class Maker:
    """Makes parts from JSON.

    Args:
        objects: what `Describer.objects` was.
        arrays: of the archive.
        custom: classes of the user's own that may be used, by import path.

    Raises:
        NeedsMoreError: if a part is of a class of the user's own that was not passed, with what to do.
        ValueError: if `objects` is not what `Describer` writes.

    Example:
        >>> describer = Describer({})
        >>> number = describer.part("layer 1", nonlinearities.ReLU(6.0))
        >>> describer.objects
        [{'class': 'ReLU', 'holds': {'max': 6.0}}]
        >>> Maker(describer.objects, {}).part(number["object"]).max
        6.0
    """

    def __init__(self, objects: Any, arrays: Arrays, custom: Mapping[str, type] | None = None) -> None:
        self._arrays, self._made = arrays, list[Any]()
        self._custom = custom or {}
        if not isinstance(objects, list):
            raise ValueError("it lists no objects")
        for described in objects:
            self._made.append(self._make(described))

    def part(self, number: Any) -> Any:
        """The object of this number; None for an optimizer, which is not in the file."""
        if number is None:
            logger.warning(
                "A loss followed the damping of an optimizer, which is not in the file; before you train on, set its "
                "attribute `optimizer`."
            )
            return None
        if type(number) is not int or not 0 <= number < len(self._made):
            raise ValueError(f"it refers to an object {str(number)[:20]}, which it does not list before")
        return self._made[number]

    def _make(self, described: Any) -> Any:
        if not isinstance(described, dict) or set(described) != {"class", "holds"}:
            raise ValueError("it has an object without a class")
        path, holds = described["class"], described["holds"]
        if not isinstance(path, str) or not isinstance(holds, dict):
            raise ValueError("it has an object without a class")
        values = {name: unpack(node, self._arrays, self.part) for name, node in holds.items()}
        if ":" not in path:
            return _built_in(path, values)
        return _own(self._class(path), values)

    def _class(self, path: str) -> type:
        """The class that the caller passed under this name; a script's own module is called otherwise elsewhere."""
        module, _, name = path.partition(":")
        fitting = [cls for key, cls in self._custom.items() if key == path]
        if not fitting:
            in_script = [key for key in self._custom if key.endswith(f":{name}")]
            fitting = [self._custom[key] for key in in_script if "__main__" in (module, key.partition(":")[0])]
        if len(fitting) != 1:
            passed = ", ".join(self._custom) or "none"
            raise NeedsMoreError(
                f"The file needs the class {path[:200]}, which is not part of this package; passed: {passed}. If you "
                "trust it, import the class and pass it: hf.load(path, custom=[...])."
            )
        return fitting[0]


def _arguments(cls: type) -> list[str]:
    """The arguments of the constructor of a part of this package; each is an attribute too."""
    return [name for name in inspect.signature(cls).parameters if name not in ("args", "kwargs")]


def _built_in(name: str, values: dict[str, Any]) -> Any:
    """By the constructor, which checks the values."""
    if name not in _OURS or set(values) != set(_arguments(_OURS[name])):
        raise ValueError(f"it has an object of an unknown class, {name[:60]!r}, or with other arguments")
    if name == LossSet.__name__ and any(isinstance(part, LossSet) for part in _listed(values["set"])):
        raise ValueError("it has a set of losses inside another")
    return _OURS[name](**values)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("it has a set of losses that is not a list")
    return value


def _own(cls: type, values: dict[str, Any]) -> Any:
    """An object of a user's class with these attributes; none may take the place of a method."""
    for name in values:
        if not name.isidentifier() or name.startswith("__") or callable(getattr(cls, name, None)):
            raise ValueError(f"it gives {cls.__name__} an attribute {name[:60]!r}")
    made: Any = object.__new__(cls)
    made.__dict__.update(values)
    return made
