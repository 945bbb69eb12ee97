"""Checks the residuals that you pass to `hf.least_squares`, and turns them into the form of the engine."""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from hessianfree.engine.blocks import Seeing
from hessianfree.engine.compilation import jit
from hessianfree.engine.linearization import contains, has_forward_mode
from hessianfree.engine.residuals import Points, Residual, Residuals
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.curve import Curve
from hessianfree.squares.sparse import SparseTerm, sighted


class ResidualTerm(NamedTuple):
    """A residual of one point, or of the parameters alone, with its points and its weight."""

    function: Residual
    points: Points


def as_terms(residuals: Any, params: PyTree) -> list[ResidualTerm]:
    """The user's residuals as a list of terms.

    Args:
        residuals: terms (r, points), (r, points, weight) or `SparseTerm`, or one function of the parameters.
        params: checked.

    Raises:
        TypeError: if residuals is not a list of terms or a function, or points are not numbers.
        ValueError: if points or weights cannot be used.
    """
    dtype = parameters.precision(params)
    if isinstance(residuals, Curve):
        residuals = [residuals.term]
    if callable(residuals):
        _check_hashable("The function", residuals)
        return [ResidualTerm(residuals, Points(None, np.asarray(1, dtype), np.asarray(1, dtype), np.asarray(1, dtype)))]
    if not isinstance(residuals, (list, tuple)) or not residuals:
        raise TypeError(
            f"residuals is {reprlib.repr(residuals)}; a list of terms (r, points) or a function r(params) is expected."
        )
    if isinstance(residuals, tuple) and callable(residuals[0]):
        raise TypeError("residuals is a single term; pass a list of terms: [(r, points)].")
    terms = [_term(number, given, params, dtype) for number, given in enumerate(residuals)]
    if not any(term.points.weight for term in terms):
        raise ValueError("The weights of all terms are zero; pass at least one positive weight.")
    return terms


def _term(number: int, given: Any, params: PyTree, dtype: np.dtype[Any]) -> ResidualTerm:
    sparse = isinstance(given, SparseTerm)
    parts = (given.residual, given.points, given.weight) if sparse else given
    if sparse and not callable(given.residual):
        raise TypeError(
            f"The residual of term {number} is {reprlib.repr(given.residual)}; a function residual(part, point) is "
            "expected."
        )
    if not isinstance(parts, (list, tuple)) or len(parts) not in (2, 3) or not callable(parts[0]):
        raise TypeError(
            f"Term {number} of the residuals is {reprlib.repr(given)}; (r, points), (r, points, weight) or "
            "hf.SparseTerm(...) is expected."
        )
    function, points, weight = (*parts, 1.0)[:3]
    _check_hashable(f"The function of term {number}", function)
    real = np.ndim(weight) == 0 and np.asarray(weight).dtype.kind in "biuf"
    if not real or not 0 <= float(weight) < math.inf:
        raise ValueError(f"Term {number} of the residuals has the weight {weight!r}; a finite number >= 0 is expected.")
    at = as_points(f"The points of term {number}", points, dtype)
    if not sparse:
        return ResidualTerm(function, _with(at, weight, dtype))
    seeing, rows = sighted(number, given, len(jax.tree.leaves(at)[0]), params)
    return ResidualTerm(seeing, _with((rows, at), weight, dtype))


def _with(at: PyTree, weight: Any, dtype: np.dtype[Any]) -> Points:
    """Points with a weight, deviations of 1 and a scale of 1; arrays, so that none is compiled as a constant."""
    one = np.ones((), dtype)
    return Points(at, np.asarray(weight, dtype), one, one)


def _check_hashable(name: str, function: Residual) -> None:
    try:
        hash(function)
    except TypeError as error:
        raise TypeError(
            f"{name} is a {type(function).__name__} that cannot be hashed, as compiled functions must be; wrap it in "
            "a function: def r(params, point): ..."
        ) from error


