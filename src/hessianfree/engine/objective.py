"""An objective: a model and a loss, both pytrees, and their weighted mean over a batch.

Symbols, used throughout the engine:
    theta   parameters, a pytree
    J       Jacobian of the model's outputs with respect to theta, all examples together
    H       second derivative of the loss with respect to the outputs, block diagonal over examples
    w       per-example weights; the loss is f = sum_i w_i l_i / sum_i w_i
    g       gradient J' (dl/doutputs)
    G       generalised Gauss-Newton matrix J' H J (Schraudolph 2002, eq. 16)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, Key

from hessianfree.engine import chunks, reprs, trees
from hessianfree.engine.chunks import Chunks
from hessianfree.engine.compilation import precise
from hessianfree.engine.trees import PyTree, Scalar, Vector


class Batch(NamedTuple):
    """Examples and their weights; every leaf has the same leading axis B.

    A weight of zero makes an example count for nothing, as long as its outputs are finite. Its targets need not be.
    The last minibatch of an epoch is padded to the common shape this way, and nothing is compiled for remainders.
    """

    inputs: PyTree
    targets: PyTree
    weights: Any  # (B,), numpy or JAX

    def __repr__(self) -> str:
        return reprs.fields(self)


class Problem(Protocol):
    """What an optimizer minimises: a value that may be computed anywhere, and a traceable local model."""

    def value(self, params: Vector, batch: Batch) -> float:
        """The loss at params."""

    def localize(self, params: Vector, batch: Batch) -> tuple[TracedObjective, Batch]:
        """A traceable objective that agrees with this one to first order around params."""


class Model(Protocol):
    """Interface of a traceable model, itself a pytree.

    What is static (classes, shapes, options) is compared by value and arrays are leaves, so that two models of one
    structure share one compilation.

    Attributes:
        derivatives_of_value: whether gradient and curvature are those of the value; truncation makes them others.
        examples_axis: the axis of the outputs that has the examples; None if it is not one.
    """

    derivatives_of_value: bool = True
    examples_axis: int | None = 0

    def outputs(self, params: Vector, inputs: PyTree) -> PyTree:
        """Everything that some part of the loss looks at."""

    def weigh(self, weights: Array, outputs: Vector) -> Vector:
        """Multiply what belongs to example i by weights[i], (B,); a weight of zero gives zero whatever stands there."""

    def dot(self, x: Vector, y: Vector) -> Float[Array, "B"]:
        """Inner product, example by example, of two vectors shaped like the outputs, (B,)."""

    @property
    def draws(self) -> bool:
        """Whether outputs depend on a random key, and so on how the examples lie in the batch."""
        return False

    def of_piece(self, number: Array) -> Self:
        """The model for one piece of a batch that is cut into pieces; itself unless it draws random numbers."""
        return self


class Loss(Protocol):
    """Interface of a loss on a model's outputs, itself a pytree.

    Attributes:
        is_likelihood: whether it is the negative logarithm of a distribution of targets, given the outputs.
        by_example: whether the loss of an example does not depend on the others.
    """

    is_likelihood: bool = False
    by_example: bool = True

    def values(self, outputs: Vector, targets: PyTree) -> Float[Array, "B"]:
        """Loss of each example, (B,)."""

    def gradients(self, outputs: Vector, targets: PyTree) -> Vector:
        """Derivative of each example's loss with respect to its outputs, shaped like the outputs."""

    def curvature(self, outputs: Vector, targets: PyTree) -> Callable[[Vector], Vector]:
        """The product u -> H u, example by example; H must be symmetric, and positive for a convex loss."""

    def sample(self, outputs: Vector, targets: PyTree, key: Key[Array, ""]) -> Vector:
        """A random vector of zero mean and covariance H.

        The gradient for targets drawn from the model's own distribution is one such vector. A normal one gives less
        noisy squares.
        """


@partial(jax.tree_util.register_dataclass, data_fields=("model", "loss"), meta_fields=("chunks",))
@dataclass(frozen=True)
class TracedObjective:
    """A traceable model and loss; as a `Problem` it is its own local model.

    Args:
        model: see Model.
        loss: see Loss.
        chunks: how batches are cut into pieces (static); None to take them whole.
    """

    model: Model
    loss: Loss
    chunks: Chunks | None = None

    def cuts(self, batch: Batch) -> bool:
        """Whether this batch is cut into several pieces."""
        return self.chunks is not None and self.chunks.size < len(batch.weights)

    def of_piece(self, number: Array) -> TracedObjective:
        """The objective for one piece."""
        return replace(self, model=self.model.of_piece(number))

    def value(self, params: Vector, batch: Batch) -> float:
        """The loss at params, in a compiled function shared by all objectives of one structure."""
        return float(_compiled_value(self, params, batch))

    def localize(self, params: Vector, batch: Batch) -> tuple[TracedObjective, Batch]:
        """The objective itself, and the batch as it is."""
        return self, batch


