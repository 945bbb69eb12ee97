"""Finite-difference checks of what the solver uses, for networks with `debug=True`.

Everything is compared in float64 with central differences: the gradient g with those of the loss, and the
Gauss-Newton matrix with J'HJ put together from differences of the outputs (the logits where the loss matches the output
layer) and of the loss at those outputs. Cost: a few evaluations per weight, and a dense matrix; for small networks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.networks.model.terms import matched
from hessianfree.networks.model.wiring import Activity
from hessianfree.networks.numpy import probing as host
from hessianfree.networks.numpy.stepping import stacked
from hessianfree.networks.parts import loss_funcs
from hessianfree.networks.parts.loss_funcs import LossFunction, StructuralDamping
from hessianfree.networks.rollouts import looped_activity

Floats = NDArray[Any]

#: Step of the differences, and the error allowed relative to the largest entry.
STEP, TOLERANCE = 1e-5, 1e-4


class DerivativeError(ArithmeticError):
    """A derivative that the solver uses disagrees with finite differences."""


def check_derivatives(net: Any) -> None:
    """Compare gradient and curvature of a network, on its cached minibatch, with finite differences.

    Args:
        net: a network with float64 weights and a cached minibatch.

    Raises:
        DerivativeError: naming the connection (and the weight) that disagrees most.
    """
    weights = net.W.copy()
    with net.computing():
        _check_at(net, weights)


def _check_at(net: Any, weights: Floats) -> None:
    try:
        _check_here(net)
    except DerivativeError:
        # Right on a kink (a ReLU whose input is zero) differences mean nothing; an error is still there nearby.
        net.W = weights + 1e-3 * np.random.RandomState(0).randn(weights.size)
        _check_here(net)
    finally:
        net.W = weights


def _check_here(net: Any) -> None:
    windows = _windows(net)
    gradients = [_differences(partial(_loss, net, window), net.W)[0] for window in windows]
    _compare(net, "gradient", net.calc_grad(), np.sum(gradients, axis=0))
    G = np.stack([net.calc_G(unit) for unit in np.eye(net.W.size)])
    curvatures = [_dense_gauss_newton(net, window) for window in windows]
    _compare(net, "Gauss-Newton matrix", G, np.sum(curvatures, axis=0))


def _windows(net: Any) -> list[Any]:
    """The timesteps of each window of truncated back-propagation; a single one of everything otherwise."""
    if getattr(net, "truncation", None) is None:
        return [slice(None)]
    every, length = net.truncation
    ends = range(every, net.inputs.shape[1] + 1, every)
    return [slice(max(end - length, 0), end) for end in ends]


def _differences(function: Callable[[Floats], Any], at: Floats) -> Floats:
    """Central differences of a vector function, one column per coordinate: (outputs, P)."""
    columns = []
    for step in STEP * np.eye(at.size):
        difference = np.asarray(function(at + step)) - np.asarray(function(at - step))
        columns.append(np.atleast_1d(difference) / (2 * STEP))
    return np.stack(columns, axis=-1)


def _activity(net: Any, W: Floats, window: slice) -> Activity:
    """What the network does inside a window with other weights there; what comes before has the network's own."""
    if net.recurrent is None:
        return net.assemble().network.run(net.params(W), net.inputs)
    if (plant := net.looped_plant) is not None:
        return looped_activity(net, plant, net.params(W), net.batch().inputs.plant)
    here, there, x = net.params(W), net.params(), net.inputs
    first = window.start or 0
    network = net.assemble().network
    steps = network.steps(
        lambda t: here if t >= first else there, lambda t, output, states: x[:, t], x.shape[1], x.dtype
    )
    return stacked(steps[window])


def _targets(net: Any, window: slice) -> Floats:
    return net.targets if net.recurrent is None else net.targets[:, window]


def _loss(net: Any, window: slice, W: Floats) -> float:
    activity = _activity(net, W, window)
    return float(sum(_values(net, loss, activity, window).mean() for loss in loss_funcs.flatten(net.loss)))


