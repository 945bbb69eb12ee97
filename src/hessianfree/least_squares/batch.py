"""`hf.least_squares_batch`: many fits of one shape, by one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from hessianfree.engine import levenberg
from hessianfree.engine.compilation import precise
from hessianfree.engine.levenberg import Box, Status
from hessianfree.engine.many_fits import Fits, solved
from hessianfree.engine.metrics import Metric
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import PyTree
from hessianfree.least_squares.curve import Curve
from hessianfree.least_squares.forms import Prepared, prepare
from hessianfree.least_squares.options import Options, raveled_like
from hessianfree.least_squares.records import CONVERGED
from hessianfree.least_squares.solve import NEXT_PATIENCE, PATIENCE
from hessianfree.objective import parameters
from hessianfree.support import checks

Floats = NDArray[np.floating[Any]]

REASONS = {
    Status.GOING: "not converged: all steps are done",
    Status.GRADIENT: "converged: the scale-free gradient is within gtol",
    Status.CHANGE: "converged: the last step changed loss and parameters by less than ftol and xtol, relatively",
    Status.PRECISION: "converged: the limit of precision is reached, and what is left to gain is lost in rounding",
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
        steps: steps of each fit, (M,), over all of its runs.
        attempts: evaluations of the residuals beside those of the Jacobian, (M,).
        covariance: of the raveled parameters of each fit, (M, P, P); infinite for those that data do not determine.
    """

    params: PyTree
    value: Floats
    status: NDArray[np.int32]
    steps: NDArray[np.int32]
    attempts: NDArray[np.int32]
    covariance: Floats

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Which fits have converged, (M,)."""
        return np.isin(self.status, [int(status) for status in CONVERGED])

    def reason(self, number: int) -> str:
        """Why a fit ended, in words."""
        return REASONS[Status(int(self.status[number]))]

    def stderr(self) -> PyTree:
        """Standard errors, a pytree like the parameters."""
        deviations = np.sqrt(np.diagonal(self.covariance, axis1=1, axis2=2))
        leaves, structure = jax.tree.flatten(self.params)
        cuts = np.cumsum([leaf[0].size for leaf in leaves])[:-1]
        parts = zip(np.split(deviations, cuts, axis=1), leaves, strict=True)
        return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in parts])

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
        Parameters, losses, reasons and covariances of all fits. A fit that fails does not harm the others.

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
    checks.at_least("max_steps", max_steps, 1)
    options = Options(solver, None, None, bounds, None, loss, scale, None, x_scale, gtol, ftol, xtol)
    params = parameters.own(parameters.checked(params))
    parameters.check_finite(params)
    terms = [residuals.term] if isinstance(residuals, Curve) else residuals
    count = _count(terms, params)
    with parameters.computing(params):
        first = jax.tree.map(lambda leaf: np.asarray(leaf)[0], params)
        prepared = prepare(options, [_first(term) for term in terms], first)
        inputs, axes = _inputs(terms, prepared, sigma, count)
        starts = np.concatenate([np.asarray(leaf).reshape(count, -1) for leaf in jax.tree.leaves(params)], axis=1)
        box = _boxes(prepared.box, fixed, first, starts)
        if box is not None:
            starts = np.clip(starts, box.lower, box.upper)
        problem = _Problem(prepared, ravel_pytree(first)[1], inputs, axes, box, starts)
        with prepared.threads():
            fits = problem.run(np.arange(count), prepared.metric, max_steps if not prepared.few else PATIENCE)
            if prepared.few and prepared.metric == Metric.NORMS:
                fits = problem.improved(fits, max_steps)
            return _result(problem, fits)


class _Problem:
    """The data of all fits."""

    def __init__(
        self,
        prepared: Prepared,
        unravel: Callable[[Array], PyTree],
        inputs: tuple[Points, ...],
        axes: tuple[Points, ...],
        box: Box | None,
        starts: Floats,
    ) -> None:
        self.prepared, self.unravel, self.inputs, self.axes = prepared, unravel, inputs, axes
        self.box, self.starts = box, starts

    def run(self, chosen: NDArray[Any], metric: Metric, limit: int, before: Fits | None = None) -> Fits:
        """Run some of the fits, from their start or from where they were."""
        prepared = self.prepared
        # Repeated up to a power of two: few shapes, and so few compilations.
        room = len(chosen) if len(chosen) == len(self.starts) else 1 << (len(chosen) - 1).bit_length()
        rows = np.resize(chosen, room)
        fits = self._begun(rows, metric) if before is None else _rows(before, rows)
        inputs = tuple(
            jax.tree.map(lambda leaf, axis: leaf if axis is None else leaf[rows], points, axis, is_leaf=_is_none)
            for points, axis in zip(self.inputs, self._full_axes(), strict=True)
        )
        box = None if self.box is None else _rows(self.box, rows)
        arguments = prepared.form, prepared.functions, fits, inputs, self.axes, box, prepared.tolerances
        return _rows(jax.device_get(solved(*arguments, limit)), np.arange(len(chosen)))

    def improved(self, fits: Fits, limit: int) -> Fits:
        """Begin again, in the other metrics, with fits that have not ended well; the best of each counts."""
        for metric in (Metric.SIZES, Metric.UNITS):
            open_ones = np.flatnonzero(~_ended_well(fits))
            if not len(open_ones):
                return fits
            again = self.run(open_ones, metric, min(NEXT_PATIENCE, limit))
            better = np.asarray(again.root) < np.asarray(fits.root)[open_ones]
            fits = _replaced(fits, open_ones[better], _rows(again, np.flatnonzero(better)))
        going = np.flatnonzero((np.asarray(fits.status) == Status.GOING) & (np.asarray(fits.steps) < limit))
        if not len(going):
            return fits
        return _replaced(fits, going, self.run(going, Metric.OPEN, limit, fits))

    def _begun(self, rows: NDArray[Any], metric: Metric) -> Fits:
        theta, size = self.starts[rows], len(rows)
        state = levenberg.init(theta[0], None, metric, self.prepared.units)
        many = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (size, *np.shape(leaf))), state)
        zero, none = np.zeros(size, np.int32), np.zeros(size, theta.dtype)
        params = jax.vmap(self.unravel)(theta)
        begun = many._replace(sizes=np.abs(theta))
        return Fits(params, begun, zero, none + np.nan, none, np.zeros(size, bool), zero, zero)

    def _full_axes(self) -> tuple[Points, ...]:
        """The axes as pytrees of the inputs' own structure."""
        return tuple(
            Points(jax.tree.map(lambda _: 0, points.at), *axis[1:])
            for points, axis in zip(self.inputs, self.axes, strict=True)
        )