def mean_weights(weights: Array) -> Array:
    """Weights divided by their sum; all zero when the sum is zero."""
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)


def sum_of_examples(weights: Array, values: Array) -> Array:
    """The sum of values (B,) times these weights (B,); what weighs nothing may be NaN."""
    return jnp.sum(trees.weigh_examples(weights, values))


def with_shares(batch: Batch) -> Batch:
    """The batch with each example's share of the mean as its weight: a mean is then a sum over pieces."""
    return batch._replace(weights=mean_weights(batch.weights))


def over_pieces(
    objective: TracedObjective, of_piece: Callable[..., PyTree], point: PyTree, shares: Batch, *others: PyTree
) -> PyTree:
    """The sum over the pieces of a batch, or what the function makes of the whole where it is not cut.

    Args:
        objective: says how to cut.
        of_piece: (objective, point, batch, *others) -> sums over these examples by their weights; it closes over no
            arrays.
        point: parameters, or what else the function looks at.
        shares: see `with_shares`.
        others: more arrays with the examples along the first axis, which are cut too.
    """
    if not objective.cuts(shares):
        return of_piece(objective, point, shares, *others)
    return chunks.summed(*_cut(objective, of_piece, point, shares, *others))


def by_examples(objective: TracedObjective, of_piece: Callable[..., PyTree], point: PyTree, shares: Batch) -> PyTree:
    """What a function (objective, point, batch) makes of each example, leaves (B, ...), a piece at a time."""
    return chunks.collected(*_cut(objective, of_piece, point, shares))


def _cut(
    objective: TracedObjective, of_piece: Callable[..., PyTree], point: PyTree, shares: Batch, *others: PyTree
) -> tuple[Chunks, chunks.OfPiece, PyTree, PyTree, Array]:
    """The arguments of `summed` and `collected`."""
    assert objective.chunks is not None

    def of(number: Array, shared: PyTree, examples: PyTree, weights: Array) -> PyTree:
        whole, point = shared
        (inputs, targets), others = examples
        return of_piece(whole.of_piece(number), point, Batch(inputs, targets, weights), *others)

    return objective.chunks, of, (replace(objective, chunks=None), point), (shares[:2], others), shares.weights


def mean_loss(objective: TracedObjective, params: Vector, batch: Batch) -> Scalar:
    """The weighted mean loss f, traceable."""

    def of_piece(objective: TracedObjective, params: Vector, part: Batch) -> Scalar:
        outputs = objective.model.outputs(params, part.inputs)
        return sum_of_examples(part.weights, objective.loss.values(outputs, part.targets))

    return over_pieces(objective, of_piece, params, with_shares(batch))


_compiled_value = precise(mean_loss)


def sample_examples(objective: TracedObjective, outputs: Vector, batch: Batch, key: Key[Array, ""]) -> Vector:
    """A random vector of zero mean and covariance H for each example, traceable.

    It depends on how many examples before this one weigh something, not on its place among those that weigh nothing: an
    example keeps its numbers when a batch is filled up, or split over devices. (Not so where outputs do not have the
    examples along one axis.)
    """
    loss, axis = objective.loss, objective.model.examples_axis
    if axis is None:
        return loss.sample(outputs, batch.targets, key)
    number = jnp.cumsum(jnp.asarray(batch.weights) > 0)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, number)

    def of_example(outputs: Vector, targets: PyTree, key: Key[Array, ""]) -> Vector:
        alone = jax.tree.map(lambda leaf: jnp.expand_dims(leaf, axis), outputs)
        drawn = loss.sample(alone, jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], targets), key)
        return jax.tree.map(lambda leaf: jnp.squeeze(leaf, axis), drawn)

    return jax.vmap(of_example, (axis, 0, 0), axis)(outputs, batch.targets, keys)


def autodiff_gradients(losses: Callable[[Vector], Array], outputs: Vector) -> Vector:
    """Per-example loss gradients by reverse mode; examples do not mix, so one pull of ones gives them all."""
    return jax.grad(lambda o: jnp.sum(losses(o)))(outputs)


def autodiff_curvature(losses: Callable[[Vector], Array], outputs: Vector) -> Callable[[Vector], Vector]:
    """The product u -> H u by forward over reverse mode, linearised once."""
    return jax.linearize(lambda o: autodiff_gradients(losses, o), outputs)[1]
