"""`hf.least_squares_batch`: many fits of one shape, by one compiled program."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import levenberg, many_fits
from hessianfree.engine.levenberg import CONVERGED, Status
from hessianfree.engine.many_fits import Fits
from hessianfree.engine.metrics import Metric
from hessianfree.engine.residuals import Points
from hessianfree.engine.searching import Box
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.curve import Curve
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options, raveled_like
from hessianfree.squares.records import converged_by
from hessianfree.squares.runs import NEXT_PATIENCE, PATIENCE
from hessianfree.squares.uncertainty import Uncertainty, uncertainties
from hessianfree.support import checks
from hessianfree.support.runtime import keep_compiled_programs

Floats = NDArray[np.floating[Any]]

#: Why a fit of many has ended, or not, without having converged.
UNCONVERGED = {
    Status.GOING: "not converged: all steps are done",
    Status.STUCK: "stuck: no step lowers the loss; the residuals may have a kink or noise there",
    Status.UNUSABLE: "the loss or its gradient is not finite",
}


@dataclass(frozen=True, eq=False, repr=False)
class BatchResult:
    """What `hf.least_squares_batch` returns; every array has the fits along its first axis, (M, ...).

    Attributes:
        params: the parameters, a pytree as given.
        value: the loss of each fit, (M,).
        status: why each fit ended, a `Status` as an integer, (M,); `reason(m)` says it in words.
        steps: steps of the run of each fit that counts, (M,).
        attempts: evaluations of the residuals in that run beside those of the Jacobian, (M,).
        scaled_gradient: the scale-free gradient before the last step, (M,).
    """

    params: PyTree
    value: Floats
    status: NDArray[np.int32]
    steps: NDArray[np.int32]
    attempts: NDArray[np.int32]
    scaled_gradient: Floats
    _problem: _Problem

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Which fits have converged, (M,)."""
        return np.isin(self.status, CONVERGED)

    def reason(self, number: int) -> str:
        """Why a fit ended, in words."""
        status = Status(int(self.status[number]))
        if status in UNCONVERGED:
            return UNCONVERGED[status]
        return converged_by(status, float(self.scaled_gradient[number]), self._problem.prepared.tolerances)

    def covariance(self, absolute_sigma: bool = False) -> Floats:
        """Covariance of the raveled parameters of each fit, (M, P, P); see `hf.LeastSquaresResult.covariance`."""
        return np.stack([known(absolute_sigma).covariance for known in self._uncertainties])

    def stderr(self, absolute_sigma: bool = False) -> PyTree:
        """Standard errors, a pytree like the parameters."""
        deviations = np.sqrt(np.diagonal(self.covariance(absolute_sigma), axis1=1, axis2=2))
        return parameters.unraveled(deviations, self._problem.first)

    @cached_property
    def _uncertainties(self) -> list[Callable[[bool], Uncertainty]]:
        problem = self._problem
        box = problem.box
        boxes = [None if box is None else Box(*_rows(box, m)) for m in range(len(self.value))]
        with parameters.computing(self.params):
            return list(uncertainties(problem.prepared, self.params, problem.inputs, problem.axes, boxes))

    def __repr__(self) -> str:
        return f"BatchResult(fits={len(self.value)}, converged={int(self.converged.sum())})"


