"""Loss functions over the activations of a network's layers.

A loss works on the list of all layers' activations and returns a list with one entry per layer, None where it has
no term. Built-in losses work on numpy and JAX arrays alike. Targets that are NaN count for nothing.

A loss of your own inherits from `LossFunction`. Written in jax.numpy, `loss` is enough; written in numpy it also
needs `d_loss` and `d2_loss`. Where they are defined they are used in place of automatic derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from reprlib import recursive_repr
from typing import Any

import numpy as np

from hessianfree.engine import reprs
from hessianfree.networks.parts.interfaces import Array, namespace
from hessianfree.support.names import unknown_name

Terms = list[Any]  # one array, or None, per layer


class LossFunction:
    """Base class of all losses.

    Example:
        >>> class Absolute(LossFunction):
        ...     @output_loss
        ...     def loss(self, output, targets):
        ...         return abs(output - targets)
        >>> float(Absolute().batch_loss([np.zeros((2, 1)), np.ones((2, 1))], np.zeros((2, 1))))
        1.0
    """

    def loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """Loss terms.

        Args:
            activities: activations of every layer, (B, n_l) or (B, T, n_l).
            targets: desired output, shaped like the last of them.

        Returns:
            Per layer an array with leading axis B, whose entries are summed, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(activities, targets).")

    def d_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """First derivative with respect to each layer's activations, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not define d_loss(activities, targets).")

    def d2_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """Diagonal of the second derivative with respect to each layer's activations, or None."""
        raise NotImplementedError(f"{type(self).__name__} does not define d2_loss(activities, targets).")

    def batch_loss(self, activities: Sequence[Array], targets: Array) -> float:
        """Mean over the batch of the sum of all terms.

        Args:
            activities: activations of every layer, as `forward` returns them.
            targets: desired output.

        Returns:
            The loss, a number.

        Raises:
            ValueError: for targets that are not shaped like the output.
        """
        targets, shape = np.asarray(targets), np.shape(activities[-1])
        if targets.shape != shape:
            raise ValueError(f"targets have shape {targets.shape}, the outputs {shape}; they must agree.")
        terms = [np.asarray(term) for term in self.loss(activities, targets) if term is not None]
        return float(sum(term.sum(dtype=float) for term in terms)) / len(activities[-1])

    @recursive_repr()
    def __repr__(self) -> str:
        return reprs.call(self)


def output_loss(function: Callable[..., Array]) -> Callable[..., Terms]:
    """Lift a method of (output, targets) to the list form: a term for the last layer, None for all others."""

    @wraps(function)
    def lifted(self: Any, activities: Sequence[Array], targets: Array) -> Terms:
        return [*[None] * (len(activities) - 1), function(self, activities[-1], targets)]

    lifted.output_only = True  # type: ignore[attr-defined]
    return lifted


def known_targets(targets: Array) -> tuple[Array, Array]:
    """Where targets are not NaN, and the targets with zeros for NaN: NaN must be gone before any arithmetic."""
    xp = namespace(targets)
    known = ~xp.isnan(targets)
    return known, xp.where(known, targets, xp.zeros_like(targets))


class SquaredError(LossFunction):
    """Half the squared distance: 1/2 sum (o - t)^2."""

    @staticmethod
    def _difference(output: Array, targets: Array) -> Array:
        known, t = known_targets(targets)
        return namespace(output).where(known, output - t, 0)

    @output_loss
    def loss(self, output: Array, targets: Array) -> Array:
        """Per example, summed over units."""
        return 0.5 * (self._difference(output, targets) ** 2).sum(axis=-1)

    @output_loss
    def d_loss(self, output: Array, targets: Array) -> Array:
        """The error o - t."""
        return self._difference(output, targets)

    @output_loss
    def d2_loss(self, output: Array, targets: Array) -> Array:
        """One, zero where the target is NaN."""
        return known_targets(targets)[0].astype(output.dtype)


class CrossEntropy(LossFunction):
    """Cross-entropy of positive outputs: -sum t log o.

    Behind a Softmax layer it is computed and linearised from the layer's input, where it is convex and exact.
    """

    @output_loss
    def loss(self, output: Array, targets: Array) -> Array:
        """Per example, summed over units; a target of zero counts for nothing."""
        xp = namespace(output)
        _, t = known_targets(targets)
        return -(t * xp.log(xp.where(t == 0, xp.ones_like(output), output))).sum(axis=-1)

    @output_loss
    def d_loss(self, output: Array, targets: Array) -> Array:
        """-t / o."""
        _, t = known_targets(targets)
        return -t / namespace(output).where(t == 0, 1, output)

    @output_loss
    def d2_loss(self, output: Array, targets: Array) -> Array:
        """The quotient t / o^2."""
        _, t = known_targets(targets)
        return t / namespace(output).where(t == 0, 1, output) ** 2


