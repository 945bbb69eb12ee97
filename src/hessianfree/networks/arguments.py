"""What the arguments of a network turn into: layers, a loss, example weights, a source of random numbers."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.networks.numpy import probing
from hessianfree.networks.parts import nonlinearities as nl
from hessianfree.networks.parts.interfaces import Nonlinearity, has_activation, keeps_state
from hessianfree.networks.parts.loss_funcs import (
    BinaryCrossEntropy,
    ClassificationError,
    CrossEntropy,
    LossFunction,
    LossSet,
    flatten,
    named,
)
from hessianfree.support.names import unknown_name


def random_source(rng: Any) -> Any:
    """A numpy RandomState or Generator, from one of them, a seed or None; raises TypeError for anything else."""
    if rng is None or isinstance(rng, (int, np.integer)):
        return np.random.RandomState(rng)
    if isinstance(rng, (np.random.RandomState, np.random.Generator)):
        return rng
    raise TypeError(f"rng is {rng!r}; a seed, a numpy RandomState or a numpy Generator is expected.")


def layer_list(layers: Any, n_layers: int) -> list[Nonlinearity]:
    """One nonlinearity per layer, from one for all (but the first, which is Linear) or a list.

    Raises ValueError for a list of the wrong length or an unknown name, TypeError for what is not a nonlinearity.
    """
    if not isinstance(layers, (list, tuple)):
        return [nl.Linear(), *[_nonlinearity(layers)] * (n_layers - 1)]
    if len(layers) != n_layers:
        raise ValueError(f"{len(layers)} nonlinearities are given for {n_layers} layers; give one per layer, or one.")
    return [_nonlinearity(item) for item in layers]


def _nonlinearity(item: Any) -> Nonlinearity:
    if isinstance(item, str):
        if item not in nl.BY_NAME:
            raise ValueError(unknown_name("nonlinearity", item, nl.BY_NAME))
        return nl.BY_NAME[item]()
    if not isinstance(item, Nonlinearity):
        hint = " (give an instance: write its parentheses)" if isinstance(item, type) else ""
        if callable(item) and not hint:
            hint = " (put a function of your own into a class: inherit from hf.nl.Nonlinearity and define activation)"
        raise TypeError(f'A nonlinearity was expected, such as Tanh() or "Tanh"; given {item!r}{hint}.')
    return item


def loss_function(loss: Any) -> LossFunction:
    """A loss, a LossSet for a list; raises TypeError if it is not a loss, ValueError if there is none of that name."""
    if isinstance(loss, (list, tuple)):
        return LossSet(loss)
    found: LossFunction = named(loss)
    flatten(found)
    return found


def check_stateless(layers: Sequence[Nonlinearity]) -> None:
    """Raise TypeError if a layer keeps state: a feedforward network has no time."""
    if stateful := [type(layer).__name__ for layer in layers if keeps_state(layer)]:
        raise TypeError(f"Layers {stateful} keep state; a feedforward network has no time. Use RNNet.")


def shared_state(layers: Sequence[Nonlinearity]) -> str:
    """What to say of one object that keeps its state in itself and serves several layers; empty without one.

    Such layers cannot be trained: their states would be mixed up.
    """
    for layer in layers:
        places = [i for i, other in enumerate(layers) if other is layer]
        if len(places) > 1 and layer.stateful and has_activation(layer):
            name = type(layer).__name__
            return f"Layers {places} share one {name}, which keeps state; give each layer an object of its own."
    return ""


def check_widths(layers: Sequence[Nonlinearity], shape: Sequence[int]) -> None:
    """Raise ValueError for time constants that do not fit their layer."""
    for i, (layer, units) in enumerate(zip(layers, shape, strict=True)):
        if isinstance(layer, nl.Continuous) and layer.tau.size not in (1, units):
            raise ValueError(f"Layer {i}: tau lists {layer.tau.size} values for {units} units; give one each, or one.")


def check_targets(loss: LossFunction, targets: NDArray[Any], part: bool = False) -> None:
    """Raise ValueError if some targets lie outside the range of a cross-entropy, or, unless a part, all are NaN."""
    name, known = type(loss).__name__, targets[~np.isnan(targets)]
    if part and not known.any():
        return  # NaN or zero, which other targets need not be
    if known.size == 0:
        raise ValueError("All targets are NaN, so nothing can be learnt.")
    if type(loss) is BinaryCrossEntropy and not ((known >= 0) & (known <= 1)).all():
        raise ValueError(f"{name} takes targets in [0, 1]; given {known.min():g} to {known.max():g}.")
    if type(loss) is CrossEntropy and not ((known >= 0).all() and known.any()):
        raise ValueError(f"{name} takes targets >= 0, not all of them 0; given {known.min():g} to {known.max():g}.")


def example_weights(weights: Any, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Example weights as an array of the network's dtype.

    Raises TypeError if they are not real numbers, ValueError if there is not one for each example, or they are
    negative, not finite or all zero.
    """
    array = np.asarray(weights)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"The weights are of type {array.dtype}; numbers are expected.")
    if array.shape != (count,):
        raise ValueError(f"The weights have shape {array.shape}; one for each example, ({count},), is expected.")
    with np.errstate(over="ignore"):
        array = array.astype(dtype)
    if not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(f"The weights must be >= 0 and finite in {dtype}; leave an example out by a weight of 0.")
    if not array.any():
        raise ValueError("All weights are zero: no example counts. Give at least one example a positive weight.")
    return array


