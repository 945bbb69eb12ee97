"""What a run of a network knows of its data and its layers, for `hf.diagnose`."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from hessianfree.diagnosis.constant import Constant, best_constant
from hessianfree.diagnosis.data import NUMBERS, ROWS, every_so_often, inputs_of, targets_of
from hessianfree.diagnosis.facts import Facts, Said, Units
from hessianfree.networks import rollouts
from hessianfree.networks.arguments import is_built_in
from hessianfree.networks.core import Floats, NetworkCore
from hessianfree.networks.expansion import steepest
from hessianfree.networks.parts import nonlinearities as nl
from hessianfree.networks.parts.interfaces import Nonlinearity, Plant, keeps_state
from hessianfree.networks.parts.loss_funcs import (
    BinaryCrossEntropy,
    CrossEntropy,
    SquaredError,
    StructuralDamping,
    flatten,
)
from hessianfree.networks.sources import GivenExamples, Source
from hessianfree.networks.stored import StoredExamples

#: Examples and multiplications at most that a run spends on a look at its layers, and the examples it needs: a few
#: milliseconds.
EXAMPLES, WORK, LEAST = 200, 10_000_000, 20
#: A slope that is small beside the steepest one of the layer: that of tanh at 0.99.
FLAT = 0.02
#: Where the ends of a nonlinearity are looked for, and outputs that have none there.
WHERE = np.concatenate([[-1e6, -1e3], np.linspace(-10, 10, 41), [1e3, 1e6]])
UNBOUNDED = 1e5


def of_run(net: NetworkCore, data: Source, expansive: Said | None) -> Facts:
    """What is known at the end of a run, with the weights as they are.

    Args:
        net: that was trained.
        data: what it was trained on.
        expansive: what was said of its recurrent weights at the start.
    """
    if isinstance(data, StoredExamples):
        seen = data.last
        if seen is None:
            return Facts(network=True, examples=data.examples, batch=data.size, expansive=expansive)
        found = of_run(net, GivenExamples(net, seen.x, seen.t, None, data.size), expansive)
        return found._replace(examples=data.examples, batch=data.size)
    if not isinstance(data, GivenExamples):
        whole = int(data.plant.shape[0])
        known = Facts(network=True, examples=whole, batch=min(data.size or whole, whole))
        return known._replace(timesteps=data.timesteps, expansive=expansive)
    found = of_data(net, data.x, data.t, data.weights, ROWS)
    cheap = net.recurrent is None and net.is_built_in and not any(map(keeps_state, net.layers))
    count = min(EXAMPLES, WORK // max(net.W.size, 1))
    layers: tuple[Units, ...] = ()
    if cheap and count >= LEAST:
        with suppress(OverflowError):  # of a run that diverged
            layers = units_of(net, every_so_often(data.x, count))
    return found._replace(batch=data.size, layers=layers, expansive=expansive)


def of_data(net: NetworkCore, x: Floats, t: Floats, weights: Floats | None, rows: int) -> Facts:
    """What examples, checked, say beside the output layer and the loss.

    Args:
        net: the network.
        x: inputs.
        t: targets.
        weights: of the examples, None for 1.
        rows: of the inputs to look at.
    """
    lower, upper = bounds(net.layers[-1])
    few = max(NUMBERS // t[0].size, 1)
    seen, w = every_so_often(t, few), np.ones(len(t)) if weights is None else weights
    found = _constant(net, seen, every_so_often(w, few), Bounds(lower, upper))
    return Facts(
        network=True,
        examples=len(x),
        timesteps=x.shape[1] if net.recurrent else None,
        constant_loss=None if found is None else found.loss,
        commonest=None if found is None else found.commonest,
        inputs=inputs_of(x, rows),
        targets=targets_of(seen, type(net.layers[-1]).__name__, lower, upper),
    )


class Bounds(NamedTuple):
    """What the outputs of a layer lie between; None where there is no bound."""

    lower: float | None
    upper: float | None


def bounds(layer: Nonlinearity) -> Bounds:
    """Bounds of a layer's outputs, none for layers of the user's own.

    Example:
        >>> bounds(nl.Tanh()), bounds(nl.ReLU())
        (Bounds(lower=-1.0, upper=1.0), Bounds(lower=0.0, upper=None))
    """
    if isinstance(layer, nl.Continuous):
        return bounds(layer.base)
    if isinstance(layer, nl.Softmax):
        return Bounds(0.0, 1.0)
    if isinstance(layer, Plant) or not is_built_in(layer):
        return Bounds(None, None)
    outputs = np.asarray(layer.activation(WHERE[:, None]), float)
    lower, upper = float(outputs.min()), float(outputs.max())
    return Bounds(None if lower < -UNBOUNDED else lower, None if upper > UNBOUNDED else upper)


def _constant(net: NetworkCore, t: Floats, w: Floats, limits: Bounds) -> Constant | None:
    """What constant outputs would have, for a loss that is one of the usual ones, over whole sequences."""
    parts = [loss for loss in flatten(net.loss) if not isinstance(loss, StructuralDamping)]
    if len(parts) != 1 or getattr(net, "truncation", None) is not None:
        return None
    names: dict[type[Any], str] = {SquaredError: "squared_error", BinaryCrossEntropy: "binary_cross_entropy"}
    if isinstance(net.layers[-1], nl.Softmax):
        names[CrossEntropy] = "softmax_cross_entropy"
    return best_constant(names.get(type(parts[0]), ""), t, w, *limits)


def units_of(net: NetworkCore, x: Floats, W: Floats | None = None) -> tuple[Units, ...]:
    """The slopes that the units of hidden layers have on some inputs, with the network's weights by default.

    It runs in numpy. Layers whose derivative is not elementwise are left out. Raises OverflowError if an activation is
    not finite.
    """
    with np.errstate(all="ignore"):
        activations, slopes = rollouts.activations(net, x, W, deriv=True)
    found = []
    for number in range(1, net.n_layers - 1):
        layer, a, slope = net.layers[number], activations[number], slopes[number]
        base = layer.base if isinstance(layer, nl.Continuous) else layer
        slope = slope[..., 2] if base is not layer and slope.ndim == a.ndim + 1 else slope
        if isinstance(base, (nl.Linear, Plant)) or keeps_state(base) or slope.shape != a.shape:
            continue
        steep = steepest(base, a.shape[-1])
        flat = (abs(slope) < FLAT * steep).reshape(-1, a.shape[-1])
        name = type(base).__name__
        found.append(Units(number, name, a.shape[-1], len(x), int(flat.all(axis=0).sum()), float(flat.mean())))
    return tuple(found)
