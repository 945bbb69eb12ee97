"""A function at a point: what is differentiated, checked, and its series along some directions."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from hessianfree.calculus.algebra import Algebra, MultiIndex, algebra
from hessianfree.calculus.pushing import Series, push

#: A function u(x) of a point, a number or an array (d,), to an array of any shape.
Field: TypeAlias = Callable[[Any], Any]


def as_point(operator_name: str, u: Field, x: ArrayLike) -> Array:
    """The point as an array. Raises TypeError or ValueError if it is not one point of real floating point numbers."""
    if not callable(u):
        raise TypeError(
            f"{operator_name} was given {type(u).__name__}; a function of a point is expected, such as "
            f"lambda x: network(params, x). Apply the result to the point: {operator_name}(u)(x)."
        )
    point = jnp.asarray(x)
    if not jnp.issubdtype(point.dtype, jnp.floating):
        raise TypeError(f"{operator_name}: the point is of type {point.dtype}; pass floats, such as x.astype(float).")
    if point.ndim > 1:
        raise ValueError(
            f"{operator_name}: the point has shape {point.shape}; one point is expected, a number or an array (d,). "
            f"Map over many points: jax.vmap({operator_name}(u))(points)."
        )
    return point


def as_values(operator_name: str, u: Field, x: Array) -> jax.ShapeDtypeStruct:
    """Shape and type of u(x). Raises TypeError if that is not one array of floating point numbers."""
    return _checked(operator_name, jax.eval_shape(u, x))


def _checked(operator_name: str, shapes: Any) -> jax.ShapeDtypeStruct:
    if not isinstance(shapes, jax.ShapeDtypeStruct):
        kind = type(shapes).__name__
        raise TypeError(
            f"{operator_name}: the function returns a {kind}; one number or array is expected. Stack its parts."
        )
    if not jnp.issubdtype(shapes.dtype, jnp.inexact):
        raise TypeError(
            f"{operator_name}: the function returns {shapes.dtype}, which has no derivative; floats are expected."
        )
    return shapes


def axis_of(operator_name: str, axis: Any, x: Array) -> int:
    """The number of a coordinate, which may count from the end. A point that is a number has coordinate 0 alone."""
    try:
        number = operator.index(axis)
    except TypeError:
        number = None
    if number is None or isinstance(axis, bool):
        raise TypeError(f"{operator_name}: {axis!r} is not the number of a coordinate; whole numbers from 0 on are.")
    if not -x.size <= number < x.size:
        raise ValueError(
            f"{operator_name}: there is no coordinate {number}, the point has {x.size}: 0 to {x.size - 1}."
        )
    return number % x.size


def unit(size: int, *axes: int) -> MultiIndex:
    """The multi-index of derivatives along these axes, one for each mention."""
    return tuple(axes.count(axis) for axis in range(size))


def in_one_pass(
    operator_name: str,
    u: Field,
    x: Array,
    wanted: Sequence[MultiIndex],
    summed: Sequence[MultiIndex] = (),
) -> tuple[list[Array], Array]:
    """Derivatives of u at x by their multi-indices, u itself for zeros, and the sum of others; in one pass."""
    taken = algebra(wanted, summed)
    units = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    places = {axis: unit(x.size, axis) for axis in range(x.size)}
    first = {taken.place(alpha): units[axis] for axis, alpha in places.items() if alpha in taken.indices}
    value, terms = series(operator_name, u, x, taken, first)
    factors = [math.prod(map(math.factorial, alpha)) for alpha in wanted]
    one_by_one = [
        value if not any(alpha) else terms[taken.place(alpha)] * factor if factor > 1 else terms[taken.place(alpha)]
        for alpha, factor in zip(wanted, factors, strict=True)
    ]
    return one_by_one, terms[taken.sum]


def series(operator_name: str, u: Field, x: Array, taken: Algebra, first: dict[int, Array]) -> Series:
    """The series of u(x + sum of the first coefficients); what depends on no coefficient is filled with zeros.

    Raises TypeError if u returns anything but an array of floating point numbers, or has no forward mode.
    """
    program, shapes = jax.make_jaxpr(u, return_shape=True)(x)
    values = _checked(operator_name, shapes)
    ((value, terms),) = push(program, taken, [Series(x, first)])
    zero = jnp.zeros(values.shape, values.dtype)
    return Series(value, {a: terms.get(a, zero) for a in range(taken.sum + 1)})
