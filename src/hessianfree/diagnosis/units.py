"""Hidden units without slope: ReLU units below zero for all examples, Tanh and Logistic units at their ends."""

from __future__ import annotations

from hessianfree.diagnosis.course import WELL, RunCourse
from hessianfree.diagnosis.facts import Units
from hessianfree.diagnosis.findings import Fault, Finding

#: Share of a layer's units that are idle for all examples. Some dead ReLU units are usual in networks that do well.
IDLE = 0.5
#: Share of all activations of a layer without slope. Half of those of ReLU units are, and many of a trained classifier.
FLAT = 0.9


def without_slope(course: RunCourse) -> list[Finding]:
    """The layers that pass hardly any gradient on, unless the run did well: confident classifiers are saturated."""
    if course.left < WELL:
        return []
    found = [units for units in course.facts.layers if units.idle > IDLE * units.units or units.flat > FLAT]
    return [_finding(units) for units in found]


def _finding(units: Units) -> Finding:
    layer = f"layer {units.layer} ({units.name})"
    if units.name == "ReLU":
        seen = (
            f"{units.idle} of {units.units} units of {layer} are zero for all of {units.examples} examples, and "
            f"{units.flat:.0%} of all its activations."
        )
        remedy = (
            "weights drawn again with small positive biases, W_init_params={'biases': 0.1}, inputs of mean 0, a lower "
            "learning rate or a higher init_damping; or Tanh layers"
        )
    else:
        seen = (
            f"{units.flat:.0%} of the activations of {layer} lie where it has no slope ({units.examples} examples; "
            f"{units.idle} of {units.units} units at all of them)."
        )
        remedy = "smaller initial weights, W_init_params={'coeff': 0.3}, and inputs of mean 0 and deviation 1"
    return Finding(Fault.UNITS, seen, remedy, strong=units.idle == units.units)