def as_points(what: str, given: Any, dtype: np.dtype[Any]) -> PyTree:
    """The points of a term as arrays; `what` are they, for messages."""
    try:
        points = parameters.as_data(given, dtype)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{what}: {error}") from error
    sizes = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in jax.tree.leaves(points)}
    if len(sizes) != 1 or sizes <= {None, 0}:
        raise ValueError(
            f"{what} are {parameters.shapes(points)}; pass arrays with the same number of points "
            "along their first axis, at least one."
        )
    if found := parameters.not_finite(points):
        first = next(leaf for leaf in map(np.asarray, jax.tree.leaves(points)) if not _finite(leaf).all())
        place = int((~_finite(first).reshape(len(first), -1).all(axis=1)).argmax())
        raise ValueError(f"{what} are not finite: {found}; the first is point {place}. Leave such points out.")
    return points


def _finite(leaf: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isfinite(leaf) if leaf.dtype.kind in "fc" else np.ones(leaf.shape, bool)


class TermKind(NamedTuple):
    """What a term returns, and how it can be differentiated."""

    shape: tuple[int, ...]  # of its residuals at all points
    forward: bool  # whether it has a forward mode
    reverse: bool  # whether it has a reverse mode


def check_term(number: int, function: Residual, at: PyTree, params: PyTree) -> TermKind:
    """What kind of term this is, found by tracing it once.

    Args:
        number: of the term, for messages.
        function: its residual.
        at: shapes of its points; None for a function of the parameters alone.
        params: shapes of the parameters.

    Raises:
        TypeError: if the function cannot be called with the parameters and a point, or does not return residuals.
        ValueError: if the residuals have a shape that cannot be meant.
    """
    name = name_of(function)
    try:
        mapped, given = (function, (params,)) if at is None else (jax.vmap(function, (None, 0)), (params, at))
        program, result = jax.make_jaxpr(mapped, return_shape=True)(*given)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        of_point = "" if at is None else " and one point"
        in_numpy = isinstance(error, jax.errors.TracerArrayConversionError)
        remedy = "\nWrite it with jax.numpy in place of numpy." if in_numpy else ""
        if isinstance(function, Seeing) and "none" in function.sights and "NoneType" in str(error):
            remedy = "\nA leaf of which a term sees nothing is None: see it, or leave it out of the residual."
        raise kind(f"Term {number}, {name}, cannot be called with the parameters{of_point}: {error}{remedy}") from error
    if not hasattr(result, "shape") or not np.issubdtype(result.dtype, np.floating):
        complex_ones = np.issubdtype(getattr(result, "dtype", None) or bool, np.complexfloating)
        remedy = "; stack the two parts: jnp.stack([r.real, r.imag])" if complex_ones else ""
        raise TypeError(
            f"Term {number}, {name}, returned {parameters.shapes(result)}; one array of real floats is expected"
            f"{remedy}."
        )
    precision = parameters.precision(params)
    if result.dtype != precision:
        raise TypeError(
            f"Term {number}, {name}, returned {parameters.shapes(result)}; residuals must be {precision}, like the "
            "parameters."
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
    plain = not contains(program.jaxpr, "custom_vjp_call", "custom_vjp_call_jaxpr")
    forward = plain or has_forward_mode(mapped, *given)
    reverse = not contains(program.jaxpr, "while") or _has_reverse_mode(number, function, at, params)
    return TermKind(tuple(result.shape), forward, reverse)


def _has_reverse_mode(number: int, function: Residual, at: PyTree, params: PyTree) -> bool:
    """Whether a term can be differentiated in reverse mode, which a `while_loop` over parameters prevents.

    Raises:
        TypeError: if it cannot be differentiated in forward mode either.
    """
    point = () if at is None else (jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), at),)
    try:
        jax.eval_shape(jax.jacrev(function), params, *point)
    except (TypeError, ValueError) as reverse:
        try:
            jax.eval_shape(jax.jacfwd(function), params, *point)
        except (TypeError, ValueError):
            raise TypeError(f"Term {number}, {name_of(function)}, cannot be differentiated: {reverse}") from reverse
        return False
    return True


def name_of(function: Residual) -> str:
    """What to call a residual in messages."""
    return getattr(function, "__name__", "r")


