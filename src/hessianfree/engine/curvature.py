"""Products with the Hessian and with sampled Fisher matrices, compiled; those with G are in linearization.py.

    Hessian         second derivative of the loss           forward over reverse mode
    sampled Fisher  J' (1/S sum_s delta_s delta_s') J       delta random, of zero mean and covariance H

The second estimates J' E[delta delta'] J = G. Gradients for targets drawn from the model have that covariance where
the loss is the negative logarithm of such a distribution in its natural parameters (Martens 2020, section 9). Normal
vectors of the same covariance stand in for them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

from hessianfree.engine.compilation import jit, precise
from hessianfree.engine.linearization import Linearization, linear_map
from hessianfree.engine.objective import Batch, TracedObjective, mean_loss, mean_weights
from hessianfree.engine.trees import PyTree, Rows, Vector


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
