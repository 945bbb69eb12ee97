"""Updates that fit their own minibatch, and lose what they gained on the next one."""

from __future__ import annotations

from hessianfree.diagnosis.course import WELL, RunCourse
from hessianfree.diagnosis.findings import Fault, Finding

#: Updates that say something.
ENOUGH = 8
#: The share of the loss that an update gains on its own minibatch, where the next ones show nothing of it.
GAINED = 0.5
#: The fall of the loss over a quarter of the run that is none.
NONE = 0.1


def fitted_alone(course: RunCourse) -> list[Finding]:
    """Whether updates gain much on their own minibatch, while the loss before updates does not fall."""
    if not course.minibatches or len(course.losses) < ENOUGH or course.left < WELL:
        return []
    if not course.gained > GAINED or not course.fall < NONE:
        return []
    seen = (
        f"Updates gain {course.gained:.0%} of the loss on their own minibatch, but the loss on the next one stays at "
        f"{course.levels[-1]:.3g}: they fit {course.facts.batch or 'too few'} examples too well."
    )
    remedy = (
        "a larger minibatch_size, HessianFree(damping_rule=hf.opt.LevenbergMarquardt(minimum=0.1)), or a lower CG_iter"
    )
    return [Finding(Fault.MINIBATCH, seen, remedy)]
