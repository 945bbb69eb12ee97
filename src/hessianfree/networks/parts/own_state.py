"""What a layer, loss or plant of the user's own holds that may change during a run: numbers, arrays, random states."""

from __future__ import annotations

import logging
import types
from typing import Any

from hessianfree.io.trees import Arrays, pack, unpack
from hessianfree.support.random_state import is_source, set_state, source_in, state_of

logger = logging.getLogger("hessianfree")
#: Attributes that the training loop sets itself.
_SET_BY_THE_LOOP = ("shape",)
_RANDOM, _PLAIN = "random", "plain"


def own_state(name: str, part: object, told: set[str]) -> dict[str, Any]:
    """The attributes of an object that can be kept, by name: copies, which later changes do not reach.

    What cannot be kept is left out; a warning names it once, unless it is code or among those told of before.
    """
    found: dict[str, Any] = {}
    for key, value in vars(part).items():
        if key in _SET_BY_THE_LOOP or callable(value) or isinstance(value, types.ModuleType):
            continue
        try:
            found[key] = [_RANDOM, state_of(value)] if is_source(value) else [_PLAIN, _copied(f"{name}.{key}", value)]
        except TypeError:
            if f"{name}.{key}" in told:
                continue
            told.add(f"{name}.{key}")
            logger.warning(
                "%s.%s is a %s, which a checkpoint does not hold; a run that is resumed takes it as it finds it.",
                name,
                key,
                type(value).__name__,
            )
    return found


def restore_own_state(part: object, state: dict[str, Any]) -> None:
    """Set these attributes again."""
    for key, (kind, value) in state.items():
        if kind == _RANDOM and is_source(vars(part).get(key)):
            set_state(vars(part)[key], value)  # in place: others may draw from it, too
        else:  # past __setattr__, which frozen dataclasses refuse
            vars(part)[key] = source_in(value) if kind == _RANDOM else value


def _copied(name: str, value: Any) -> Any:
    """A copy of plain values; raises TypeError for others."""
    arrays: Arrays = {}
    packed = pack(value, arrays, name)
    return unpack(packed, {key: array.copy() for key, array in arrays.items()})
