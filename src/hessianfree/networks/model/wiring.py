"""How layers are wired: what is static about a network, its data, and the one function that runs it.

`forward` runs on numpy arrays and under a trace alike; on all examples, all timesteps or a single one, told by
`respond` what each layer does with its input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hessianfree.engine.trees import PyTree
from hessianfree.support.keys import Key

#: (pre, post); (l, l) for recurrent weights.
Connection = tuple[int, int]
#: Weights and bias (W, b) per connection.
Params = dict[Connection, tuple[Any, Any]]


class Loop(NamedTuple):
    """A plant that generates the inputs inside the compiled network: its key, timesteps, and its layer if it is one."""

    plant: Key
    steps: int
    layer: int | None


@dataclass(frozen=True)
class Spec:
    """What is static about a network.

    Args:
        shape: units per layer.
        layers: a key per layer, None for one that runs in numpy.
        recurrent: layers with recurrent weights; None for a network without time.
        loop: the plant around it, None where inputs are given.
    """

    shape: tuple[int, ...]
    layers: tuple[Key | None, ...]
    recurrent: tuple[int, ...] | None = None
    loop: Loop | None = None


class Activity(NamedTuple):
    """Inputs z and activations a of every layer, each (B, n_l), (B, T, n_l) or, inside the package, (T, B, n_l)."""

    z: list[Any]
    a: list[Any]


class Start(NamedTuple):
    """Where a sequence begins, for what does not begin afresh; leaves (B, ...).

    `fresh` tells the examples (1) whose first timestep takes the recurrent bias, from those (0) whose layers listed in
    `activations` were active before; None for the latter alone.
    """

    activations: Mapping[int, Any]
    states: Mapping[int, Any]
    fresh: Any = None


class NetworkInputs(NamedTuple):
    """The data (B, n) or (B, T, n), for each layer in numpy its local model, and where sequences begin.

    Inside a compiled loop the data is None, and `plant` is the plant's state before the first timestep.
    """

    x: Any
    local: Mapping[int, Any]
    start: Start | None = None
    plant: Any = None


class LocalLoss(NamedTuple):
    """A loss in numpy around the current point: value per example, and per layer gradient and diagonal curvature."""

    values: Any
    gradients: tuple[Any, ...]
    curvatures: tuple[Any, ...]


class NetworkTargets(NamedTuple):
    """The targets, and for each loss in numpy its local model, by position among the losses."""

    t: Any
    local: Mapping[int, LocalLoss]


@dataclass(frozen=True)
class Layout:
    """How outputs are arranged: a loss sees (B, n), or (B, T, n); a network over time works time-major, (T, B, n).

    Curvature products, many per update, stay in the network's order: what they multiply by is arranged once instead.

    Args:
        has_time: whether the network works time-major.
        windows: (L, B) where windows of L timesteps are further examples inside, (L, B V, n); a loss sees one window
            after another, (B, V L, n).
    """

    has_time: bool = False
    windows: tuple[int, int] | None = None

    def inner(self, tree: PyTree) -> PyTree:
        """From the order of the losses to that of the network."""
        if self.windows is not None:
            length = self.windows[0]
            tree = jax.tree.map(lambda a: a.reshape(-1, length, *a.shape[2:]), tree)
        return swap_time(tree) if self.has_time else tree

    def outer(self, tree: PyTree) -> PyTree:
        """From the order of the network to that of the losses."""
        tree = swap_time(tree) if self.has_time else tree
        if self.windows is None:
            return tree
        batch = self.windows[1]
        return jax.tree.map(lambda a: a.reshape(batch, -1, *a.shape[2:]), tree)


def swap_time(tree: PyTree) -> PyTree:
    """(B, T, ...) <-> (T, B, ...) in every leaf."""
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), tree)


def rows_times(a: Any, W: Any) -> Any:
    """A W over all leading axes of a, as one product of two matrices: XLA is slower at anything else."""
    return (a.reshape(-1, a.shape[-1]) @ W).reshape(*a.shape[:-1], -1)


class Feed(NamedTuple):
    """What one connection brings to a layer: a W + b, a the activation of the layer it comes from."""

    a: Any
    W: Any
    b: Any


class Drive(NamedTuple):
    """The feedforward input of a layer: what is given to it from outside, or None, and what its connections bring."""

    given: Any
    feeds: list[Feed]

    def total(self) -> Any:
        """All of it together, (..., n)."""
        terms = [] if self.given is None else [self.given]
        terms += [rows_times(feed.a, feed.W) + feed.b for feed in self.feeds]
        return reduce(add, terms)


#: (layer, its feedforward input) -> its whole input z, and its activation a.
Respond = Callable[[int, Drive], tuple[Any, Any]]


def forward(n_layers: int, params: Params, x: Any, respond: Respond, taps: Mapping[int, Any] | None = None) -> Activity:
    """Run the network: u_post = sum over pre of (a_pre W + b), (z, a) = respond(layer, u).

    Here x is the input of the first layer, (..., n_0). Recurrent connections (l, l) are left to `respond`. Taps are
    added to the inputs of the layers: their derivatives are the back-propagated deltas.
    """
    activity = Activity([], [])
    for layer in range(n_layers):
        tap = None if taps is None else taps[layer]
        given = tap if layer else x if tap is None else x + tap
        feeds = [Feed(activity.a[pre], W, b) for (pre, to), (W, b) in params.items() if to == layer and pre != layer]
        z, a = respond(layer, Drive(given, feeds))
        activity.z.append(z)
        activity.a.append(a)
    return activity
