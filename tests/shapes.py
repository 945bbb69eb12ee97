"""What checks the types, shapes included, of the modules named in conftest.py while the tests run."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from beartype.roar import BeartypeDecorHintException
from beartype.vale import Is
from jax import dtypes
from jax.typing import ArrayLike

from hessianfree.engine import trees


def _leaves(tree: Any, axes: int) -> bool:
    """Whether all leaves hold real or complex numbers, along at least so many axes."""
    return all(np.ndim(leaf) >= axes and _is_inexact(leaf) for leaf in jax.tree.leaves(tree))


def _is_inexact(leaf: Any) -> bool:
    kind = getattr(leaf, "dtype", None)
    return isinstance(leaf, (float, complex)) if kind is None else dtypes.issubdtype(kind, np.inexact)


#: What jaxtyping checks of these takes a quarter of the time of all tests, for a check of every leaf by its own machinery.
_TREES = {
    trees.Vector: Annotated[object, Is[lambda tree: _leaves(tree, 0)]],
    trees.Rows: Annotated[object, Is[lambda tree: _leaves(tree, 1)]],
}
#: An int passes where a float is expected, as for mypy; numpy's arrays pass where a type names an array without a shape.
_checked = beartype(
    conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({jax.Array: ArrayLike, **_TREES}))
)


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
