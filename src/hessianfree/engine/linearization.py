"""A model at a point, linearised once: value, gradient and products with curvature.

Symbols as in objective.py.
    G               J'HJ, the stages of a product are v -> Jv -> HJv -> J'HJv
    Hessian         second derivative of the loss           forward over reverse mode
    sampled Fisher  J' (1/S sum_s delta_s delta_s') J       delta random, of zero mean and covariance H

The last estimates J' E[delta delta'] J = G. Gradients for targets drawn from the model have that covariance where
the loss is the negative logarithm of such a distribution in its natural parameters (Martens 2020, section 9). Normal
vectors of the same covariance stand in for them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Jaxpr, subjaxprs
from jax.tree_util import Partial

from hessianfree.engine.compilation import jit, precise
from hessianfree.engine.objective import (
    Batch,
    TracedObjective,
    mean_loss,
    mean_weights,
    over_pieces,
    sum_of_examples,
    with_shares,
)
from hessianfree.engine.trees import PyTree, Rows, Scalar, Vector


class LinearMap(NamedTuple):
    """A function's value at a point, and its derivative there.

    Both products are pytrees whose leaves are what they remember of the forward pass, so that compiled functions may
    hand them on.
    """

    outputs: Vector
    push: Partial  # v -> Jv
    pull: Partial  # u -> J'u


def linear_map(function: Callable[[Vector], Vector], params: Vector) -> LinearMap:
    """Linearise a function of the parameters once, in forward mode if it has one.

    A function whose derivative comes from `jax.custom_vjp` has none. Then Jv is the derivative of u -> J'u, which is
    linear: reverse mode of reverse mode.
    """
    outputs, push = jax.linearize(function, params)
    if not lacks_forward_mode(push, params):
        return LinearMap(outputs, cast(Partial, push), Partial(_transposed, push, params))
    outputs, reverse = jax.vjp(function, params)
    return LinearMap(outputs, Partial(_reversed_twice, reverse, outputs), Partial(_first, reverse))


def has_forward_mode(function: Callable[..., Vector], params: Vector, *others: Any) -> bool:
    """Whether a function can be linearised in forward mode in its first argument, found without computing anything."""
    found = []

    def look(p: Vector, *rest: Any) -> Vector:
        outputs, push = jax.linearize(lambda q: function(q, *rest), p)
        found.append(not lacks_forward_mode(push, p))
        return outputs

    jax.eval_shape(look, params, *others)
    return found[0]


def lacks_forward_mode(push: Callable[[Vector], Vector], params: Vector) -> bool:
    """Whether v -> Jv was given by `jax.custom_vjp`: such a function can be traced and transposed, but not run."""
    return contains(jax.make_jaxpr(push)(params).jaxpr, "custom_lin")


def contains(program: Jaxpr, *primitives: str) -> bool:
    """Whether a program holds one of these primitives, in a loop or a called function too."""
    here = any(equation.primitive.name in primitives for equation in program.eqns)
    return here or any(contains(inner, *primitives) for inner in subjaxprs(program))


def _transposed(push: Partial, params: Vector, cotangents: Vector) -> Vector:
    return jax.linear_transpose(push, params)(cotangents)[0]


def _first(reverse: Callable[..., Any], cotangents: Vector) -> Vector:
    return reverse(cotangents)[0]


def _reversed_twice(reverse: Callable[..., Any], outputs: Vector, vector: Vector) -> Vector:
    _, push = jax.vjp(partial(_first, reverse), jax.tree.map(jnp.zeros_like, outputs))
    return push(vector)[0]


class Linearization(NamedTuple):
    """The objective around one point; compiled functions may hand it to each other.

    Of a batch that is cut into pieces only the point is remembered: each product linearises the pieces again.
    """

    value: Array
    gradient: Vector
    outputs: Any
    push: Any  # v -> Jv, a Partial
    pull: Any  # u -> J'u, likewise
    point: Vector | None = None


def linearize(objective: TracedObjective, params: Vector, batch: Batch) -> Linearization:
    """Evaluate and linearise the model once: f and g, weighted means over examples, and what products with G need."""
    shares = with_shares(batch)
    if not objective.cuts(batch):
        return _linearized(objective, params, shares)
    value, gradient = over_pieces(objective, lambda *piece: _linearized(*piece)[:2], params, shares)
    return Linearization(value, gradient, None, None, None, params)


def _linearized(objective: TracedObjective, params: Vector, shares: Batch) -> Linearization:
    model, loss = objective.model, objective.loss
    outputs, push, pull = linear_map(lambda p: model.outputs(p, shares.inputs), params)
    return Linearization(
        value=sum_of_examples(shares.weights, loss.values(outputs, shares.targets)),
        gradient=pull(model.weigh(shares.weights, loss.gradients(outputs, shares.targets))),
        outputs=outputs,
        push=push,
        pull=pull,
    )


def gauss_newton(objective: TracedObjective, local: Linearization, batch: Batch) -> Callable[[Vector], Vector]:
    """The product v -> G v, with everything that does not depend on v computed here; `local` is of the same batch.

    The model is not evaluated again. A product holds four matrix multiplications per weight matrix, and two for one
    that starts at the inputs, through which no tangent flows. Over pieces it is evaluated again, which is one more.
    """
    shares = with_shares(batch)
    if local.point is None:
        return _product(objective, shares, LinearMap(local.outputs, local.push, local.pull))

    def of_piece(objective: TracedObjective, point: tuple[Vector, Vector], part: Batch) -> Vector:
        params, v = point
        there = linear_map(lambda p: objective.model.outputs(p, part.inputs), params)
        return _product(objective, part, there)(v)

    return lambda v: over_pieces(objective, of_piece, (local.point, v), shares)


def _product(objective: TracedObjective, shares: Batch, local: LinearMap) -> Callable[[Vector], Vector]:
    curvature = objective.loss.curvature(local.outputs, shares.targets)  # u -> Hu
    return lambda v: local.pull(objective.model.weigh(shares.weights, curvature(local.push(v))))


#: The same, compiled.
linearized = precise(linearize)


@precise
def gauss_newton_product(objective: TracedObjective, local: Linearization, batch: Batch, v: Vector) -> Vector:
    """One product G v at a point that is linearised already, compiled."""
    return gauss_newton(objective, local, batch)(v)


@precise
def value_and_gradient(objective: TracedObjective, params: Vector, batch: Batch) -> tuple[Scalar, Vector]:
    """The loss f and its gradient g, compiled."""
    local = linearize(objective, params, batch)
    return local.value, local.gradient


@precise
def curvature_product(objective: TracedObjective, params: Vector, batch: Batch, v: Vector) -> Vector:
    """One product G v, compiled; inside CG the linearisation is shared between products instead."""
    return gauss_newton(objective, linearize(objective, params, batch), batch)(v)


# ---- Hessian and Fisher matrix ---------------------------------------------------------------------------------------


@jit
def sampled_gradients(objective: TracedObjective, local: Linearization, batch: Batch, keys: Array) -> PyTree:
    """Draw random vectors delta with the curvature of the loss as their covariance; unknown targets get zeros.

    Pass the batch that `local` was linearized on and a key for each draw, (S,). The leaves of delta are those of the
    outputs with an axis of S in front.
    """
    return jax.vmap(lambda key: objective.loss.sample(local.outputs, batch.targets, key))(keys)


@precise
def sampled_fisher_product(
    objective: TracedObjective, local: Linearization, batch: Batch, deltas: Rows, v: Vector
) -> PyTree:
    """The product v -> J' (1/S sum_s delta_s delta_s') J v, example by example; deltas from `sampled_gradients`."""
    model = objective.model
    pushed = local.push(v)
    mixed = jax.vmap(lambda delta: model.weigh(model.dot(delta, pushed), delta))(deltas)
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), mixed)
    return local.pull(model.weigh(mean_weights(batch.weights), mean))


@precise
def linearized_gradient(objective: TracedObjective, params: Vector, batch: Batch) -> Partial:
    """The function v -> Hessian v at a point."""
    counting = batch._replace(targets=_targets_that_count(batch))
    return linear_map(jax.grad(lambda p: mean_loss(objective, p, counting)), params).push


def _targets_that_count(batch: Batch) -> PyTree:
    """Targets, an example's without weight replaced by another's: NaN there would survive reverse mode's zero."""
    rows = jnp.where(batch.weights > 0, jnp.arange(len(batch.weights)), jnp.argmax(batch.weights))
    return jax.tree.map(lambda t: t[rows], batch.targets)


@precise
def hessian_product(push: Partial, v: Vector) -> Vector:
    """The Hessian times v, by `push` from `linearized_gradient`."""
    return push(v)
