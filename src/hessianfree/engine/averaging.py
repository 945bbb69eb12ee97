"""A running average of the parameters, which minibatches disturb less than the last point."""

from __future__ import annotations

from typing import NamedTuple

from hessianfree.engine import reprs, trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.trees import Vector


class Average(NamedTuple):
    """A running average of the parameters, and how many went into it; of none it has no meaning."""

    params: Vector
    points: int

    def __repr__(self) -> str:
        return reprs.fields(self)


_blend = jit(trees.blend)


def averaged(before: Average | None, params: Vector, decay: float) -> Average | None:
    """The running average with one more point, all points so far weighing decay^age; None without averaging."""
    if not decay:
        return None
    if before is None or before.points == 0:
        return Average(params, 1)
    points = before.points + 1
    share = (1 - decay) / (1 - decay**points)
    return Average(_blend(share, before.params, params), points)
