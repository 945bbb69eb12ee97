"""Kronecker factors of a network's layers, from what flows forward into them and back out of them.

A block is all that leads into one layer, [W; b] of each connection below the other. What it multiplies, x, are the
activations of the layers before, with a 1 for each bias; over time, those of the timestep before for recurrent weights,
whose bias counts at the first timestep of a fresh sequence alone. Timesteps count as further examples (Martens, Ba
and Johnson 2018, section 3): G is about sum_t E[x_t x_t'] times mean_t E[delta_t delta_t'].
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from hessianfree.engine.kfac import Factors
from hessianfree.networks.model.scan import delayed
from hessianfree.networks.model.weights import Connection, Params
from hessianfree.networks.model.wiring import Activity, Start


def factors(
    params: Params, activity: Activity, deltas: Mapping[int, Array], weights: Array, start: Start | None = None
) -> dict[int, Factors]:
    """A and S of every layer behind the first, and of the first if it is recurrent.

    Args:
        params: (W, b) per connection.
        activity: of every layer, (B, n_l) or (T, B, n_l).
        deltas: derivatives with respect to the layers' inputs, in the same shapes.
        weights: of every example or timestep, (B,) or (T, B).
        start: where sequences begin, if not afresh.

    Returns:
        Factors by layer.
    """
    rows = weights.reshape(-1, 1)
    steps = jnp.maximum(jnp.sum(rows), jnp.finfo(rows.dtype).tiny)

    def block(layer: int) -> Factors:
        into = [connection for connection in params if connection[1] == layer]
        x = jnp.concatenate([part for connection in into for part in _inputs(connection, activity, start)], axis=-1)
        x, delta = (a.reshape(-1, a.shape[-1]) for a in (x, deltas[layer]))
        return Factors(x.T @ (rows * x), delta.T @ (rows * delta) / steps)

    return {layer: block(layer) for layer in dict.fromkeys(post for _, post in params)}


def _inputs(connection: Connection, activity: Activity, start: Start | None) -> tuple[Array, Array]:
    """What multiplies W and b of a connection, (..., n_pre) and (..., 1)."""
    pre, post = connection
    a = activity.a[pre]
    if pre != post:
        return a, jnp.ones_like(a[..., :1])
    before, fresh = delayed(a), jnp.zeros_like(a[..., :1]).at[0].set(1)
    if start is not None and post in start.activations:
        before = before.at[0].set(start.activations[post])
        fresh = fresh * (0 if start.fresh is None else start.fresh[None, :, None])
    return before, fresh