class BinaryCrossEntropy(LossFunction):
    """Cross-entropy of independent yes/no units: -sum (t log o + (1 - t) log(1 - o)).

    Behind a Logistic layer it is computed and linearised from the layer's input. Elsewhere outputs are clipped to
    [eps, 1 - eps], eps the rounding unit, so that a saturated output has a finite loss.
    """

    @staticmethod
    def _parts(output: Array, targets: Array) -> tuple[Array, Array, Array]:
        xp = namespace(output)
        known, t = known_targets(targets)
        eps = float(xp.finfo(output.dtype).eps)
        return known, t, xp.clip(output, eps, 1 - eps)

    @output_loss
    def loss(self, output: Array, targets: Array) -> Array:
        """Per example, summed over units."""
        xp = namespace(output)
        known, t, o = self._parts(output, targets)
        return -(known * (t * xp.log(o) + (1 - t) * xp.log1p(-o))).sum(axis=-1)

    @output_loss
    def d_loss(self, output: Array, targets: Array) -> Array:
        """(o - t) / (o (1 - o))."""
        known, t, o = self._parts(output, targets)
        return known * (o - t) / (o * (1 - o))

    @output_loss
    def d2_loss(self, output: Array, targets: Array) -> Array:
        """The sum t / o^2 + (1 - t) / (1 - o)^2."""
        known, t, o = self._parts(output, targets)
        return known * (t / o**2 + (1 - t) / (1 - o) ** 2)


class ClassificationError(LossFunction):
    """Share of examples whose largest output is not where the largest target is; for evaluation only."""

    @output_loss
    def loss(self, output: Array, targets: Array) -> Array:
        """One per mistake; examples (or timesteps) whose targets are all NaN count for nothing."""
        xp = namespace(output)
        known, t = known_targets(targets)
        scored = known.any(axis=-1)
        wrong = output.argmax(axis=-1) != xp.where(known, t, -xp.inf).argmax(axis=-1)
        return (wrong & scored).astype(output.dtype)


class _LayerPenalty(LossFunction):
    """What the penalties share: a weight, the layers they act on (all hidden ones by default) and a target."""

    def __init__(self, weight: float, layers: Sequence[int] | None = None, target: float = 0.0) -> None:
        if not weight >= 0:
            raise ValueError(f"{type(self).__name__}: weight is {weight}; it must be >= 0.")
        self.weight, self.target = weight, target
        self.layers = None if layers is None else tuple(int(layer) for layer in layers)

    def _traced_attributes(self) -> dict[str, Any]:
        """Weight and target as arrays: a changed one is a changed number and not a new program."""
        arrays = {"weight": np.asarray(self._strength(), float), "target": np.asarray(self.target, float)}
        return {**vars(self), **arrays}

    def _strength(self) -> Array:
        return self.weight

    def _on_layers(self, activities: Sequence[Array], term: Callable[[Array, Array, Array], Array]) -> Terms:
        """term(activation, weight, target) on the chosen layers; negative numbers count from the end."""
        n = len(activities)
        if self.layers is not None and not all(-n <= layer < n for layer in self.layers):
            raise ValueError(
                f"{type(self).__name__}: layers {list(self.layers)} given, but the network has layers 0 to {n - 1}."
            )
        chosen = range(1, n - 1) if self.layers is None else [layer % n for layer in self.layers]
        numbers = self._strength(), self.target
        return [
            term(a, *(namespace(number).asarray(number, a.dtype) for number in numbers)) if layer in chosen else None
            for layer, a in enumerate(activities)
        ]


class SparseL1(_LayerPenalty):
    """Absolute distance of activations from a target: weight sum |a - target|; it has no curvature.

    Args:
        weight: strength, >= 0.
        layers: layers penalised, all hidden ones by default.
        target: the value activations are pulled to.
    """

    def loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """Weight |a - target|, per unit."""
        return self._on_layers(activities, lambda a, weight, target: weight * abs(a - target))

    def d_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """Weight sign(a - target)."""
        return self._on_layers(activities, lambda a, weight, target: weight * namespace(a).sign(a - target))

    def d2_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """None: zero almost everywhere."""
        return [None] * len(activities)


