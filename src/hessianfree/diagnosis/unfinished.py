"""The epochs or the time were over while the loss was still falling."""

from __future__ import annotations

from hessianfree.diagnosis.course import RunCourse
from hessianfree.diagnosis.findings import Fault, Finding

#: The fall of the loss over the last quarter of a run that promises more.
QUICKLY = 0.2


def unfinished(course: RunCourse) -> list[Finding]:
    """Whether to go on."""
    if not course.out_of_time or not course.fall >= QUICKLY:
        return []
    seen = (
        f"The loss was falling by {course.fall:.0%} over the last quarter of the run, when it ended: {course.reason}."
    )
    again = "train the same network again" if course.facts.network else "start from result.params"
    remedy = f"a higher max_epochs or max_seconds; to go on from here, {again}"
    return [Finding(Fault.UNFINISHED, seen, remedy)]
