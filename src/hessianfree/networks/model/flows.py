"""What flows through a network's blocks: forward into them and, back-propagated, out of them.

A block is all that leads into one layer, [W; b] of each connection below the other. What it multiplies, x, are the
activations of the layers before, with a 1 for each bias. Over time, recurrent weights multiply the activations of the
timestep before, and their bias counts at the first timestep of a fresh sequence alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from hessianfree.engine.models import Flow
from hessianfree.networks.model.scan import delayed
from hessianfree.networks.model.weights import Connection, Params
from hessianfree.networks.model.wiring import Activity, Start


def flows(
    params: Params, activity: Activity, deltas: Mapping[int, Array], weights: Array, start: Start | None = None
) -> dict[int, Flow]:
    """The flow of every layer behind the first, and of the first if it is recurrent.

    Args:
        params: (W, b) per connection.
        activity: of every layer, (B, n_l) or (T, B, n_l).
        deltas: derivatives with respect to the layers' inputs, in the same shapes.
        weights: of every example or timestep, (B,) or (T, B).
        start: where sequences begin, if not afresh.

    Returns:
        Flows by layer.
    """

    def block(layer: int) -> Flow:
        into = [connection for connection in params if connection[1] == layer]
        x = jnp.concatenate([part for connection in into for part in _inputs(connection, activity, start)], axis=-1)
        return Flow(_rows(x), _rows(deltas[layer]), weights.ravel())

    return {layer: block(layer) for layer in dict.fromkeys(post for _, post in params)}


def _rows(a: Array) -> Array:
    return a.reshape(-1, a.shape[-1])


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
