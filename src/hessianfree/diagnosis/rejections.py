"""Updates that could not be used: numbers that are not finite, or no step that lowers the loss."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from hessianfree.diagnosis.course import RunCourse, column
from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.diagnosis.wording import LOWER_RATE, float64, smaller_weights

#: Share of the updates that found no step from which on that is the trouble of the run: single ones are usual.
MANY = 0.5
#: What is left of the loss at chance, or at the start, where an end without a usable step is one at the limit of
#: precision.
LEARNT = 0.5
#: The norm of a gradient beside the loss that is not one at an optimum: where chance is not known, a run may have begun
#: there.
STEEP = 1e-2
_NOT_FINITE = ("not finite", "is nan", "is inf", "is -inf")


def not_finite(course: RunCourse) -> list[Finding]:
    """Whether updates were rejected because the loss, its gradient or the change was not finite."""
    rejected = [record for record in _rejected(course) if _is_not_finite(record)]
    if not rejected:
        return []
    seen = f"{_share(course, len(rejected))} rejected: {_reason(rejected)}."
    rate = f"{LOWER_RATE}; " if _is_first_order(rejected[0]) else ""
    remedy = (
        f"{rate}scaled inputs, {smaller_weights(course)}, {float64(course)}; check the data for NaN, and a loss of "
        "your own for log(0), 0/0 and square roots at 0"
    )
    return [
        Finding(Fault.NOT_FINITE, seen, remedy, strong=not course.accepted[-1] or len(rejected) > MANY * _n(course))
    ]


def stuck(course: RunCourse) -> list[Finding]:
    """Whether most updates found no usable step, though all numbers were finite."""
    rejected = [record for record in _rejected(course) if not _is_not_finite(record)]
    flat = _zero_gradient(course)
    if flat:
        return [flat]
    if not rejected or course.left < LEARNT or not (len(rejected) > MANY * _n(course) or not course.accepted[-1]):
        return []
    seen = f"{_share(course, len(rejected))} rejected: {_reason(rejected)}."
    higher = f"a higher init_damping than {course.solved[0].damping:.2g}; " if course.second_order else ""
    remedy = (
        f"{higher}{float64(course)}; a loss and a model whose derivatives are right (FFNet(..., debug=True) compares "
        "them with finite differences)"
    )
    steep = course.column("gradient_norm")[-1] > STEEP * abs(course.column("value")[-1])
    return [Finding(Fault.STUCK, seen, remedy, strong=bool(steep) or course.facts.constant_loss is not None)]


def _zero_gradient(course: RunCourse) -> Finding | None:
    """A gradient of zero where the loss is not the least there can be: at the first updates nothing has been learnt."""
    norms, values = course.column("gradient_norm"), course.column("value")
    if not len(norms) or norms[0] != 0 or not values[0] > 0 or not math.isfinite(values[0]):
        return None
    seen = f"The gradient is zero from the first update on, at a loss of {values[0]:.3g}."
    remedy = (
        "other initial weights: units without slope (ReLU below zero, saturated Tanh), or weights that are all zero, "
        "pass nothing on; or targets that are not all NaN"
    )
    return Finding(Fault.STUCK, seen, remedy, strong=True)


def _rejected(course: RunCourse) -> list[Any]:
    wanted = ~course.accepted & (course.column("gradient_norm") != 0)
    return [record for record, chosen in zip(course.records, wanted, strict=True) if chosen]


def _is_not_finite(record: Any) -> bool:
    reason = str(getattr(record, "reason", ""))
    numbers = np.array([column([record], name)[0] for name in ("value", "gradient_norm") if hasattr(record, name)])
    return any(text in reason for text in _NOT_FINITE) or not np.isfinite(numbers).all()


def _is_first_order(record: Any) -> bool:
    """Whether a record is of a step along the gradient, also one of `Auto`."""
    return getattr(record, "phase", "second" if hasattr(record, "cg_iterations") else "first") == "first"


def _n(course: RunCourse) -> int:
    return len(course.records)


def _share(course: RunCourse, count: int) -> str:
    """So many of the updates, in words."""
    if count == _n(course):
        return "All updates were"
    return f"{count / _n(course):.0%} of the updates were"


def _reason(rejected: list[Any]) -> str:
    """What was said most often, without the number of the update."""
    said = Counter(str(getattr(record, "reason", "")).rstrip(".") for record in rejected)
    text = said.most_common(1)[0][0]
    return text.split(": ", 1)[1] if text.startswith("update ") and ": " in text else text
