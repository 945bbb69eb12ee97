"""Inputs whose columns differ in scale, lie far from zero, or hold huge values.

The damping lambda |d|^2 and the initial weights treat all inputs alike. A column in other units is learnt much earlier
or later than the others, and large values push units to where they have no slope.
"""

from __future__ import annotations

from hessianfree.diagnosis.course import RunCourse
from hessianfree.diagnosis.facts import Inputs
from hessianfree.diagnosis.findings import Fault, Finding

#: Ratio of the widest range of a column to the narrowest one. Pixels of 8 bits may differ by 255 without harm.
SPREAD = 300.0
#: Distance of a column's middle from zero in units of its range: years from 1990 to 2020 are 67 away. A 0/1 column is
#: half a range away, however rare its ones are.
OFFSET = 10.0
#: Magnitudes: 15 connections of deviation 1 make several times that of them, where Tanh and Logistic have no slope.
LARGE, SMALL = 100.0, 1e-3
#: Share of constant columns from which on something is wrong with the data. The margins of images are constant, too.
CONSTANT = 0.5
#: Rows that tell whether a column is constant.
ROWS = 10


def badly_scaled(course: RunCourse) -> list[Finding]:
    """What is wrong with the columns of the inputs."""
    x = course.facts.inputs
    if x is None:
        return []
    seen = " ".join(filter(None, (_spread(x), _offset(x), _size(x), _constant(x))))
    if not seen:
        return []
    remedy = (
        "inputs of mean 0 and deviation 1: x = (x - x.mean(0)) / (x.std(0) + 1e-8), over examples (and timesteps), "
        "with the same numbers for test data"
    )
    if x.constant == x.columns:
        remedy = "inputs that differ between examples: these are all the same"
    return [Finding(Fault.INPUTS, seen, remedy)]


def _spread(x: Inputs) -> str:
    if x.constant >= x.columns or not x.widest > SPREAD * x.narrowest:
        return ""
    return (
        f"Column {x.widest_column} of the inputs has a range of {x.widest:.3g}, column {x.narrowest_column} one of "
        f"{x.narrowest:.3g}."
    )


def _offset(x: Inputs) -> str:
    if not x.offset > OFFSET:
        return ""
    return f"Column {x.offset_column} lies {x.offset:.0f} times its range away from zero."


def _size(x: Inputs) -> str:
    if x.largest > LARGE:
        return f"Column {x.largest_column} holds values of up to {x.largest:.3g}."
    return f"No input is larger than {x.largest:.1e}." if 0 < x.largest < SMALL else ""


def _constant(x: Inputs) -> str:
    if x.rows < ROWS or not x.constant > CONSTANT * x.columns:
        return ""
    return f"{x.constant} of {x.columns} columns are constant in {x.rows} rows."
