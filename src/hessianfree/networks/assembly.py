"""From layer and loss objects, as they are now, to the problem the engine solves.

Keys are taken anew each time, so that a changed attribute takes effect; whether a layer or loss can be compiled is
tried once per key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from hessianfree.engine.objective import Problem
from hessianfree.networks.model.network import NetworkObjective
from hessianfree.networks.model.terms import Needs, Shapes, traced_term
from hessianfree.networks.model.windows import Truncation, truncated
from hessianfree.networks.model.wiring import Loop, Spec
from hessianfree.networks.numpy import probing as host
from hessianfree.networks.numpy.problem import HostProblem
from hessianfree.networks.numpy.stepping import HostNetwork
from hessianfree.networks.parts.interfaces import Nonlinearity, Plant
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.support.keys import Key, UnkeyableError, split

#: Key and arrays of a layer or loss; no key for one that runs on the host: what it computes travels in the batch.
Part = tuple[Key | None, tuple[Any, ...]]


class Assembly(NamedTuple):
    """A network and its losses, sorted into what is compiled and what runs on the host."""

    objective: NetworkObjective
    host_layers: frozenset[int]
    truncation: Truncation | None
    network: HostNetwork
    losses: tuple[LossFunction, ...]

    @property
    def is_compiled(self) -> bool:
        """Whether nothing runs on the host."""
        return not self.host_layers and None not in self.objective.loss_keys

    def problem(self) -> Problem:
        """The objective where everything can be compiled, else a host problem around it."""
        if self.is_compiled:
            return truncated(self.objective, self.truncation)
        return HostProblem(self.objective, self.network, self.losses, self.host_layers, self.truncation)


class Assembler:
    """Assembles one network structure.

    Args:
        shape: units per layer.
        dtype: the network's.
        recurrent: layers with recurrent weights, None for a network without time.
        truncation: windows of truncated back-propagation, or None.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        recurrent: tuple[int, ...] | None = None,
        truncation: Truncation | None = None,
    ) -> None:
        self.shape, self.dtype, self.recurrent, self.truncation = shape, dtype, recurrent, truncation
        self.steps: int | None = None  # timesteps of the data in use
        self._runs_on_host: dict[Any, bool] = {}
        self._needs: dict[Any, Needs] = {}

    def assemble(
        self, layers: Sequence[Nonlinearity], losses: Sequence[LossFunction], plant: Plant | None = None
    ) -> Assembly:
        """Sort layers and losses, as they are now.

        Args:
            layers: one per layer.
            losses: the summands of the loss.
            plant: a modern plant that generates the inputs inside the compiled network, or None.

        Raises:
            TypeError: for a layer or loss that can neither be compiled nor run on the host.
            ValueError: for a layer whose output or derivative has the wrong shape.
        """
        layer_parts = [self._layer_part(i, layer) for i, layer in enumerate(layers)]
        loss_parts = [self._loss_part(loss) for loss in losses]
        loop, plant_arrays = (None, ()) if plant is None else _loop(plant, layers)
        objective = NetworkObjective(
            Spec(self.shape, tuple(key for key, _ in layer_parts), self.recurrent, loop),
            tuple(key for key, _ in loss_parts),
            self._what_losses_need(loss_parts, layers[-1]),
            tuple(arrays for _, arrays in layer_parts),
            tuple(arrays for _, arrays in loss_parts),
            plant_arrays,
        )
        host_layers = frozenset(i for i, (key, _) in enumerate(layer_parts) if key is None)
        network = HostNetwork(tuple(layers), self.recurrent)
        return Assembly(objective, host_layers, self.truncation, network, tuple(losses))

    def _layer_part(self, i: int, layer: Nonlinearity) -> Part:
        def on_host() -> bool:
            reason = host.why_layer_is_untraceable(layer, self.shape[i], self.dtype)
            if reason:
                host.check_host_layer(layer, self.shape[i], reason, self.dtype)
            return bool(reason)

        return self._part(layer, i, on_host)

    def _loss_part(self, loss: LossFunction) -> Part:
        def on_host() -> bool:
            reason = host.why_loss_is_untraceable(loss, self._shapes(), self.dtype)
            if reason and not self._guesses_steps:
                host.check_host_loss(loss, self._shapes(), reason, self.dtype)
            return bool(reason)

        return self._part(loss, ("loss", self.steps), on_host)

    @property
    def _guesses_steps(self) -> bool:
        """A loss may be made for sequences of one length only; before there are data, its failure tells nothing."""
        return self.recurrent is not None and self.steps is None

    def _shapes(self) -> Shapes:
        """Of each layer's activations, for one example."""
        time = () if self.recurrent is None else (self.steps or 2,)
        return [(*time, n) for n in self.shape]

    def _part(self, obj: Any, place: Any, on_host: Callable[[], bool]) -> Part:
        """Key and arrays of an object as it is now."""
        try:
            if isinstance(obj, Nonlinearity) and host.is_classic_state(obj):
                raise UnkeyableError("what it holds changes at each timestep")
            part: Part = split(obj)
            trial: Any = (place, part[0])
        except UnkeyableError:
            # What cannot be compared by value is told apart by identity; the class stands in for a reused id.
            part, trial = (None, ()), (place, type(obj), id(obj))
        if trial not in self._runs_on_host:
            self._runs_on_host[trial] = on_host()
        return (None, ()) if self._runs_on_host[trial] else part

    def _what_losses_need(self, parts: Sequence[Part], output_layer: Nonlinearity) -> Needs:
        """Union of what the losses look at; a host loss may look at every layer."""
        trial = (type(output_layer), self.steps, tuple(key for key, _ in parts))
        if trial not in self._needs:
            everything = Needs(False, frozenset(range(len(self.shape))))
            needs = [
                everything if key is None else traced_term(key, arrays, output_layer).needs(self._shapes())
                for key, arrays in parts
            ]
            layers: frozenset[int] = frozenset().union(*(n.layers for n in needs))
            self._needs[trial] = Needs(any(n.logits for n in needs), layers)
        return self._needs[trial]


def _loop(plant: Plant, layers: Sequence[Nonlinearity]) -> tuple[Loop, tuple[Any, ...]]:
    key, arrays = split(plant)
    return Loop(key, int(plant.shape[1]), layer_of(plant, layers)), arrays


def layer_of(plant: Plant, layers: Sequence[Nonlinearity]) -> int | None:
    """Number of the layer that is the plant itself, None if it is no layer."""
    return next((i for i, layer in enumerate(layers) if layer is plant), None)
