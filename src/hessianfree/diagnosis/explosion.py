"""Gradients or damping that leave any reasonable range: as a rule recurrent weights, or inputs, that are too large."""

from __future__ import annotations

import numpy as np

from hessianfree.diagnosis.course import RunCourse, column
from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.diagnosis.wording import float64, smaller_weights
from hessianfree.engine.hessian_free import EXPLODED, EXPLODED_REMEDY

#: The norm of a gradient, and its ratio to the loss. Gradients of networks that learn are within a few powers of ten of
#: the loss, and where the loss itself is huge, training has diverged.
GRADIENT, RATIO = 1e10, 1e6
#: The growth of lambda, and where it ends. It rises by half at a time, so that this takes dozens of updates that were
#: not to be trusted.
DAMPING, HIGH = 1e6, 1e3
#: How the reason of an update begins that could not be solved.
_SAID = EXPLODED.partition(":")[0]


def exploded(course: RunCourse) -> list[Finding]:
    """Whether a gradient is huge beside its loss, or the damping rose out of all proportion."""
    seen = _of_gradient(course) or _of_reason(course) or _of_damping(course)
    return [Finding(Fault.EXPLODED, seen, remedy(course), strong=True)] if seen else []


def _of_gradient(course: RunCourse) -> str:
    values, norms = course.column("value"), course.column("gradient_norm")
    beside = np.where(np.isfinite(values) & (norms >= GRADIENT), norms / np.maximum(1, abs(values)), 0)
    if not (beside >= RATIO).any():
        return ""
    place = int(beside.argmax())
    return f"The gradient's norm is {norms[place]:.1e} at a loss of {values[place]:.2g}."


def _of_reason(course: RunCourse) -> str:
    """What an update said that could not be solved."""
    said = [str(getattr(record, "reason", "")) for record in course.records]
    found = next((reason for reason in said if _SAID in reason), "")
    seen = found.partition(";")[0]
    return f"{seen[:1].upper()}{seen[1:]}." if seen else ""


def _of_damping(course: RunCourse) -> str:
    damping = column(course.solved, "damping")
    if not len(damping) or not damping[-1] >= max(DAMPING * damping[0], HIGH):
        return ""
    return f"The damping rose from {damping[0]:.2g} to {damping[-1]:.2g}: the updates could not be trusted."


def remedy(course: RunCourse) -> str:
    """Smaller weights, those of the recurrence above all."""
    facts = course.facts
    if facts.expansive is not None:
        return facts.expansive.remedy
    if facts.timesteps is None:
        return f"{smaller_weights(course)}, scaled inputs, and {float64(course)}"
    return EXPLODED_REMEDY
