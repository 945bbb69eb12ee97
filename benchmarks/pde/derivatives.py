"""Derivatives of a function u(params, point) by its point, nested in forward mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

#: u(params, point), one number; a point is (d,).
Function = Callable[[Any, Any], Any]


def along(u: Function, axis: int, order: int, params: Any, point: Any) -> tuple[Any, ...]:
    """u and its derivatives by one coordinate, up to an order: (u, u', u'', ...)."""
    direction = jnp.zeros_like(point).at[axis].set(1)

    def value(s: Any) -> tuple[Any, ...]:
        return (u(params, point + s * direction),)

    values: Callable[[Any], tuple[Any, ...]] = value
    for _ in range(order):
        values = _with_slope(values)
    return values(jnp.zeros_like(point[0]))


def _with_slope(values: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], tuple[Any, ...]]:
    """A function that returns what another does and the derivative of its last value."""

    def more(s: Any) -> tuple[Any, ...]:
        found, slopes = jax.jvp(values, (s,), (jnp.ones_like(s),))
        return (*found, slopes[-1])

    return more


def laplacian(u: Function, params: Any, point: Any) -> Any:
    """The sum of u's second derivatives by all coordinates."""

    def second(direction: Any) -> Any:
        def slope(at: Any) -> Any:
            return jax.jvp(lambda p: u(params, p), (at,), (direction,))[1]

        return jax.jvp(slope, (point,), (direction,))[1]

    return jax.vmap(second)(jnp.eye(len(point), dtype=point.dtype)).sum()
