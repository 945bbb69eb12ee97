"""From layer and loss objects, as they are now, to the problem that the engine solves.

Keys are taken again each time, so that a changed attribute takes effect. Whether a layer or loss can be compiled is
tried once per key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from hessianfree.engine.objective import Problem, TracedObjective
from hessianfree.networks.arguments import is_built_in
from hessianfree.networks.model.network import NetworkModel
from hessianfree.networks.model.terms import AtActivations, InNumpy, LossTerm, Needs, NetworkLoss, Shapes, matched
from hessianfree.networks.model.windows import Truncation, WindowedLoss, WindowedModel
from hessianfree.networks.model.wiring import Layout, Loop, Spec
from hessianfree.networks.numpy import probing
from hessianfree.networks.numpy.problem import NumpyProblem
from hessianfree.networks.numpy.stepping import HostNetwork
from hessianfree.networks.parts.interfaces import Nonlinearity, Plant
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.support.keys import PLAIN, Key, UnkeyableError, split

#: Key and arrays of a layer or loss; no key for one that runs in numpy: what it computes travels in the batch.
Part = tuple[Key | None, tuple[Any, ...]]


class Assembly(NamedTuple):
    """A network and its losses, sorted into what is compiled and what runs in numpy."""

    model: NetworkModel
    loss: NetworkLoss
    numpy_layers: frozenset[int]
    truncation: Truncation | None
    network: HostNetwork
    losses: tuple[LossFunction, ...]

    @property
    def is_compiled(self) -> bool:
        """Whether nothing runs in numpy."""
        return not self.numpy_layers and not any(isinstance(term, InNumpy) for term in self.loss.terms)

    def problem(self) -> Problem:
        """The traced objective where everything can be compiled, else a problem around it."""
        objective = TracedObjective(self.model, self.loss)
        if self.truncation is not None:
            windows = WindowedModel(self.model, self.truncation), WindowedLoss(self.loss, self.truncation)
            objective = TracedObjective(*windows)
        if self.is_compiled:
            return objective
        return NumpyProblem(objective, self.loss.terms, self.network, self.losses, self.numpy_layers)


class Assembler:
    """Assembles one network structure; layers with recurrent weights are None for a network without time."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        recurrent: tuple[int, ...] | None,
        truncation: Truncation | None,
    ) -> None:
        self.shape, self.dtype, self.recurrent, self.truncation = shape, dtype, recurrent, truncation
        self.steps: int | None = None  # timesteps of the data in use
        self._runs_in_numpy: dict[Any, bool] = {}
        self._needs: dict[Any, Needs] = {}
        self._last: tuple[list[Any], Assembly] | None = None  # what the last one depends on, where it is simple

    def assemble(
        self, layers: Sequence[Nonlinearity], losses: Sequence[LossFunction], plant: Plant | None = None
    ) -> Assembly:
        """Sort layers and losses, as they are now; a modern plant generates the inputs inside the compiled network.

        Raises TypeError for a layer or loss that can neither be compiled nor run in numpy, ValueError for a layer whose
        output or derivative has the wrong shape.
        """
        found = None if plant is not None else contents([*layers, *losses])
        if found is None:
            return self._assembled(layers, losses, plant)
        found.append(self.steps)
        # The same objects, not equal ones: 1, 1.0 and True are equal.
        if self._last is not None and len(found) == len(self._last[0]) and all(map(is_, found, self._last[0])):
            return self._last[1]
        self._last = found, self._assembled(layers, losses, None)
        return self._last[1]

    def _assembled(
        self, layers: Sequence[Nonlinearity], losses: Sequence[LossFunction], plant: Plant | None
    ) -> Assembly:
        parts = [
            self._part(layer, i, partial(probing.layer_runs_in_numpy, layer, self.shape[i], self.dtype))
            for i, layer in enumerate(layers)
        ]
        terms = tuple(self._term(position, loss, layers[-1]) for position, loss in enumerate(losses))
        loop, plant_arrays = None, ()
        if plant is not None:
            key, plant_arrays = split(plant)
            loop = Loop(key, int(plant.shape[1]), layer_of(plant, layers))
        keys, arrays = zip(*parts, strict=True)
        model = NetworkModel(
            Spec(self.shape, keys, self.recurrent, loop), self._what_losses_need(terms), arrays, plant_arrays
        )
        loss = NetworkLoss(terms, Layout(model.has_time))
        in_numpy = frozenset(i for i, key in enumerate(keys) if key is None)
        network = HostNetwork(tuple(layers), self.recurrent)
        return Assembly(model, loss, in_numpy, self.truncation, network, tuple(losses))

    def _term(self, position: int, loss: LossFunction, output_layer: Nonlinearity) -> LossTerm:
        # A loss may be made for sequences of one length only; before there are data, its failure tells nothing.
        settled = self.recurrent is None or self.steps is not None
        in_numpy = partial(probing.loss_runs_in_numpy, loss, self._shapes(), self.dtype, settled)
        key, arrays = self._part(loss, ("loss", self.steps), in_numpy)
        if key is None:
            return InNumpy(position)
        return matched(loss, output_layer) or AtActivations(key, arrays)

    def _shapes(self) -> Shapes:
        """Of each layer's activations, for one example."""
        time = () if self.recurrent is None else (self.steps or 2,)
        return [(*time, n) for n in self.shape]

    def _part(self, obj: Any, place: Any, in_numpy: Callable[[], bool]) -> Part:
        """Key and arrays of an object as it is now."""
        try:
            if isinstance(obj, Nonlinearity) and probing.is_classic_state(obj):
                raise UnkeyableError("what it holds changes at each timestep")
            part: Part = split(obj)
            trial: Any = (place, part[0])
        except UnkeyableError:
            # What cannot be compared by value is told apart by identity; the class stands in for a reused id.
            part, trial = (None, ()), (place, type(obj), id(obj))
        if trial not in self._runs_in_numpy:
            self._runs_in_numpy[trial] = in_numpy()
        return (None, ()) if self._runs_in_numpy[trial] else part

    def _what_losses_need(self, terms: tuple[LossTerm, ...]) -> Needs:
        """Union of what the losses look at."""
        trial = (self.steps, tuple(term.key if isinstance(term, AtActivations) else term for term in terms))
        if trial not in self._needs:
            needs = [term.needs(self._shapes()) for term in terms]
            layers: frozenset[int] = frozenset().union(*(n.layers for n in needs))
            self._needs[trial] = Needs(any(n.logits for n in needs), layers)
        return self._needs[trial]


def contents(parts: Iterable[Any]) -> list[Any] | None:
    """Layers and losses of this package and what they hold, None where that may change without being replaced.

    Example:
        >>> from hessianfree.networks.parts.nonlinearities import Tanh
        >>> tanh = Tanh()
        >>> contents([tanh]) == [tanh, *vars(tanh), *vars(tanh).values()]
        True
    """
    found: list[Any] = []
    for part in parts:
        held = vars(part)
        if not is_built_in(part) or not all(type(value) in PLAIN for value in held.values()):
            return None
        found += (part, *held, *held.values())
    return found


def layer_of(plant: Plant, layers: Sequence[Nonlinearity]) -> int | None:
    """Number of the layer that is the plant itself, None if it is no layer."""
    return next((i for i, layer in enumerate(layers) if layer is plant), None)
