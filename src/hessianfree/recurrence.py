"""One layer over a sequence: a scan, differentiated so that it holds one matrix product per direction.

    z_t = u_t + a_{t-1} W,    (s_t, a_t) = step(s_{t-1}, z_t)

with u the feedforward input of all timesteps. Its tangent

    dz_t = (du_t + a_{t-1} dW) + da_{t-1} W,    (ds_t, da_t) = D step (ds_{t-1}, dz_t)

needs a_{t-1} dW, which is no recursion: one product over all timesteps at once, outside the scan. The transposed
scan likewise holds the product with W' alone, and the gradient of W is one product outside.

Everything here is time-major: (T, B, n).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from hessianfree.engine.trees import PyTree
from hessianfree.layers import Cell
from hessianfree.wiring import rows_times


class Recurrent(NamedTuple):
    """Recurrent weights W (n, n), and the recurrent input of the first timestep, (B, n)."""

    W: Array
    first: Array


class Path(NamedTuple):
    """What a layer does over a sequence: z and a (T, B, n), and the state before each timestep, leaves (T, B, ...)."""

    z: Array
    a: Array
    before: PyTree


def follow(cell: Cell, u: Array, recurrent: Recurrent | None) -> Path:
    """Run a layer over a sequence; not to be differentiated.

    Args:
        cell: the layer.
        u: its feedforward input, (T, B, n).
        recurrent: W and the first recurrent input, or None.

    Returns:
        z, a and the states.
    """
    first = None if recurrent is None else recurrent.first

    def advance(carry: Any, now: Any) -> tuple[Any, Path]:
        state, fed_back = carry
        u_t, local = now
        z = u_t if fed_back is None else u_t + fed_back
        new_state, a = cell.step(cell.arrays, local, state, z)
        return (new_state, None if recurrent is None else a @ recurrent.W), Path(z, a, state)

    start = settled_start(cell, u[0])
    return lax.scan(advance, (start, first), (u, cell.local))[1]


def unroll(cell: Cell, u: Array, recurrent: Recurrent | None, with_input: bool = False) -> tuple[Array | None, Array]:
    """Run a layer over a sequence, differentiable in u, in W and in the first recurrent input.

    Args:
        cell: the layer; its start, arrays and local model count as constants.
        u: its feedforward input, (T, B, n).
        recurrent: W and the first recurrent input, or None.
        with_input: whether to return z too; its tangent costs a pass over memory.

    Returns:
        z or None, and a, (T, B, n).
    """

    @jax.custom_jvp
    def run(u: Array, recurrent: Recurrent | None, constants: tuple[Any, Any, Any]) -> tuple[Array | None, Array]:
        path = follow(Cell(cell.step, *constants), u, recurrent)
        return (path.z if with_input else None), path.a

    @run.defjvp
    def tangent(primals: Any, tangents: Any) -> Any:
        u, recurrent, constants = primals
        here = Cell(cell.step, *constants)
        path = follow(here, u, recurrent)
        dz, da = _tangents(here, path, recurrent, tangents[0], tangents[1], with_input)
        return (path.z if with_input else None, path.a), (dz, da)

    return run(u, recurrent, (cell.arrays, cell.local, cell.start))


def _tangents(
    cell: Cell, path: Path, recurrent: Recurrent | None, du: Array, d_recurrent: Recurrent | None, with_input: bool
) -> tuple[Array | None, Array]:
    """Dz (if wanted) and da for du, dW and the change of the first recurrent input."""
    driven = du
    if d_recurrent is not None:
        before = jnp.concatenate([jnp.zeros_like(path.a[:1]), path.a[:-1]])  # a_{t-1}
        driven = (du + rows_times(before, d_recurrent.W)).at[0].add(d_recurrent.first)

    def advance(carry: Any, now: Any) -> tuple[Any, tuple[Array | None, Array]]:
        ds, da = carry
        driven_t, z, state, local = now
        dz = driven_t if recurrent is None else driven_t + da @ recurrent.W
        ds, da = _step_tangent(cell, local, state, z, ds, dz)
        return (ds, None if recurrent is None else da), (dz if with_input else None, da)

    ds = [jnp.zeros_like(s[0]) for s in jax.tree.leaves(path.before) if _is_real(s)]
    da = None if recurrent is None else jnp.zeros_like(path.a[0])
    return lax.scan(advance, (ds, da), (driven, path.z, path.before, cell.local))[1]


def _step_tangent(
    cell: Cell, local: Any, state: PyTree, z: Array, ds: list[Array], dz: Array
) -> tuple[list[Array], Array]:
    """Derivative of one step along (ds, dz); `ds` lists the real leaves of the state, others (counters) have none."""
    leaves, structure = jax.tree.flatten(state)
    given = iter(ds)
    tangents = [next(given) if _is_real(s) else np.zeros(np.shape(s), jax.dtypes.float0) for s in leaves]
    at = (state, z), (jax.tree.unflatten(structure, tangents), dz)
    d_state, da = jax.jvp(lambda s, x: cell.step(cell.arrays, local, s, x), *at)[1]
    return [d for d, s in zip(jax.tree.leaves(d_state), leaves, strict=True) if _is_real(s)], da


def _is_real(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def settled_start(cell: Cell, z: Array) -> PyTree:
    """The cell's first state in the shapes and types that a step with input z (B, n) returns."""
    local = jax.tree.map(lambda leaf: leaf[0], cell.local)
    after, _ = jax.eval_shape(cell.step, cell.arrays, local, cell.start, z)
    return jax.tree.map(lambda s, like: jnp.broadcast_to(jnp.asarray(s, like.dtype), like.shape), cell.start, after)
