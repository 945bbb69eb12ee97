"""The state of numpy's random sources as plain values, and back again."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_source(value: object) -> bool:
    """Whether this is a source of random numbers whose state can be read and set."""
    return isinstance(value, (np.random.RandomState, np.random.Generator))


def state_of(source: Any) -> Any:
    """The state of a RandomState or Generator: tuples and dicts of text, numbers and arrays, copied.

    Example:
        >>> source = np.random.default_rng(0)
        >>> before = state_of(source)
        >>> first = source.random()
        >>> set_state(source, before)
        >>> source.random() == first
        True
    """
    return source.get_state() if isinstance(source, np.random.RandomState) else source.bit_generator.state


def set_state(source: Any, state: Any) -> None:
    """Put a RandomState or Generator into a state from `state_of`.

    Raises:
        ValueError: if the state is that of another kind of source.
    """
    try:
        if isinstance(source, np.random.RandomState):
            source.set_state(state)
        else:
            source.bit_generator.state = state
    except (TypeError, LookupError, AttributeError) as error:
        raise ValueError(f"it has the state of another random source than a {type(source).__name__}") from error


def source_in(state: Any) -> Any:
    """A new source in a state from `state_of`.

    Raises:
        ValueError: if it is none of numpy's own.

    Example:
        >>> source = np.random.default_rng(0)
        >>> source_in(state_of(source)).random() == source.random()
        True
    """
    if isinstance(state, tuple):
        source: Any = np.random.RandomState()
    else:
        name = state.get("bit_generator") if isinstance(state, dict) else None
        if name not in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"):
            raise ValueError("it has a random source that is none of numpy's own")
        source = np.random.Generator(getattr(np.random, name)())
    set_state(source, state)
    return source
