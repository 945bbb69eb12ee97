"""A network in numpy, one timestep after another: for layers and plants that cannot be compiled, and for checks.

A network without time takes a single step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.networks.model.wiring import Activity, Drive, Params, Start, forward
from hessianfree.networks.numpy import probing as host
from hessianfree.networks.parts.interfaces import Nonlinearity, has_activation

Floats = NDArray[Any]
T = TypeVar("T")

#: (timestep, last output of the timestep before or None, states of layers with `step`) -> input (B, n_0).
Feed = Callable[[int, Floats | None, dict[int, Any]], Any]
#: Told of each layer straight after its activation: (layer, z, a, state before it, None if kept in the layer).
Note = Callable[[int, Floats, Floats, Any], None]


@dataclass(frozen=True)
class HostNetwork:
    """The layers of a network, to be run in numpy, and which have recurrent weights; None for a network without time.

    Layers that define `activation` run by it, with their state, if any, in the object; the others by `step`.
    """

    layers: tuple[Nonlinearity, ...]
    recurrent: tuple[int, ...] | None = None

    def run(self, params: Params, x: Floats, start: Start | None = None, note: Note | None = None) -> Activity:
        """Run on given inputs, (B, n_0) or (B, T, n_0); layers give z and a in the same form."""
        host_params = as_numpy(params)
        sequences, start = (x[:, None], None) if self.recurrent is None else (x, start)
        count, dtype = sequences.shape[1], x.dtype
        steps = self.steps(lambda t: host_params, lambda t, *_: sequences[:, t], count, dtype, start, note)
        return steps[0] if self.recurrent is None else stacked(steps)

    def steps(
        self,
        params_at: Callable[[int], Params],
        feed: Feed,
        count: int,
        dtype: np.dtype[Any],
        start: Start | None = None,
        note: Note | None = None,
    ) -> list[Activity]:
        """Run `count` timesteps with the weights, in numpy, and inputs of each; z and a are (B, n_l)."""
        states = self._reset(start)
        fed_back: dict[int, Floats] = {}
        output, found = None, []
        for t in range(count):
            x = np.asarray(feed(t, output, states), dtype)
            params = params_at(t)

            def respond(layer: int, drive: Drive, t: int = t, params: Params = params) -> tuple[Floats, Floats]:
                z = np.asarray(drive.total(), dtype)
                if layer in (self.recurrent or ()):
                    z = z + (fed_back[layer] if t else _first_input(layer, params, start, len(z)))
                before = self._state(layer, states, len(z))
                a, states[layer] = self._activate(layer, z, before)
                if note is not None:
                    note(layer, z, a, before)
                if layer in (self.recurrent or ()):
                    # The weights that take a_t to the next timestep are those of the next timestep.
                    after = params_at(min(t + 1, count - 1))
                    fed_back[layer] = a @ after[layer, layer][0]
                return z, a

            found.append(forward(len(self.layers), params, x, respond))
            output = found[-1].a[-1]
        return found

    def _reset(self, start: Start | None) -> dict[int, Any]:
        """Reset classic layers, and give the initial states of the others, None where they are to be asked for."""
        given = {} if start is None else start.states
        for number, layer in enumerate(self.layers):
            if has_activation(layer):
                # Also layers without declared state: what they count or note starts again with each pass.
                layer.reset(None if given.get(number) is None else np.array(given[number]))
        return dict(given)

    def _state(self, number: int, states: dict[int, Any], batch: int) -> Any:
        """State of a layer with `step`; before the first timestep its initial state."""
        layer = self.layers[number]
        if has_activation(layer) or states.get(number) is not None:
            return states.get(number)
        return layer.initial_state(batch)

    def _activate(self, number: int, z: Floats, state: Any) -> tuple[Floats, Any]:
        layer = self.layers[number]
        if has_activation(layer):
            return host.output(layer, z), None
        state, a = layer.step(state, z)
        a = np.array(a, z.dtype)
        if a.shape != z.shape:
            raise ValueError(host.wrong_output(layer, "step", a.shape, z.shape))
        return a, state


def _first_input(layer: int, params: Params, start: Start | None, batch: int) -> Floats:
    W, b = params[layer, layer]
    if start is not None and layer in start.activations:
        return np.asarray(start.activations[layer]) @ W
    return np.broadcast_to(b, (batch, len(b)))


def stacked(steps: Sequence[T]) -> T:
    """Activities or local models of single timesteps (B, ...) as one (B, T, ...)."""
    return jax.tree.map(lambda *parts: np.stack(parts, axis=1), *steps)


def as_numpy(params: Params) -> Params:
    """The same weights, as numpy arrays."""
    return {connection: (np.asarray(W), np.asarray(b)) for connection, (W, b) in params.items()}
