"""What checks the types, shapes included, of the modules named in conftest.py while the tests run."""

from __future__ import annotations

import jax
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintException
from jax.typing import ArrayLike

#: An int passes where a float is expected, as for mypy; numpy's arrays pass where a type names an array without a shape.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({jax.Array: ArrayLike})))


def check(function):
    """Check a function at every call, unless its types cannot be checked at run time: protocols, mostly.

    Constructors and functions that check arguments reject wrong types themselves, and say more.
    """
    if "__init__" in function.__name__ or "check" in function.__name__:
        return function
    try:
        return _checked(function)
    except BeartypeDecorHintException:
        return function
