"""How far the quadratic model can be trusted: reduction ratios, backtracking, and damping that cannot go further.

Records at the limit of precision are left out: there the loss changes by rounding, and ratios say nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hessianfree.diagnosis.course import RunCourse, column
from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.diagnosis.wording import float64, smaller_weights
from hessianfree.engine.damping import LevenbergMarquardt

_RULE = LevenbergMarquardt()
#: Updates that say something.
ENOUGH = 5
#: Relative changes of the loss below which it moves by rounding.
ROUNDING = 1e-5
#: Typical ratios that are too low: the usual rule keeps them above 1/4. And too high: where lambda |d|^2 makes up most
#: of the model, it promises half of the fall, and the ratio is 2.
LOW, HIGH = 0.1, 1.8
#: Stored iterates that are passed over in most updates: some are usual, and cheap.
PASSED_OVER = 3
#: Share of the updates.
MOST = 0.8
#: Step lengths that are short.
SHORT = 0.25
#: A lower bound of lambda that somebody has set: the usual one is far below.
SET = 1e-8
#: An upper one that nothing but a fault leads to.
HUGE = 1e6


def distrusted(course: RunCourse) -> list[Finding]:
    """Whether typical reduction ratios are far from one."""
    ratios = column(_telling(course), "reduction_ratio")
    ratios = ratios[np.isfinite(ratios)]
    if len(ratios) < ENOUGH or LOW <= np.median(ratios) <= HIGH:
        return []
    middle = float(np.median(ratios))
    told = "full steps gain much less than the model promises" if middle < LOW else "damping makes all steps short"
    seen = f"The median reduction ratio of the later updates is {middle:.2g}: {told}."
    larger = "a higher init_damping, a larger curvature_batch or minibatch_size"
    smaller = "a lower init_damping, or damping_rule=hf.opt.LevenbergMarquardt(lower_by=1/2), which lowers it faster"
    return [Finding(Fault.MODEL, seen, larger if middle < LOW else smaller)]


def backtracked(course: RunCourse) -> list[Finding]:
    """Whether most of what CG computes is thrown away again."""
    telling = _telling(course)
    if len(telling) < ENOUGH:
        return []
    passed, lengths = column(telling, "backtracked"), column(telling, "step_length")
    back, short = float((passed >= PASSED_OVER).mean()), float((lengths <= SHORT).mean())
    if max(back, short) < MOST:
        return []
    seen = (
        f"{back:.0%} of the later updates went back over {PASSED_OVER} stored iterates of CG or more."
        if back >= short
        else f"{short:.0%} of the later updates took {SHORT:g} of the step or less."
    )
    batch = f", or a larger minibatch_size than {course.facts.batch}" if course.minibatches else ""
    remedy = f"a lower CG_iter, a higher init_damping, curvature_batch=None (all examples){batch}"
    return [Finding(Fault.BACKTRACKING, seen, remedy)]


def at_bound(course: RunCourse) -> list[Finding]:
    """Whether lambda stays at a bound that keeps the run from going on."""
    solved = course.lately_solved
    pinned = [record for record in solved if getattr(record, "at_damping_bound", False)]
    if len(pinned) < max(ENOUGH, MOST * len(solved)):
        return []
    damping, ratios = float(pinned[-1].damping), column(_telling(course), "reduction_ratio")
    middle = float(np.median(ratios)) if len(ratios) >= ENOUGH else np.nan
    if not middle > _RULE.high:  # above that lambda falls, and leaves an upper bound
        if damping < SET:
            return []
        seen = f"The damping stays at its upper bound of {damping:.2g}: no update can be trusted."
        remedy = f"scaled inputs, {smaller_weights(course)}, a model and a loss that are smooth, {float64(course)}"
        if damping < HUGE:
            remedy = f"damping_rule=hf.opt.LevenbergMarquardt(maximum={100 * damping:.1g}); {remedy}"
        return [Finding(Fault.DAMPING, seen, remedy, strong=damping >= HUGE)]
    if damping < SET:
        return []
    seen = (
        f"The damping stays at its lower bound of {damping:.2g}, and with reduction ratios of {middle:.2g} it would "
        "fall further."
    )
    remedy = f"damping_rule=hf.opt.LevenbergMarquardt(minimum={damping / 100:.1g}), or larger minibatches with it"
    return [Finding(Fault.DAMPING, seen, remedy)]


def _telling(course: RunCourse) -> list[Any]:
    """The later Hessian-free updates that changed the loss by more than rounding."""
    return [
        record
        for record in course.lately_solved
        if getattr(record, "accepted", True) and abs(record.value - record.new_value) > ROUNDING * abs(record.value)
    ]
