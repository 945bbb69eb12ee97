"""Loss terms as the engine sees them: values, gradients and curvature on the quantities a network puts out.

A term looks at activations, or, where a loss matches the nonlinearity of the output layer, at the input of that
layer (the logits), where the loss is convex and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array

from hessianfree.engine import trees
from hessianfree.engine.losses import logistic_gradient, logistic_loss
from hessianfree.engine.objective import autodiff_curvature, autodiff_gradients
from hessianfree.networks.parts.interfaces import Nonlinearity, defines
from hessianfree.networks.parts.loss_funcs import BinaryCrossEntropy, CrossEntropy, LossFunction, known_targets
from hessianfree.networks.parts.nonlinearities import Logistic, Softmax
from hessianfree.support.keys import Key, rebuild

#: Shape of each layer's activations for one example: (n,), or (T, n) over time.
Shapes = Sequence[tuple[int, ...]]


class Outputs(NamedTuple):
    """What a network shows to its loss; parts that no term needs are None and cost nothing."""

    logits: Any
    activations: tuple[Any, ...]


class Layout(NamedTuple):
    """How a network arranges its outputs while it works: to that order, and back to (B, n) or (B, T, n).

    Losses see the latter. Curvature products, many per update, work on the former: what they multiply by is
    arranged once instead.
    """

    inner: Callable[[Any], Any]
    outer: Callable[[Any], Any]


PLAIN = Layout(lambda tree: tree, lambda tree: tree)


class LocalLoss(NamedTuple):
    """A host loss around the current point: value per example, and per layer gradient and diagonal curvature."""

    values: Any
    gradients: tuple[Any, ...]
    curvatures: tuple[Any, ...]


class Term(Protocol):
    """One summand of the loss."""

    def needs(self, shapes: Shapes) -> Needs:
        """The parts of the outputs it looks at, in a network with activations of these shapes."""
        ...

    def values(self, outputs: Outputs, targets: Any) -> Array:
        """Value per example, (B,)."""
        ...

    def gradients(self, outputs: Outputs, targets: Any) -> Outputs:
        """Derivative of each example's value."""
        ...

    def curvature(self, outputs: Outputs, targets: Any, layout: Layout = PLAIN) -> Callable[[Outputs], Outputs]:
        """U -> H u, with u in the inner order of the layout."""
        ...

    def sample(self, outputs: Outputs, targets: Any, key: Array) -> Outputs:
        """A random vector of zero mean and covariance H."""
        ...


class Needs(NamedTuple):
    """The logits, and the activations of these layers."""

    logits: bool
    layers: frozenset[int]


def per_example(terms: Sequence[Array | None], batch_size: int) -> Array:
    """Sum of all entries of all terms, example by example, (B,)."""
    sums = [term.reshape(batch_size, -1).sum(axis=-1) for term in terms if term is not None]
    return sum(sums[1:], sums[0]) if sums else jnp.zeros(batch_size, jnp.float32)


@dataclass(frozen=True)
class ClassicTerm:
    """A `LossFunction` on activations, traced; its own d_loss and d2_loss take precedence over autodiff."""

    loss: LossFunction

    def needs(self, shapes: Shapes) -> Needs:
        """The layers it has derivatives for, or everything where that cannot be told beforehand."""
        n_layers = len(shapes)
        given = [method for method in ("d_loss", "d2_loss") if defines(self.loss, method, "loss")]
        if all(getattr(getattr(type(self.loss), name), "output_only", False) for name in ("loss", *given)):
            return Needs(False, frozenset([n_layers - 1]))
        if len(given) < 2:
            return Needs(False, frozenset(range(n_layers)))
        layers = _layers_with_derivatives(self.loss, shapes)
        return Needs(False, frozenset(range(n_layers)) if layers is None else layers)

    def values(self, outputs: Outputs, targets: Any) -> Array:
        """By the loss's own `loss`."""
        batch_size = jax.tree.leaves(outputs)[0].shape[0]
        return per_example(self.loss.loss(outputs.activations, targets), batch_size)

    def gradients(self, outputs: Outputs, targets: Any) -> Outputs:
        """By d_loss where there is one."""
        if defines(self.loss, "d_loss", "loss"):
            return Outputs(None, _like(self.loss.d_loss(outputs.activations, targets), outputs.activations))
        return autodiff_gradients(lambda o: self.values(o, targets), outputs)

    def curvature(self, outputs: Outputs, targets: Any, layout: Layout = PLAIN) -> Callable[[Outputs], Outputs]:
        """By d2_loss where there is one, a diagonal."""
        if not defines(self.loss, "d2_loss", "loss"):
            product = autodiff_curvature(lambda o: self.values(o, targets), outputs)
            return lambda u: layout.inner(product(layout.outer(u)))
        diagonals = layout.inner(_like(self.loss.d2_loss(outputs.activations, targets), outputs.activations))
        return lambda u: Outputs(None, multiply_diagonals(diagonals, u.activations))

    def sample(self, outputs: Outputs, targets: Any, key: Array) -> Outputs:
        """By the diagonal of H; of a curvature by autodiff a random estimate, exact where H is diagonal."""
        signs = jax.tree.map(lambda s: jnp.sign(s) + (s == 0), trees.random_normal(key, outputs))
        column = self.curvature(outputs, targets)(signs)
        diagonals = tuple(
            None if d is None else jnp.maximum(d * s, 0)
            for d, s in zip(column.activations, signs.activations, strict=True)
        )
        return _scaled(Outputs(None, diagonals), outputs, jax.random.fold_in(key, 1))


