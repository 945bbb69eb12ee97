"""When one optimizer hands over to another: the one that lowers the loss faster for the work it takes goes on.

Work is counted, not timed, so that the same run takes the same decisions again. Its unit is the forward pass of one
example. The progress of an optimizer is by how much the loss of examples that it has not seen yet has fallen since a
mark, for the work since then: the loss is taken at both ends on the same examples, whose noise thus cancels.
    first    goes on until `due`, and is then compared with a trial of the other; the mark is at `MARK` of that work
    trial    the second makes at least `LEAST` updates, and takes `SHARE` of all the work so far. Those before the mark
             do not count: one removes the noise of the first, which is done once, and as long as each of them lowers
             the damping, the second is not as fast as it will be, for `SETTLING` of them at most
    second   goes on while its progress is at least half of what the first would make by now. That falls with the
             square of the work, as it does for an error that falls like 1 / work, and with the loss itself. If the
             first then makes the loss worse, the next trial begins where it took over.
A trial that fails is repeated when the work has grown by `AGAIN`. All of these rules are heuristics.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import NamedTuple

#: Updates of the second optimizer in a trial and from one decision to the next after it, at least; and the share of the
#: work so far that they take.
LEAST, PROVEN, SHARE = 3, 10, 0.05
#: Updates of a trial, after its first, in which the damping may settle.
SETTLING = 8
#: The first trial comes when as much is done as so many updates of the second optimizer would take.
FIRST_TRIAL = 60
#: How much more work there must be at the next trial: trials take about a tenth of all the work.
AGAIN = 1.5
#: The share of the work before a trial from which the first optimizer is measured.
MARK = 0.9
#: The share of the work before the first trial at which it is time to get ready for it.
NEAR = 0.6


class Phase(IntEnum):
    """Which optimizer is at work."""

    FIRST = 0
    TRIAL = 1
    SECOND = 2


class Course(NamedTuple):
    """Where a run stands."""

    phase: int
    work: float  # all so far
    due: float  # the work at which to decide again
    since: float  # the work at the mark; NaN without one
    updates: int  # since the mark, or in this phase; -1 before the first update of a trial
    settled: bool  # whether the last update left the damping of the second optimizer, or raised it
    rate: float  # progress of the first optimizer when it was last compared
    rate_at: float  # the work then
    level: float  # the loss then


def begun() -> Course:
    """The course of a run before its first update."""
    return Course(Phase.FIRST, 0.0, math.nan, math.nan, 0, True, math.nan, math.nan, math.nan)


def advanced(course: Course, work: float, work_of_second: float, usable: bool = True, settled: bool = True) -> Course:
    """The course after one more update.

    Args:
        course: before it.
        work: that it took.
        work_of_second: of one update of the second optimizer, about.
        usable: whether the update was accepted; without that the first optimizer hands over, and a trial fails.
        settled: whether it left the damping of the second optimizer, or raised it.
    """
    total = float(course.work + work)
    due = float(FIRST_TRIAL * work_of_second) if math.isnan(course.due) else course.due
    course = course._replace(work=total, due=due, updates=course.updates + 1, settled=settled)
    if usable:
        return course
    if course.phase == Phase.TRIAL:
        return _in_phase(course, Phase.FIRST, AGAIN * total)
    return _in_phase(course, Phase.SECOND, total * (1 + SHARE))


def comes_near(before: Course, after: Course) -> bool:
    """Whether the update between these brought the first trial near."""
    return math.isnan(after.rate) and before.work < NEAR * after.due <= after.work


def wants_mark(course: Course) -> bool:
    """Whether it is time to keep the parameters that the progress is measured from."""
    if not math.isnan(course.since):
        return False
    if course.phase == Phase.FIRST:
        return course.work >= MARK * course.due
    return course.updates >= (0 if course.settled else SETTLING)


def marked(course: Course) -> Course:
    """The course with its mark here."""
    return course._replace(since=course.work, updates=0)


def is_due(course: Course) -> bool:
    """Whether to decide."""
    least = {Phase.FIRST: 1, Phase.TRIAL: LEAST, Phase.SECOND: PROVEN}[Phase(course.phase)]
    return course.updates >= least and not math.isnan(course.since) and course.work >= course.due


def decided(course: Course, before: float, now: float) -> Course:
    """The course after a decision.

    Args:
        course: on which one is due.
        before: the loss at the mark, on examples that no update has used yet.
        now: the loss here, on the same examples.
    """
    progress, total = (before - now) / (course.work - course.since), course.work
    later = total * (1 + SHARE)
    if course.phase == Phase.FIRST:
        return _in_phase(course._replace(rate=progress, rate_at=total, level=now), Phase.TRIAL, later)
    if course.phase == Phase.TRIAL:
        if progress >= course.rate:
            return _in_phase(course, Phase.SECOND, later)
        return _in_phase(course, Phase.FIRST, AGAIN * total)
    left = min(max(now / course.level, 0), 1) if course.level > 0 else 1
    goes_on = progress >= course.rate * min((course.rate_at / total) ** 2, left) / 2
    return marked(course)._replace(phase=Phase.SECOND if goes_on else Phase.FIRST, due=later)


def _in_phase(course: Course, phase: Phase, due: float) -> Course:
    """The course without a mark, but that the second optimizer is measured from here on."""
    if phase == Phase.SECOND:
        return marked(course)._replace(phase=phase, due=due)
    return course._replace(phase=phase, due=due, since=math.nan, updates=-1 if phase == Phase.TRIAL else 0)
