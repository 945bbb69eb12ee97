"""Curvature at a point, linearised once and kept, so that each further product costs what it must.

    Gauss-Newton    G = J'HJ                                four products per weight matrix
    Hessian         second derivative of the loss           likewise, by forward over reverse mode
    sampled Fisher  J' (1/S sum_s delta_s delta_s') J       delta the loss gradient for targets drawn from the model
The last estimates J' E[delta delta'] J, which equals G for losses that are the negative logarithm of such a
distribution in its natural parameters (Martens 2020, section 9).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from hessianfree.engine import trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.models import ModelObjective
from hessianfree.engine.objective import PRECISION, Batch, Objective, linear_map, mean_loss, mean_weights
from hessianfree.engine.trees import PyTree


class Local(NamedTuple):
    """The objective around a point: what compiled functions hand to each other."""

    value: Array
    gradient: PyTree
    outputs: PyTree
    push: Partial  # v -> Jv
    pull: Partial  # u -> J'u


@jit
def linearized(objective: Objective, params: PyTree, batch: Batch) -> Local:
    """Evaluate and linearise the model once.

    Args:
        objective: model and loss.
        params: the point.
        batch: examples and weights.

    Returns:
        Value, gradient, and what Gauss-Newton products need.
    """
    with jax.default_matmul_precision(PRECISION):
        outputs, push, pull = linear_map(lambda p: objective.outputs(p, batch.inputs), params)
        weights = mean_weights(batch.weights)
        losses = objective.losses(outputs, batch.targets)
        return Local(
            value=jnp.sum(trees.weigh_examples(weights, losses)),
            gradient=pull(objective.weigh(weights, objective.loss_gradients(outputs, batch.targets))),
            outputs=outputs,
            push=push,
            pull=pull,
        )


@jit
def gauss_newton_product(objective: Objective, local: Local, batch: Batch, v: PyTree) -> PyTree:
    """G v = J'HJ v.

    Args:
        objective: model and loss.
        local: from `linearized`.
        batch: the same examples and weights.
        v: shaped like the parameters.
    """
    with jax.default_matmul_precision(PRECISION):
        curvature = objective.loss_curvature(local.outputs, batch.targets)
        return local.pull(objective.weigh(mean_weights(batch.weights), curvature(local.push(v))))


@jit
def sampled_gradients(objective: ModelObjective, local: Local, batch: Batch, keys: Array) -> PyTree:
    """Loss gradients for targets drawn from the model's own distribution.

    Args:
        objective: model, and a loss that names a distribution.
        local: from `linearized`.
        batch: the same examples; unknown targets stay without gradient.
        keys: one for each set of targets, (S,).

    Returns:
        delta, leaves (S, B, ...).
    """
    return jax.vmap(lambda key: objective.loss.sample(local.outputs, batch.targets, key))(keys)


@jit
def sampled_fisher_product(objective: Objective, local: Local, batch: Batch, deltas: PyTree, v: PyTree) -> PyTree:
    """J' (1/S sum_s delta_s delta_s') J v, example by example.

    Args:
        objective: model and loss.
        local: from `linearized`.
        batch: the same examples and weights.
        deltas: from `sampled_gradients`.
        v: shaped like the parameters.
    """
    with jax.default_matmul_precision(PRECISION):
        pushed = local.push(v)
        products = jax.tree.map(lambda d, u: jnp.sum((d * u).reshape(*d.shape[:2], -1), axis=-1), deltas, pushed)
        along = sum(jax.tree.leaves(products))  # delta'Jv, (S, B)
        mixed = jax.tree.map(lambda d: jnp.einsum("sb...,sb->b...", d, along) / len(d), deltas)
        return local.pull(objective.weigh(mean_weights(batch.weights), mixed))


@jit
def linearized_gradient(objective: Objective, params: PyTree, batch: Batch) -> Partial:
    """The function v -> Hessian v.

    Args:
        objective: model and loss.
        params: the point.
        batch: examples and weights.
    """
    with jax.default_matmul_precision(PRECISION):
        counting = batch._replace(targets=_targets_that_count(batch))
        gradient = jax.grad(lambda p: mean_loss(objective, p, counting))
        return linear_map(gradient, params).push


def _targets_that_count(batch: Batch) -> PyTree:
    """Targets, an example's without weight replaced by another's: NaN there would survive reverse mode's zero."""
    rows = jnp.where(batch.weights > 0, jnp.arange(len(batch.weights)), jnp.argmax(batch.weights))
    return jax.tree.map(lambda t: t[rows], batch.targets)


@jit
def hessian_product(push: Partial, v: PyTree) -> PyTree:
    """The Hessian times v.

    Args:
        push: from `linearized_gradient`.
        v: shaped like the parameters.
    """
    with jax.default_matmul_precision(PRECISION):
        return push(v)