def _layers_with_derivatives(loss: LossFunction, shapes: Shapes) -> frozenset[int] | None:
    """Layers with an entry in d_loss or d2_loss; None if the loss also reads other layers' activations."""

    def derivatives(present: frozenset[int]) -> list[Any]:
        activities: list[Any] = [jnp.full((1, *s), 0.5) if i in present else None for i, s in enumerate(shapes)]
        args = activities, jnp.full((1, *shapes[-1]), 0.5)
        return [loss.d_loss(*args), loss.d2_loss(*args), loss.loss(*args)]

    lists = jax.eval_shape(lambda: derivatives(frozenset(range(len(shapes)))))
    layers = frozenset(i for entries in lists for i, entry in enumerate(entries) if entry is not None)
    try:
        jax.eval_shape(lambda: derivatives(layers))
    except (TypeError, AttributeError):  # it met a None where it reads an activation
        return None
    return layers


def _like(derivatives: Sequence[Any], activations: Sequence[Any]) -> tuple[Any, ...]:
    """Derivatives in the shapes of the activations they belong to; a loss may give a number for a constant one."""
    pairs = zip(derivatives, activations, strict=True)
    return tuple(None if d is None or a is None else jnp.broadcast_to(d, a.shape) for d, a in pairs)


def multiply_diagonals(diagonals: Sequence[Any], vectors: Sequence[Any]) -> tuple[Any, ...]:
    """Layer by layer d * v, None where there is no diagonal."""
    return tuple(None if d is None else d * v for d, v in zip(diagonals, vectors, strict=True))


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """CrossEntropy behind Softmax, at the logits: -sum t log softmax(z)."""

    def needs(self, shapes: Shapes) -> Needs:
        """The logits."""
        return Needs(True, frozenset())

    def values(self, outputs: Outputs, targets: Any) -> Array:
        """Exact, from log-softmax."""
        _, t = known_targets(targets)
        return per_example([-t * jax.nn.log_softmax(outputs.logits)], len(t))

    def gradients(self, outputs: Outputs, targets: Any) -> Outputs:
        """P sum(t) - t."""
        _, t = known_targets(targets)
        p = jax.nn.softmax(outputs.logits)
        return _logits_only(p * t.sum(axis=-1, keepdims=True) - t, outputs)

    def curvature(self, outputs: Outputs, targets: Any, layout: Layout = PLAIN) -> Callable[[Outputs], Outputs]:
        """sum(t) (diag(p) - p p') u."""
        _, t = known_targets(targets)
        p, mass = layout.inner((jax.nn.softmax(outputs.logits), t.sum(axis=-1, keepdims=True)))

        def product(u: Outputs) -> Outputs:
            pu = p * u.logits
            return _logits_only(mass * (pu - p * pu.sum(axis=-1, keepdims=True)), outputs)

        return product

    def sample(self, outputs: Outputs, targets: Any, key: Array) -> Outputs:
        """sqrt(sum(t)) (diag(sqrt p) - p sqrt(p)') e, e normal: its covariance is H."""
        _, t = known_targets(targets)
        p = jax.nn.softmax(outputs.logits)
        e = jnp.sqrt(p) * trees.random_normal(key, outputs.logits)
        mass = jnp.maximum(t.sum(axis=-1, keepdims=True), 0)
        return _logits_only(jnp.sqrt(mass) * (e - p * e.sum(axis=-1, keepdims=True)), outputs)


