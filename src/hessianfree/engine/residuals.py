"""Sums of squared residuals: f = sum_k c_k mean_i 1/2 |r_k(theta, p_ki)|^2, and their Jacobian.

Symbols:
    r_k     residual of term k, a function of the parameters and one point
    p_ki    point i of term k, of N_k
    c_k     weight of term k
    rho     all residuals, scaled by sqrt(c_k / N_k), so that f = 1/2 |rho|^2; (N,)
    J       Jacobian of rho, (N, P); the gradient is J'rho, and the Gauss-Newton matrix J'J
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float

from hessianfree.engine.linearization import has_forward_mode
from hessianfree.engine.trees import PyTree

#: r_k(params, point), a number or an array; r_k(params) where there are no points.
Residual: TypeAlias = Callable[..., Array]
#: theta -> params
Unravel: TypeAlias = Callable[[Float[Array, "P"]], PyTree]


class Points(NamedTuple):
    """The points of a term, leaves (N_k, ...), and its weight. Points of None belong to a function of theta alone."""

    at: PyTree
    weight: ArrayLike


@partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("functions",))
@dataclass(frozen=True)
class Residuals:
    """The residuals of several terms."""

    functions: tuple[Residual, ...]  # r_k, one for each term

    def outputs(self, params: PyTree, inputs: Sequence[Points]) -> tuple[Float[Array, "_ _"], ...]:
        """rho, one array (N_k, d_k) for each term."""
        return tuple(
            _scaled(points, _residuals(r, params, points)) for r, points in zip(self.functions, inputs, strict=True)
        )

    def flat(self, unravel: Unravel, inputs: Sequence[Points], theta: Float[Array, "P"]) -> Float[Array, "N"]:
        """rho at raveled parameters."""
        return jnp.concatenate([jnp.ravel(part) for part in self.outputs(unravel(theta), inputs)])

    def jacobian(self, params: PyTree, inputs: Sequence[Points]) -> tuple[Float[Array, "N"], Float[Array, "N P"]]:
        """rho and J, with the parameters in the order of ravel_pytree.

        Rows are gradients at single points, mapped over the points. Each is a reverse pass through a small function.
        The Jacobian of the whole would take a pass through everything for each parameter.
        """
        theta, unravel = ravel_pytree(params)
        rows = [_rows(r, unravel, theta, points) for r, points in zip(self.functions, inputs, strict=True)]
        return self.flat(unravel, inputs, theta), jnp.concatenate(rows)


def _rows(r: Residual, unravel: Unravel, theta: Float[Array, "P"], points: Points) -> Float[Array, "_ P"]:
    """The rows of J that belong to one term."""

    def residual(at: Float[Array, "P"], *point: PyTree) -> Float[Array, "_"]:
        return jnp.ravel(r(unravel(at), *point))

    if points.at is None:
        rows = _jacobian_of_whole(residual, theta)[None]
    else:
        rows = jax.vmap(jax.jacrev(residual), (None, 0))(theta, points.at)
    return _scaled(points, rows).reshape(-1, theta.size)


def _residuals(r: Residual, params: PyTree, points: Points) -> Float[Array, "_ _"]:
    """Residuals of one term, (N_k, d_k). A function without points counts as one point."""
    if points.at is None:
        return jnp.ravel(r(params))[None]
    return jax.vmap(lambda point: jnp.ravel(r(params, point)))(points.at)


def _scaled(points: Points, residuals: Float[Array, "N d *rest"]) -> Float[Array, "N d *rest"]:
    """The residuals, or rows of their Jacobian, times sqrt(c / N); without points N counts the residuals."""
    count = residuals.shape[1] if points.at is None else residuals.shape[0]
    return residuals * jnp.sqrt(jnp.asarray(points.weight, residuals.dtype) / count)


def _jacobian_of_whole(
    residual: Callable[[Float[Array, "P"]], Float[Array, "N"]], theta: Float[Array, "P"]
) -> Float[Array, "N P"]:
    """The Jacobian by the mode that takes fewer passes, or by reverse mode if there is no other."""
    wide = jax.eval_shape(residual, theta).size > theta.size
    return (jax.jacfwd if wide and has_forward_mode(residual, theta) else jax.jacrev)(residual)(theta)
