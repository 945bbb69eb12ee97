"""Losses on a model's outputs: value, gradient and curvature of each example.

Symbols, for one example:
    o   outputs            t   targets, NaN where unknown (such entries count for nothing)
    l   loss               H   second derivative of l with respect to o
    e   independent standard normal numbers
Outputs and targets are pytrees of one structure; a loss of this file sums over all entries of an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Key

from hessianfree.engine import trees
from hessianfree.engine.models import Held
from hessianfree.engine.objective import Loss, autodiff_curvature, autodiff_gradients
from hessianfree.engine.trees import PyTree, Vector

#: Outputs per example up to which the curvature of a loss that is not convex is made positive, entry by entry.
SMALL = 64


class ArrayLoss(Protocol):
    """A loss of one array (..., n), by entries or by rows; hashable, and the negative logarithm of a distribution."""

    def values(self, o: Array, t: Array) -> Array:
        """Of every entry, or of every row."""

    def gradients(self, o: Array, t: Array) -> Array:
        """Shaped like o."""

    def curvature(self, o: Array, t: Array) -> Callable[[Array], Array]:
        """The product u -> H u."""

    def sample(self, o: Array, t: Array, key: Key[Array, ""]) -> Array:
        """A random vector of zero mean and covariance H, shaped like o."""


class Known(NamedTuple):
    """A mask, 1 where targets are known and 0 where they are NaN, and the targets with zeros for NaN."""

    mask: Array
    t: Array


def known(o: Array, t: Array) -> Known:
    """NaN is replaced before anything is computed: a mask alone would leave NaN in the derivatives."""
    t = jnp.asarray(t, o.dtype)
    missing = jnp.isnan(t)
    return Known(jnp.where(missing, 0, 1).astype(o.dtype), jnp.where(missing, 0, t))


@dataclass(frozen=True)
class Entrywise:
    """A loss by entries, from formulas for known targets; it is the negative logarithm of a distribution.

    Args:
        value: l, of (o, t).
        slope: its derivative, of (o, t).
        bend: its second derivative, of o.
        noise: random numbers of zero mean whose variance is the second derivative, of (o, key).
    """

    value: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    bend: Callable[[Array], Array]
    noise: Callable[[Array, Key[Array, ""]], Array]

    def values(self, o: Array, t: Array) -> Array:
        """Of every entry."""
        mask, t = known(o, t)
        return mask * self.value(o, t)

    def gradients(self, o: Array, t: Array) -> Array:
        """Of every entry."""
        mask, t = known(o, t)
        return mask * self.slope(o, t)

    def curvature(self, o: Array, t: Array) -> Callable[[Array], Array]:
        """A diagonal."""
        diagonal = known(o, t).mask * self.bend(o)
        return lambda u: diagonal * u

    def sample(self, o: Array, t: Array, key: Key[Array, ""]) -> Array:
        """Independent numbers."""
        return known(o, t).mask * self.noise(o, key)


def logistic_loss(o: Array, t: Array) -> Array:
    """softplus(o) - t o, by softplus(-o) + (1 - t) o where o > 0: nothing cancels where o is large and t is one."""
    right = o > 0
    return jax.nn.softplus(jnp.where(right, -o, o)) + jnp.where(right, 1 - t, -t) * o


def logistic_gradient(o: Array, t: Array) -> Array:
    """sigmoid(o) - t, likewise."""
    right = o > 0
    small = jax.nn.sigmoid(jnp.where(right, -o, o))
    return jnp.where(right, (1 - t) - small, small - t)


def logistic_curvature(o: Array) -> Array:
    """p (1 - p), p = sigmoid(o); sigmoid(-o) keeps the digits that 1 - sigmoid(o) loses."""
    return jax.nn.sigmoid(o) * jax.nn.sigmoid(-o)


def logistic_noise(o: Array, key: Key[Array, ""]) -> Array:
    """The product sqrt(p (1 - p)) e."""
    return jnp.sqrt(logistic_curvature(o)) * trees.random_normal(key, o)


def half_square(o: Array, t: Array) -> Array:
    """The half square 1/2 (o - t)^2."""
    return 0.5 * (o - t) ** 2


def error(o: Array, t: Array) -> Array:
    """The error o - t."""
    return o - t


def constant(o: Array) -> Array:
    """One for every entry."""
    return jnp.ones_like(o)


def normal_noise(o: Array, key: Key[Array, ""]) -> Array:
    """The numbers e."""
    return trees.random_normal(key, o)


def poisson_loss(o: Array, t: Array) -> Array:
    """The difference exp(o) - t o, without the constant log t!."""
    return jnp.exp(o) - t * o


def poisson_gradient(o: Array, t: Array) -> Array:
    """The difference exp(o) - t."""
    return jnp.exp(o) - t


def poisson_curvature(o: Array) -> Array:
    """The rate exp(o)."""
    return jnp.exp(o)


def poisson_noise(o: Array, key: Key[Array, ""]) -> Array:
    """The difference exp(o) - y, y a number of Poisson's distribution."""
    rate = jnp.exp(o)
    return rate - jax.random.poisson(key, rate).astype(o.dtype)


