"""Least squares: steps that have not converged, and why. Their damping has no unit, and gradients have any."""

from __future__ import annotations

from hessianfree.diagnosis.course import RunCourse
from hessianfree.diagnosis.findings import Fault, Finding

#: What to do about parameters that the data do not determine.
DETERMINE = "fixed= or bounds= for them (result.summary() names each), a model with fewer of them, or more data"
#: A gradient without scale, |J'rho| / (|J| |rho|), from which on a run that got nowhere is far from an optimum.
FAR = 1e-3
#: The fall of the loss in the last step that promises more, and in the last quarter of the steps that is slow.
FALLING, SLOW = 0.01, 0.2


def is_least_squares(course: RunCourse) -> bool:
    """Whether the records are those of `hf.least_squares`."""
    return hasattr(course.records[-1], "scaled_gradient")


def findings(course: RunCourse) -> list[Finding]:
    """What may be wrong with a fit."""
    unsettled = [] if course.done else [*_stuck(course), *_cut_off(course), *_unfinished(course)]
    return [*_degenerate(course), *unsettled]


def _stuck(course: RunCourse) -> list[Finding]:
    last = course.records[-1]
    if last.accepted or not last.reason:
        return []
    remedy = (
        "residuals that are smooth (a kink, noise or a table in them ends the steps), another start, x_scale= with the "
        "sizes of the parameters, or float64 parameters"
    )
    return [Finding(Fault.STUCK, f"{last.reason[:1].upper()}{last.reason[1:]}.", remedy, strong=True)]


def _degenerate(course: RunCourse) -> list[Finding]:
    if not course.records[-1].degenerate:
        return []
    seen = "A direction of the parameters has nearly no effect on the residuals."
    return [Finding(Fault.UNDETERMINED, seen, DETERMINE)]


def _unfinished(course: RunCourse) -> list[Finding]:
    """Whether the last step that was taken still lowered the loss."""
    last = next((record for record in reversed(course.records) if record.accepted), None)
    if not course.out_of_time or last is None or not last.value > 0:
        return []
    fall = 1 - last.new_value / last.value
    if fall < FALLING:
        return []
    seen = f"The last step lowered the loss by {fall:.0%}, and the run has not converged."
    return [
        Finding(
            Fault.UNFINISHED, seen, "a higher max_steps or max_seconds; to go on from here, start from result.params"
        )
    ]


def _cut_off(course: RunCourse) -> list[Finding]:
    last = course.records[-1]
    if course.solver != "cg" or not course.fall < SLOW or not last.scaled_gradient > FAR:
        return []
    limits = {record.cg_iterations for record in course.late}
    if len(limits) != 1:
        return []
    limit = limits.pop()
    seen = f"CG made {limit} iterations in every later step, which is its limit, and the loss hardly falls."
    return [Finding(Fault.CG_LIMIT, seen, f"cg_iterations={4 * limit}, or solver='dense' if J fits into memory")]
