"""When one optimizer hands over to another: the one that lowers the loss faster for the work it takes goes on.

Work is counted, not timed, so that the same run takes the same decisions again. Its unit is the forward pass of one
example. The progress of an optimizer is the slope of a straight line through its last losses against the work.
    first    goes on until `due`, and is then compared with a trial of the other
    trial    the second has at least `LEAST` updates and `SHARE` of all the work so far; one more before them does not
             count, as it removes the noise of the first, which is done once
    second   goes on while its progress is at least half of what the first would make by now. That falls with the
             square of the work, as it does for an error that falls like 1 / work, and with the loss itself.
A trial that fails is repeated when the work has grown by `AGAIN`. All of these rules are heuristics.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Losses that a slope is taken from at most and at least, and the share of the work that a trial may take.
WINDOW, LEAST, SHARE = 16, 4, 0.05
#: The first trial comes when as much is done as so many updates of the second optimizer would take. All trials together
#: then take a tenth of the work.
FIRST_TRIAL = 50
#: How much more work there must be at the next trial.
AGAIN = 2.0
#: The share of the work before the first trial at which it is time to get ready for it.
NEAR = 0.5


class Phase(IntEnum):
    """Which optimizer is at work."""

    FIRST = 0
    TRIAL = 1
    SECOND = 2


class Course(NamedTuple):
    """Where a run stands; numbers and arrays of fixed shapes."""

    phase: int
    work: float  # all so far
    due: float  # the work at which to decide again
    works: NDArray[np.float64]  # (WINDOW,), those of the present phase, the last ones
    losses: NDArray[np.float64]
    points: int  # how many of them there are; -1 before the first update of a trial
    rate: float  # progress of the first optimizer when it was last compared
    rate_at: float  # the work then
    level: float  # the loss then


def begun() -> Course:
    """The course of a run before its first update."""
    none = np.full(WINDOW, np.nan)
    return Course(Phase.FIRST, 0.0, np.nan, none, none, 0, np.nan, np.nan, np.nan)


def advanced(course: Course, work: float, loss: float, work_of_second: float, usable: bool = True) -> Course:
    """The course after one more update, in a new phase if it is time.

    Args:
        course: before the update.
        work: that it took.
        loss: before it, or its mean over it.
        work_of_second: of one update of the second optimizer, about.
        usable: whether the update was accepted; without that the first optimizer hands over, and a trial fails.
    """
    total = float(course.work + work)
    opening = course.phase == Phase.TRIAL and course.points < 0
    works, losses = _with(course.works, total), _with(course.losses, loss)
    due = float(FIRST_TRIAL * work_of_second) if np.isnan(course.due) else course.due
    course = course._replace(
        work=total, works=works, losses=losses, due=due, points=0 if opening else min(course.points + 1, WINDOW)
    )
    if not usable:
        return _failed(course)
    if total < course.due or course.points < LEAST:
        return course
    return _decided(course)


def comes_near(before: Course, after: Course) -> bool:
    """Whether the update between these brought the first trial near."""
    return np.isnan(after.rate) and before.work < NEAR * after.due <= after.work


def _failed(course: Course) -> Course:
    """The course after an update that was not accepted."""
    if course.phase == Phase.TRIAL:
        return _in_phase(course, Phase.FIRST, AGAIN * course.work)
    return _in_phase(course, Phase.SECOND, course.work * (1 + SHARE))


def _decided(course: Course) -> Course:
    """The course after a comparison."""
    progress, total = slope(course), course.work
    if course.phase == Phase.FIRST:
        return _in_phase(
            course._replace(rate=progress, rate_at=total, level=_level(course)), Phase.TRIAL, total * (1 + SHARE)
        )
    if course.phase == Phase.TRIAL:
        if progress >= course.rate:
            return course._replace(phase=Phase.SECOND, due=total * (1 + SHARE))
        return _in_phase(course, Phase.FIRST, AGAIN * total)
    left = min(max(_level(course) / course.level, 0), 1) if course.level > 0 else 1
    if progress < course.rate * min((course.rate_at / total) ** 2, left) / 2:
        return _in_phase(course, Phase.FIRST, total * (1 + SHARE))
    return course._replace(due=total * (1 + SHARE))


def slope(course: Course) -> float:
    """How far the loss falls for each unit of work, by least squares over the losses in the window."""
    works, losses = course.works[-course.points :], course.losses[-course.points :]
    from_middle = works - works.mean()
    return float(-(from_middle @ (losses - losses.mean())) / (from_middle @ from_middle))


def _level(course: Course) -> float:
    """The loss now: the mean of the last few."""
    return float(np.mean(course.losses[-min(course.points, LEAST) :]))


def _in_phase(course: Course, phase: Phase, due: float) -> Course:
    fresh = -1 if phase == Phase.TRIAL else 0
    return course._replace(phase=phase, due=due, points=fresh if phase != course.phase else course.points)


def _with(window: NDArray[np.float64], number: float) -> NDArray[np.float64]:
    return np.append(window[1:], number)
