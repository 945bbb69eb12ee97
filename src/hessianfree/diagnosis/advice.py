"""All rules together: which apply to a run, in which order their findings are told, and the line at its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hessianfree.diagnosis import squares
from hessianfree.diagnosis.course import Ended, RunCourse
from hessianfree.diagnosis.divergence import diverged
from hessianfree.diagnosis.explosion import exploded
from hessianfree.diagnosis.findings import Fault, Finding, Findings
from hessianfree.diagnosis.minibatches import fitted_alone
from hessianfree.diagnosis.overfitting import overfitted
from hessianfree.diagnosis.plateau import plateau, worse_than_chance
from hessianfree.diagnosis.ranges import unreachable
from hessianfree.diagnosis.rejections import not_finite, stuck
from hessianfree.diagnosis.scaling import badly_scaled
from hessianfree.diagnosis.solves import cut_off
from hessianfree.diagnosis.trust import at_bound, backtracked, distrusted
from hessianfree.diagnosis.unfinished import QUICKLY, unfinished
from hessianfree.diagnosis.units import without_slope

Rule = Callable[[RunCourse], list[Finding]]

#: What went wrong, and what makes a run slower than it has to be.
SYMPTOMS: tuple[Rule, ...] = (exploded, diverged, not_finite, stuck, worse_than_chance, plateau, at_bound)
HINTS: tuple[Rule, ...] = (fitted_alone, distrusted, backtracked, cut_off, unfinished)
#: What data and network may contribute.
CAUSES: tuple[Rule, ...] = (unreachable, badly_scaled, without_slope)
#: What follows from a finding, and needs no advice of its own.
FOLLOW = {
    Fault.EXPLODED: (Fault.STUCK, Fault.WORSE, Fault.PLATEAU),
    Fault.DIVERGED: (Fault.UNITS, Fault.STUCK, Fault.WORSE, Fault.PLATEAU),
    Fault.NOT_FINITE: (Fault.STUCK,),
    Fault.WORSE: (Fault.STUCK, Fault.PLATEAU),
    Fault.PLATEAU: (Fault.STUCK,),
}
#: What is left of the loss at chance, or at the start, where the task is learnt, however much further a run may go.
LEARNT = 1e-3
#: What is left of the loss at chance where little is learnt.
LITTLE = 0.5
#: Records that the line at the end of a run is made from: milliseconds.
MOST = 1000
_ORDER = {kind: place for place, kind in enumerate(Fault)}


def findings(course: RunCourse) -> Findings:
    """What may be wrong with a run, the most likely cause first; nothing if it did what was asked of it."""
    if not course.records:
        return Findings()
    with np.errstate(all="ignore"):  # of a run that diverged
        if squares.is_least_squares(course):
            return Findings(squares.findings(course))
        return Findings() if course.done else _of_training(course)


def _of_training(course: RunCourse) -> Findings:
    wrong = _of(SYMPTOMS, course)
    causes = _of(CAUSES, course)
    if wrong and course.facts.expansive is not None:
        causes.append(Finding(Fault.RECURRENCE, *course.facts.expansive))
    explained = any(finding.strong for finding in [*wrong, *causes])
    if explained or _disappointing(course):
        causes = [finding._replace(strong=True) for finding in causes]
    hints = [] if explained or course.left < LEARNT else _of(HINTS, course)
    found = [*causes, *wrong, *hints, *overfitted(course)]
    kinds = {finding.kind for finding in found}
    effects = {effect for cause, effects in FOLLOW.items() if cause in kinds for effect in effects}
    left = [finding for finding in found if finding.kind not in effects]
    return Findings(sorted(left, key=lambda finding: (not finding.strong, _ORDER[finding.kind])))


def _disappointing(course: RunCourse) -> bool:
    """Whether little was learnt, and little more is to be expected."""
    known = course.facts.constant_loss is not None
    return known and course.left > LITTLE and course.fall < QUICKLY


def _of(rules: tuple[Rule, ...], course: RunCourse) -> list[Finding]:
    return [finding for rule in rules for finding in rule(course)]


def line_of(result: Ended) -> str:
    """One line of advice at the end of a run that went wrong, an empty one for all others."""
    found = findings(RunCourse.of(result, most=MOST))
    if not found or not found[0].strong:
        return ""
    first = found[0]
    return f"advice: {first.kind}; try {first.remedy.partition(';')[0]}; hf.diagnose(result) says more"
