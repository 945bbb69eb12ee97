"""Sums of squared residuals: f = sum_k c_k mean_i 1/2 |r_k(theta, p_ki)|^2, and their Jacobian.

Symbols:
    r_k     residual of term k, a function of the parameters and one point
    p_ki    point i of term k, of N_k; c_k its weight
    rho     all residuals, scaled by sqrt(c_k / N_k): f = 1/2 |rho|^2; (N,)
    J       its Jacobian, (N, P); the gradient is J'rho, and the Gauss-Newton matrix J'J
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from hessianfree.engine.linearization import has_forward_mode
from hessianfree.engine.trees import PyTree


class Points(NamedTuple):
    """Where a term's residual is taken, leaves (N_k, ...), and its weight; points of None for a function of theta."""

    at: PyTree
    weight: Any


@partial(jax.tree_util.register_dataclass, data_fields=(), meta_fields=("functions",))
@dataclass(frozen=True)
class Residuals:
    """The residuals of several terms."""

    functions: tuple[Callable[..., Any], ...]  # r_k(params, point), a number or an array; r_k(params) without points

    def outputs(self, params: PyTree, inputs: Sequence[Points]) -> tuple[Array, ...]:
        """rho, one array (N_k, d_k) for each term."""
        return tuple(
            _scaled(points, _residuals(r, params, points)) for r, points in zip(self.functions, inputs, strict=True)
        )

    def flat(self, unravel: Callable[[Array], PyTree], inputs: Sequence[Points], theta: Array) -> Array:
        """rho, (N,), of raveled parameters, (P,)."""
        return jnp.concatenate([jnp.ravel(part) for part in self.outputs(unravel(theta), inputs)])

    def jacobian(self, params: PyTree, inputs: Sequence[Points]) -> tuple[Array, Array]:
        """rho, (N,), and J, (N, P), parameters in the order of ravel_pytree.

        Rows come from the gradients at single points, mapped over the points: each is a reverse pass through a small
        function, where the Jacobian of the whole would cost a pass through everything for each parameter.
        """
        theta, unravel = ravel_pytree(params)
        return self.flat(unravel, inputs, theta), jnp.concatenate(self._rows(theta, unravel, inputs))

    def _rows(self, flat: Array, unravel: Callable[[Array], PyTree], inputs: Sequence[Points]) -> list[Array]:
        found = []
        for r, points in zip(self.functions, inputs, strict=True):

            def residual(theta: Array, *point: Any, r: Any = r) -> Array:
                return jnp.ravel(r(unravel(theta), *point))

            if points.at is None:
                rows = _jacobian_of_whole(residual, flat)[None]
            else:
                rows = jax.vmap(jax.jacrev(residual), (None, 0))(flat, points.at)
            found.append(_scaled(points, rows).reshape(-1, flat.size))
        return found


def _residuals(r: Callable[..., Any], params: PyTree, points: Points) -> Array:
    """(N_k, d_k); a function without points is a point of its own."""
    if points.at is None:
        return jnp.ravel(r(params))[None]
    return jax.vmap(lambda point: jnp.ravel(r(params, point)))(points.at)


def _scaled(points: Points, residuals: Array) -> Array:
    """Times sqrt(c / N); where there are no points, the residuals count as one each."""
    count = residuals.shape[1] if points.at is None else residuals.shape[0]
    return residuals * jnp.sqrt(jnp.asarray(points.weight, residuals.dtype) / count)


def _jacobian_of_whole(residual: Callable[[Array], Array], flat: Array) -> Array:
    """By the mode that takes fewer passes, of those that there are."""
    wide = jax.eval_shape(residual, flat).size > flat.size
    return (jax.jacfwd if wide and has_forward_mode(residual, flat) else jax.jacrev)(residual)(flat)
