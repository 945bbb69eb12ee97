"""Loss terms: values, gradients and curvature on the quantities that a network puts out, and their sum.

A term looks at activations or, if a loss matches the nonlinearity of the output layer, at the input of that layer
(the logits), where the loss is convex and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessianfree.engine import trees
from hessianfree.engine.losses import LOGISTIC_CROSS_ENTROPY, ArrayLoss, SoftmaxLogLoss
from hessianfree.engine.objective import Loss, autodiff_curvature, autodiff_gradients
from hessianfree.networks.model.wiring import Layout, NetworkTargets
from hessianfree.networks.parts.interfaces import Nonlinearity, defines
from hessianfree.networks.parts.loss_funcs import BinaryCrossEntropy, CrossEntropy, LossFunction, SquaredError
from hessianfree.networks.parts.nonlinearities import Logistic, Softmax
from hessianfree.support.keys import Key, rebuild

#: Shape of each layer's activations for one example: (n,), or (T, n) over time.
Shapes = Sequence[tuple[int, ...]]


class Outputs(NamedTuple):
    """What a network shows to its loss; parts that no term needs are None and cost nothing."""

    logits: Any
    activations: tuple[Any, ...]


class Needs(NamedTuple):
    """The logits, and the activations of these layers."""

    logits: bool
    layers: frozenset[int]


def per_example(terms: Sequence[Array | None], batch_size: int) -> Array:
    """Sum of all entries of all terms, example by example, (B,)."""
    sums = [term.reshape(batch_size, -1).sum(axis=-1) for term in terms if term is not None]
    return reduce(add, sums) if sums else jnp.zeros(batch_size, jnp.float32)


@jax.tree_util.register_static
@dataclass(frozen=True)
class AtLogits:
    """A loss of the logits, behind the nonlinearity it matches: at the input of the output layer."""

    loss: ArrayLoss
    is_likelihood = True

    def needs(self, shapes: Shapes) -> Needs:
        """The logits."""
        return Needs(True, frozenset())

    def values(self, outputs: Outputs, targets: NetworkTargets) -> Array:
        """Exact, from the logits."""
        return per_example([self.loss.values(outputs.logits, targets.t)], len(targets.t))

    def gradients(self, outputs: Outputs, targets: NetworkTargets) -> Outputs:
        """The loss's own."""
        return _logits_only(self.loss.gradients(outputs.logits, targets.t), outputs)

    def curvature(self, outputs: Outputs, targets: NetworkTargets, layout: Layout) -> Callable[[Outputs], Outputs]:
        """The loss's own, which takes its entries or rows in any order."""
        product = self.loss.curvature(*layout.inner((outputs.logits, targets.t)))
        return lambda u: _logits_only(product(u.logits), outputs)

    def sample(self, outputs: Outputs, targets: NetworkTargets, key: Array) -> Outputs:
        """The loss's own."""
        return _logits_only(self.loss.sample(outputs.logits, targets.t, key), outputs)


def _logits_only(value: Any, like: Outputs) -> Outputs:
    return Outputs(value, (None,) * len(like.activations))


