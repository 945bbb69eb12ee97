"""Terms whose residuals see a part of the parameters each, and what can be eliminated from their equations."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import reprs
from hessianfree.engine.blocks import Seeing, Sight
from hessianfree.engine.residuals import Residual
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters


@dataclass(frozen=True, eq=False)
class SparseTerm:
    """A term of `hf.least_squares` whose residuals depend on a part of the parameters each.

    With many parameters, of which each residual sees few, as in bundle adjustment, state estimation or a fit of many
    data sets with some parameters in common, steps take a small part of the time of a plain term. Where every residual
    sees at most one row of a leaf, solver="schur" eliminates that leaf row by row. Elsewhere "cg" makes products.

    Args:
        residual: residual(part, point), a number or an array. `part` is like the parameters, but that each leaf is
            replaced by what `sees` says of it.
        points: a pytree of arrays (N, ...), mapped over their first axis.
        sees: a pytree like the parameters. For each leaf an array of integers, the row of the leaf, counted along its
            first axis, that the residual of each point sees: (N,) for one row, which has no first axis any more, or
            (N, k) for k rows. Or True for the whole leaf, and False for nothing: then `part` holds None.
        weight: of the term, 1 by default.

    Raises:
        TypeError: by `hf.least_squares`, if `sees` is not like the parameters.
        ValueError: likewise, if there is no such row; the message names the leaf and the point.

    Example:
        Ten decays with a common rate, each with an amplitude of its own.

        >>> import hessianfree as hf
        >>> import jax.numpy as jnp
        >>> which, t = np.repeat(np.arange(10), 20), np.tile(np.linspace(0, 3, 20), 10)
        >>> data = {"t": t, "y": (which + 1) * np.exp(-1.5 * t)}
        >>> def decay(part, point):
        ...     return part["amplitude"] * jnp.exp(-part["rate"] * point["t"]) - point["y"]
        >>> term = hf.SparseTerm(decay, data, {"amplitude": which, "rate": True})
        >>> result = hf.least_squares([term], {"amplitude": np.ones(10), "rate": np.array(1.0)})
        >>> result.params["amplitude"].round(6).tolist(), float(result.params["rate"].round(6))
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 1.5)
    """

    residual: Callable[..., Any]
    points: PyTree
    sees: PyTree
    weight: float = 1.0

    def __repr__(self) -> str:
        return reprs.fields(self)


class Sighted(NamedTuple):
    """A residual that knows what it sees, and the rows for every point, one array for each leaf seen by rows."""

    function: Residual
    rows: tuple[NDArray[np.int32], ...]


def sighted(number: int, given: SparseTerm, count: int, params: PyTree) -> Sighted:
    """Check what a term sees of the parameters.

    Args:
        number: of the term, for messages.
        given: from the user.
        count: of points.
        params: checked.

    Raises:
        TypeError, ValueError: as `SparseTerm` says.
    """
    structure = jax.tree.structure(params)
    try:
        entries = structure.flatten_up_to(given.sees)  # type: ignore[attr-defined]
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"Term {number} sees {reprlib.repr(given.sees)}; a pytree like the parameters is expected, "
            f"{parameters.shapes(params)}, of integer arrays, True or False."
        ) from error
    sights: list[Sight] = []
    rows = []
    for entry, (name, leaf) in zip(entries, parameters.named_leaves(params), strict=True):
        if isinstance(entry, (bool, np.bool_)):
            sights.append("all" if entry else "none")
        else:
            sights.append("rows")
            rows.append(_rows(f"Term {number} sees rows of {name}", entry, count, np.shape(leaf)))
    if not any(sight != "none" for sight in sights):
        raise ValueError(f"Term {number} sees nothing: sees is False for every leaf. Leave the term out.")
    return Sighted(Seeing(given.residual, tuple(sights)), tuple(rows))


def _rows(what: str, entry: Any, count: int, shape: tuple[int, ...]) -> NDArray[np.int32]:
    if isinstance(entry, jax.core.Tracer):
        raise TypeError(f"{what} by a traced array; integers are expected that are known before JAX compiles.")
    given = np.asarray(entry)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{what} by {reprlib.repr(entry)}; integers are expected, or True or False.")
    if not shape:
        raise ValueError(f"{what}, which is a single number and has no rows; pass True or False.")
    if given.ndim not in (1, 2) or len(given) != count:
        raise ValueError(f"{what} by an array of shape {given.shape}; ({count},) or ({count}, k) is expected.")
    if (bad := (given < 0) | (given >= shape[0])).any():
        place = tuple(map(int, np.argwhere(bad)[0]))
        raise ValueError(
            f"{what} by {given[place]} at point {place[0]}; numbers from 0 to {shape[0] - 1} are expected."
        )
    return given.astype(np.int32)


def eliminable(
    functions: Sequence[Residual], rows: Sequence[Sequence[NDArray[np.int32]]], params: PyTree
) -> tuple[int, ...]:
    """Numbers of the leaves that can be eliminated row by row together, the largest choice; empty if there are none.

    Args:
        functions: of all terms.
        rows: what each sees, empty for a plain term.
        params: checked.
    """
    if not all(isinstance(function, Seeing) for function in functions):
        return ()
    seen = [_by_leaf(function, own) for function, own in zip(functions, rows, strict=True)]
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(params)]
    able = [leaf for leaf in range(len(shapes)) if all(_one_row(own[leaf]) for own in seen)]
    able = [leaf for leaf in able if any(own[leaf] is not None for own in seen)]
    groups = [_together(first, able, seen, shapes) for first in able]
    return max(groups, key=lambda group: sum(int(np.prod(shapes[leaf])) for leaf in group), default=())


def _by_leaf(function: Residual, rows: Sequence[NDArray[np.int32]]) -> list[Any]:
    """For each leaf the rows that are seen, True for all of it, or None."""
    assert isinstance(function, Seeing)
    given = iter(rows)
    return [next(given) if sight == "rows" else True if sight == "all" else None for sight in function.sights]


def _one_row(seen: Any) -> bool:
    """Whether every point sees at most one row."""
    return seen is None or (seen is not True and seen.ndim == 1)


def _together(
    first: int, able: Sequence[int], seen: Sequence[Sequence[Any]], shapes: Sequence[tuple[int, ...]]
) -> tuple[int, ...]:
    """The leaves of which every point sees the same row as of the first, which is among them."""

    def agrees(leaf: int, other: int) -> bool:
        pairs = ((own[leaf], own[other]) for own in seen)
        return shapes[leaf][0] == shapes[other][0] and all(
            x is None or y is None or x is y or np.array_equal(x, y) for x, y in pairs
        )

    group = [first]
    for leaf in able:
        if leaf != first and all(agrees(leaf, other) for other in group):
            group.append(leaf)
    return tuple(sorted(group))
