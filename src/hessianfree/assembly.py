"""From layer and loss objects, as they are now, to the problem the engine solves.

Keys are taken anew each time, so that a changed attribute takes effect; whether a layer or loss can be compiled is
tried once per key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hessianfree import host
from hessianfree.engine.objective import Problem
from hessianfree.keys import Key, UnkeyableError, split
from hessianfree.loss_funcs import LossFunction
from hessianfree.network import NetworkObjective, Spec
from hessianfree.nonlinearities import Nonlinearity
from hessianfree.terms import Needs, traced_term
from hessianfree.weights import Connection

#: Key and arrays of a layer or loss; no key for one that runs on the host: what it computes travels in the batch.
Part = tuple[Key | None, tuple[Any, ...]]


class Assembler:
    """Builds problems for one network structure.

    Args:
        shape: units per layer.
        connections: (pre, post) pairs in layout order.
        dtype: the network's.
    """

    def __init__(self, shape: tuple[int, ...], connections: tuple[Connection, ...], dtype: np.dtype[Any]) -> None:
        self.shape, self.connections, self.dtype = shape, connections, dtype
        self._runs_on_host: dict[Any, bool] = {}
        self._needs: dict[Any, Needs] = {}

    def problem(self, layers: Sequence[Nonlinearity], losses: Sequence[LossFunction]) -> Problem:
        """The objective where everything can be compiled, else a host problem around it.

        Raises:
            TypeError: for a layer or loss that can neither be compiled nor run on the host.
            ValueError: for a layer whose output or derivative has the wrong shape.
        """
        layer_parts = [self._layer_part(i, layer) for i, layer in enumerate(layers)]
        loss_parts = [self._loss_part(loss) for loss in losses]
        objective = NetworkObjective(
            Spec(self.shape, self.connections, tuple(key for key, _ in layer_parts)),
            tuple(key for key, _ in loss_parts),
            self._what_losses_need(loss_parts, layers[-1]),
            tuple(arrays for _, arrays in layer_parts),
            tuple(arrays for _, arrays in loss_parts),
        )
        host_layers = frozenset(i for i, (key, _) in enumerate(layer_parts) if key is None)
        if not host_layers and None not in objective.loss_keys:
            return objective
        return host.HostProblem(objective, tuple(layers), tuple(losses), host_layers)

    def _layer_part(self, i: int, layer: Nonlinearity) -> Part:
        def on_host() -> bool:
            reason = host.why_layer_is_untraceable(layer, self.shape[i], self.dtype)
            if reason:
                host.check_host_layer(layer, self.shape[i], reason, self.dtype)
            return bool(reason)

        return self._part(layer, i, on_host)

    def _loss_part(self, loss: LossFunction) -> Part:
        def on_host() -> bool:
            reason = host.why_loss_is_untraceable(loss, self.shape, self.dtype)
            if reason:
                host.check_host_loss(loss, self.shape, reason, self.dtype)
            return bool(reason)

        return self._part(loss, "loss", on_host)

    def _part(self, obj: Any, place: Any, on_host: Callable[[], bool]) -> Part:
        """Key and arrays of an object as it is now."""
        try:
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
        trial = (type(output_layer), tuple(key for key, _ in parts))
        if trial not in self._needs:
            everything = Needs(False, frozenset(range(len(self.shape))))
            needs = [
                everything if key is None else traced_term(key, arrays, output_layer).needs(self.shape)
                for key, arrays in parts
            ]
            layers: frozenset[int] = frozenset().union(*(n.layers for n in needs))
            self._needs[trial] = Needs(any(n.logits for n in needs), layers)
        return self._needs[trial]
