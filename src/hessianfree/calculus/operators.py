"""Gradient, divergence, Laplacian, Hessian matrix and biharmonic operator of a function at a point."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from hessianfree.calculus.algebra import algebra
from hessianfree.calculus.points import Field, as_point, as_values, axis_of, in_one_pass, series, unit

#: Up to so many coordinates, derivatives along each go through the function as arrays of their own. For more, the rows
#: of a Jacobian and their compilation are faster with one array for all (docs/benchmarks.md).
FEW = 3
#: The axis of directions in that array.
DIRECTIONS = "hessianfree.calculus directions"


class SecondOrder(NamedTuple):
    """What `value_gradient_laplacian` finds."""

    value: Array
    gradient: Array
    laplacian: Array


def gradient(u: Field) -> Callable[[ArrayLike], Array]:
    """All first derivatives: grad u = (du/dx_1, ..., du/dx_d).

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).

    Returns:
        The function from a point to an array (..., d), or (...) if the point is a number.

    Raises:
        TypeError: if u does not return one array of floats, or the point is not of floats.
        ValueError: if the point is an array of several points.

    Example:
        >>> gradient(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0])).tolist()
        [6.0, 1.0]
    """

    def gradient_at(x: ArrayLike) -> Array:
        at = as_point("gradient", u, x)
        if at.size > 1 and as_values("gradient", u, at).shape == ():
            return jax.grad(u)(at)  # one reverse pass, as cheap as the value
        return _jacobian("gradient", u, at)

    return gradient_at


def divergence(v: Field) -> Callable[[ArrayLike], Array]:
    """The divergence of a vector field: div v = sum_i dv_i/dx_i.

    Args:
        v: function of a point (d,) to an array (..., d): its last axis holds the components.

    Returns:
        The function from a point to an array (...).

    Raises:
        TypeError: as `gradient`.
        ValueError: as `gradient`, and if v has no component for each coordinate.

    Example:
        >>> conductivity = lambda x: 1 + x[0]
        >>> flux = lambda x: conductivity(x) * gradient(lambda x: x[0] * x[1])(x)
        >>> float(divergence(flux)(jnp.array([1.0, 3.0])))
        3.0
    """

    def divergence_at(x: ArrayLike) -> Array:
        at = as_point("divergence", v, x)
        shape = as_values("divergence", v, at).shape
        if at.ndim != 1 or shape[-1:] != at.shape:
            raise ValueError(
                f"divergence: the field has shape {shape} at a point of shape {at.shape}; the last axis of the field "
                "holds a component for each coordinate."
            )
        return jnp.trace(_jacobian("divergence", v, at), axis1=-2, axis2=-1)

    return divergence_at


def laplacian(u: Field, axes: Sequence[int] | None = None) -> Callable[[ArrayLike], Array]:
    """The Laplacian: sum_i d^2u/dx_i^2, in one pass.

    Value, first derivatives and the sum of second derivatives go through the function together, d + 2 arrays where
    second derivatives one by one are 2 d + 1. Use `value_gradient_laplacian` if you need them too.

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).
        axes: coordinates to sum over, all by default. For u(x, y, t) give (0, 1).

    Returns:
        The function from a point to an array (...).

    Raises:
        TypeError: as `gradient`, and if an axis is not a whole number.
        ValueError: as `gradient`, and if there is no such axis.

    Example:
        >>> u = lambda x: jnp.sin(x[0]) * jnp.exp(2 * x[1])
        >>> x = jnp.array([0.5, 0.0])
        >>> round(float(laplacian(u)(x) / u(x)), 5)
        3.0

    Source: Li et al. 2023, "Forward Laplacian"; Dangel et al. 2025, "Collapsing Taylor mode automatic differentiation".
    """
    return lambda x: _second_order("laplacian", u, axes, as_point("laplacian", u, x), slopes=False)[2]


def value_gradient_laplacian(u: Field, axes: Sequence[int] | None = None) -> Callable[[ArrayLike], SecondOrder]:
    """Value, all first derivatives and the Laplacian, in one pass: u, grad u, sum_i d^2u/dx_i^2.

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).
        axes: coordinates that the Laplacian sums over, all by default. The gradient is along all coordinates: for
            u(x, y, t) give (0, 1), and the last of the gradient is u_t.

    Returns:
        The function from a point to a named tuple of value (...), gradient (..., d) and laplacian (...). The gradient
        is (...) if the point is a number.

    Raises:
        TypeError: as `laplacian`.
        ValueError: as `laplacian`.

    Example:
        >>> u = lambda point: jnp.exp(-2 * point[2]) * jnp.sin(point[0]) * jnp.sin(point[1])
        >>> value, slopes, laplace = value_gradient_laplacian(u, axes=(0, 1))(jnp.array([0.5, 0.7, 0.1]))
        >>> bool(abs(slopes[2] - laplace) < 1e-5)
        True

    Source: as `laplacian`.
    """

    def second_order_at(x: ArrayLike) -> SecondOrder:
        at = as_point("value_gradient_laplacian", u, x)
        value, slopes, laplace = _second_order("value_gradient_laplacian", u, axes, at, slopes=True)
        return SecondOrder(value, jnp.stack(slopes, axis=-1) if at.ndim else slopes[0], laplace)

    return second_order_at


def hessian(u: Field) -> Callable[[ArrayLike], Array]:
    """All second derivatives: the matrix H_ij = d^2u/dx_i dx_j.

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).

    Returns:
        The function from a point to an array (..., d, d), or (...) if the point is a number.

    Raises:
        TypeError: as `gradient`.
        ValueError: as `gradient`.

    Example:
        >>> hessian(lambda x: x[0] ** 2 * x[1])(jnp.array([1.0, 3.0])).tolist()
        [[6.0, 2.0], [2.0, 0.0]]
    """

    def hessian_at(x: ArrayLike) -> Array:
        at = as_point("hessian", u, x)
        if at.size > FEW:
            return jax.jacfwd(gradient(u))(at)
        d = at.size
        pairs = list(itertools.combinations_with_replacement(range(d), 2))
        seconds = in_one_pass("hessian", u, at, [unit(d, *pair) for pair in pairs])[0]
        by_pair = dict(zip(pairs, seconds, strict=True))
        if not at.ndim:
            return seconds[0]
        rows = [jnp.stack([by_pair[min(i, j), max(i, j)] for j in range(d)], axis=-1) for i in range(d)]
        return jnp.stack(rows, axis=-2)

    return hessian_at


def biharmonic(u: Field, axes: Sequence[int] | None = None) -> Callable[[ArrayLike], Array]:
    """The biharmonic operator, the Laplacian of the Laplacian: sum_ij d^4u/dx_i^2 dx_j^2.

    Each Laplacian is one pass. For two coordinates sixteen arrays go through the function.

    Args:
        u: function of a point, a number or an array (d,), to a number or an array (...).
        axes: coordinates to sum over, all by default.

    Returns:
        The function from a point to an array (...).

    Raises:
        TypeError: as `laplacian`.
        ValueError: as `laplacian`.

    Example:
        >>> u = lambda x: jnp.sin(x[0]) * jnp.sin(2 * x[1])
        >>> x = jnp.array([0.5, 0.7])
        >>> round(float(biharmonic(u)(x) / u(x)), 3)
        25.0
    """

    def laplace(v: Field, at: Array) -> Array:
        return _second_order("biharmonic", v, axes, at, slopes=False)[2]

    return lambda x: laplace(lambda at: laplace(u, at), as_point("biharmonic", u, x))


# ---- what the operators share ----------------------------------------------------------------------------------------


def _second_order(
    name: str, u: Field, axes: Sequence[int] | None, at: Array, slopes: bool
) -> tuple[Array, list[Array], Array]:
    """Value, first derivatives along all axes (if not `slopes`, none), and the Laplacian; in one pass."""
    along = _chosen(name, axes, at)
    others = [axis for axis in range(at.size) if axis not in along] if slopes else []
    one_pass = _numbered if len(along) <= FEW else _mapped
    value, by_axis, laplace = one_pass(name, u, at, along, others)
    return value, [by_axis[axis] for axis in range(at.size)] if slopes else [], laplace


def _numbered(
    name: str, u: Field, at: Array, along: list[int], others: list[int]
) -> tuple[Array, dict[int, Array], Array]:
    """Value, first derivatives by axis, and the sum of second derivatives along some axes."""
    axes = [*along, *others]
    wanted = [unit(at.size), *(unit(at.size, axis) for axis in axes)]
    (value, *first), laplace = in_one_pass(name, u, at, wanted, [unit(at.size, axis, axis) for axis in along])
    return value, dict(zip(axes, first, strict=True)), laplace


def _mapped(
    name: str, u: Field, at: Array, along: list[int], others: list[int]
) -> tuple[Array, dict[int, Array], Array]:
    """The same with one array for the derivatives along all axes of the sum, mapped over; others as before."""
    size = 1 + len(others)
    taken = algebra([unit(size, k) for k in range(size)], [unit(size, 0, 0)], DIRECTIONS)
    units = jnp.eye(at.size, dtype=at.dtype)
    fixed = {taken.place(unit(size, 1 + k)): units[axis] for k, axis in enumerate(others)}
    moving = taken.place(unit(size, 0))

    def along_one(direction: Array) -> tuple[Array, Array, list[Array], Array]:
        value, terms = series(name, u, at, taken, {moving: direction, **fixed})
        return value, terms[moving], [terms[a] for a in fixed], terms[taken.sum]

    over_all = jax.vmap(along_one, out_axes=(None, 0, None, None), axis_name=DIRECTIONS)
    value, slopes, rest, laplace = over_all(units[jnp.array(along)])
    return value, {**dict(zip(along, slopes, strict=True)), **dict(zip(others, rest, strict=True))}, laplace


def _jacobian(name: str, u: Field, at: Array) -> Array:
    """All first derivatives in forward mode, (..., d)."""
    if at.size > FEW:
        return jax.jacfwd(u)(at)
    first, _ = in_one_pass(name, u, at, [unit(at.size, axis) for axis in range(at.size)])
    return jnp.stack(first, axis=-1) if at.ndim else first[0]


def _chosen(name: str, axes: Sequence[int] | None, at: Array) -> list[int]:
    """The axes to sum over. Raises TypeError if they are not whole numbers, ValueError if one is not there or twice."""
    if axes is None:
        return list(range(at.size))
    if not isinstance(axes, (tuple, list, range)):
        raise TypeError(f"{name}: axes is {axes!r}; a tuple of coordinates is expected, such as (0, 1).")
    chosen = [axis_of(name, axis, at) for axis in axes]
    if not chosen or len({*chosen}) < len(chosen):
        raise ValueError(f"{name}: axes is {axes!r}; name one coordinate or more, each once.")
    return chosen
