"""A network over time, compiled: layer by layer over whole sequences, or step by step around a plant.

Within a timestep connections only go forward, so a layer can run over the whole sequence before the next one does:
its feedforward input at all timesteps is one product. Only a plant, whose next input needs the last output, asks for
one timestep of all layers after another. Inside this module everything is time-major: (T, B, n).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from hessianfree.networks.model.layers import Cell, local_cell, traced_cell
from hessianfree.networks.model.scan import Path, Recurrent, follow, settled, settled_start, unroll
from hessianfree.networks.model.wiring import Activity, Drive, NetworkInputs, Params, Spec, Start, forward, swap_time
from hessianfree.support.keys import rebuild


def run(
    spec: Spec,
    arrays: Sequence[Any],
    params: Params,
    inputs: NetworkInputs,
    recurrent_inputs: bool,
    taps: Mapping[int, Any] | None,
) -> Activity:
    """Run a network layer by layer over whole sequences (B, T, n_0), differentiably.

    Without `recurrent_inputs`, z of recurrent layers is None. Taps (T, B, n_l) are added to the inputs of the layers.
    """
    x = swap_time(inputs.x)
    cells = _cells(spec, arrays, inputs, x.shape[1])

    def respond(layer: int, drive: Drive) -> tuple[Array | None, Array]:
        recurrent = _recurrent(spec, layer, params, inputs.start, x.shape[1])
        if recurrent is None and not jax.tree.leaves(cells[layer].start):
            u = drive.total()
            return u, _at_once(cells[layer], u)
        return unroll(cells[layer], drive, recurrent, recurrent_inputs)

    return forward(len(cells), params, x, respond, taps)


def paths(spec: Spec, arrays: Sequence[Any], params: Params, inputs: NetworkInputs) -> list[Path]:
    """What every layer does over a sequence, its states included, (T, B, n_l); not to be differentiated."""
    x = swap_time(inputs.x)
    cells, found = _cells(spec, arrays, inputs, x.shape[1]), {}

    def respond(layer: int, drive: Drive) -> tuple[Array, Array]:
        recurrent = _recurrent(spec, layer, params, inputs.start, x.shape[1])
        found[layer] = follow(cells[layer], drive.total(), recurrent)
        return found[layer].z, found[layer].a

    forward(len(cells), params, x, respond)
    return [found[layer] for layer in range(len(cells))]


def run_loop(
    spec: Spec,
    arrays: Sequence[Any],
    plant_arrays: Any,
    params: Params,
    inputs: NetworkInputs,
    taps: Mapping[int, Any] | None,
) -> Activity:
    """Run a network step by step with the plant of its loop, differentiably; z[0] holds the generated inputs."""
    assert spec.loop is not None
    loop, recurrent = spec.loop, spec.recurrent or ()
    plant = rebuild(loop.plant, plant_arrays)
    batch = jax.tree.leaves(inputs.plant)[0].shape[0]
    cells = _cells(spec, arrays, inputs, batch)

    def advance(carry: Any, taps: Any) -> tuple[Any, Activity]:
        states, fed_back, plant_state, output = carry
        if loop.layer is None:
            plant_state, x = plant.step(plant_state, output)
        else:
            x = plant.observe(states[loop.layer])
        after, feeding_back = {}, {}

        def respond(layer: int, drive: Drive) -> tuple[Array, Array]:
            z = drive.total() + fed_back[layer] if layer in fed_back else drive.total()
            after[layer], a = cells[layer].step(cells[layer].arrays, (), states[layer], z)
            if layer in fed_back:
                feeding_back[layer] = a @ params[layer, layer][0]
            return z, a

        activity = forward(len(cells), params, x.astype(output.dtype), respond, taps)
        return (after, feeding_back, plant_state, activity.a[-1]), activity

    zeros = [jnp.zeros((batch, n), params[next(iter(params))][0].dtype) for n in spec.shape]
    states = {layer: settled_start(cell, zeros[layer]) for layer, cell in enumerate(cells)}
    fed_back = {layer: jnp.broadcast_to(params[layer, layer][1], zeros[layer].shape) for layer in recurrent}
    plant_state = ()  # that of a plant which is a layer is the layer's
    if loop.layer is None:
        plant_state = settled(inputs.plant, jax.eval_shape(plant.step, inputs.plant, zeros[-1])[0])
    return lax.scan(advance, (states, fed_back, plant_state, zeros[-1]), taps, length=loop.steps)[1]


def _cells(spec: Spec, arrays: Sequence[Any], inputs: NetworkInputs, batch: int) -> list[Cell]:
    local, cells = swap_time(inputs.local), []
    starts = dict(inputs.start.states) if inputs.start is not None else {}
    if spec.loop is not None and spec.loop.layer is not None:
        starts[spec.loop.layer] = inputs.plant
    for layer, key in enumerate(spec.layers):
        if layer in local:
            cells.append(local_cell(local[layer]))
        else:
            assert key is not None, "a layer in numpy comes with its local model"
            cells.append(traced_cell(key, arrays[layer], batch, starts.get(layer)))
    return cells


def _recurrent(spec: Spec, layer: int, params: Params, start: Start | None, batch: int) -> Recurrent | None:
    """Recurrent weights of a layer; its bias serves at the first timestep of a fresh sequence, and nowhere else."""
    if spec.recurrent is None or layer not in spec.recurrent:
        return None
    W, b = params[layer, layer]
    if start is None or layer not in start.activations:
        return Recurrent(W, jnp.broadcast_to(b, (batch, len(b))))
    first = start.activations[layer] @ W
    return Recurrent(W, first if start.fresh is None else first + start.fresh[:, None] * b)


def _at_once(cell: Cell, u: Array) -> Array:
    """A layer without state or recurrence: all timesteps are rows of one (T B, n)."""
    rows = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), (cell.local, u))
    return cell.step(cell.arrays, rows[0], (), rows[1])[1].reshape(u.shape)
