"""Points of residuals over the devices of a mesh.

Where devices do not divide the number N of points, M - N further ones fill up: they repeat a point, with an infinite
standard deviation, so that their residuals are zero. The weight c becomes c M / N, since residuals are scaled by
sqrt(c / M).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from hessianfree.devices.fetching import off_mesh, to_host
from hessianfree.devices.placing import laid_out, whole
from hessianfree.engine.blocks import Seeing
from hessianfree.engine.residuals import Points
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree
from hessianfree.squares.curve import Curve
from hessianfree.squares.sparse import SparseTerm
from hessianfree.squares.terms import ResidualTerm


def check_splits(terms: Sequence[ResidualTerm]) -> None:
    """Refuse terms that cannot be split over devices.

    Raises:
        ValueError: if there are sparse ones, or none has points.
    """
    if any(isinstance(term.function, Seeing) for term in terms):
        raise ValueError("devices is given, but a hf.SparseTerm runs on one device; leave devices out.")
    if all(term.points.at is None for term in terms):
        raise ValueError(
            "devices is given, but a function r(params) has no points that could be split over them; pass terms "
            "(r, points), or leave devices out."
        )


def split(parts: Parts, terms: Sequence[ResidualTerm], shapes: Sequence[tuple[int, ...]]) -> list[ResidualTerm]:
    """The terms with their points on the devices.

    Args:
        parts: the devices.
        terms: checked.
        shapes: of the residuals of each term, (N, ...).
    """
    pairs = zip(terms, shapes, strict=True)
    return [term._replace(points=split_points(parts, term.points, shape)) for term, shape in pairs]


def split_points(parts: Parts, points: Points, shape: tuple[int, ...]) -> Points:
    """The points of a term on the devices, if it has some."""
    if points.at is None:
        placed: Points = whole(parts, points)
        return placed
    at, sigma, count = to_host(points.at), np.asarray(points.sigma), shape[0]
    weight = np.asarray(points.weight)
    places = laid_out(count, parts.count, count)
    total, dtype = len(places.examples), weight.dtype
    if total > count and sigma.ndim == 0:
        sigma = np.full((count, int(np.prod(shape[1:]))), sigma, dtype)
    spread_at = jax.tree.map(lambda leaf: parts.spread(np.asarray(leaf)[places.examples]), at)
    one_each = sigma.ndim > 0
    filled = np.where(places.counted[:, None], sigma[places.examples], np.inf).astype(dtype) if one_each else sigma
    by_point = parts.spread(filled) if one_each else filled
    return Points(spread_at, (weight * total / count).astype(dtype), by_point, points.scale)


def points_of(residuals: Any) -> list[PyTree]:
    """The points of terms as the user gave them, if all terms can be split over devices."""
    plain = isinstance(residuals, (list, tuple)) and all(isinstance(term, tuple) for term in residuals)
    return [term[1] for term in residuals if len(term) > 1] if plain else []


def off_mesh_points(residuals: Any) -> Any:
    """Residuals as the user gave them, with points on the host of which several devices hold parts.

    The result of a fit looks at them on one device.
    """
    if isinstance(residuals, Curve):
        return Curve(residuals.model, off_mesh(residuals.x), residuals.y)
    if isinstance(residuals, (list, tuple)):
        return type(residuals)(map(_off_mesh, residuals))
    return residuals


def _off_mesh(term: Any) -> Any:
    if isinstance(term, SparseTerm):
        return replace(term, points=off_mesh(term.points))
    return (term[0], off_mesh(term[1]), *term[2:]) if isinstance(term, tuple) and len(term) > 1 else term