def is_built_in(part: Nonlinearity | LossFunction) -> bool:
    """Whether a layer or loss holds no code of the user's own, which might look at the whole batch."""
    held = vars(part).values()
    parts = [item for item in held if isinstance(item, (Nonlinearity, LossFunction))]
    ours = type(part).__module__.startswith("hessianfree.networks.parts.")
    return ours and all(map(is_built_in, parts)) and not any(map(callable, held))


def test_loss(name: str, loss: Any, units: int) -> LossFunction:
    """A loss to evaluate with, from an object or a name.

    Raises TypeError if it is not a loss, ValueError if there is none of that name, and for ClassificationError of one
    unit, which is never wrong.
    """
    found = named(loss)
    if not isinstance(found, LossFunction):
        raise TypeError(f"{name} is {loss!r}; a loss such as ClassificationError() is expected, or its name.")
    if isinstance(found, ClassificationError) and units < 2:
        raise ValueError(
            "ClassificationError compares units, but the output layer has one; use two, one per class. With class "
            "labels as targets the accuracy is among the metrics in any case."
        )
    return found


def check_loss(loss: LossFunction, output_layer: Nonlinearity, units: int, dtype: np.dtype[Any]) -> None:
    """Refuse a loss that cannot be trained with, or not behind this output layer.

    Raises TypeError if it has no derivative, ValueError if it takes the logarithm of an output that can be <= 0.
    """
    if isinstance(loss, ClassificationError):
        raise TypeError("ClassificationError has no derivative; train with CrossEntropy() and pass it as test_err.")
    if isinstance(output_layer, nl.Softmax) and units < 2:
        raise ValueError(
            "Softmax of a single unit is always 1; give the output layer one unit per class, or Logistic()."
        )
    if type(loss) not in (CrossEntropy, BinaryCrossEntropy) or keeps_state(output_layer):
        return
    name = type(output_layer).__name__
    outputs = probing.output(output_layer, np.linspace(-5, 5, 21, dtype=dtype)[:, None].repeat(units, axis=1))
    if type(loss) is BinaryCrossEntropy and ((outputs < 0).any() or (outputs > 1).any()):
        raise ValueError(
            f"BinaryCrossEntropy needs outputs in [0, 1], but those of {name} can leave it; use Logistic()."
        )
    if type(loss) is BinaryCrossEntropy or isinstance(output_layer, nl.Softmax):
        return
    if (outputs <= 0).any():
        raise ValueError(
            f"CrossEntropy takes the logarithm of the output, but {name} can be <= 0; let the last layer be Softmax()."
        )
    warnings.warn(f"CrossEntropy with {name} outputs, which do not sum to one; Softmax() is usual.", stacklevel=4)
