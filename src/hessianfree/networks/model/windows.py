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

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from hessianfree.engine.models import Flow
from hessianfree.engine.objective import Loss, Model
from hessianfree.engine.trees import PyTree
from hessianfree.networks.model import over_time
from hessianfree.networks.model.network import NetworkModel
from hessianfree.networks.model.scan import delayed
from hessianfree.networks.model.terms import NetworkLoss, Outputs
from hessianfree.networks.model.wiring import Activity, Layout, NetworkInputs, NetworkTargets, Params, Start


class Truncation(NamedTuple):
    """A window ends every `every` timesteps and is `length` long."""

    every: int
    length: int

    def windows(self, steps: int) -> list[slice]:
        """The timesteps of each window of sequences of `steps` timesteps; some may be shorter at the start."""
        return [slice(max(end - self.length, 0), end) for end in range(self.every, steps + 1, self.every)]

    def check(self, targets: NDArray[Any]) -> None:
        """Raise ValueError if no window ends within the sequences, or all known targets lie outside of windows."""
        steps = targets.shape[1]
        if self.every > steps:
            raise ValueError(
                f"truncation ends a window every {self.every} timesteps, but the sequences have {steps}; "
                "give a smaller n."
            )
        if all(np.isnan(targets[:, window]).all() for window in self.windows(steps)):
            raise ValueError(
                f"truncation {tuple(self)} has no window with a known target in it; choose n so that a window ends "
                "after the targets, such as a divisor of the number of timesteps."
            )


class WindowedOutputs(NamedTuple):
    """Outputs over whole sequences, for the value; and over all windows one after another, for the derivatives."""

    whole: Outputs
    windows: Outputs


class _Windows:
    """Where the windows of sequences of `steps` timesteps are; all of one length, some end before it.

    Attributes:
        starts: first timestep of each window, (V,).
        index: timesteps of each window, (V, L).
        valid: whether they are before the window's end, (V, L).
    """

    def __init__(self, truncation: Truncation, steps: int) -> None:
        windows = truncation.windows(steps)
        self.starts = np.array([window.start for window in windows], int)
        self.length = max((window.stop - window.start for window in windows), default=0)
        self.index = self.starts[:, None] + np.arange(self.length)
        self.valid = self.index < np.array([[window.stop] for window in windows])

    def valid_rows(self, batch: int) -> Array:
        """`valid` for the windows of a batch as the network arranges them, (L, B V)."""
        return jnp.tile(self.valid.T, batch)

    def gather(self, tree: PyTree) -> PyTree:
        """(B, T, ...) to the windows of each example one after another, (B, V L, ...)."""
        return jax.tree.map(lambda a: jnp.take(jnp.asarray(a), self.index.ravel(), axis=1), tree)

    def as_examples(self, tree: PyTree) -> PyTree:
        """(B, T, ...) to windows as examples, (B V, L, ...)."""
        return jax.tree.map(lambda a: a.reshape(-1, self.length, *a.shape[2:]), self.gather(tree))

    def at_starts(self, tree: PyTree) -> PyTree:
        """(T, B, ...) to what stands at the first timestep of each window, (B V, ...)."""
        return jax.tree.map(lambda a: jnp.swapaxes(a[self.starts], 0, 1).reshape(-1, *a.shape[2:]), tree)


