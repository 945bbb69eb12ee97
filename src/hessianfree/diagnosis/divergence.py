"""The training loss rose: updates are too long, or fit their own minibatch too well. That is not overfitting."""

from __future__ import annotations

import numpy as np

from hessianfree.diagnosis.course import RunCourse, column
from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.diagnosis.stopping import DIVERGING
from hessianfree.diagnosis.wording import LOWER_RATE

#: Of the level at the start, or of the lowest one: at twice that the loss has gone up, whatever its noise.
TWICE = 2.0
#: The share of its whole fall that the loss has lost again. Less than that are the ups and downs of small minibatches.
LOST = 0.5
#: Errors of a level by which the loss must have risen.
ERRORS = 3.0


def diverged(course: RunCourse) -> list[Finding]:
    """Whether the loss has risen from its lowest level for good: the last two levels say so, as one may be a peak."""
    levels, losses = course.levels, course.losses
    if len(levels) < 2:
        return []
    start, lowest = max(losses[0], levels[0]), float(levels.min())
    end = float(min(levels[-2:])) if len(levels) > 3 else float(levels[-1])
    rise = end - lowest
    lost = rise > LOST * (start - lowest) and rise > ERRORS * course.noise
    if lowest > 0:
        lost = (lost and end > TWICE * lowest) or end > TWICE * start
    if not (lost and rise > 0) and f"({DIVERGING}" not in course.reason:
        return []
    where = "on the minibatches of the updates" if course.minibatches else "on the training data"
    turned = int(levels.argmin() / len(levels) * 100)
    early = "from the start on" if turned == 0 else f"after {turned} % of the updates"
    seen = f"The training loss rose {early}, from {lowest:.3g} to {levels[-1]:.3g}, {where}: this is not overfitting."
    return [Finding(Fault.DIVERGED, seen, remedy(course), strong=True)]


def remedy(course: RunCourse) -> str:
    """What makes updates shorter, for the optimizer in use."""
    batch = course.facts.batch
    larger = f", or a larger minibatch_size than {batch}" if batch is not None and course.minibatches else ""
    if not course.second_order:
        return f"{LOWER_RATE}{larger}"
    highest = float(column(course.solved, "damping").max())
    damping = max(10.0, 10 ** np.ceil(np.log10(highest)))
    kept = f"HessianFree(init_damping={damping:g}, damping_rule=hf.opt.LevenbergMarquardt(minimum=0.1))"
    return f"{kept}, which keeps updates short{larger}, or a lower CG_iter"