def least_squares_batch(
    residuals: Any,
    params: PyTree,
    *,
    bounds: Any = None,
    fixed: PyTree | None = None,
    loss: str | Callable[..., Any] | None = None,
    scale: float = 1.0,
    sigma: Any = None,
    x_scale: Any = "auto",
    solver: str = "auto",
    max_steps: int = 1000,
    gtol: float | None = None,
    ftol: float | None = None,
    xtol: float | None = None,
) -> BatchResult:
    """Fit M data sets of one shape at once, each with its own steps, damping and end.

    Each fit is that of `hf.least_squares` on its own data, by one program for all of them.

    Args:
        residuals: a list of terms (r, points) or (r, points, weight), the leaves of the points (M, N, ...); or
            `hf.Curve(model, x, y)` with x and y (M, N, ...).
        params: where to start, leaves (M, ...).
        bounds: as in `hf.least_squares`, for the parameters of one fit; the same for all.
        fixed: likewise.
        loss: as in `hf.least_squares`.
        scale: likewise.
        sigma: standard deviations of the residuals of a single term: a number, or (M, N) or (M, N, d).
        x_scale: as in `hf.least_squares`, for the parameters of one fit.
        solver: "dense", "dual", "cg" or "auto"; see there.
        max_steps: limit on the steps of a run.
        gtol: as in `hf.least_squares`.
        ftol: likewise.
        xtol: likewise.

    Returns:
        Parameters, losses, reasons and standard errors of all fits. A fit that fails does not harm the others.

    Raises:
        TypeError, ValueError: as `hf.least_squares`, and if leaves differ in M.

    Example:
        >>> import hessianfree as hf
        >>> import jax.numpy as jnp
        >>> x = np.tile(np.linspace(0, 3, 20), (5, 1))
        >>> rates = np.arange(1.0, 6)[:, None]
        >>> curve = hf.Curve(lambda p, x: jnp.exp(-p * x), x, np.exp(-rates * x))
        >>> result = least_squares_batch(curve, np.ones(5))
        >>> result.params.round(6).tolist(), bool(result.converged.all())
        ([1.0, 2.0, 3.0, 4.0, 5.0], True)
    """
    keep_compiled_programs()
    checks.at_least("max_steps", max_steps, 1)
    options = Options(solver, None, None, bounds, None, loss, scale, None, x_scale, gtol, ftol, xtol)
    params = parameters.own(parameters.checked(params))
    parameters.check_finite(params)
    terms = [residuals.term] if isinstance(residuals, Curve) else residuals
    count = _count(terms, params)
    with parameters.computing(params):
        first = jax.tree.map(lambda leaf: np.asarray(leaf)[0], params)
        prepared = prepare(options, [_first(term) for term in terms], first).for_many
        inputs, axes = _inputs(terms, prepared, sigma, count, parameters.precision(params))
        starts = np.concatenate([np.asarray(leaf).reshape(count, -1) for leaf in jax.tree.leaves(params)], axis=1)
        box = _boxes(prepared.box, fixed, first, starts)
        starts = starts if box is None else np.clip(starts, box.lower, box.upper)
        problem = _Problem(prepared, first, inputs, axes, box, starts)
        with prepared.threads():
            fits = problem.solved(max_steps)
        return BatchResult(
            params=parameters.returned(fits.params, fits.params),
            value=0.5 * np.asarray(fits.root) ** 2,
            status=np.asarray(fits.status),
            steps=np.asarray(fits.steps),
            attempts=np.asarray(fits.attempts),
            scaled_gradient=np.asarray(fits.scaled_gradient),
            _problem=problem,
        )


class _Problem(NamedTuple):
    """The data of all fits."""

    prepared: Prepared
    first: PyTree  # the start of the first fit
    inputs: tuple[Points, ...]
    axes: tuple[Points, ...]  # 0 for what differs from fit to fit, None for what does not
    box: Box | None
    starts: Floats  # (M, P)

    def solved(self, limit: int) -> Fits:
        """All fits, each in the metric that serves it best, within so many steps of a run."""
        everything = np.arange(len(self.starts))
        again = self.prepared.may_begin_again
        begun = self._begun(everything, self.prepared.metric)
        fits = self._run(everything, begun, min(PATIENCE, limit) if again else limit)
        for metric in (Metric.SIZES, Metric.UNITS) if again else ():
            rest = np.flatnonzero(~_ended_well(fits))
            if len(rest):
                tried = self._run(rest, self._begun(rest, metric), min(NEXT_PATIENCE, limit))
                better = np.asarray(tried.root) < np.asarray(fits.root)[rest]
                fits = _replaced(fits, rest[better], _rows(tried, np.flatnonzero(better)))
        going = np.flatnonzero((np.asarray(fits.status) == Status.GOING) & (np.asarray(fits.steps) < limit))
        return _replaced(fits, going, self._run(going, _rows(fits, going), limit)) if len(going) else fits

    def _begun(self, rows: NDArray[Any], metric: Metric) -> Fits:
        """Some of the fits before their first step."""
        theta, size = self.starts[rows], len(rows)
        state = levenberg.init(theta[0], None, metric, self.prepared.units)
        many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (size, *np.shape(leaf))), state)
        zero, none = np.zeros(size, np.int32), np.zeros(size, theta.dtype)
        params = parameters.unraveled(theta, self.first)
        begun = many._replace(sizes=np.abs(theta))
        return Fits(params, begun, zero, none + np.nan, none, np.zeros(size, bool), zero, zero)

    def _run(self, rows: NDArray[Any], fits: Fits, limit: int) -> Fits:
        """Step with some of the fits from where they are."""
        prepared = self.prepared
        # Repeated up to a power of two: few shapes, and so few compilations.
        room = len(rows) if len(rows) == len(self.starts) else 1 << (len(rows) - 1).bit_length()
        places = np.resize(np.arange(len(rows)), room)
        inputs = tuple(
            points._replace(
                at=_rows(points.at, rows[places]),
                sigma=np.asarray(points.sigma)[rows[places]] if np.ndim(points.sigma) else points.sigma,
            )
            for points in self.inputs
        )
        box = None if self.box is None else _rows(self.box, rows[places])
        arguments = prepared.form, prepared.functions, _rows(fits, places), inputs, self.axes, box, prepared.tolerances
        return _rows(jax.device_get(many_fits.solved(*arguments, limit)), np.arange(len(rows)))


