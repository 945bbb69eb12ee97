"""The test error rises while the training loss falls."""

from __future__ import annotations

import numpy as np

from hessianfree.diagnosis.course import Floats, RunCourse
from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.diagnosis.stopping import OVERFITTING

#: Epochs after the best one that say something, and over which errors are averaged.
ENOUGH, WINDOW = 5, 3
#: The rise above the lowest error, relative to it, that matters.
RISE = 0.1
#: That rise in units of the usual change from one epoch to the next.
CHANGES = 2.0
#: The fall of the training loss since then.
FALL = 0.02


def overfitted(course: RunCourse) -> list[Finding]:
    """Whether it does; where there are no test data, both are one and the same, and cannot."""
    errors, facts = course.errors, course.facts
    if facts.tested is False or len(errors) < 2 * ENOUGH or not np.isfinite(errors).all():
        return []
    best = int(errors.argmin())
    if f"({OVERFITTING}" in course.reason:  # early stopping has compared the same numbers
        best = min(best, len(errors) - 10)
    elif not _risen(errors, best):
        return []
    before, after = _loss(course, best), _loss(course, len(errors) - 1)
    if not after < (1 - FALL) * before:
        return []
    seen = (
        f"Since epoch {best} the test error rose from {errors[best]:.4g} to {errors[-1]:.4g}, while the training loss "
        f"fell from {before:.4g} to {after:.4g}."
    )
    remedy = (
        "the best weights, net.best_W or result.best_params (restore_best=True puts them in place); more examples, "
        "fewer units, or HessianFree(weight_decay=1e-4)"
    )
    return [Finding(Fault.OVERFITTING, seen, remedy)]


def _risen(errors: Floats, best: int) -> bool:
    """Whether the error has risen by more than its ups and downs since the best epoch."""
    near, end = errors[max(0, best - 1) : best + 2].mean(), errors[-WINDOW:].mean()
    usual = float(np.median(abs(np.diff(errors))))
    return len(errors) - 1 - best >= ENOUGH and errors[best] > 0 and end - near >= max(RISE * near, CHANGES * usual)


def _loss(course: RunCourse, epoch: int) -> float:
    """The training loss at about this epoch."""
    values = course.column("value")
    away = abs(course.places - epoch)
    usable = np.isfinite(values)
    if not usable.any():
        return np.nan
    nearest = away[usable].min()
    return float(values[usable & (away <= nearest + 1)].mean())
