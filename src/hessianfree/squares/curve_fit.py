"""`hf.curve_fit`: the signature and the return values of SciPy's, for functions in jax.numpy."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from numpy.typing import ArrayLike, NDArray

from hessianfree.squares.result import LeastSquaresResult
from hessianfree.squares.solve import least_squares

#: What SciPy's solvers call their options, and what they are called here.
RENAMED = {"f_scale": "scale", "max_nfev": "max_steps", "maxfev": "max_steps"}
PASSED_ON = ("ftol", "xtol", "gtol", "loss", "x_scale", *RENAMED)
METHODS = (None, "lm", "trf", "dogbox")


@dataclass(frozen=True)
class _Whole:
    """The residuals f(xdata, *params) - ydata as one point; equal for equal functions, so that it is compiled once."""

    function: Callable[..., Any]

    def __call__(self, params: Array, point: dict[str, Array]) -> Array:
        rest = jnp.ravel(jnp.asarray(self.function(point["x"], *params)) - point["y"])
        return rest if "root" not in point else solve_triangular(point["root"], rest, lower=True)

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", "f")


def curve_fit(
    f: Callable[..., Any],
    xdata: ArrayLike,
    ydata: ArrayLike,
    p0: ArrayLike | None = None,
    sigma: ArrayLike | None = None,
    absolute_sigma: bool = False,
    check_finite: bool | None = None,
    bounds: Any = (-np.inf, np.inf),
    method: str | None = None,
    jac: Any = None,
    *,
    full_output: bool = False,
    nan_policy: str | None = None,
    **kwargs: Any,
) -> tuple[Any, ...]:
    """Fit f(xdata, *params) to ydata by least squares, as `scipy.optimize.curve_fit` does.

    Minimises sum_i ((f(x_i, *p) - y_i) / sigma_i)^2 in float64 by `hf.least_squares`, with exact derivatives.

    Args:
        f: f(xdata, p1, p2, ...) in jax.numpy, (M,).
        xdata: where the data were taken, (M,) or (k, M).
        ydata: the data, (M,).
        p0: where to start, (P,). By default ones, moved inside the bounds where they are finite.
        sigma: standard deviations of the data, (M,) or a number, or their covariance matrix, (M, M).
        absolute_sigma: whether sigma holds true deviations; otherwise only their ratios matter.
        check_finite: whether to raise if data are not finite; True by default.
        bounds: (lower, upper), each a number or (P,).
        method: None, "lm", "trf" or "dogbox", all with the same meaning here.
        jac: not needed: derivatives are exact. A function or a name is accepted, and not used.
        full_output: whether to return infodict, mesg and ier too.
        nan_policy: "raise", or "omit" to leave out data that are NaN.
        kwargs: `ftol`, `xtol`, `gtol`, `loss`, `f_scale`, `x_scale`, `max_nfev` or `maxfev`.

    Returns:
        popt (P,) and pcov (P, P), in numpy; with `full_output` also a dict with `nfev` and `fvec`, a message, and a
        number from 1 to 4 if the fit has converged.

    Raises:
        RuntimeError: if the fit has not converged; the message says why.
        ValueError: if data are not finite or empty, or shapes do not fit.
        TypeError: if there is no such option, or f is not written in jax.numpy.

    Example:
        >>> x = np.linspace(0, 4, 50)
        >>> def decay(x, a, k):
        ...     return a * jnp.exp(-k * x)
        >>> popt, pcov = curve_fit(decay, x, 2.5 * np.exp(-1.3 * x))
        >>> popt.round(6).tolist()
        [2.5, 1.3]
    """
    x, y, deviations = _data(xdata, ydata, sigma, check_finite is not False, nan_policy)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {', '.join(map(repr, METHODS))}.")
    if unknown := sorted(set(kwargs) - set(PASSED_ON)):
        raise TypeError(f"There are no options {unknown} here; those that are: {', '.join(PASSED_ON)}.")
    options = {RENAMED.get(name, name): value for name, value in kwargs.items() if value is not None}
    start = _start(f, p0, bounds)
    point = {"x": x[None], "y": y[None]}
    if deviations is not None and deviations.ndim == 2:
        point["root"] = _root(deviations)[None]
        deviations = None
    result = least_squares(
        [(_Whole(f), point)],
        start,
        bounds=None if _unbounded(bounds) else bounds,
        sigma=None if deviations is None else np.broadcast_to(deviations, y.shape)[None],
        **options,
    )
    if not result.converged:
        raise RuntimeError(f"Optimal parameters not found: {result.reason}.")
    covariance = np.asarray(result.covariance(absolute_sigma))
    if not np.isfinite(covariance).all():
        from scipy.optimize import OptimizeWarning

        names = ", ".join(result.undetermined) or "all of them"
        warnings.warn(
            f"Covariance of the parameters could not be estimated: the data do not determine {names}.",
            OptimizeWarning,
            stacklevel=2,
        )
        covariance = np.full_like(covariance, np.inf)
    found = np.asarray(result.params)
    return (found, covariance, *_details(result)) if full_output else (found, covariance)


def _details(result: LeastSquaresResult) -> tuple[dict[str, Any], str, int]:
    evaluations = int(result.history["attempts"].sum()) + 1
    ier = 4 if "gradient" in result.reason else 3
    return {"nfev": evaluations, "fvec": np.ravel(result.residuals())}, result.reason, ier


def _data(
    xdata: Any, ydata: Any, sigma: Any, check_finite: bool, nan_policy: str | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    """The data in float64, without those that are to be left out."""
    if nan_policy not in (None, "raise", "omit"):
        raise ValueError(f"nan_policy is {nan_policy!r}; 'raise' or 'omit' is expected.")
    x, y = np.asarray(xdata), np.asarray(ydata)
    if y.dtype.kind == "c" or x.dtype.kind == "c":
        raise ValueError("The data are complex; stack real and imaginary parts: np.concatenate([y.real, y.imag]).")
    x, y = x.astype(float), y.astype(float).ravel()
    deviations = None if sigma is None else np.asarray(sigma, float)
    if y.size == 0:
        raise ValueError("ydata must not be empty.")
    if deviations is not None and deviations.shape not in ((), (1,), y.shape, (y.size, y.size)):
        raise ValueError(f"sigma has shape {deviations.shape}; ({y.size},) or ({y.size}, {y.size}) is expected.")
    known = ~np.isnan(y)
    if x.shape[-1:] == y.shape:
        known &= ~np.isnan(x.reshape(-1, y.size)).any(axis=0)
    if nan_policy == "omit" and not known.all():
        x, y = (x[..., known] if x.shape[-1:] == known.shape else x), y[known]
        if deviations is not None and deviations.size > 1:
            deviations = deviations[known] if deviations.ndim == 1 else deviations[np.ix_(known, known)]
    if check_finite or nan_policy == "raise":
        for name, array in (("xdata", x), ("ydata", y)):
            if (bad := ~np.isfinite(array)).any():
                first = [int(i) for i in np.argwhere(bad)[0]]
                raise ValueError(
                    f"{name} is not finite at {int(bad.sum())} places, the first at index {first}; leave these points "
                    "out."
                )
    return x, y, deviations


def _start(f: Callable[..., Any], p0: Any, bounds: Any) -> NDArray[Any]:
    if p0 is not None:
        return np.atleast_1d(np.asarray(p0)).astype(float)
    names = list(inspect.signature(f).parameters.values())
    if len(names) < 2 or any(name.kind == name.VAR_POSITIONAL for name in names):
        raise ValueError("The number of parameters cannot be told from f; pass p0.")
    lower, upper = (np.broadcast_to(np.asarray(side, float), len(names) - 1) for side in bounds)
    both = np.isfinite(lower) & np.isfinite(upper)
    with np.errstate(invalid="ignore"):
        one_side = np.where(np.isfinite(lower), lower + 1, np.where(np.isfinite(upper), upper - 1, 1))
        return np.where(both, 0.5 * (lower + upper), one_side)


def _unbounded(bounds: Any) -> bool:
    return all(bool(np.isinf(np.asarray(side, float)).all()) for side in bounds)


def _root(covariance: NDArray[Any]) -> NDArray[Any]:
    """The lower Cholesky factor of the data's covariance."""
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError as error:
        raise ValueError("sigma is a matrix that is not positive definite; covariances are.") from error