def _is_none(leaf: Any) -> bool:
    return leaf is None


def _rows(tree: PyTree, rows: NDArray[Any]) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], tree)


def _replaced(fits: Fits, rows: NDArray[Any], by: Fits) -> Fits:
    """Some of the fits replaced."""

    def put(leaf: Any, new: Any) -> Any:
        array = np.array(leaf)
        array[rows] = new
        return array

    return jax.tree.map(put, fits, by)


def _ended_well(fits: Fits) -> NDArray[np.bool_]:
    return np.isin(fits.status, [int(status) for status in CONVERGED]) & ~np.asarray(fits.degenerate)


def _count(terms: Any, params: PyTree) -> int:
    """M, the same for all leaves."""
    if not isinstance(terms, (list, tuple)) or not all(isinstance(t, (list, tuple)) and len(t) > 1 for t in terms):
        raise TypeError("A batch of fits needs a list of terms (r, points), or hf.Curve(model, x, y).")
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


def _inputs(terms: Any, prepared: Prepared, sigma: Any, count: int) -> tuple[tuple[Points, ...], tuple[Points, ...]]:
    """Points of all fits, and which of their leaves differ from fit to fit."""
    dtype = prepared.tolerances.gradient.dtype  # type: ignore[union-attr]
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
            raise ValueError(f"The points of term {number} are not finite: {found}.")
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


def _result(problem: _Problem, fits: Fits) -> BatchResult:
    prepared = problem.prepared
    theta = np.concatenate(
        [np.asarray(leaf).reshape(len(problem.starts), -1) for leaf in jax.tree.leaves(fits.params)], 1
    )
    free = np.ones(theta.shape, bool)
    if problem.box is not None:
        free = (theta > problem.box.lower) & (theta < problem.box.upper)
    plain = Residuals(prepared.functions.functions, None, prepared.functions.forward)
    J = np.asarray(_jacobians(plain, problem.axes, fits.params, problem.inputs))
    residuals = sum(int(np.prod(shape)) for shape in prepared.shapes)
    covariance = _covariances(J * free[:, None], free, np.asarray(fits.root), residuals)
    return BatchResult(
        params=parameters.returned(fits.params, fits.params),
        value=0.5 * np.asarray(fits.root) ** 2,
        status=np.asarray(fits.status),
        steps=np.asarray(fits.steps),
        attempts=np.asarray(fits.attempts),
        covariance=covariance,
    )


def _covariances(J: Floats, free: NDArray[np.bool_], root: Floats, residuals: int) -> Floats:
    """The matrices s^2 (J'J)^-1 of all fits, s^2 = |rho|^2 / (n - p); 0 where a parameter is held."""
    usable = np.isfinite(J).all(axis=(1, 2)) & np.isfinite(root)
    J = np.where(usable[:, None, None], J, 0)
    norms = np.linalg.norm(J, axis=1)
    scales = np.where(norms > 0, norms, 1)
    _, S, Vt = np.linalg.svd(J / scales[:, None], full_matrices=False)
    limit = max(J.shape[1:]) * np.finfo(J.dtype).eps * S[:, :1]
    half = Vt * np.where(limit < S, 1 / np.where(S > 0, S, 1), 0)[..., None] / scales[:, None]
    degrees = residuals - free.sum(axis=1)
    with np.errstate(all="ignore"):
        variance = np.where(degrees > 0, root**2 / np.maximum(degrees, 1), np.inf)
        found = np.swapaxes(half, 1, 2) @ half * variance[:, None, None]
    lost = free & ((norms == 0) | ((limit < S).sum(axis=1) < free.sum(axis=1))[:, None])
    found[lost[:, :, None] & np.eye(J.shape[2], dtype=bool)] = np.inf
    return np.where((free[:, :, None] & free[:, None]), found, 0)


def _each_jacobian(residuals: Residuals, axes: Any, params: PyTree, inputs: Any) -> Array:
    def one(p: PyTree, data: Any) -> Array:
        theta, unravel = ravel_pytree(p)
        return residuals.jacobian(unravel, theta, data)[1]

    return jax.vmap(one, (0, axes))(params, inputs)


_jacobians = precise(_each_jacobian, static_argnums=(0, 1))