@partial(jax.tree_util.register_dataclass, data_fields=("arrays",), meta_fields=("key",))
@dataclass(frozen=True)
class AtActivations:
    """A `LossFunction` on activations, traced; its own d_loss and d2_loss take precedence over autodiff."""

    key: Key
    arrays: tuple[Any, ...]

    @property
    def loss(self) -> LossFunction:
        """The loss, put together again."""
        return rebuild(self.key, self.arrays)

    @property
    def is_likelihood(self) -> bool:
        """For the squared error: that of a normal distribution of variance 1."""
        return type(self.loss) is SquaredError

    def needs(self, shapes: Shapes) -> Needs:
        """The layers it has derivatives for, or everything where that cannot be told beforehand."""
        loss, n_layers = self.loss, len(shapes)
        given = [method for method in ("d_loss", "d2_loss") if defines(loss, method, "loss")]
        if all(getattr(getattr(type(loss), name), "output_only", False) for name in ("loss", *given)):
            return Needs(False, frozenset([n_layers - 1]))
        return Needs(False, frozenset(range(n_layers)) if len(given) < 2 else _layers_with_derivatives(loss, shapes))

    def values(self, outputs: Outputs, targets: NetworkTargets) -> Array:
        """By the loss's own `loss`."""
        batch_size = jax.tree.leaves(outputs)[0].shape[0]
        return per_example(self.loss.loss(outputs.activations, targets.t), batch_size)

    def gradients(self, outputs: Outputs, targets: NetworkTargets) -> Outputs:
        """By d_loss where there is one."""
        loss = self.loss
        if defines(loss, "d_loss", "loss"):
            return Outputs(None, _like(loss.d_loss(outputs.activations, targets.t), outputs.activations))
        return autodiff_gradients(lambda o: self.values(o, targets), outputs)

    def curvature(self, outputs: Outputs, targets: NetworkTargets, layout: Layout) -> Callable[[Outputs], Outputs]:
        """By d2_loss where there is one, a diagonal."""
        loss = self.loss
        if not defines(loss, "d2_loss", "loss"):
            product = autodiff_curvature(lambda o: self.values(o, targets), outputs)
            return lambda u: layout.inner(product(layout.outer(u)))
        diagonals = layout.inner(_like(loss.d2_loss(outputs.activations, targets.t), outputs.activations))
        return lambda u: Outputs(None, _multiply_diagonals(diagonals, u.activations))

    def sample(self, outputs: Outputs, targets: NetworkTargets, key: Array) -> Outputs:
        """By the diagonal of H; of a curvature by autodiff a random estimate, exact where H is diagonal."""
        signs = jax.tree.map(lambda s: jnp.sign(s) + (s == 0), trees.random_normal(key, outputs))
        column = self.curvature(outputs, targets, Layout())(signs)
        diagonals = _multiply_diagonals(column.activations, signs.activations)
        return _scaled(diagonals, outputs, jax.random.fold_in(key, 1))


def _layers_with_derivatives(loss: LossFunction, shapes: Shapes) -> frozenset[int]:
    """Layers with an entry in d_loss or d2_loss; all if the loss also reads other layers' activations."""

    def derivatives(present: frozenset[int]) -> list[Any]:
        activities: list[Any] = [jnp.full((1, *s), 0.5) if i in present else None for i, s in enumerate(shapes)]
        args = activities, jnp.full((1, *shapes[-1]), 0.5)
        return [loss.d_loss(*args), loss.d2_loss(*args), loss.loss(*args)]

    everything = frozenset(range(len(shapes)))
    lists = jax.eval_shape(lambda: derivatives(everything))
    layers = frozenset(i for entries in lists for i, entry in enumerate(entries) if entry is not None)
    try:
        jax.eval_shape(lambda: derivatives(layers))
    except (TypeError, AttributeError):  # it met a None where it reads an activation
        return everything
    return layers


def _like(derivatives: Sequence[Any], activations: Sequence[Any]) -> tuple[Any, ...]:
    """Derivatives in the shapes of the activations they belong to; a loss may give a number for a constant one."""
    pairs = zip(derivatives, activations, strict=True)
    return tuple(None if d is None or a is None else jnp.broadcast_to(d, a.shape) for d, a in pairs)


def _multiply_diagonals(diagonals: Sequence[Any], vectors: Sequence[Any]) -> tuple[Any, ...]:
    """Layer by layer d * v, None where there is no diagonal."""
    return tuple(None if d is None else d * v for d, v in zip(diagonals, vectors, strict=True))


