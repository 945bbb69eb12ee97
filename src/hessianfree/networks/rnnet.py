"""Recurrent networks: any mixture of recurrent and feedforward layers, over sequences."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from hessianfree.networks import arguments, rollouts
from hessianfree.networks.core import NetworkCore, Structure
from hessianfree.networks.ffnet import _LOGISTIC, _SQUARED_ERROR, FFNet
from hessianfree.networks.model.windows import Truncation
from hessianfree.networks.model.wiring import Start
from hessianfree.networks.numpy import probing
from hessianfree.networks.parts.interfaces import Plant, has_step, keeps_state
from hessianfree.support import checks


class RNNet(FFNet):
    """A recurrent network, trained by `run_epochs` on sequences (B, T, n) or with a plant.

    z_t = sum over pre of (a_pre,t W + b) + a_{t-1} W_rec, with the recurrent bias b_rec in place of a_{t-1} W_rec at
    the first timestep. The loss is summed over time and averaged over the batch.

    Args:
        shape: units per layer, the input layer first.
        rec_layers: layers with recurrent weights; all but the first and the last by default.
        W_rec_params: arguments of `init_weights` for the recurrent weights. The default of 2016, sparse ones of
            deviation 1, has a spectral radius of 3 to 4: good for Logistic units, chaos for Tanh ones over 20 steps
            or more. Give {"init_type": "orthogonal"} or {"spectral_radius": 1.0} for these.
        truncation: (n, k): back-propagation starts every n timesteps and goes back k; whole sequences by default.
        layers: as in FFNet; layers with state are welcome.
        conns: as in FFNet.
        loss_type: as in FFNet.
        W_init_params: as in FFNet, for all but the recurrent weights.
        use_GPU: as in FFNet.
        load_weights: as in FFNet.
        debug: as in FFNet.
        rng: as in FFNet.
        dtype: as in FFNet.

    Raises:
        ValueError: as in FFNet, and if a recurrent layer does not exist or a truncation is below 1.
        TypeError: as in FFNet.

    Example:
        >>> net = RNNet([1, 10, 1], rng=0)
        >>> net.forward(np.zeros((4, 7, 1)))[-1].shape
        (4, 7, 1)
    """

    def __init__(
        self,
        shape: Sequence[int],
        rec_layers: Sequence[int] | None = None,
        W_rec_params: Mapping[str, Any] | None = None,
        truncation: tuple[int, int] | None = None,
        layers: Any = _LOGISTIC,
        conns: Mapping[int, Sequence[int]] | None = None,
        loss_type: Any = _SQUARED_ERROR,
        W_init_params: Mapping[str, Any] | None = None,
        use_GPU: bool | None = None,
        load_weights: Any = None,
        debug: bool = False,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        sizes = checks.network_shape(shape)
        self.rec_layers = checks.recurrent_layers(rec_layers, len(sizes))
        self.truncation = truncation
        windows = None if truncation is None else Truncation(*checks.truncation(truncation))
        layer_objects = arguments.layer_list(layers, len(sizes))
        arguments.check_widths(layer_objects, sizes)
        if message := arguments.shared_state(layer_objects):
            warnings.warn(message, stacklevel=2)
        structure = Structure(sizes, layer_objects, conns, self.rec_layers, windows)
        # Not FFNet's constructor, which refuses layers with state.
        NetworkCore.__init__(self, structure, loss_type, use_GPU, debug, rng, dtype)
        self._fill(load_weights, W_init_params or {}, W_rec_params or {})

    def forward(
        self,
        inputs: Any,
        params: ArrayLike | None = None,
        deriv: bool = False,
        init_activations: Sequence[Any] | None = None,
        init_state: Sequence[Any] | None = None,
    ) -> Any:
        """Activations of every layer over time.

        Args:
            inputs: (B, T, n_0), or a plant that generates them.
            params: flat weights, `net.W` by default.
            deriv: whether to return derivatives too.
            init_activations: per layer its activations (B, n_l) at the timestep before the first, or None; the first
                recurrent input is then these times W_rec, and not b_rec.
            init_state: per layer its state before the first timestep, or None.

        Returns:
            A list of (B, T, n_l), the input layer included; with `deriv` also the list of d_activation of each layer,
            with a time axis after the first.

        Raises:
            ValueError: if inputs have the wrong width, or are NaN or infinite.
            OverflowError: if an activation or an input from a plant is not finite, naming layer and timestep.
        """
        start = _start_of(self, init_activations, init_state)
        if not isinstance(inputs, Plant):
            x = self.check_inputs(inputs)
            if start is not None:
                _check_start(self, start, len(x))
            return rollouts.activations(self, x, params, deriv, start, leave_states=True)
        if start is not None:
            raise ValueError("init_activations and init_state go with given inputs; a plant starts from its own state.")
        rollouts.check(self, inputs)
        activity, examples = rollouts.generate(self, inputs, params)
        return rollouts.activations(self, examples.x, params, True) if deriv else activity.a


def _start_of(net: NetworkCore, activations: Sequence[Any] | None, states: Sequence[Any] | None) -> Start | None:
    """Where sequences begin, from one entry or None per layer.

    Raises TypeError for what is not a list, ValueError if its length is wrong, activations have the wrong width, or a
    layer with a state given keeps none.
    """
    if activations is None and states is None:
        return None
    for name, values in (("init_activations", activations), ("init_state", states)):
        if values is None:
            continue
        if not isinstance(values, (list, tuple)):
            raise TypeError(
                f"{name} is a {type(values).__name__}; a list with one entry (or None) per layer is expected."
            )
        if len(values) != net.n_layers:
            raise ValueError(
                f"{name} has {len(values)} entries for {net.n_layers} layers; give one (or None) per layer."
            )
    given = {i: np.asarray(a, net.dtype) for i, a in enumerate(activations or ()) if a is not None}
    for i, a in given.items():
        if a.ndim != 2 or a.shape[1] != net.shape[i]:
            raise ValueError(
                f"init_activations of layer {i} has shape {a.shape}; (examples, {net.shape[i]}) is expected."
            )
    given_states = {i: s for i, s in enumerate(states or ()) if s is not None}
    for i in given_states:
        if not keeps_state(net.layers[i]):
            raise ValueError(f"init_state is given for layer {i}, but {type(net.layers[i]).__name__} keeps no state.")
    return Start({i: a for i, a in given.items() if i in (net.recurrent or ())}, given_states)


def _check_start(net: NetworkCore, start: Start, batch: int) -> None:
    for layer, a in start.activations.items():
        if len(a) != batch:
            raise ValueError(f"init_activations of layer {layer} has {len(a)} rows for {batch} inputs; give one each.")
    for layer, state in start.states.items():
        if has_step(net.layers[layer]):
            probing.check_state(f"init_state of layer {layer}", state, net.layers[layer].initial_state(batch), batch)
