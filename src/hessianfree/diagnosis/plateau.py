"""The loss stays where it was, at the level of outputs that do not depend on the inputs, or is far above it."""

from __future__ import annotations

import numpy as np

from hessianfree.diagnosis.course import RunCourse, column
from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.diagnosis.wording import other_weights, smaller_weights

#: Updates from which on a loss that does not move says something.
ENOUGH = 8
#: A loss this close to that of the best constant outputs has learnt nothing of the inputs. Weight decay, and the noise
#: of minibatches, move it by a few percent.
NEAR = 0.05
#: The share of the loss on its own minibatch that an update gains where something is learnt, and lost again.
GAINED = 0.2
#: A loss so many times that of the best constant outputs is no matter of patience.
FAR = 1e3
#: The share by which a loss falls that hardly changes, where the level of constant outputs is not known.
HARDLY = 0.01
#: Share of one class from which on a network does well by answering it always.
DOMINANT = 0.9
#: Damping that makes steps as short as those of a small learning rate. Rules that raise it have gone through less.
HEAVY = 100.0


def plateau(course: RunCourse) -> list[Finding]:
    """Whether the loss has stayed at chance, or has not moved at all."""
    levels, constant = course.levels, course.facts.constant_loss
    count = len(course.losses)
    if count == 0 or (count < ENOUGH and course.accepted[-1]) or course.fall > NEAR:
        return []
    half = levels[len(levels) // 2 :]
    end = float(half.mean())
    if constant is None or constant <= 0:
        return _unmoved(course)
    if end < (1 - NEAR) * constant or np.ptp(half) > 2 * NEAR * end + 4 * course.noise or course.gained > GAINED:
        return []
    above = " and above" if end > (1 + NEAR) * constant else ""
    if above and count < ENOUGH:
        return []
    seen = (
        f"The training loss stays at {end:.4g}{above}, where outputs that ignore the inputs would have {constant:.4g}."
        f"{_gradient(course)}"
    )
    return [*_imbalance(course), Finding(Fault.PLATEAU, seen, _remedy(course), strong=True)]


def worse_than_chance(course: RunCourse) -> list[Finding]:
    """Whether the loss has not even come near that of outputs which ignore the inputs."""
    constant = course.facts.constant_loss
    if len(course.losses) < ENOUGH or not constant or not course.levels[-1] > FAR * constant:
        return []
    seen = (
        f"The training loss is {course.levels[-1]:.2g}, where outputs that ignore the inputs would have "
        f"{constant:.2g}.{_gradient(course)}"
    )
    return [Finding(Fault.WORSE, seen, f"{smaller_weights(course)}, and scaled inputs", strong=True)]


def _unmoved(course: RunCourse) -> list[Finding]:
    """Weak evidence: the run may have begun at an optimum."""
    losses, start = course.losses, float(course.levels[0])
    if not course.accepted[-1] or not start > 0 or start - losses.min() > HARDLY * start:
        return []
    seen = f"The training loss has hardly changed: from {start:.4g} to {course.levels[-1]:.4g}.{_gradient(course)}"
    return [Finding(Fault.PLATEAU, seen, _remedy(course))]


def _gradient(course: RunCourse) -> str:
    norms = course.column("gradient_norm")
    finite = norms[np.isfinite(norms)]
    return f" The gradient's norm is {finite[-1]:.1e}." if len(finite) else ""


def _imbalance(course: RunCourse) -> list[Finding]:
    """Whether constant outputs are right so often that the loss has no need of the inputs."""
    share = course.facts.commonest
    if share is None or share < DOMINANT:
        return []
    seen = f"{share:.0%} of the targets are of one class, and outputs that ignore the inputs are right as often."
    remedy = "weights= of the training examples, higher for the rare classes, or more examples of those"
    return [Finding(Fault.IMBALANCE, seen, remedy, strong=True)]


def _remedy(course: RunCourse) -> str:
    """What lets gradients through to the first layers."""
    weights = other_weights(course)
    if any(units.name == "Logistic" for units in course.facts.layers):
        weights = f"Tanh or ReLU layers in place of Logistic, or {weights}"
    if course.facts.timesteps is not None:
        weights = (
            "W_rec_params={'init_type': 'orthogonal'} with Tanh, or hf.nl.Continuous layers, through which gradients "
            "reach early timesteps"
        )
    order = "and check that inputs and targets are in the same order"
    if not course.second_order:
        return f"{weights}; a higher learning rate, or HessianFree; {order}"
    damping = column(course.solved, "damping")
    if damping[-1] > HEAVY and damping[-1] < damping[0]:  # it falls as fast as it may, and still keeps steps short
        return f"a lower init_damping than {damping[0]:.2g}, such as 1; {weights}; {order}"
    return f"{weights}; a higher init_damping, such as 10; {order}"