@jax.tree_util.register_static
@dataclass(frozen=True)
class InNumpy:
    """A loss written in numpy, by its first- and second-order model at the current point, which the targets carry.

    Its position is that among all terms.
    """

    position: int
    is_likelihood = False

    def needs(self, shapes: Shapes) -> Needs:
        """All layers: what it looks at is not known."""
        return Needs(False, frozenset(range(len(shapes))))

    def values(self, outputs: Outputs, targets: NetworkTargets) -> Array:
        """Those of the current point."""
        return targets.local[self.position].values

    def gradients(self, outputs: Outputs, targets: NetworkTargets) -> Outputs:
        """Those of the current point."""
        return Outputs(None, targets.local[self.position].gradients)

    def curvature(self, outputs: Outputs, targets: NetworkTargets, layout: Layout) -> Callable[[Outputs], Outputs]:
        """Those of the current point, a diagonal."""
        diagonals = layout.inner(targets.local[self.position].curvatures)
        return lambda u: Outputs(None, _multiply_diagonals(diagonals, u.activations))

    def sample(self, outputs: Outputs, targets: NetworkTargets, key: Array) -> Outputs:
        """By the square root of the diagonal, where it is positive."""
        return _scaled(targets.local[self.position].curvatures, outputs, key)


def _scaled(diagonals: Sequence[Any], outputs: Outputs, key: Array) -> Outputs:
    """The product sqrt(d) e, e normal; zero where d is negative, None where there is none."""
    roots = [None if d is None else jnp.sqrt(jnp.maximum(d, 0)) for d in diagonals]
    return Outputs(None, _multiply_diagonals(roots, trees.random_normal(key, outputs).activations))


def matched(loss: LossFunction, output_layer: Nonlinearity) -> AtLogits | None:
    """The logit form of a loss behind the layer it matches; only for the built-in classes themselves."""
    pair = (type(output_layer), type(loss))
    if pair == (Softmax, CrossEntropy):
        return AtLogits(SoftmaxLogLoss())
    return AtLogits(LOGISTIC_CROSS_ENTROPY) if pair == (Logistic, BinaryCrossEntropy) else None


#: One summand of the loss, a pytree; it sees outputs and targets in the order of the losses.
LossTerm = AtLogits | AtActivations | InNumpy


@partial(jax.tree_util.register_dataclass, data_fields=("terms",), meta_fields=("layout",))
@dataclass(frozen=True)
class NetworkLoss(Loss):
    """The sum of all terms, on outputs in the network's own order, the layout."""

    terms: tuple[LossTerm, ...]
    layout: Layout

    @property
    def is_likelihood(self) -> bool:  # type: ignore[override]
        """Whether every term is one."""
        return all(term.is_likelihood for term in self.terms)

    def values(self, outputs: Outputs, targets: NetworkTargets) -> Array:
        """Of each example, (B,)."""
        return reduce(add, (term.values(self.layout.outer(outputs), targets) for term in self.terms))

    def gradients(self, outputs: Outputs, targets: NetworkTargets) -> Outputs:
        """Shaped like the outputs."""
        seen = self.layout.outer(outputs)
        return self.layout.inner(_total([term.gradients(seen, targets) for term in self.terms], seen))

    def curvature(self, outputs: Outputs, targets: NetworkTargets) -> Callable[[Outputs], Outputs]:
        """The product u -> H u."""
        seen = self.layout.outer(outputs)
        products = [term.curvature(seen, targets, self.layout) for term in self.terms]
        return lambda u: _total([product(u) for product in products], outputs)

    def sample(self, outputs: Outputs, targets: NetworkTargets, key: Array) -> Outputs:
        """Independent draws of every term."""
        seen = self.layout.outer(outputs)
        drawn = [term.sample(seen, targets, jax.random.fold_in(key, i)) for i, term in enumerate(self.terms)]
        return self.layout.inner(_total(drawn, seen))


def _total(parts: Sequence[Outputs], like: Outputs) -> Outputs:
    """Sum of partial outputs, zeros where no part has an entry and `like` has one."""

    def total(template: Any, *entries: Any) -> Any:
        present = [entry for entry in entries if entry is not None]
        if template is None:
            return None
        return reduce(add, present) if present else jnp.zeros_like(template)

    return jax.tree.map(total, like, *parts, is_leaf=lambda entry: entry is None)
