"""Truncated back-propagation through time, for gradient and curvature alike.

Windows end after steps n, 2n, 3n, ...; each holds the k steps up to its end (fewer at the start). Activations and
states before a window are constants for it, and the loss of every step inside counts, once for each window that
contains it. With J_w the Jacobian of a window's outputs so restarted,

    g = sum_w J_w' dl_w,    G = sum_w J_w' H_w J_w,

a sum of squares: symmetric and positive semi-definite. Truncating the backward pass alone, with the full forward
tangent, would make G unsymmetric and CG undefined. The loss itself is that of the whole sequences.

Windows run side by side, as further examples; memory grows by k / n.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from hessianfree.engine.kfac import Factors
from hessianfree.engine.objective import Batch, Objective, mean_squared_gradients, mean_weights
from hessianfree.engine.trees import PyTree
from hessianfree.networks.model import over_time as sequences
from hessianfree.networks.model.factors import factors
from hessianfree.networks.model.network import NetworkObjective
from hessianfree.networks.model.scan import Path, delayed
from hessianfree.networks.model.terms import Layout, Outputs
from hessianfree.networks.model.weights import Params
from hessianfree.networks.model.wiring import Activity, NetworkInputs, NetworkTargets, Start


class Truncation(NamedTuple):
    """A window ends every `every` timesteps and is `length` long."""

    every: int
    length: int

    def check(self, targets: NDArray[Any]) -> None:
        """Refuse targets (B, T, n) of which nothing would be learnt.

        Raises:
            ValueError: if no window ends within the sequences, or all known targets lie outside of windows.
        """
        steps = targets.shape[1]
        if self.every > steps:
            raise ValueError(
                f"truncation ends a window every {self.every} timesteps, but the sequences have {steps}; "
                "give a smaller n."
            )
        windows = _Windows(self, steps)
        inside = np.unique(windows.index[windows.valid])
        if np.isnan(targets[:, inside]).all():
            raise ValueError(
                f"truncation {tuple(self)} has no window with a known target in it; choose n so that a window ends "
                "after the targets, such as a divisor of the number of timesteps."
            )


class WindowedOutputs(NamedTuple):
    """Outputs over whole sequences, for the value; and over all windows one after another, for the derivatives."""

    whole: Outputs
    windows: Outputs


def truncated(objective: NetworkObjective, truncation: Truncation | None) -> Objective:
    """The objective with truncated derivatives, or as it is."""
    return objective if truncation is None else TruncatedObjective(objective, truncation)


class _Windows:
    """Where the windows of sequences of `steps` timesteps are; all of one length, some end before it.

    Attributes:
        starts: first timestep of each window, (V,).
        index: timesteps of each window, (V, L).
        valid: whether they are before the window's end, (V, L).
    """

    def __init__(self, truncation: Truncation, steps: int) -> None:
        ends = np.arange(truncation.every, steps + 1, truncation.every)
        self.starts = np.maximum(ends - truncation.length, 0)
        self.length = int(np.max(ends - self.starts, initial=0))
        self.index = self.starts[:, None] + np.arange(self.length)
        self.valid = self.index < ends[:, None]

    def gather(self, tree: PyTree) -> PyTree:
        """(B, T, ...) to the windows of each example one after another, (B, V L, ...)."""
        return jax.tree.map(lambda a: jnp.take(jnp.asarray(a), self.index.ravel(), axis=1), tree)

    def as_examples(self, tree: PyTree) -> PyTree:
        """(B, T, ...) to windows as examples, (B V, L, ...)."""
        return jax.tree.map(lambda a: a.reshape(-1, self.length, *a.shape[2:]), self.gather(tree))

    def at_starts(self, tree: PyTree) -> PyTree:
        """(T, B, ...) to what stands at the first timestep of each window, (B V, ...)."""
        return jax.tree.map(lambda a: jnp.swapaxes(a[self.starts], 0, 1).reshape(-1, *a.shape[2:]), tree)

    def layout(self, batch: int) -> Layout:
        """Outputs of windows as the network arranges them, (L, B V, ...), and one after another, (B, V L, ...)."""

        def outer(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1).reshape(batch, -1, *a.shape[2:]), tree)

        def inner(tree: PyTree) -> PyTree:
            return jax.tree.map(lambda a: jnp.swapaxes(a.reshape(-1, self.length, *a.shape[2:]), 0, 1), tree)

        return Layout(inner, outer)


@partial(jax.tree_util.register_dataclass, data_fields=("network",), meta_fields=("truncation",))
@dataclass(frozen=True)
class TruncatedObjective(Objective):
    """A recurrent network whose gradient and curvature are truncated, and whose value is not.

    A loss is evaluated on windows: it must treat all timesteps alike.

    Args:
        network: the objective without truncation.
        truncation: the windows.
    """

    network: NetworkObjective
    truncation: Truncation

    def outputs(self, params: Params, inputs: NetworkInputs) -> WindowedOutputs:
        """Outputs over whole sequences, constant, and over windows."""
        paths, restarted = self._restarted(params, inputs)
        return WindowedOutputs(
            lax.stop_gradient(self.network.shown(Activity([path.z for path in paths], [path.a for path in paths]))),
            self.network.outputs(params, restarted),
        )

    def _restarted(self, params: Params, inputs: NetworkInputs) -> tuple[list[Path], NetworkInputs]:
        """What every layer does over whole sequences, constant, and the windows as further examples."""
        network, fixed = self.network, lax.stop_gradient(params)
        batch, steps = inputs.x.shape[:2]
        windows = _Windows(self.truncation, steps)
        paths = sequences.paths(network.spec, network.layer_arrays, fixed, inputs)
        fresh = jnp.tile(jnp.asarray(windows.starts == 0, inputs.x.dtype), batch)
        recurrent = network.spec.recurrent or ()
        start = Start(
            # What was active at the timestep before; a window at the very start has the recurrent bias instead.
            {layer: windows.at_starts(delayed(paths[layer].a)) for layer in recurrent},
            {layer: windows.at_starts(path.before) for layer, path in enumerate(paths) if jax.tree.leaves(path.before)},
            fresh,
        )
        start = lax.stop_gradient(start)
        return paths, NetworkInputs(windows.as_examples(inputs.x), windows.as_examples(dict(inputs.local)), start)

    def weigh(self, weights: Array, outputs: WindowedOutputs) -> WindowedOutputs:
        """Multiply what belongs to example i, in all of its windows, by weights[i]."""
        whole = self.network.weigh(weights, outputs.whole)
        count = jax.tree.leaves(outputs.windows)[0].shape[1] // len(weights)
        return WindowedOutputs(whole, self.network.weigh(jnp.repeat(weights, count), outputs.windows))

    def losses(self, outputs: WindowedOutputs, targets: NetworkTargets) -> Array:
        """Those of the whole sequences, (B,)."""
        return self.network.losses(outputs.whole, targets)

    def loss_gradients(self, outputs: WindowedOutputs, targets: NetworkTargets) -> WindowedOutputs:
        """Of every step in every window."""
        layout = self._windows(targets).layout(len(targets.t))
        gradients = self.network.gradients_in(outputs.windows, self._targets(targets), layout)
        return self._valid(outputs, targets, gradients)

    def loss_curvature(self, outputs: WindowedOutputs, targets: NetworkTargets) -> Callable[[PyTree], PyTree]:
        """Of every step in every window; P H P with P the projection on valid steps."""
        layout = self._windows(targets).layout(len(targets.t))
        curvature = self.network.curvature_in(outputs.windows, self._targets(targets), layout)

        def product(u: WindowedOutputs) -> WindowedOutputs:
            inside = self._valid(outputs, targets, u.windows).windows
            return self._valid(outputs, targets, curvature(inside))

        return product

    def squared_gradients(self, params: Params, batch: Batch) -> Params:
        """Example by example, in chunks."""
        return mean_squared_gradients(self, params, batch)

    def kronecker_factors(self, params: Params, batch: Batch, key: Array) -> dict[int, Factors]:
        """A and S of every layer over all windows."""
        windows = self._windows(batch.targets)
        size = len(batch.weights)
        valid = jnp.tile(windows.valid.T, size)

        def sample(outputs: Outputs) -> Outputs:
            drawn = self.network.samples_in(outputs, self._targets(batch.targets), windows.layout(size), key)
            return jax.tree.map(lambda a: jnp.where(valid[:, :, None], a, 0), drawn)

        restarted = self._restarted(params, batch.inputs)[1]
        activity, deltas = self.network.back_propagated(params, restarted, sample)
        weights = jnp.where(valid, jnp.repeat(mean_weights(batch.weights), len(windows.starts)), 0)
        return factors(params, activity, deltas, weights, restarted.start)

    def to_blocks(self, vector: Params) -> dict[int, Array]:
        """One matrix per layer."""
        return self.network.to_blocks(vector)

    def from_blocks(self, blocks: Mapping[int, Array], like: Params) -> Params:
        """The inverse."""
        return self.network.from_blocks(blocks, like)

    def _windows(self, targets: NetworkTargets) -> _Windows:
        return _Windows(self.truncation, targets.t.shape[1])

    def _targets(self, targets: NetworkTargets) -> NetworkTargets:
        """Targets, and local models of host losses, in the windows; values per example are not asked for."""
        gather = self._windows(targets).gather
        local = {
            i: loss._replace(gradients=gather(loss.gradients), curvatures=gather(loss.curvatures))
            for i, loss in targets.local.items()
        }
        return NetworkTargets(gather(targets.t), local)

    def _valid(self, outputs: WindowedOutputs, targets: NetworkTargets, windows: Outputs) -> WindowedOutputs:
        """Zero for the whole sequences, and for steps after the end of their window."""
        valid = jnp.tile(self._windows(targets).valid.T, len(targets.t))[:, :, None]
        kept = jax.tree.map(lambda a: jnp.where(valid, a, 0), windows)
        return WindowedOutputs(jax.tree.map(jnp.zeros_like, outputs.whole), kept)