class SparseL2(_LayerPenalty):
    """Half the squared distance of activations from a target: weight/2 sum (a - target)^2.

    Args:
        weight: strength, >= 0.
        layers: layers penalised, all hidden ones by default.
        target: the value activations are pulled to.
    """

    def loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """weight/2 (a - target)^2, per unit."""
        return self._on_layers(activities, lambda a, weight, target: 0.5 * weight * (a - target) ** 2)

    def d_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """Weight (a - target)."""
        return self._on_layers(activities, lambda a, weight, target: weight * (a - target))

    def d2_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """The weight."""
        return self._on_layers(activities, lambda a, weight, target: weight * namespace(a).ones_like(a))


class StructuralDamping(_LayerPenalty):
    """Curvature without a loss: large changes of hidden activity are made expensive (Martens and Sutskever 2011).

    Adds weight x optimizer.damping (x 1 without an optimizer) to the curvature on the listed layers' activations;
    value and gradient stay as they are.

    Args:
        weight: strength, >= 0.
        layers: layers damped, all hidden ones by default.
        optimizer: the optimizer whose damping it follows.
    """

    def __init__(self, weight: float, layers: Sequence[int] | None = None, optimizer: Any = None) -> None:
        if optimizer is not None and not hasattr(optimizer, "damping"):
            raise TypeError(
                f"StructuralDamping: optimizer is {optimizer!r}; one with damping is expected: HessianFree()."
            )
        super().__init__(weight, layers)
        self.optimizer = optimizer

    def _traced_attributes(self) -> dict[str, Any]:
        """The attributes a compiled step sees: today's damping folded into the weight, and no optimizer."""
        return {**super()._traced_attributes(), "optimizer": None}

    def _strength(self) -> Array:
        return self.weight if self.optimizer is None else self.weight * self.optimizer.damping

    def loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """None everywhere."""
        return [None] * len(activities)

    def d_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """None everywhere."""
        return [None] * len(activities)

    def d2_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """The weight, times the optimizer's damping, on the damped layers."""
        return self._on_layers(activities, lambda a, weight, target: weight * namespace(a).ones_like(a))


class LossSet(LossFunction):
    """The sum of several losses; a list given to `FFNet(loss_type=[...])` becomes one.

    Args:
        set: the losses, or their names; nested sets are flattened.
    """

    def __init__(self, set: Sequence[LossFunction | str]) -> None:
        self.set = [part for item in set for part in flatten(named(item))]
        if not self.set:
            raise ValueError("A LossSet needs at least one loss; the list is empty.")

    def loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """All terms; where several losses have one for a layer, each is summed over units first."""
        return _sum_terms([_by_example(part.loss(activities, targets)) for part in self.set], len(activities))

    def d_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """Sum of the first derivatives."""
        return _sum_terms([part.d_loss(activities, targets) for part in self.set], len(activities))

    def d2_loss(self, activities: Sequence[Array], targets: Array) -> Terms:
        """Sum of the second derivatives."""
        return _sum_terms([part.d2_loss(activities, targets) for part in self.set], len(activities))


#: The names accepted in place of an object in `FFNet(loss_type="cross_entropy")` and `run_epochs(test_err=...)`.
BY_NAME: dict[str, type[LossFunction]] = {
    "squared_error": SquaredError,
    "cross_entropy": CrossEntropy,
    "binary_cross_entropy": BinaryCrossEntropy,
    "classification_error": ClassificationError,
}


def named(loss: Any) -> Any:
    """The loss of a name; anything else as it is.

    Raises:
        ValueError: if there is no loss of that name.

    Example:
        >>> named("cross_entropy")
        CrossEntropy()
    """
    if not isinstance(loss, str):
        return loss
    if loss not in BY_NAME:
        raise ValueError(unknown_name("loss", loss, BY_NAME))
    return BY_NAME[loss]()


def flatten(loss: LossFunction) -> list[LossFunction]:
    """The losses of a set, or the loss itself in a list.

    Raises:
        TypeError: if it is not a LossFunction.
    """
    if isinstance(loss, LossSet):
        return list(loss.set)
    if not isinstance(loss, LossFunction):
        hint = " (give an instance: write its parentheses)" if isinstance(loss, type) else ""
        raise TypeError(
            f"A loss was expected, an instance of LossFunction such as SquaredError(), or a name such as "
            f"'squared_error'; given {loss!r}{hint}."
        )
    return [loss]


def _by_example(terms: Terms) -> Terms:
    return [None if term is None else term.reshape(len(term), -1).sum(axis=-1) for term in terms]


def _sum_terms(lists: list[Terms], n_layers: int) -> Terms:
    """Layer by layer, the sum of all that is not None."""
    columns = [[terms[layer] for terms in lists if terms[layer] is not None] for layer in range(n_layers)]
    return [sum(column[1:], column[0]) if column else None for column in columns]
