"""Checks the residuals that you pass to `hf.least_squares`, and turns them into the form of the engine."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from hessianfree.engine.compilation import jit
from hessianfree.engine.residuals import Points, Residual, Residuals
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters


class ResidualTerm(NamedTuple):
    """A residual of one point, or of the parameters alone, with its points and its weight."""

    function: Residual
    points: Points


def as_terms(residuals: Any, dtype: np.dtype[Any]) -> list[ResidualTerm]:
    """The user's residuals as a list of terms.

    Args:
        residuals: terms (r, points) or (r, points, weight), or one function of the parameters.
        dtype: the precision of the parameters.

    Raises:
        TypeError: if residuals is not a list of terms or a function, or points are not numbers.
        ValueError: if points or weights cannot be used.
    """
    if callable(residuals):
        _check_hashable("The function", residuals)
        return [ResidualTerm(residuals, Points(None, np.asarray(1, dtype)))]
    if not isinstance(residuals, (list, tuple)) or not residuals:
        raise TypeError(
            f"residuals is {reprlib.repr(residuals)}; a list of terms (r, points) or a function r(params) is expected."
        )
    if isinstance(residuals, tuple) and callable(residuals[0]):
        raise TypeError("residuals is a single term; pass a list of terms: [(r, points)].")
    terms = [_term(number, given, dtype) for number, given in enumerate(residuals)]
    if not any(term.points.weight for term in terms):
        raise ValueError("The weights of all terms are zero; pass at least one positive weight.")
    return terms


def _term(number: int, given: Any, dtype: np.dtype[Any]) -> ResidualTerm:
    if not isinstance(given, (list, tuple)) or len(given) not in (2, 3) or not callable(given[0]):
        raise TypeError(
            f"Term {number} of the residuals is {reprlib.repr(given)}; (r, points) or (r, points, weight) is expected."
        )
    _check_hashable(f"The function of term {number}", given[0])
    weight = given[2] if len(given) == 3 else 1.0
    real = np.ndim(weight) == 0 and np.asarray(weight).dtype.kind in "biuf"
    if not real or not 0 <= float(weight) < math.inf:
        raise ValueError(f"Term {number} of the residuals has the weight {weight!r}; a finite number >= 0 is expected.")
    return ResidualTerm(given[0], Points(_points(number, given[1], dtype), np.asarray(weight, dtype)))


def _check_hashable(name: str, function: Residual) -> None:
    try:
        hash(function)
    except TypeError as error:
        raise TypeError(
            f"{name} is a {type(function).__name__} that cannot be hashed, as compiled functions must be; wrap it in "
            "a function: def r(params, point): ..."
        ) from error


def _points(number: int, given: Any, dtype: np.dtype[Any]) -> PyTree:
    try:
        points = parameters.as_data(given, dtype)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"The points of term {number}: {error}") from error
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(points)}
    if len(sizes) != 1 or sizes <= {None, 0}:
        raise ValueError(
            f"The points of term {number} are {parameters.shapes(points)}; pass arrays with the same number of points "
            "along their first axis, at least one."
        )
    if parameters.not_finite(points):
        raise ValueError(f"The points of term {number} are not finite: {parameters.not_finite(points)}.")
    return points


def check_term(number: int, term: ResidualTerm, params: PyTree) -> tuple[int, ...]:
    """The shape of a term's residuals at all points, found without computing them.

    Args:
        number: of the term, for messages.
        term: what to check.
        params: checked.

    Raises:
        TypeError: if the function cannot be called with the parameters and a point, or does not return residuals.
        ValueError: if the residuals have a shape that cannot be meant.
    """
    at = term.points.at
    name = getattr(term.function, "__name__", "r")
    try:
        if at is None:
            result = jax.eval_shape(term.function, params)
        else:
            result = jax.eval_shape(jax.vmap(term.function, (None, 0)), params, at)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        of_point = "" if at is None else " and one point"
        raise kind(f"Term {number}, {name}, cannot be called with the parameters{of_point}: {error}") from error
    if not hasattr(result, "shape") or not np.issubdtype(result.dtype, np.floating):
        raise TypeError(
            f"Term {number}, {name}, returned {parameters.shapes(result)}; one array of real floats is expected."
        )
    if result.dtype != parameters.precision(params):
        raise TypeError(
            f"Term {number}, {name}, returned {parameters.shapes(result)}; residuals must be "
            f"{parameters.precision(params)}, like the parameters."
        )
    if at is None and result.ndim == 0:
        raise TypeError(
            f"{name} returned one number, a scalar: that is a loss, not residuals. Return the vector of residuals, or "
            "pass terms (r, points). To minimise a loss on outputs, use hf.fit(hf.Objective(model, loss), ...)."
        )
    if at is None and result.ndim > 1:
        raise ValueError(
            f"{name} returned residuals of shape {result.shape}; one vector is expected. The difference of (N,) and "
            "(N, 1) has shape (N, N): give both the same shape. If you mean this shape, return jnp.ravel of it."
        )
    if result.size == 0:
        raise ValueError(f"Term {number}, {name}, returned no residuals: shape {result.shape}.")
    return tuple(result.shape)


def loss_at(functions: Residuals, params: PyTree, inputs: Sequence[Points]) -> float:
    """The loss at the start.

    Args:
        functions: the residuals.
        params: where to start.
        inputs: points and weight of each term.

    Raises:
        ValueError: if residuals are not finite there; the message names the term and the point.
    """
    value = 0.0
    for number, rho in enumerate(jax.device_get(_residuals(functions, params, inputs))):
        value += 0.5 * float((rho.astype(np.float64) ** 2).sum())
        bad = ~np.isfinite(rho).all(axis=-1)
        if bad.any():
            name = getattr(functions.functions[number], "__name__", "r")
            where = "" if inputs[number].at is None else f", first at point {int(bad.argmax())}"
            raise ValueError(
                f"Term {number}, {name}, is not finite at the start: {int(bad.sum())} of {len(bad)}{where}. Start from "
                "other parameters, or correct the function there."
            )
    return value


@jit
def _residuals(functions: Residuals, params: PyTree, inputs: Sequence[Points]) -> tuple[Array, ...]:
    return functions.outputs(params, inputs)


class Resampling:
    """New points from the user, checked to have the shapes of the first ones.

    Args:
        give: the user's function of the step's number.
        terms: the terms with their first points.

    Raises:
        ValueError: if a term has no points.
    """

    def __init__(self, give: Callable[[int], Sequence[Any]], terms: Sequence[ResidualTerm]) -> None:
        if any(term.points.at is None for term in terms):
            raise ValueError("resample needs terms (r, points): a function r(params) has no points to draw again.")
        self.give, self.terms = give, terms

    def points(self, step: int) -> tuple[Points, ...]:
        """The points of a step.

        Raises:
            ValueError: if they do not match the terms, or are not finite.
        """
        with parameters.users_own():
            given = self.give(step)
        if not isinstance(given, (list, tuple)) or len(given) != len(self.terms):
            raise ValueError(
                f"resample returned {reprlib.repr(given)}; a list of points for {len(self.terms)} terms is expected."
            )
        found = []
        for number, (term, points) in enumerate(zip(self.terms, given, strict=True)):
            new = _points(number, points, np.result_type(term.points.weight))
            if not parameters.same_shapes(new, term.points.at):
                raise ValueError(
                    f"resample returned {parameters.shapes(new)} for term {number}; return the shapes of the start, "
                    f"{parameters.shapes(term.points.at)}: other shapes would be compiled again."
                )
            found.append(term.points._replace(at=new))
        return tuple(found)