def _rows(tree: PyTree, rows: NDArray[Any] | int) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def _replaced(fits: Fits, rows: NDArray[Any], by: Fits) -> Fits:
    """Some of the fits replaced."""

    def put(leaf: Any, new: Any) -> Any:
        array = np.array(leaf)
        array[rows] = new
        return array

    return jax.tree.map(put, fits, by)


def _ended_well(fits: Fits) -> NDArray[np.bool_]:
    return np.isin(fits.status, CONVERGED) & ~np.asarray(fits.degenerate)


def _count(terms: Any, params: PyTree) -> int:
    """M, the same for all leaves."""
    if not isinstance(terms, (list, tuple)) or not all(isinstance(t, (list, tuple)) and len(t) > 1 for t in terms):
        raise TypeError(
            f"residuals is {reprlib.repr(terms)}; a batch of fits needs a list of terms (r, points), or "
            "hf.Curve(model, x, y). A hf.SparseTerm of all fits together goes to hf.least_squares."
        )
    leaves = [*jax.tree.leaves(params), *(leaf for term in terms for leaf in jax.tree.leaves(term[1]))]
    counts = {np.shape(leaf)[0] if np.ndim(leaf) else None for leaf in leaves}
    if len(counts) != 1 or counts <= {None, 0}:
        raise ValueError(
            f"The leaves of parameters and points have first axes of {sorted(map(str, counts))}; the fits, the same "
            "number for all of them, are expected there."
        )
    return int(next(iter(counts)) or 0)


def _first(term: Any) -> Any:
    """A term with the points of the first fit."""
    return (term[0], jax.tree.map(lambda leaf: np.asarray(leaf)[0], term[1]), *term[2:])


def _inputs(
    terms: Any, prepared: Prepared, sigma: Any, count: int, dtype: np.dtype[Any]
) -> tuple[tuple[Points, ...], tuple[Points, ...]]:
    """Points of all fits, and which of their leaves differ from fit to fit."""
    if sigma is not None and len(terms) > 1:
        raise ValueError("sigma goes with a single term; divide the residuals of several by their deviations.")
    deviations = np.ones((), dtype) if sigma is None else np.asarray(sigma, dtype)
    shape = (count, *prepared.shapes[0])
    if deviations.ndim:
        if deviations.shape != shape[: deviations.ndim]:
            raise ValueError(f"sigma has shape {deviations.shape}; a number or {shape} is expected.")
        spread = deviations.reshape(deviations.shape + (1,) * (len(shape) - deviations.ndim))
        deviations = np.broadcast_to(spread, shape).reshape(*shape[:2], -1)
    if not (np.isfinite(deviations) & (deviations > 0)).all():
        raise ValueError("sigma must be positive and finite for every residual.")
    inputs, axes = [], []
    for number, (term, known) in enumerate(zip(terms, prepared.terms, strict=True)):
        at = parameters.as_data(term[1], dtype)
        if found := parameters.not_finite(at):
            raise ValueError(
                f"The points of term {number} are not finite: {found}. Leave those fits out, or put finite numbers "
                "there and a large sigma."
            )
        inputs.append(known.points._replace(at=at, sigma=deviations))
        axes.append(Points(0, None, 0 if deviations.ndim else None, None))  # type: ignore[arg-type]
    return tuple(inputs), tuple(axes)


def _boxes(box: Box | None, fixed: PyTree | None, first: PyTree, starts: Floats) -> Box | None:
    """Bounds of every fit, (M, P)."""
    if box is None and fixed is None:
        return None
    held = np.zeros(starts.shape[1], bool) if fixed is None else raveled_like("fixed", fixed, first, False)
    limits = (-np.inf, np.inf) if box is None else box
    lower, upper = (np.where(held, starts, np.broadcast_to(side, starts.shape)) for side in limits)
    return Box(lower, upper)
