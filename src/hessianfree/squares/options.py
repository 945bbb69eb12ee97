"""The options of a least-squares fit: solver, bounds, robust loss, deviations, units and tolerances."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import reprs, robust
from hessianfree.engine.levenberg import Tolerances
from hessianfree.engine.numbers import is_number, is_positive
from hessianfree.engine.robust import Rho
from hessianfree.engine.searching import Box
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.records import default_tolerances, name_of_entry
from hessianfree.support import checks

logger = logging.getLogger("hessianfree")

SOLVERS = ("auto", "cg", "dense", "dual", "schur")


@dataclass(frozen=True, eq=False)
class Options:
    """The options of `hf.least_squares` that say what a step is; see there.

    Raises:
        ValueError: if one is out of range.
        TypeError: if one is of the wrong kind.
    """

    solver: str = "auto"
    init_damping: float | None = None
    cg_iterations: int | None = None
    bounds: Any = None
    fixed: PyTree | None = None
    loss: str | Callable[..., Any] | None = None
    scale: float = 1.0
    sigma: Any = None
    x_scale: Any = "auto"
    gtol: float | None = None
    ftol: float | None = None
    xtol: float | None = None
    chunk_size: int | None = None
    subsample: float | None = None

    def __repr__(self) -> str:
        return reprs.call(self)

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ValueError(f"solver is {self.solver!r}; choose one of {', '.join(map(repr, SOLVERS))}.")
        if self.cg_iterations is not None:
            checks.at_least("cg_iterations", self.cg_iterations, 1)
        if self.chunk_size is not None:
            checks.at_least("chunk_size", self.chunk_size, 1)
            if self.solver == "schur":
                raise ValueError(
                    f"chunk_size is {self.chunk_size}, but solver='schur' keeps the blocks of all points; leave one of "
                    "them out."
                )
        if self.subsample is not None:
            if not (is_number(self.subsample) and 0 < self.subsample <= 1):
                raise ValueError(
                    f"subsample is {self.subsample!r}; a share of the points in (0, 1] is expected, or None for all."
                )
            if self.solver == "schur":
                raise ValueError("subsample takes rows of J, and solver='schur' blocks of all points; leave one out.")
        if self.init_damping is not None and not is_positive(self.init_damping):
            raise ValueError(
                f"init_damping is {self.init_damping!r}; a positive number is expected, or None for the usual one."
            )
        if not is_positive(self.scale):
            raise ValueError(f"scale is {self.scale!r}; a positive number is expected, in the unit of the residuals.")
        if self.loss is None and self.scale != 1:
            raise ValueError(f"scale is {self.scale!r}, but there is no robust loss; pass loss='huber', for example.")
        self.rho()
        for name in ("gtol", "ftol", "xtol"):
            value = getattr(self, name)
            if value is not None and not (is_number(value) and value >= 0):
                raise ValueError(f"{name} is {value!r}; a number >= 0 is expected, or None for the usual one.")

    def rho(self) -> Rho | None:
        """The robust loss, None for squares."""
        if self.loss is None or self.loss == "linear":
            return None
        if callable(self.loss):
            return self.loss
        if self.loss not in robust.BY_NAME:
            names = ", ".join(map(repr, robust.BY_NAME))
            raise ValueError(
                f"loss is {self.loss!r}; choose one of {names}, pass a function rho(z) of z = (r / scale)^2 with "
                "rho(0) = 0 and rho'(0) = 1, or None for squares."
            )
        return robust.BY_NAME[self.loss]

    def tolerances(self, params: PyTree) -> Tolerances:
        """When a run in the precision of these parameters has converged."""
        return default_tolerances(parameters.precision(params), self.gtol, self.ftol, self.xtol)

    def units(self, params: PyTree) -> NDArray[Any] | None:
        """The units of the raveled parameters, if they are given.

        Raises:
            ValueError: if they do not fit the parameters, or one is not positive and finite.
        """
        if isinstance(self.x_scale, str):
            if self.x_scale not in ("auto", "jac"):
                raise ValueError(f"x_scale is {self.x_scale!r}; 'auto', 'jac', a number or a pytree is expected.")
            return None
        units = raveled_like("x_scale", self.x_scale, params, 1.0)
        if (bad := ~(np.isfinite(units) & (units > 0))).any():
            first = int(bad.argmax())
            raise ValueError(
                f"x_scale of {name_of_entry(params, first)} is {units[first]:g}; a positive number is expected."
            )
        return units

    def box(self, params: PyTree) -> Box | None:
        """The bounds of the raveled parameters; None if there are none.

        Raises:
            ValueError: if bounds do not fit the parameters, cross, or are NaN; the message names the parameter.
        """
        if self.bounds is None and self.fixed is None:
            return None
        if self.bounds is not None and not (isinstance(self.bounds, (tuple, list)) and len(self.bounds) == 2):
            raise ValueError(f"bounds is {reprlib.repr(self.bounds)}; a pair (lower, upper) is expected.")
        below, above = self.bounds or (None, None)
        lower = raveled_like("The lower bounds", below, params, -np.inf)
        upper = raveled_like("The upper bounds", above, params, np.inf)
        if (bad := np.isnan(lower) | np.isnan(upper) | (lower > upper)).any():
            first = int(bad.argmax())
            raise ValueError(
                f"The bounds of {name_of_entry(params, first)} are {lower[first]:g} and {upper[first]:g}; the lower "
                "one must be at most the upper one."
            )
        fixed = raveled_like("fixed", self.fixed, params, False).astype(bool)
        start = parameters.raveled(params)
        return Box(np.where(fixed, start, lower), np.where(fixed, start, upper))


def moved_inside(params: PyTree, box: Box | None) -> PyTree:
    """The parameters, those outside of their bounds moved onto them, which is logged."""
    if box is None:
        return params
    start = parameters.raveled(params)
    inside = np.clip(start, box.lower, box.upper)
    if (moved := inside != start).any():
        first = int(moved.argmax())
        logger.warning(
            "The start is outside of the bounds for %d parameters, the first %s: moved from %g to %g.",
            int(moved.sum()),
            name_of_entry(params, first),
            start[first],
            inside[first],
        )
    return parameters.unraveled(inside, params)


def raveled_like(what: str, given: Any, params: PyTree, default: float | bool) -> NDArray[Any]:
    """One number for each parameter, from a number for all, a pytree of such numbers or arrays, or None."""
    leaves, structure = jax.tree.flatten(params)
    try:
        whole = given is None or isinstance(given, bool) or is_number(given)
        parts = [given] * len(leaves) if whole else structure.flatten_up_to(given)  # type: ignore[attr-defined]
    except ValueError as error:
        raise ValueError(
            f"{what} are {reprlib.repr(given)}; a number is expected, or a pytree like the parameters, "
            f"{parameters.shapes(params)}."
        ) from error
    found = []
    for part, leaf in zip(parts, leaves, strict=True):
        try:
            values = np.asarray(default if part is None else part, bool if default is False else leaf.dtype)
            found.append(np.broadcast_to(values, np.shape(leaf)).ravel())
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{what} hold {reprlib.repr(part)} for parameters of shape {np.shape(leaf)}; numbers that broadcast to "
                "this shape are expected."
            ) from error
    return np.concatenate(found)