def _dense_gauss_newton(net: Any, window: slice) -> Floats:
    """J'HJ, summed over losses and examples and averaged over the batch."""
    total = np.zeros((net.W.size, net.W.size))
    for loss in loss_funcs.flatten(net.loss):
        if matched(loss, net.layers[-1]) is not None:
            total += _at_quantity(net, loss, window, "z", net.n_layers - 1)
        else:
            for layer in range(net.n_layers):
                total += _at_quantity(net, loss, window, "a", layer)
    return total / len(net.targets)


def _at_quantity(net: Any, loss: LossFunction, window: slice, kind: str, layer: int) -> Floats:
    """J'HJ of one loss at the activation ("a") or input ("z") of one layer, summed over examples."""
    here = _activity(net, net.W, window)
    values = getattr(here, kind)[layer]
    H = _loss_hessians(net, loss, here, window, kind, layer)
    if not H.any():
        return np.zeros((net.W.size, net.W.size))
    J = _differences(lambda w: getattr(_activity(net, w, window), kind)[layer].ravel(), net.W)
    J = J.reshape(len(values), -1, net.W.size)
    return np.einsum("bip,bij,bjq->pq", J, H, J)


def _loss_hessians(net: Any, loss: LossFunction, here: Activity, window: slice, kind: str, layer: int) -> Floats:
    """Second differences of the loss of each example at one quantity, (B, n, n), n counting units and timesteps."""
    values: Floats = getattr(here, kind)[layer]
    B, n = len(values), values[0].size
    if isinstance(loss, StructuralDamping):
        # Curvature without a loss: its own statement is all there is.
        diagonal = loss.d2_loss(here.a, _targets(net, window))[layer]
        return np.zeros((B, n, n)) if diagonal is None else np.asarray(diagonal).reshape(B, n)[:, :, None] * np.eye(n)

    def per_example(shift: Floats) -> Floats:
        moved = list(getattr(here, kind))
        moved[layer] = values + shift.reshape(values.shape[1:])
        return _values(net, loss, here._replace(**{kind: moved}), window)

    h, units, H = 1e-4, np.eye(n), np.zeros((B, n, n))
    still = per_example(0 * units[0])
    if all(np.array_equal(per_example(h * unit), still) for unit in units):
        return H  # the loss does not look at this layer
    for i in range(n):
        for j in range(i, n):
            corners = [(1, 1, 1), (-1, 1, -1), (1, -1, -1), (-1, -1, 1)]
            H[:, i, j] = sum(s * per_example(h * (a * units[i] + b * units[j])) for a, b, s in corners) / (4 * h * h)
            H[:, j, i] = H[:, i, j]
    return np.where(np.abs(H) < 1e-5, 0, H)


def _values(net: Any, loss: LossFunction, activity: Activity, window: slice) -> Floats:
    return host.loss_values(loss, net.layers[-1], activity, _targets(net, window))


def _compare(net: Any, what: str, used: Floats, reference: Floats) -> None:
    error = np.abs(used - reference)
    allowed = TOLERANCE * max(float(np.abs(reference).max()), float(np.abs(used).max())) + 1e-7
    if np.isfinite(error).all() and error.max() <= allowed:
        return
    error = np.where(np.isfinite(error), error, np.inf)
    worst = np.unravel_index(int(error.argmax()), error.shape)
    names = " and ".join(_place(net, int(index)) for index in worst)
    raise DerivativeError(
        f"The {what} disagrees with finite differences at {names}: the solver uses {used[worst]:.6g}, differences give "
        f"{reference[worst]:.6g}. Check the d_activation of the layers around it, and the losses' d_loss and d2_loss."
    )


def _place(net: Any, index: int) -> str:
    """Which connection a position in the flat vector belongs to."""
    for (pre, post), (_, middle, end) in net.offsets.items():
        if index < end:
            kind = "weight" if index < middle else "bias"
            if pre == post:
                return f"a recurrent {kind} of layer {pre} (position {index})"
            return f"a {kind} of connection {pre} -> {post} (position {index})"
    raise IndexError(index)