@dataclass(frozen=True)
class LogisticBinaryCrossEntropy:
    """BinaryCrossEntropy behind Logistic, at the logits: sum softplus(z) - t z."""

    def needs(self, shapes: Shapes) -> Needs:
        """The logits."""
        return Needs(True, frozenset())

    def values(self, outputs: Outputs, targets: Any) -> Array:
        """Exact, from the logits."""
        known, t = known_targets(targets)
        return per_example([known * logistic_loss(outputs.logits, t)], len(t))

    def gradients(self, outputs: Outputs, targets: Any) -> Outputs:
        """P - t."""
        known, t = known_targets(targets)
        return _logits_only(known * logistic_gradient(outputs.logits, t), outputs)

    def curvature(self, outputs: Outputs, targets: Any, layout: Layout = PLAIN) -> Callable[[Outputs], Outputs]:
        """P (1 - p) u."""
        known, _ = known_targets(targets)
        diagonal = layout.inner(known * jax.nn.sigmoid(outputs.logits) * jax.nn.sigmoid(-outputs.logits))
        return lambda u: _logits_only(diagonal * u.logits, outputs)

    def sample(self, outputs: Outputs, targets: Any, key: Array) -> Outputs:
        """sqrt(p (1 - p)) e, e normal."""
        known, _ = known_targets(targets)
        z = outputs.logits
        return _scaled(_logits_only(known * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z), outputs), outputs, key)


@dataclass(frozen=True)
class HostTerm:
    """A loss written in numpy, by its first- and second-order model at the current point."""

    local: LocalLoss

    def needs(self, shapes: Shapes) -> Needs:
        """The layers it has derivatives for."""
        pairs = enumerate(zip(self.local.gradients, self.local.curvatures, strict=True))
        return Needs(False, frozenset(layer for layer, (g, c) in pairs if g is not None or c is not None))

    def values(self, outputs: Outputs, targets: Any) -> Array:
        """Those of the current point."""
        return self.local.values

    def gradients(self, outputs: Outputs, targets: Any) -> Outputs:
        """Those of the current point."""
        return Outputs(None, self.local.gradients)

    def curvature(self, outputs: Outputs, targets: Any, layout: Layout = PLAIN) -> Callable[[Outputs], Outputs]:
        """Those of the current point, a diagonal."""
        diagonals = layout.inner(self.local.curvatures)
        return lambda u: Outputs(None, multiply_diagonals(diagonals, u.activations))

    def sample(self, outputs: Outputs, targets: Any, key: Array) -> Outputs:
        """By the square root of the diagonal, where it is positive."""
        return _scaled(Outputs(None, self.local.curvatures), outputs, key)


def _scaled(diagonals: Outputs, outputs: Outputs, key: Array) -> Outputs:
    """sqrt(d) e, e normal; nothing where d is missing or negative."""
    noise = trees.random_normal(key, outputs)

    def scale(d: Any, e: Any) -> Any:
        return None if d is None or e is None else jnp.sqrt(jnp.maximum(d, 0)) * e

    activations = (scale(d, e) for d, e in zip(diagonals.activations, noise.activations, strict=True))
    return Outputs(scale(diagonals.logits, noise.logits), tuple(activations))


def _logits_only(value: Any, like: Outputs) -> Outputs:
    return Outputs(value, (None,) * len(like.activations))


def matched(loss: LossFunction, output_layer: Nonlinearity) -> Term | None:
    """The logit form of a loss behind the layer it matches; only for the built-in classes themselves."""
    pair = (type(output_layer), type(loss))
    if pair == (Softmax, CrossEntropy):
        return SoftmaxCrossEntropy()
    return LogisticBinaryCrossEntropy() if pair == (Logistic, BinaryCrossEntropy) else None


def traced_term(key: Key, arrays: tuple[Any, ...], output_layer: Nonlinearity) -> Term:
    """The term of a traced loss."""
    loss = rebuild(key, arrays)
    return matched(loss, output_layer) or ClassicTerm(loss)


def total(parts: Sequence[Outputs], like: Outputs) -> Outputs:
    """Sum of partial outputs, zeros where no part has an entry and `like` has one."""

    def column(entries: Sequence[Any], template: Any) -> Any:
        present = [entry for entry in entries if entry is not None]
        if template is None:
            return None
        return sum(present[1:], present[0]) if present else jnp.zeros_like(template)

    activations = zip(*(part.activations for part in parts), strict=True)
    return Outputs(
        column([part.logits for part in parts], like.logits),
        tuple(column(entries, a) for entries, a in zip(activations, like.activations, strict=True)),
    )
