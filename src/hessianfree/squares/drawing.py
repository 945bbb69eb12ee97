"""`hf.plot`: a fit beside its data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from hessianfree.squares.curve import Curve
from hessianfree.squares.result import LeastSquaresResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Points that the curve is drawn through.
FINE = 400


def plot(result: Any, level: float = 0.95) -> Figure:
    """Draw data, fit and confidence band of a curve y(x), and below them the residuals y - model.

    Args:
        result: of `hf.least_squares` with a `hf.Curve` of one x and one y.
        level: of the band.

    Returns:
        A figure that belongs to nobody yet: `figure.savefig("fit.png")`; notebooks show it.

    Raises:
        TypeError: if the result is not that of a curve with one x and one y.

    Example:
        >>> import hessianfree as hf
        >>> x = np.linspace(0, 3, 20)
        >>> result = hf.least_squares(hf.Curve(lambda p, x: p[0] * x + p[1], x, 2 * x + 1), np.ones(2))
        >>> plot(result).axes[0].get_ylabel()
        'y'
    """
    from matplotlib.figure import Figure

    curve = result.given if isinstance(result, LeastSquaresResult) else None
    xs = jax.tree.leaves(curve.x) if isinstance(curve, Curve) else []
    if not isinstance(curve, Curve) or len(xs) != 1 or np.ndim(xs[0]) != 1 or curve.y.ndim != 1:
        raise TypeError("hf.plot draws a result of hf.least_squares with a hf.Curve(model, x, y), x and y (N,).")
    x = np.asarray(xs[0])
    fine = np.linspace(x.min(), x.max(), FINE)
    shaped = lambda at: jax.tree.unflatten(jax.tree.structure(curve.x), [at])  # noqa: E731
    band = result.predict(shaped(fine), level=level)
    figure = Figure(figsize=(7, 5), layout="constrained")
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
    return figure
