"""A fit beside its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeGuard

import jax
import numpy as np

from hessianfree.squares.curve import Curve
from hessianfree.squares.result import LeastSquaresResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Points that the curve is drawn through.
FINE = 400


def is_curve(result: Any) -> TypeGuard[LeastSquaresResult]:
    """Whether this is the fit of a curve y(x), with one x and one y."""
    curve = result.given if isinstance(result, LeastSquaresResult) else None
    if not isinstance(curve, Curve) or curve.y.ndim != 1:
        return False
    xs = jax.tree.leaves(curve.x)
    return len(xs) == 1 and np.ndim(xs[0]) == 1


def draw_curve(figure: Figure, result: LeastSquaresResult, level: float) -> None:
    """Draw data, fit and confidence band, and below them the residuals y - model."""
    curve = result.given
    x = np.asarray(jax.tree.leaves(curve.x)[0])
    fine = np.linspace(x.min(), x.max(), FINE)
    band = result.predict(jax.tree.unflatten(jax.tree.structure(curve.x), [fine]), level=level)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    above.plot(x, curve.y, ".", color="0.4", label="data")
    above.plot(fine, band.value, label="fit")
    if np.isfinite(band.stderr).all():
        above.fill_between(fine, band.lower, band.upper, alpha=0.3, label=f"{100 * level:g} % band")
    above.set(ylabel="y")
    above.legend()
    below.plot(x, -np.ravel(result.residuals()), ".", color="0.4")
    below.axhline(0, linewidth=0.8)
    below.set(xlabel="x", ylabel="y - fit")
