"""Robust losses of residuals, written as squares: 1/2 s^2 rho((r / s)^2) = 1/2 q^2, with q a residual in place of r.

Symbols:
    r    residual                      s    scale: up to about s residuals count by their squares
    z    (r / s)^2                     rho  the loss of z, with rho(0) = 0 and rho'(0) = 1
    q    r sqrt(rho(z) / z), smooth at r = 0
Whatever minimises the squares of q minimises the robust loss, with its exact value. That holds for every solver.

Source: Huber 1964; Triggs et al. 2000, "Bundle adjustment - a modern synthesis", section 3.3, for the names.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

#: z -> rho(z), for one number or an array of them.
Rho: TypeAlias = Callable[[Array], Array]


def huber(z: Array) -> Array:
    """Squares up to the scale, then absolute values: z for z <= 1, else 2 sqrt(z) - 1."""
    return jnp.where(z <= 1, z, 2 * jnp.sqrt(jnp.where(z <= 1, 1, z)) - 1)


def soft_l1(z: Array) -> Array:
    """A smooth form of absolute values: 2 (sqrt(1 + z) - 1)."""
    return 2 * z / (jnp.sqrt(1 + z) + 1)  # without a difference of like numbers


def cauchy(z: Array) -> Array:
    """The logarithm of a Cauchy distribution: log(1 + z). Outliers hardly count; there may be several minima."""
    return jnp.log1p(z)


BY_NAME: dict[str, Rho] = {"huber": huber, "soft_l1": soft_l1, "cauchy": cauchy}


def as_residuals(rho: Rho, r: Array, scale: ArrayLike) -> Array:
    """The residuals q whose half squares are the robust loss."""
    z = (r / scale) ** 2
    near = z < jnp.sqrt(jnp.finfo(r.dtype).eps)  # there rho(z) / z is 1 + rho''(0) z / 2, but for rounding
    bend = jax.grad(jax.grad(lambda x: jnp.sum(rho(x))))(jnp.zeros((), r.dtype))
    safe = jnp.where(near, 1, z)
    return r * jnp.where(near, 1 + bend * z / 4, jnp.sqrt(rho(safe) / safe))
