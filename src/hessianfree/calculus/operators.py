"""Gradient, divergence, Laplacian, Hessian matrix and biharmonic operator of a function at a point."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from hessianfree.calculus.algebra import MultiIndex
from hessianfree.calculus.points import Field, as_point, axis_of, found, unit

#: Up to so many coordinates the second derivatives go through the function one by one; forward mode over reverse mode
#: is faster from there on (measured, see docs/arena/derivatives.md).
FEW = 3


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
        if at.ndim and at.size > 1 and jax.eval_shape(u, at) == jax.ShapeDtypeStruct((), at.dtype):
            return jax.grad(u)(at)  # one reverse pass, as cheap as the value
        first = _first_order("gradient", u, at)
        return jnp.stack(first, axis=-1) if at.ndim else first[0]

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
        shape = jax.eval_shape(v, at).shape
        if at.ndim != 1 or shape[-1:] != at.shape:
            raise ValueError(
                f"divergence: the field has shape {shape} at a point of shape {at.shape}; the last axis of the field "
                "holds a component for each coordinate."
            )
        first = _first_order("divergence", v, at)
        return jnp.sum(jnp.stack([part[..., axis] for axis, part in enumerate(first)]), axis=0)

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
    return lambda x: _second_order("laplacian", u, axes, x, slopes=False).laplacian


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
    return lambda x: _second_order("value_gradient_laplacian", u, axes, x, slopes=True)


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
        seconds = found("hessian", u, at, [unit(d, *pair) for pair in pairs])[0]
        by_pair = dict(zip(pairs, seconds, strict=True))
        if not at.ndim:
            return seconds[0]
        rows = [jnp.stack([by_pair[min(i, j), max(i, j)] for j in range(d)], axis=-1) for i in range(d)]
        return jnp.stack(rows, axis=-2)

    return hessian_at


def biharmonic(u: Field, axes: Sequence[int] | None = None) -> Callable[[ArrayLike], Array]:
    """The biharmonic operator, the Laplacian of the Laplacian: sum_ij d^4u/dx_i^2 dx_j^2, in one pass.

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

    Source: Dangel et al. 2025, "Collapsing Taylor mode automatic differentiation".
    """

    def biharmonic_at(x: ArrayLike) -> Array:
        at = as_point("biharmonic", u, x)
        along = _chosen("biharmonic", axes, at)
        weights: dict[MultiIndex, float] = {}
        for i, j in itertools.product(along, repeat=2):
            alpha = unit(at.size, i, i, j, j)
            weights[alpha] = weights.get(alpha, 0) + 1
        return found("biharmonic", u, at, [], weights)[1]

    return biharmonic_at


# ---- in one pass -----------------------------------------------------------------------------------------------------


def _second_order(name: str, u: Field, axes: Sequence[int] | None, x: ArrayLike, slopes: bool) -> SecondOrder:
    """Value, gradient and Laplacian; slopes along other axes than those of the Laplacian only if asked for."""
    at = as_point(name, u, x)
    along = _chosen(name, axes, at)
    firsts = [unit(at.size, axis) for axis in range(at.size)] if slopes else []
    (value, *first), laplace = found(name, u, at, [unit(at.size), *firsts], {unit(at.size, i, i): 1.0 for i in along})
    gradient = value if not slopes else jnp.stack(first, axis=-1) if at.ndim else first[0]
    return SecondOrder(value, gradient, laplace)


def _first_order(name: str, u: Field, at: Array) -> list[Array]:
    """The first derivatives along all axes."""
    return found(name, u, at, [unit(at.size, axis) for axis in range(at.size)])[0]


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
