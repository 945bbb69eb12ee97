"""Partial derivatives of a function, those that are asked for, in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from hessianfree.calculus.algebra import algebra
from hessianfree.calculus.points import Field, as_point, axis_of, in_one_pass, series, unit
from hessianfree.engine.numbers import is_whole


def partials(u: Field, *which: int | Sequence[int]) -> Callable[[ArrayLike], tuple[Array, ...]]:
    """Several partial derivatives at once.

    They share one forward pass, which computes what they need and nothing else: for u, u_x, u_t and u_xx four arrays
    go through a network. A reverse pass through it is shared likewise.

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).
        which: for each derivative, the axes along which to differentiate: () is the value u itself, (1,) or 1 is
            du/dx_1, (0, 0) is d^2u/dx_0^2 and (0, 1) is d^2u/dx_0 dx_1. Of a point that is a number the axis is 0.

    Returns:
        The function from a point to a tuple of arrays (...), in the order of `which`.

    Raises:
        TypeError: if u does not return one array of floats, the point is not of floats, or an axis is not a whole
            number.
        ValueError: if there are no such axes, or if the point is an array of several points.

    Example:
        >>> u = lambda point: jnp.sin(point[0]) * jnp.exp(2 * point[1])
        >>> value, slope, rate, bend = partials(u, (), 0, 1, (0, 0))(jnp.array([0.5, 0.0]))
        >>> float(rate / value), float(bend / value)
        (2.0, -1.0)

    Source: Griewank and Walther 2008, "Evaluating derivatives", chapter 13, on Taylor coefficients.
    """

    def derivatives_at(x: ArrayLike) -> tuple[Array, ...]:
        at = as_point("partials", u, x)
        axes = [[axis_of("partials", axis, at) for axis in _listed(name)] for name in which]
        return tuple(in_one_pass("partials", u, at, [unit(at.size, *named) for named in axes])[0])

    return derivatives_at


def derivatives(u: Field, order: int, axis: int = 0) -> Callable[[ArrayLike], tuple[Array, ...]]:
    """All derivatives along one axis up to an order: u, du/dx, ..., d^k u/dx^k.

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).
        order: the highest order k, at least 1.
        axis: the coordinate, 0 by default.

    Returns:
        The function from a point to the k + 1 arrays (...).

    Raises:
        TypeError: as `partials`.
        ValueError: as `partials`, and if the order is not a whole number of at least 1.

    Example:
        >>> [float(d) for d in derivatives(lambda x: x**3, 3)(2.0)]
        [8.0, 12.0, 12.0, 6.0]
    """
    _check_order("derivatives", order)

    def derivatives_at(x: ArrayLike) -> tuple[Array, ...]:
        at = as_point("derivatives", u, x)
        number = axis_of("derivatives", axis, at)
        return tuple(in_one_pass("derivatives", u, at, [unit(at.size, *[number] * k) for k in range(order + 1)])[0])

    return derivatives_at


def directional(u: Field, direction: ArrayLike, order: int = 1) -> Callable[[ArrayLike], Array]:
    """The derivative along a direction: d^k/ds^k u(x + s v) at s = 0.

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).
        direction: v, of the shape of a point, of any length.
        order: k, at least 1, which is the default.

    Returns:
        The function from a point to an array (...).

    Raises:
        TypeError: as `partials`.
        ValueError: as `partials`, if the direction is not of the shape of the point, and if the order is not a whole
            number of at least 1.

    Example:
        >>> u = lambda x: x[0] ** 2 * x[1]
        >>> float(directional(u, jnp.array([1.0, 1.0]), 2)(jnp.array([1.0, 3.0])))
        10.0
    """
    _check_order("directional", order)

    def derivative_at(x: ArrayLike) -> Array:
        at = as_point("directional", u, x)
        v = jnp.asarray(direction, at.dtype)
        if v.shape != at.shape:
            raise ValueError(
                f"directional: the direction has shape {v.shape}, the point {at.shape}; give them one shape."
            )
        _, terms = series("directional", u, at, algebra([(order,)]), {0: v})
        return terms[order - 1] * math.factorial(order)

    return derivative_at


def _listed(name: int | Sequence[int]) -> Sequence[int]:
    return name if isinstance(name, (tuple, list)) else (name,)


def _check_order(name: str, order: int) -> None:
    if not is_whole(order) or order < 1:
        raise ValueError(f"{name}: the order is {order!r}; a whole number of at least 1 is expected.")
