"""One layer over a sequence: a scan, differentiated so that it holds one matrix product per direction.

    z_t = u_t + a_{t-1} W,    u_t = sum over pre of (p_t V + b),    (s_t, a_t) = step(s_{t-1}, z_t)

with p the activations of the layers before, known at all timesteps. Its tangent

    dz_t = [a_{t-1} dW + sum (p_t dV + db)] + sum dp_t V + da_{t-1} W,    (ds_t, da_t) = D step (ds_{t-1}, dz_t)

needs what stands in brackets, which is no recursion: one product over all timesteps at once, outside the scan,
[a_{t-1}, p_t, 1] [dW; dV; db]. The transposed scan likewise holds the product with W' alone, and the gradient of
all these weights is one product outside.

Everything here is time-major: (T, B, n).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_derivatives import SymbolicZero

from hessianfree.engine.trees import PyTree
from hessianfree.networks.model.layers import Cell
from hessianfree.networks.model.wiring import Drive, rows_times

#: Products are padded to columns in multiples of this: vector registers hold 16 numbers, and odd widths are slower.
ALIGNMENT = 16


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
    """Run a layer over a sequence of feedforward inputs u (T, B, n); not to be differentiated."""
    first = None if recurrent is None else recurrent.first

    def advance(carry: Any, now: Any) -> tuple[Any, Path]:
        state, fed_back = carry
        u_t, local = now
        z = u_t if fed_back is None else u_t + fed_back
        new_state, a = cell.step(cell.arrays, local, state, z)
        return (new_state, None if recurrent is None else a @ recurrent.W), Path(z, a, state)

    start = settled_start(cell, u[0])
    return lax.scan(advance, (start, first), (u, cell.local))[1]


def unroll(cell: Cell, drive: Drive, recurrent: Recurrent | None, with_input: bool) -> tuple[Array | None, Array]:
    """Run a layer over a sequence: z, whose tangent costs a pass over memory, or None, and a, (T, B, n).

    This is differentiable in the feeds, in W and in the first recurrent input. Start, arrays and local model of the
    cell count as constants.
    """

    @jax.custom_jvp
    def run(drive: Drive, recurrent: Recurrent | None, constants: tuple[Any, Any, Any]) -> tuple[Array | None, Array]:
        path = follow(Cell(cell.step, *constants), drive.total(), recurrent)
        return (path.z if with_input else None), path.a

    def tangent(primals: Any, tangents: Any) -> Any:
        drive, recurrent, constants = primals
        here = Cell(cell.step, *constants)
        path = follow(here, drive.total(), recurrent)
        driven = _driven(path, drive, *tangents[:2])
        first = None if recurrent is None else _filled(tangents[1].first)
        dz, da = _linear_scan(here, path, recurrent, driven, first, with_input)
        return (path.z if with_input else None, path.a), (dz, da)

    run.defjvp(tangent, symbolic_zeros=True)
    return run(drive, recurrent, (cell.arrays, cell.local, cell.start))


def _driven(path: Path, drive: Drive, d_drive: Drive, d_recurrent: Recurrent | None) -> Array:
    """[a_{t-1}, p_t, 1] [dW; dV; db] as one product, and dp_t V for every p that changes, (T, B, n)."""
    columns, rows = [], []
    if d_recurrent is not None:
        columns.append(delayed(path.a))
        rows.append(_filled(d_recurrent.W))
    for feed, change in zip(drive.feeds, d_drive.feeds, strict=True):
        columns.append(feed.a)
        rows.append(_filled(change.W))
    if drive.feeds:
        columns.append(jnp.ones_like(path.a[:, :, :1]))
        rows.append(sum(_filled(change.b) for change in d_drive.feeds)[None])
    padding = -sum(column.shape[-1] for column in columns) % ALIGNMENT
    columns.append(jnp.zeros((*path.a.shape[:2], padding), path.a.dtype))
    rows.append(jnp.zeros((padding, path.a.shape[2]), path.a.dtype))
    driven = rows_times(jnp.concatenate(columns, axis=-1), jnp.concatenate(rows))
    if d_drive.given is not None and not isinstance(d_drive.given, SymbolicZero):
        driven = driven + d_drive.given
    for feed, change in zip(drive.feeds, d_drive.feeds, strict=True):
        if not isinstance(change.a, SymbolicZero):
            driven = driven + rows_times(change.a, feed.W)
    return driven


def delayed(a: Array) -> Array:
    """(T, B, n) one timestep later, zeros at the first."""
    return jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]])


def _filled(tangent: Any) -> Any:
    return jnp.zeros(tangent.shape, tangent.dtype) if isinstance(tangent, SymbolicZero) else tangent


def _linear_scan(
    cell: Cell, path: Path, recurrent: Recurrent | None, driven: Array, first: Array | None, with_input: bool
) -> tuple[Array | None, Array]:
    """The tangents dz (if wanted) and da, for what drives them from outside and the first recurrent input's change."""

    def advance(carry: Any, now: Any) -> tuple[Any, tuple[Array | None, Array]]:
        ds, fed_back = carry
        driven_t, z, state, local = now
        dz = driven_t if fed_back is None else driven_t + fed_back
        ds, da = _step_tangent(cell, local, state, z, ds, dz)
        return (ds, None if recurrent is None else da @ recurrent.W), (dz if with_input else None, da)

    ds = [jnp.zeros_like(s[0]) for s in jax.tree.leaves(path.before) if _is_real(s)]
    return lax.scan(advance, (ds, first), (driven, path.z, path.before, cell.local))[1]


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
    return settled(cell.start, after)


def settled(state: PyTree, like: PyTree) -> PyTree:
    """A first state in the shapes and types of a later one."""
    return jax.tree.map(lambda s, later: jnp.broadcast_to(jnp.asarray(s, later.dtype), later.shape), state, like)
