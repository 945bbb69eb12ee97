"""How parameters, epochs and the records of their updates are written to a file.

Numbers of the records become one array per field; text becomes a list of what was said, and numbers that point to it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from hessianfree.engine import reprs
from hessianfree.engine.trees import PyTree
from hessianfree.io.trees import Arrays, NeedsMoreError, pack, unpack


class SavedRecord:
    """The record of an update, read from a file: it has the fields that the record had.

    Enumerations are numbers in it.

    Args:
        fields: their names.
        values: one for each.

    Example:
        >>> SavedRecord(("value", "accepted"), (0.5, True)).value
        0.5
    """

    def __init__(self, fields: Sequence[str], values: Sequence[Any]) -> None:
        self._fields = tuple(fields)
        self._values = dict(zip(fields, values, strict=True))

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_values"][name]
        except KeyError:
            raise AttributeError(f"The saved record has no field {name!r}.") from None

    def __repr__(self) -> str:
        return reprs.fields(self)


# ---- records ---------------------------------------------------------------------------------------------------------


def pack_epochs(epochs: Sequence[Any], arrays: Arrays) -> dict[str, Any]:
    """Epochs and records as JSON beside arrays: records in groups, one after another, that have the same fields."""
    arrays["epochs.number"] = np.array([epoch.number for epoch in epochs], np.int64)
    arrays["epochs.test_error"] = np.array([epoch.test_error for epoch in epochs], np.float64)
    arrays["epochs.seconds"] = np.array([epoch.seconds for epoch in epochs], np.float64)
    arrays["epochs.updates"] = np.array([len(epoch.updates) for epoch in epochs], np.int64)
    updates = [record for epoch in epochs for record in epoch.updates]
    metrics = list(dict.fromkeys(name for epoch in epochs for name in epoch.metrics))
    if metrics:
        table = [[epoch.metrics.get(name, np.nan) for name in metrics] for epoch in epochs]
        arrays["epochs.metrics"] = np.array(table, np.float64)
        arrays["epochs.measured"] = np.array([[name in epoch.metrics for name in metrics] for epoch in epochs])
    groups: list[dict[str, Any]] = []
    for fields, group in itertools.groupby(updates, lambda record: tuple(getattr(record, "_fields", ()))):
        members, name = list(group), f"records.{len(groups)}"
        columns = [
            [field, _pack_column([getattr(record, field) for record in members], arrays, f"{name}.{field}")]
            for field in fields
        ]
        groups.append({"count": len(members), "columns": columns})
    return {"groups": groups, "metrics": metrics}


def _pack_column(values: list[Any], arrays: Arrays, name: str) -> Any:
    kinds: tuple[tuple[Any, type], ...] = (((bool, np.bool_), np.bool_), ((int, np.integer), np.int64))
    for kind, dtype in (*kinds, ((float, np.floating), np.float64)):
        if all(isinstance(value, kind) for value in values):
            arrays[name] = np.array(values, dtype)
            return {"column": name}
    if all(isinstance(value, str) for value in values):
        said = list(dict.fromkeys(values))
        places = {text: place for place, text in enumerate(said)}
        arrays[name] = np.array([places[text] for text in values], np.int64)
        # Not in the header, whose size is limited: each update may say something else.
        arrays[f"{name}.texts"] = np.frombuffer(json.dumps(said).encode(), np.uint8)
        return {"column": name, "texts": f"{name}.texts"}
    return pack(values, arrays, name, lambda where, value: repr(value))


def unpack_epochs(described: dict[str, Any], arrays: Arrays) -> list[tuple[Any, ...]]:
    """Of each epoch number, test error, seconds, `SavedRecord`s and metrics.

    Raises ValueError if they do not fit together.
    """
    names = ("number", "test_error", "seconds", "updates")
    numbers, errors, seconds, counts = (arrays[f"epochs.{name}"].tolist() for name in names)
    updates: list[SavedRecord] = []
    total = sum(counts)
    for group in described["groups"]:
        count, columns = group["count"], group["columns"]
        if type(count) is not int or not 0 < count <= total - len(updates):
            raise ValueError("its records are not as many as its epochs have")
        values = [_unpack_column(node, arrays, count) for _, node in columns]
        fields = tuple(str(field) for field, _ in columns)
        rows = zip(*values, strict=True) if values else itertools.repeat((), count)
        updates += [SavedRecord(fields, row) for row in rows]
    if min(counts, default=0) < 0 or len(updates) != total:
        raise ValueError("its records are not as many as its epochs have")
    rest = iter(updates)
    parts = [list(itertools.islice(rest, count)) for count in counts]
    return list(zip(numbers, errors, seconds, parts, _unpack_metrics(described, arrays, len(counts)), strict=True))


def _unpack_metrics(described: dict[str, Any], arrays: Arrays, count: int) -> list[dict[str, float]]:
    """The metrics of each epoch; none in files that do not know of them."""
    names = described.get("metrics", [])
    if not names:
        return [{} for _ in range(count)]
    values, measured = (arrays[f"epochs.{name}"] for name in ("metrics", "measured"))
    if not values.shape == measured.shape == (count, len(names)):
        raise ValueError("its metrics are not as many as its epochs")
    rows = zip(values.tolist(), measured.tolist(), strict=True)
    return [{str(name): v for name, v, there in zip(names, *row, strict=True) if there} for row in rows]


def _unpack_column(node: Any, arrays: Arrays, count: int) -> list[Any]:
    if isinstance(node, dict) and "column" in node:
        values = arrays[node["column"]].tolist()
        if texts := node.get("texts"):
            said = json.loads(arrays[texts].tobytes()) if isinstance(texts, str) else texts
            values = [str(said[place]) for place in values]
    else:
        values = unpack(node, arrays)
    if not isinstance(values, list) or len(values) != count:
        raise ValueError("its records have columns of different lengths")
    return values


# ---- parameters ------------------------------------------------------------------------------------------------------


def pack_tree(tree: PyTree, arrays: Arrays, name: str) -> dict[str, Any]:
    """Parameters as JSON beside arrays; of a structure that JSON cannot describe, the leaves with their key paths."""
    found: Arrays = {}
    try:
        packed = {"tree": pack(tree, found, name)}
    except TypeError:
        leaves = tree_leaves_with_path(tree)
        found = {f"{name}.{place}": np.asarray(leaf) for place, (_, leaf) in enumerate(leaves)}
        keys = [keystr(path) for path, _ in leaves]
        packed = {"leaves": list(found), "keys": keys, "structure": str(jax.tree.structure(tree))[:2000]}
    arrays.update(found)
    return packed


def unpack_tree(packed: dict[str, Any], arrays: Arrays, like: PyTree | None) -> PyTree:
    """Parameters as they were saved, or of the structure of `like`.

    Raises NeedsMoreError if the structure is not in the file, and `like` is None or does not fit.
    """
    if "leaves" not in packed:
        return unpack(packed["tree"], arrays)
    if like is None:
        raise NeedsMoreError(
            f"The parameters in the file are of a structure of your own, {str(packed['structure'])[:200]}; pass "
            "parameters of the same structure and shapes: hf.load(path, like=params)."
        )
    found = [arrays[name] for name in packed["leaves"]]
    leaves, structure = tree_leaves_with_path(like), jax.tree.structure(like)
    keys = [keystr(path) for path, _ in leaves]
    if keys != packed["keys"]:
        own, other = next(pair for pair in itertools.zip_longest(keys, packed["keys"]) if pair[0] != pair[1])
        raise NeedsMoreError(f"like has the leaf {own}, where the parameters in the file have {other}.")
    for key, array, (_, leaf) in zip(keys, found, leaves, strict=True):
        if np.shape(leaf) != array.shape:
            raise NeedsMoreError(f"like has shape {np.shape(leaf)} at {key}; the file has {array.shape}.")
    return jax.tree.unflatten(structure, found)