# Functions with names: a network that is pickled holds its loss.
#: The distribution is a normal one of variance 1.
HALF_SQUARES = Entrywise(half_square, error, constant, normal_noise)
#: Outputs are logits, targets from 0 to 1.
LOGISTIC_CROSS_ENTROPY = Entrywise(logistic_loss, logistic_gradient, logistic_curvature, logistic_noise)
#: Outputs are logarithms of rates, targets counts.
POISSON = Entrywise(poisson_loss, poisson_gradient, poisson_curvature, poisson_noise)


@dataclass(frozen=True)
class SoftmaxLogLoss:
    """-sum_k t_k log softmax(o)_k over the last axis: outputs are logits, targets labels or probabilities."""

    def values(self, o: Array, t: Array) -> Array:
        """Of every row, from log-softmax."""
        return -jnp.sum(_probabilities(o, t) * jax.nn.log_softmax(o), axis=-1)

    def gradients(self, o: Array, t: Array) -> Array:
        """The difference p sum(t) - t, p = softmax(o)."""
        t = _probabilities(o, t)
        return jax.nn.softmax(o) * t.sum(axis=-1, keepdims=True) - t

    def curvature(self, o: Array, t: Array) -> Callable[[Array], Array]:
        """sum(t) (diag(p) - p p') u."""
        p, mass = jax.nn.softmax(o), _probabilities(o, t).sum(axis=-1, keepdims=True)

        def product(u: Array) -> Array:
            pu = p * u
            return mass * (pu - p * pu.sum(axis=-1, keepdims=True))

        return product

    def sample(self, o: Array, t: Array, key: Key[Array, ""]) -> Array:
        """The product sqrt(sum(t)) (diag(sqrt p) - p sqrt(p)') e."""
        p, mass = jax.nn.softmax(o), _probabilities(o, t).sum(axis=-1, keepdims=True)
        e = jnp.sqrt(p) * trees.random_normal(key, o)
        return jnp.sqrt(jnp.maximum(mass, 0)) * (e - p * e.sum(axis=-1, keepdims=True))


def _probabilities(o: Array, t: Array) -> Array:
    """Targets for logits (..., K): labels (...) become ones in their place, unknown ones (NaN, negative) nothing."""
    if jnp.ndim(t) == o.ndim - 1:
        t = jnp.asarray(t)
        labels = jnp.where(jnp.isnan(t), -1, t) if jnp.issubdtype(t.dtype, jnp.floating) else t
        return jax.nn.one_hot(labels.astype(jnp.int32), o.shape[-1], dtype=o.dtype)
    return known(o, t).t


@jax.tree_util.register_static
@dataclass(frozen=True)
class Leafwise(Loss):
    """A loss of arrays, for pytrees of arrays: the sum over leaves, and over all entries of an example."""

    leaf: ArrayLoss
    is_likelihood = True

    def values(self, outputs: Vector, targets: PyTree) -> Float[Array, "B"]:
        """Loss of each example, (B,)."""
        values = jax.tree.leaves(jax.tree.map(self.leaf.values, outputs, targets))
        return sum(v.reshape(len(v), -1).sum(axis=-1) for v in values)

    def gradients(self, outputs: Vector, targets: PyTree) -> Vector:
        """Closed forms."""
        return jax.tree.map(self.leaf.gradients, outputs, targets)

    def curvature(self, outputs: Vector, targets: PyTree) -> Callable[[Vector], Vector]:
        """Closed forms."""
        products = jax.tree.map(self.leaf.curvature, outputs, targets)
        return lambda u: jax.tree.map(lambda product, leaf: product(leaf), products, u)

    def sample(self, outputs: Vector, targets: PyTree, key: Key[Array, ""]) -> Vector:
        """Independent draws in every leaf."""
        leaves, structure = jax.tree.flatten(outputs)
        keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
        return jax.tree.map(self.leaf.sample, outputs, targets, keys)


