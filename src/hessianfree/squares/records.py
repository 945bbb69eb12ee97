"""What a step of least squares reports, in numbers and in words."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hessianfree.engine import reprs
from hessianfree.engine.levenberg import CONVERGED, Outcome, Status, Tolerances
from hessianfree.engine.searching import Box
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters


class LeastSquaresRecord(NamedTuple):
    """What happened in one step. `reason` says why the run is over, and is empty while it is not."""

    value: float
    new_value: float
    damping: float
    gradient_norm: float
    scaled_gradient: float  # the largest |J_j'rho| / (|J_j| |rho|) before the step
    reduction_ratio: float
    acceleration: float
    corrections: int  # of the last step that was tried, by evaluations
    contraction: float  # of these, the largest; 0 if there is none
    attempts: int
    cg_iterations: int  # products with J'J; 0 where the equations are solved by factors
    update_norm: float
    accepted: bool
    degenerate: bool  # whether a direction of the parameters has nearly no effect; known for a few parameters only
    status: Status
    reason: str

    def __repr__(self) -> str:
        return reprs.fields(self)


def record_of(outcome: Outcome, params: PyTree, tolerances: Tolerances, box: Box | None) -> LeastSquaresRecord:
    """The record of a step from these parameters."""
    with np.errstate(over="ignore"):  # in double precision: squares of float32 may leave its range
        unit = 0.5 * np.float64(outcome.unit) ** 2
        value, new_value = (float(unit * squares) for squares in (outcome.squares, outcome.new_squares))
    predicted, taken = float(outcome.predicted), bool(outcome.accepted)
    fall = float(outcome.squares) - float(outcome.new_squares)
    record = LeastSquaresRecord(
        value=value,
        new_value=new_value,
        damping=float(outcome.damping),
        gradient_norm=float(outcome.gradient_norm),
        scaled_gradient=float(outcome.scaled_gradient),
        reduction_ratio=fall / predicted if taken and predicted else math.nan,
        acceleration=float(outcome.acceleration) if taken else math.nan,
        corrections=int(outcome.corrections),
        contraction=float(outcome.contraction) if outcome.corrections else 0.0,
        attempts=int(outcome.attempts),
        cg_iterations=int(outcome.cg_iterations),
        update_norm=float(outcome.update_norm),
        accepted=taken,
        degenerate=bool(outcome.degenerate),
        status=Status(int(outcome.status)),
        reason="",
    )
    return record._replace(reason=_reason(record, int(outcome.steepest), params, tolerances, box))


def _reason(record: LeastSquaresRecord, steepest: int, params: PyTree, tolerances: Tolerances, box: Box | None) -> str:
    """Why the step with this record is the last one of a run, in words; empty if it is not."""
    if record.status == Status.GRADIENT and record.gradient_norm == 0:
        held = " for all parameters that are not held at a bound" if box is not None else ""
        return f"converged: the gradient is zero{held}, nothing is left to improve"
    if record.status in CONVERGED:
        return converged_by(record.status, record.scaled_gradient, tolerances)
    if record.status == Status.STUCK:
        return (
            f"stuck: {record.attempts} steps, each shorter than the last, do not lower the loss, though the scale-free "
            f"gradient is {record.scaled_gradient:.1e}, largest for {name_of_entry(params, steepest)}; the residuals "
            "may have a kink or noise there, or derivatives that are not theirs"
        )
    if record.status == Status.UNUSABLE:
        return (
            f"the loss is {record.value} and the norm of its gradient {record.gradient_norm}: one is too large for "
            "this precision, or a derivative is infinite here, like that of a square root at zero; rescale the "
            "residuals, or start from other parameters"
        )
    return ""


def converged_by(status: Status, scaled_gradient: float, tolerances: Tolerances) -> str:
    """By which test a run has converged, in words."""
    if status == Status.GRADIENT:
        return f"converged: the scale-free gradient {scaled_gradient:.1e} is within gtol={tolerances.gradient:.1e}"
    if status == Status.CHANGE:
        return (
            "converged: the last step changed the loss by less than ftol="
            f"{tolerances.value:.1e} and the parameters by less than xtol={tolerances.step:.1e}, relatively"
        )
    return "converged: the limit of precision is reached, and what is left to gain is lost in rounding"


def name_of_entry(params: PyTree, number: int) -> str:
    """What to call one number of the raveled parameters.

    Example:
        >>> name_of_entry({"a": np.ones(2), "b": np.ones((2, 2))}, 4)
        "['b'][1, 0]"
    """
    for name, leaf in parameters.named_leaves(params):
        if number < np.size(leaf):
            index = np.unravel_index(number, np.shape(leaf))
            place = f"[{', '.join(map(str, index))}]" if index else ""
            return f"{name}{place}" if name != parameters.ONLY_LEAF else (place or name)
        number -= np.size(leaf)
    raise IndexError(number)


def default_tolerances(
    dtype: np.dtype[np.floating], gtol: float | None, ftol: float | None, xtol: float | None
) -> Tolerances:
    """The tolerances, those not given by the precision: 1e-13, 2e-15 and 6e-13 in float64."""
    eps = float(np.finfo(dtype).eps)
    usual = {"gradient": eps**0.83, "value": 8 * eps, "step": eps**0.78}
    given = {"gradient": gtol, "value": ftol, "step": xtol}
    return Tolerances(*(np.asarray(usual[name] if given[name] is None else given[name], dtype) for name in usual))
