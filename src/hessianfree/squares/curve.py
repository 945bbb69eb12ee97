"""A model of one point and its data, as residuals that know how to predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from hessianfree.engine import reprs
from hessianfree.engine.trees import PyTree


@dataclass(frozen=True)
class Difference:
    """The residual model(params, x) - y, equal for equal models, so that it is compiled once."""

    model: Callable[[PyTree, Any], Any]

    def __call__(self, params: PyTree, point: Any) -> Any:
        """At one point."""
        return self.model(params, point["x"]) - point["y"]

    @property
    def __name__(self) -> str:
        """That of the model, for messages."""
        return getattr(self.model, "__name__", type(self.model).__name__)


class Curve:
    """A model y = model(params, x) and its data, to be fitted by `hf.least_squares`.

    The residuals are model(params, x_i) - y_i. The result can predict, and `hf.plot` draws it.

    Args:
        model: model(params, x) of one point, a number or an array; it is mapped over the first axis of `x`.
        x: a pytree of arrays (N, ...).
        y: the data, (N,) or (N, d).

    Raises:
        TypeError: if the model is not a function.
        ValueError: if data are not finite (the message names the first), or x and y differ in their number of points.

    Example:
        >>> import hessianfree as hf
        >>> import jax.numpy as jnp
        >>> x = np.linspace(0, 3, 20)
        >>> curve = hf.Curve(lambda p, x: p[0] * jnp.exp(-p[1] * x), x, 2 * np.exp(-1.5 * x))
        >>> result = hf.least_squares(curve, np.array([1.0, 1.0]))
        >>> result.params.round(6).tolist(), float(result.predict(np.zeros(1)).value[0].round(6))
        ([2.0, 1.5], 2.0)
    """

    def __init__(self, model: Callable[[PyTree, Any], Any], x: PyTree, y: Any) -> None:
        if not callable(model):
            raise TypeError(f"model is {model!r}; a function model(params, x) is expected.")
        # Traced data, for `hf.least_squares_solution`, have a type and a shape, but no values to be checked.
        self.model, self.x, self.y = model, x, y if isinstance(y, jax.core.Tracer) else np.asarray(y)
        if self.y.dtype.kind == "c":
            raise TypeError("y is complex; stack the real and imaginary parts of data and model along a last axis.")
        if self.y.dtype.kind not in "biuf" or self.y.ndim == 0:
            raise TypeError(f"y is {self.y.dtype} of shape {self.y.shape}; an array of numbers is expected.")
        for name, leaf in [*((f"x{i or ''}", leaf) for i, leaf in enumerate(jax.tree.leaves(x))), ("y", self.y)]:
            _check(name, leaf if isinstance(leaf, jax.core.Tracer) else np.asarray(leaf), len(self.y))

    def __repr__(self) -> str:
        return reprs.call(self)

    @property
    def term(self) -> tuple[Difference, dict[str, Any]]:
        """The residuals and their points."""
        return Difference(self.model), {"x": self.x, "y": self.y}


def _check(name: str, array: Any, count: int) -> None:
    if array.ndim == 0 or len(array) != count:
        raise ValueError(f"{name} has shape {array.shape} for {count} data; one entry for each of them is expected.")
    if isinstance(array, jax.core.Tracer) or array.dtype.kind not in "fc":
        return
    bad = ~np.isfinite(array).reshape(count, -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name} is not finite at {int(bad.sum())} of {count} points, the first at index {int(bad.argmax())}; "
            "leave these points out."
        )
