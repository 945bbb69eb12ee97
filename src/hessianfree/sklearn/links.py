"""What the outputs of a network mean, in numpy: the prediction that they stand for, and its loss.

Symbols, for one example:
    o   outputs of the last layer before its nonlinearity (logits)
    p   prediction, the nonlinearity of o
    t   target                  l   loss
    H   second derivative of l with respect to o
Each loss matches its nonlinearity: dl/do = p - t, and H is a function of p alone. The same losses compiled are in
`engine.losses`; these need no compilation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax

from hessianfree.networks.parts.loss_funcs import BinaryCrossEntropy, CrossEntropy, LossFunction, SquaredError

Floats = NDArray[Any]


@dataclass(frozen=True)
class Link:
    """A nonlinearity of the last layer, with the loss that matches it.

    Args:
        layer: name of the nonlinearity.
        loss: class of the same loss for networks.
        predicted: p, of o (B, n).
        losses: l of each example, (B,), of (o, t).
        curved: the product u -> H u, of (p, u).
    """

    layer: str
    loss: type[LossFunction]
    predicted: Callable[[Floats], Floats]
    losses: Callable[[Floats, Floats], Floats]
    curved: Callable[[Floats, Floats], Floats]


def _itself(o: Floats) -> Floats:
    return o


def _half_squares(o: Floats, t: Floats) -> Floats:
    """Of each example 1/2 sum (o - t)^2."""
    difference = o - t
    return 0.5 * np.einsum("bn,bn->b", difference, difference)


def _unchanged(p: Floats, u: Floats) -> Floats:
    return u


def _binary_losses(o: Floats, t: Floats) -> Floats:
    """Of each example the sum of log(1 + exp(o)) - t o."""
    return (np.logaddexp(0, o) - t * o).sum(axis=1)


def _binary_curved(p: Floats, u: Floats) -> Floats:
    return p * (1 - p) * u


def _softmax(o: Floats) -> Floats:
    return softmax(o, axis=1)


def _softmax_losses(o: Floats, t: Floats) -> Floats:
    """Of each example log sum exp(o) - t'o; targets sum to one."""
    return np.logaddexp.reduce(o, axis=1) - np.einsum("bn,bn->b", t, o)


def _softmax_curved(p: Floats, u: Floats) -> Floats:
    """The product (diag(p) - p p') u."""
    pu = p * u
    return pu - p * pu.sum(axis=1, keepdims=True)


#: Numbers: squared error.
LINEAR = Link("Linear", SquaredError, _itself, _half_squares, _unchanged)
#: Two classes, or labels that do not exclude each other: a probability for each.
LOGISTIC = Link("Logistic", BinaryCrossEntropy, expit, _binary_losses, _binary_curved)
#: More than two classes.
SOFTMAX = Link("Softmax", CrossEntropy, _softmax, _softmax_losses, _softmax_curved)
