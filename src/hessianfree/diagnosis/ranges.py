"""Targets that the output layer cannot reach."""

from __future__ import annotations

from hessianfree.diagnosis.course import RunCourse
from hessianfree.diagnosis.findings import Fault, Finding

#: Share of the targets out of range that keeps a run from its aim. A few of them are outliers.
SHARE = 0.01


def unreachable(course: RunCourse) -> list[Finding]:
    """Whether targets lie beyond the range of the outputs."""
    t = course.facts.targets
    if t is None or t.outside < SHARE:
        return []
    bounds = f"{'-inf' if t.lower is None else f'{t.lower:g}'} to {'inf' if t.upper is None else f'{t.upper:g}'}"
    seen = (
        f"The targets go from {t.lowest:.3g} to {t.highest:.3g}, and outputs of {t.layer} from {bounds}: "
        f"{t.outside:.0%} of them are out of reach."
    )
    linear = "a Linear output layer, layers=[..., 'Linear']"
    scaled = f", or targets scaled to {bounds}" if t.lower is not None and t.upper is not None else ""
    return [Finding(Fault.TARGETS, seen, linear + scaled, strong=True)]
