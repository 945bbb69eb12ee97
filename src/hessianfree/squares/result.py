"""What a least-squares fit says: parameters, their covariance, predictions and a summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from hessianfree.engine import reprs
from hessianfree.engine.compilation import precise
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.curve import Curve
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options
from hessianfree.squares.records import name_of_entry
from hessianfree.squares.uncertainty import Uncertainty, checked_data, uncertainty
from hessianfree.support.tables import text_table
from hessianfree.training.results import Result

Floats = NDArray[np.floating[Any]]


class Prediction(NamedTuple):
    """A model at some points, and how well the fit knows it there; each (N,) or (N, d)."""

    value: Floats
    stderr: Floats
    lower: Floats  # of the confidence band
    upper: Floats

    def __repr__(self) -> str:
        return reprs.fields(self)


@dataclass(frozen=True, eq=False, repr=False)
class LeastSquaresResult(Result):
    """What `hf.least_squares` returns: a `Result` that also knows the uncertainty of its parameters.

    Attributes:
        given: the residuals of the fit.
        options: its options.
    """

    given: Any = None
    options: Options = Options()  # noqa: RUF009  # it holds nothing that changes

    @classmethod
    def of(cls, result: Result, given: Any, options: Options) -> LeastSquaresResult:
        """The result of a run."""
        values = {field.name: getattr(result, field.name) for field in fields(Result)}
        return cls(**values, given=given, options=options)

    @property
    def converged(self) -> bool:
        """Whether the run ended because it was done: `reason` says by which test."""
        return self.reason.startswith(("converged", "the target error"))

    @property
    def value(self) -> float:
        """The loss at `params`; with resampled points that of the last step."""
        return self.best_error if self.params is self.best_params else super().value

    def __repr__(self) -> str:
        return self._line("step", f"value {self.value:.4g}")

    def covariance(self, absolute_sigma: bool = False, data: int | Sequence[int] | None = None) -> PyTree:
        """Covariance of the parameters, C = s^2 (J'J)^-1 with the variance s^2 of the residuals that are left.

        Where only some terms are measured data and the others hold exactly, as differential equations do, pass `data`.
        Noise then enters by the data alone, C = s^2 (J'J)^-1 J_d'J_d (J'J)^-1 with J_d their rows of J, and s^2 is
        their variance. Otherwise the points of an equation count as measurements, and errors are too small. The
        covariance is that of the linear model at the end of the fit.

        Args:
            absolute_sigma: whether `sigma` holds true deviations. Then s^2 is 1; otherwise only ratios of sigma matter.
            data: number of the term that is measured, or a list of such; None if all terms are. Several measured terms
                have one variance of unit weight.

        Returns:
            (P, P) for parameters in one array, else a pytree of pytrees as `jax.hessian` returns it. Parameters that
            are fixed or held at a bound have zeros, those that data do not determine an infinite variance.

        Raises:
            ValueError: if the Jacobian does not fit in memory, or there is no term of this number.
        """
        columns = parameters.unraveled(self._known(absolute_sigma, data).covariance, self.params)
        # Symmetric: the columns of one leaf, with their long axis last, are its rows.
        return jax.tree.map(lambda block: parameters.unraveled(np.moveaxis(block, 0, -1), self.params), columns)

    def stderr(self, absolute_sigma: bool = False, data: int | Sequence[int] | None = None) -> PyTree:
        """Standard errors of the parameters, a pytree like them; see `covariance`."""
        deviations = np.sqrt(np.diag(self._known(absolute_sigma, data).covariance))
        return parameters.unraveled(deviations, self.params)

    @property
    def rank(self) -> int:
        """How many directions of the free parameters change the residuals."""
        return self._known(False).rank

    @property
    def undetermined(self) -> list[str]:
        """Names of the parameters that the data do not determine."""
        places = np.flatnonzero(self._known(False).undetermined)
        return [name_of_entry(self.params, int(place)) for place in places]

    def residuals(self) -> Any:
        """The residuals as your functions return them: an array of all points, or a list of such for several terms."""
        with parameters.computing(self.params):
            prepared = self._prepared
            parts = [
                jax.device_get(_mapped(term.function, self.params, term.points.at)).reshape(shape)
                for term, shape in zip(prepared.terms, prepared.shapes, strict=True)
            ]
        return parts[0] if len(parts) == 1 else parts

    def predict(self, x: PyTree, model: Any = None, level: float = 0.95) -> Prediction:
        """The model at some points, with its confidence band: value +- t sqrt(g'C g), g its gradient by the parameters.

        Args:
            x: a pytree of arrays (M, ...), as in `hf.Curve`.
            model: model(params, x) of one point; that of `hf.Curve` by default.
            level: of the band, between 0 and 1.

        Returns:
            Value, standard error and band, (M,) or (M, d). The band holds for the curve, not for new data.

        Raises:
            TypeError: if the fit was not given by a `hf.Curve`, and no model is passed.
        """
        from scipy.stats import t

        if model is None and not isinstance(self.given, Curve):
            raise TypeError(
                "This fit knows residuals, but no model; fit hf.Curve(model, x, y), or pass predict(x, model)."
            )
        if not 0 < level < 1:
            raise ValueError(f"level is {level!r}; a number between 0 and 1 is expected.")
        chosen = self.given.model if model is None else model
        known = self._known(False)
        with parameters.computing(self.params):
            points = parameters.as_data(x, parameters.precision(self.params))
            value, slopes = jax.device_get(_value_and_slopes(chosen, self.params, points))
        C = np.where(np.isnan(known.covariance), 0, known.covariance)
        with np.errstate(invalid="ignore"):
            spread = np.einsum("...i,ij,...j->...", slopes, np.where(np.isinf(C), 0, C), slopes)
        unknown = (slopes[..., known.undetermined] != 0).any(axis=-1)
        stderr = np.where(unknown, np.inf, np.sqrt(spread)).reshape(value.shape)
        width = (t.ppf(0.5 + level / 2, known.degrees) if known.degrees > 0 else np.inf) * stderr
        return Prediction(value, stderr, value - width, value + width)

    def summary(self) -> str:
        """A table of the parameters with their standard errors, and how the run ended."""
        known, theta = self._known(False), parameters.raveled(self.params)
        deviations = np.sqrt(np.diag(known.covariance))
        rows = [("parameter", "value", "standard error", "")]
        for place, (value, deviation) in enumerate(zip(theta, deviations, strict=True)):
            note = "undetermined" if known.undetermined[place] else "held" if known.held[place] else ""
            error = "" if note else f"{deviation:.3g}"
            rows.append((name_of_entry(self.params, place), f"{value:.8g}", error, note))
        lines = text_table(rows)
        free = int((~known.held).sum())
        lines.append(
            f"{known.degrees} degrees of freedom, standard deviation of a residual of unit weight "
            f"{np.sqrt(known.variance * self._count):.4g}, rank {known.rank} of {free}"
        )
        return "\n".join([*lines, self.reason])

    @property
    def _count(self) -> int:
        """What the variance of rho is multiplied by for that of a residual; 1 where several terms differ in it."""
        shapes = self._prepared.shapes
        return shapes[0][0] if len(shapes) == 1 else 1

    @cached_property
    def _prepared(self) -> Prepared:
        with parameters.computing(self.params):
            return prepare(self.options, self.given, self.params)

    @cached_property
    def _uncertainties(self) -> dict[tuple[bool, tuple[int, ...] | None], Uncertainty]:
        return {}

    def _known(self, absolute_sigma: bool, data: int | Sequence[int] | None = None) -> Uncertainty:
        measured = checked_data(data, len(self._prepared.shapes))
        if (absolute_sigma, measured) not in self._uncertainties:
            with parameters.computing(self.params):
                found = uncertainty(self._prepared, self.params, absolute_sigma, measured)
                self._uncertainties[absolute_sigma, measured] = found
        return self._uncertainties[absolute_sigma, measured]


def _every(function: Any, params: PyTree, at: PyTree) -> Any:
    return function(params) if at is None else jax.vmap(function, (None, 0))(params, at)


def _with_slopes(model: Any, params: PyTree, x: PyTree) -> tuple[Any, Any]:
    """The model at all points, (M, ...), and its derivatives by the raveled parameters, (M, ..., P)."""
    theta, unravel = ravel_pytree(params)
    at = lambda t: jax.vmap(lambda point: model(unravel(t), point))(x)  # noqa: E731
    return at(theta), jax.jacfwd(at)(theta)


_mapped = precise(_every, static_argnums=0)
_value_and_slopes = precise(_with_slopes, static_argnums=0)
