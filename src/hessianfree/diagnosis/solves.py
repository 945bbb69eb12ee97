"""CG that is cut off at its limit in every update, while the loss hardly falls any more."""

from __future__ import annotations

from typing import Any

import numpy as np

from hessianfree.diagnosis.course import RunCourse
from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.engine.cg import Stop

#: Share of the updates that ended at the limit.
ALWAYS = 0.9
#: Updates that say something.
ENOUGH = 5
#: The fall of the loss over a quarter of the run that is slow. A limit of 2 is no fault of a run that gets ahead.
SLOW = 0.2
#: How small the gradient has become, relative to the first one, where the run is simply over.
VANISHED = 1e-3


def cut_off(course: RunCourse) -> list[Finding]:
    """Whether CG always stopped at its limit, and the run got slow."""
    solved = course.lately_solved
    if len(solved) < ENOUGH or not course.fall < SLOW or _vanished(course):
        return []
    share = float(np.mean([_at_limit(record) for record in solved]))
    if share < ALWAYS:
        return []
    limit = max(record.cg_iterations for record in solved)
    seen = (
        f"CG stopped at its limit of {limit} iterations in {share:.0%} of the later updates, and the loss fell by "
        f"{max(course.fall, 0):.0%} over the last quarter."
    )
    recipe = "kfac" if course.facts.network else "nystrom"
    remedy = f"HessianFree(CG_iter={_next(limit)}), or preconditioner={recipe!r}"
    return [Finding(Fault.CG_LIMIT, seen, remedy)]


def _at_limit(record: Any) -> bool:
    """Whether the record says so: by its number, or in words where it is one of `Auto`."""
    stop = getattr(record, "cg_stop", None)
    return Stop.ITERATIONS.words in getattr(record, "line", "") if stop is None else stop == Stop.ITERATIONS


def _vanished(course: RunCourse) -> bool:
    norms = course.column("gradient_norm")
    return bool(len(norms) and norms[-1] < VANISHED * norms[0])


def _next(limit: int) -> int:
    """A limit about five times as high, but no higher than the usual one unless that was reached.

    Example:
        >>> _next(2), _next(100), _next(250)
        (10, 250, 1000)
    """
    return min(5 * limit, 250) if limit < 250 else 4 * limit