#: Losses by name.
BY_NAME: dict[str, Loss] = {
    "squared_error": Leafwise(HALF_SQUARES),
    "softmax_cross_entropy": Leafwise(SoftmaxLogLoss()),
    "binary_cross_entropy": Leafwise(LOGISTIC_CROSS_ENTROPY),
    "poisson": Leafwise(POISSON),
}


class _Derived(Loss):
    """What losses given by a function have in common: derivatives by autodiff, no distribution."""

    def gradients(self, outputs: Vector, targets: PyTree) -> Vector:
        """By reverse mode."""
        return autodiff_gradients(lambda o: self.values(o, targets), outputs)

    def curvature(self, outputs: Vector, targets: PyTree) -> Callable[[Vector], Vector]:
        """By forward over reverse mode."""
        return autodiff_curvature(lambda o: self.values(o, targets), outputs)

    def sample(self, outputs: Vector, targets: PyTree, key: Key[Array, ""]) -> Vector:
        """Raises TypeError: a function of the user's is not a distribution."""
        names = ", ".join(map(repr, BY_NAME))
        raise TypeError(
            f"This loss names no distribution to draw targets from; those that do are {names}. The Gauss-Newton matrix "
            "serves any loss."
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PerExample(_Derived):
    """A function (outputs, targets) -> (B,), the loss of each example; examples must not mix.

    Its own method curvature(outputs, targets), if it has one, gives the function u -> Hu.
    """

    function: Held

    def values(self, outputs: Vector, targets: PyTree) -> Float[Array, "B"]:
        """The function's."""
        return self.function(outputs, targets)

    def curvature(self, outputs: Vector, targets: PyTree) -> Callable[[Vector], Vector]:
        """The function's own, or by autodiff."""
        own = getattr(self.function.function, "curvature", None)
        return super().curvature(outputs, targets) if own is None else own(outputs, targets)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean(_Derived):
    """A function (outputs, targets) -> one number for the whole batch, taken as it is; examples may mix.

    Each example counts with the whole, times its share 1/B in the engine's mean: the sum is the function.
    """

    function: Held
    by_example = False

    def values(self, outputs: Vector, targets: PyTree) -> Float[Array, "B"]:
        """The same number for each example."""
        return jnp.broadcast_to(self.function(outputs, targets), (_examples(outputs),))

    def gradients(self, outputs: Vector, targets: PyTree) -> Vector:
        """B times that of the function: the engine divides by B."""
        return trees.scale(_examples(outputs), jax.grad(self.function)(outputs, targets))

    def curvature(self, outputs: Vector, targets: PyTree) -> Callable[[Vector], Vector]:
        """B times that of the function."""
        push = jax.linearize(lambda o: jax.grad(self.function)(o, targets), outputs)[1]
        return lambda u: trees.scale(_examples(outputs), push(u))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Convexified(_Derived):
    """A loss that is not convex, of at most `SMALL` outputs per example, with the negative eigenvalues of H as zero."""

    loss: Loss

    def values(self, outputs: Vector, targets: PyTree) -> Float[Array, "B"]:
        """The loss's own."""
        return self.loss.values(outputs, targets)

    def curvature(self, outputs: Vector, targets: PyTree) -> Callable[[Vector], Vector]:
        """V max(Lambda, 0) V' of each example's H = V Lambda V'."""
        values, vectors = jnp.linalg.eigh(blocks(self.loss, outputs, targets))
        positive = jnp.einsum("bik,bk,bjk->bij", vectors, jnp.maximum(values, 0), vectors)
        return lambda u: _from_rows(jnp.einsum("bij,bj->bi", positive, _rows(u)), outputs)


def blocks(loss: Loss, outputs: Vector, targets: PyTree) -> Array:
    """H of each example as a matrix, (B, n, n), n outputs in the order of the leaves: one product for each."""
    product, like = loss.curvature(outputs, targets), _rows(outputs)
    unit = jnp.eye(like.shape[1], dtype=like.dtype)
    columns = jax.vmap(lambda e: _rows(product(_from_rows(jnp.broadcast_to(e, like.shape), outputs))), out_axes=2)
    return columns(unit)


def _rows(tree: PyTree) -> Array:
    return jax.vmap(lambda example: ravel_pytree(example)[0])(tree)


def _from_rows(rows: Array, like: Vector) -> PyTree:
    return jax.vmap(ravel_pytree(jax.tree.map(lambda leaf: leaf[0], like))[1])(rows)


def _examples(outputs: Vector) -> int:
    return int(jax.tree.leaves(outputs)[0].shape[0])
