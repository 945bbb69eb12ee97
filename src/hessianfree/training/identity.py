"""What a run is of, in words that can be compared: by these a checkpoint of another run is refused."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from hessianfree.devices.fetching import to_host
from hessianfree.engine.trees import PyTree
from hessianfree.io.stored import is_stored, rows
from hessianfree.optimizers.base import Optimizer

#: Numbers of an array that are looked at.
SAMPLE = 1000
#: Rows of a stored array that these are taken from: each may be a chunk to decompress.
SAMPLED_ROWS = 20
#: Attributes of an optimizer that are not settings.
_NOT_SETTINGS = {"plots", "plotting", "record", "init_delta", "full_batches", "batch_examples", "transformation"}


def of_data(data: PyTree) -> str:
    """Shapes and types of arrays, and a hash of a sample of their numbers.

    Example:
        >>> of_data({"x": np.zeros((3, 2))})
        "['x'] float64 (3, 2), sample 17b0761f"
    """
    digest, shapes = hashlib.sha256(), []
    for path, leaf in tree_leaves_with_path(data):
        stored = is_stored(leaf)
        array = leaf if stored or isinstance(leaf, jax.Array) else np.asarray(leaf)
        shapes.append(f"{keystr(path)} {array.dtype} {tuple(array.shape)}".strip())
        if stored:
            count = len(array)
            array = rows(array, np.random.default_rng(0).integers(0, count, SAMPLED_ROWS if count else 0))
        flat = array.ravel()
        if flat.size > SAMPLE:  # not every so-manyth: these may all be of one column
            flat = flat[np.random.default_rng(0).integers(0, flat.size, SAMPLE)]
        digest.update(np.ascontiguousarray(to_host(flat)).tobytes())
    listed = ", ".join(shapes[:20]) + (f" and {len(shapes) - 20} more" if len(shapes) > 20 else "")
    return f"{listed}, sample {digest.hexdigest()[:8]}" if shapes else "none"


def of_params(params: PyTree) -> str:
    """Shapes and types of parameters."""
    named = [f"{keystr(path)} {leaf.dtype} {np.shape(leaf)}".strip() for path, leaf in tree_leaves_with_path(params)]
    return ", ".join(named[:50]) + (f" and {len(named) - 50} more" if len(named) > 50 else "")


def of_value(value: Any) -> str:
    """Settings in words: plain values as they are, dataclasses and parts of the package by what they hold.

    Example:
        >>> from hessianfree.optimizers.first_order import SGD
        >>> of_value(SGD(0.1))
        'SGD(weight_decay=0.0, l_rate=0.1)'
    """
    if value is None or isinstance(value, (bool, int, float, str, np.generic)):
        return repr(value)
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(of_value, value))})"
    if isinstance(value, (np.ndarray, jax.Array)):
        return of_data(value)
    cls = type(value)
    if dataclasses.is_dataclass(value):
        held = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
    elif isinstance(value, type) or callable(value) or cls.__module__.partition(".")[0] != "hessianfree":
        return getattr(value, "__qualname__", cls.__qualname__)  # of the user's own: its attributes may change
    else:
        held = {key: item for key, item in vars(value).items() if not key.startswith("_")}
    return f"{cls.__name__}({', '.join(f'{key}={of_value(item)}' for key, item in _settings(value, held).items())})"


def _settings(value: Any, held: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(value, Optimizer):
        return dict(held)
    return {key: item for key, item in held.items() if key not in _NOT_SETTINGS}