@partial(jax.tree_util.register_dataclass, data_fields=("network",), meta_fields=("truncation",))
@dataclass(frozen=True)
class WindowedModel(Model):
    """A recurrent network over whole sequences, which no derivative sees, and over windows, which restart from them."""

    network: NetworkModel
    truncation: Truncation
    has_time = True
    derivatives_of_value = False
    examples_axis = None

    def outputs(self, params: Params, inputs: NetworkInputs) -> WindowedOutputs:
        """Outputs over whole sequences, constant, and over windows."""
        whole, restarted, _ = self._restarted(params, inputs)
        return WindowedOutputs(whole, self.network.outputs(params, restarted))

    def _restarted(self, params: Params, inputs: NetworkInputs) -> tuple[Outputs, NetworkInputs, _Windows]:
        """Outputs over whole sequences, constant, and the windows as further examples."""
        network, windows = self.network, _Windows(self.truncation, inputs.x.shape[1])
        paths = over_time.paths(network.spec, network.layer_arrays, lax.stop_gradient(params), inputs)
        start = Start(  # what was active before; a window at the very start has the recurrent bias instead
            {layer: windows.at_starts(delayed(paths[layer].a)) for layer in network.spec.recurrent or ()},
            {layer: windows.at_starts(path.before) for layer, path in enumerate(paths) if jax.tree.leaves(path.before)},
            jnp.tile(jnp.asarray(windows.starts == 0, inputs.x.dtype), len(inputs.x)),
        )
        whole = network.shown(Activity([path.z for path in paths], [path.a for path in paths]))
        data = windows.as_examples(inputs.x), windows.as_examples(dict(inputs.local))
        return lax.stop_gradient(whole), NetworkInputs(*data, lax.stop_gradient(start)), windows

    def weigh(self, weights: Array, outputs: WindowedOutputs) -> WindowedOutputs:
        """Multiply what belongs to example i, in all of its windows, by weights[i]."""
        count = jax.tree.leaves(outputs.windows)[0].shape[1] // len(weights)
        return WindowedOutputs(
            self.network.weigh(weights, outputs.whole), self.network.weigh(jnp.repeat(weights, count), outputs.windows)
        )

    def dot(self, x: WindowedOutputs, y: WindowedOutputs) -> Array:
        """Inner product over the windows of each example, (B,)."""
        batch = jax.tree.leaves(x.whole)[0].shape[1]
        return self.network.dot(x.windows, y.windows).reshape(batch, -1).sum(axis=1)

    def flows(
        self,
        params: Params,
        inputs: NetworkInputs,
        weights: Array,
        cotangents: Callable[[WindowedOutputs], WindowedOutputs],
    ) -> dict[int, Flow]:
        """What flows through the layers, over all windows."""
        whole, restarted, windows = self._restarted(params, inputs)
        rows = jnp.where(windows.valid_rows(len(weights)), jnp.repeat(weights, len(windows.starts)), 0)

        def of_windows(outputs: Outputs) -> Outputs:
            return cotangents(WindowedOutputs(whole, outputs)).windows

        return self.network.flows(params, restarted, rows, of_windows)

    to_blocks, from_blocks = staticmethod(NetworkModel.to_blocks), staticmethod(NetworkModel.from_blocks)


@partial(jax.tree_util.register_dataclass, data_fields=("loss",), meta_fields=("truncation",))
@dataclass(frozen=True)
class WindowedLoss(Loss):
    """The value over whole sequences; derivatives of every step in every window.

    A loss is evaluated on windows: it must treat all timesteps alike.
    """

    loss: NetworkLoss
    truncation: Truncation

    @property
    def is_likelihood(self) -> bool:  # type: ignore[override]
        """Whether the network's loss is one."""
        return self.loss.is_likelihood

    def values(self, outputs: WindowedOutputs, targets: NetworkTargets) -> Array:
        """Those of the whole sequences, (B,)."""
        return self.loss.values(outputs.whole, targets)

    def gradients(self, outputs: WindowedOutputs, targets: NetworkTargets) -> WindowedOutputs:
        """Of every step in every window."""
        loss, inside = self._inside(targets)
        return self._valid(outputs, targets, loss.gradients(outputs.windows, inside))

    def curvature(self, outputs: WindowedOutputs, targets: NetworkTargets) -> Callable[[Any], WindowedOutputs]:
        """Of every step in every window; P H P with P the projection on valid steps."""
        loss, inside = self._inside(targets)
        curvature = loss.curvature(outputs.windows, inside)

        def product(u: WindowedOutputs) -> WindowedOutputs:
            return self._valid(outputs, targets, curvature(self._valid(outputs, targets, u.windows).windows))

        return product

    def sample(self, outputs: WindowedOutputs, targets: NetworkTargets, key: Array) -> WindowedOutputs:
        """Of every step in every window."""
        loss, inside = self._inside(targets)
        return self._valid(outputs, targets, loss.sample(outputs.windows, inside, key))

    def _windows(self, targets: NetworkTargets) -> _Windows:
        return _Windows(self.truncation, targets.t.shape[1])

    def _inside(self, targets: NetworkTargets) -> tuple[NetworkLoss, NetworkTargets]:
        """The loss for outputs of windows; targets, and local models of losses in numpy, in the windows.

        Values per example are not asked for.
        """
        windows = self._windows(targets)
        local = {
            i: loss._replace(gradients=windows.gather(loss.gradients), curvatures=windows.gather(loss.curvatures))
            for i, loss in targets.local.items()
        }
        loss = replace(self.loss, layout=Layout(True, (windows.length, len(targets.t))))
        return loss, NetworkTargets(windows.gather(targets.t), local)

    def _valid(self, outputs: WindowedOutputs, targets: NetworkTargets, windows: Outputs) -> WindowedOutputs:
        """Zero for the whole sequences, and for steps after the end of their window."""
        valid = self._windows(targets).valid_rows(len(targets.t))[:, :, None]
        kept = jax.tree.map(lambda a: jnp.where(valid, a, 0), windows)
        return WindowedOutputs(jax.tree.map(jnp.zeros_like, outputs.whole), kept)