def with_deviations(terms: Sequence[ResidualTerm], sigma: Any, shapes: Sequence[tuple[int, ...]]) -> list[ResidualTerm]:
    """The terms with the standard deviations of their residuals.

    Args:
        terms: the terms.
        sigma: a number for all residuals; for a single term an array that broadcasts against its residuals; for
            several a list with one such entry, or None, for each. None for deviations of 1.
        shapes: of the residuals of each term.

    Raises:
        TypeError: if the deviations are not real numbers.
        ValueError: if they do not fit, or one is not positive and finite; the message names the term and the residual.
    """
    if sigma is None:
        return list(terms)
    one_each = isinstance(sigma, (list, tuple)) and len(terms) > 1
    if one_each and len(sigma) != len(terms):
        raise ValueError(f"sigma lists {len(sigma)} entries for {len(terms)} terms; give one, or None, for each term.")
    if not one_each and len(terms) > 1 and np.ndim(sigma):
        raise ValueError(f"sigma has shape {np.shape(sigma)} for {len(terms)} terms; pass a list with one entry each.")
    each = sigma if one_each else [sigma] * len(terms)
    triples = zip(terms, each, shapes, strict=True)
    return [_with_deviation(number, *triple) for number, triple in enumerate(triples)]


def _with_deviation(number: int, term: ResidualTerm, sigma: Any, shape: tuple[int, ...]) -> ResidualTerm:
    if sigma is None:
        return term
    given = np.asarray(sigma)
    if given.dtype.kind not in "iuf":
        raise TypeError(f"sigma of term {number} is {reprlib.repr(sigma)}; real numbers are expected.")
    try:
        given = laid_out(given, shape)
    except ValueError as error:
        raise ValueError(
            f"sigma of term {number} has shape {np.shape(sigma)}; a number is expected, or an array for its residuals, "
            f"of shape {shape}."
        ) from error
    bad = ~(np.isfinite(given) & (given > 0))
    if bad.any():
        first = np.unravel_index(int(bad.argmax()), given.shape)
        raise ValueError(
            f"sigma of term {number} is {given[first]} at {list(map(int, first))}, one of {int(bad.sum())} that are "
            "not positive and finite; leave out points that are not known, and measure the others' deviation above 0."
        )
    kind = np.result_type(term.points.weight)
    return term._replace(points=term.points._replace(sigma=by_points(given, term.points).astype(kind)))


def by_points(sigma: Any, points: Points) -> Any:
    """Deviations in the shape of the residuals as `Points` holds them."""
    return sigma if sigma.ndim == 0 or points.at is None else sigma.reshape(len(sigma), -1)


def laid_out(sigma: Any, shape: tuple[int, ...]) -> Any:
    """Deviations in the shape of the residuals, unless they are one number."""
    if sigma.ndim == 1 and len(shape) > 1 and len(sigma) == shape[0]:
        sigma = sigma.reshape(-1, *(1,) * (len(shape) - 1))  # one for each point
    if sigma.ndim == 0:
        return sigma
    return jnp.broadcast_to(sigma, shape) if isinstance(sigma, Array) else np.broadcast_to(sigma, shape)


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
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [rho.astype(np.float64) for rho in jax.device_get(_residuals(functions, params, inputs))]
        value = float(sum(0.5 * (rho**2).sum() for rho in parts))
    for number, rho in enumerate(parts):
        bad = ~np.isfinite(rho).all(axis=-1)
        if bad.any():
            name = name_of(functions.functions[number])
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
        if any(isinstance(term.function, Seeing) for term in terms):
            raise ValueError("resample needs terms (r, points): what the points of a SparseTerm see is fixed.")
        self.give, self.terms = give, terms

    def points(self, step: int, params: PyTree, inputs: Sequence[Points]) -> tuple[Points, ...]:
        """The points of a step, whatever the parameters; inputs are those of the last step.

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
            if points is None:
                found.append(inputs[number])
                continue
            new = as_points(f"The points of term {number}", points, np.result_type(term.points.weight))
            if not parameters.same_shapes(new, term.points.at):
                raise ValueError(
                    f"resample returned {parameters.shapes(new)} for term {number}; return the shapes of the start, "
                    f"{parameters.shapes(term.points.at)}: other shapes would be compiled again."
                )
            found.append(term.points._replace(at=new))
        return tuple(found)
