"""The weighted mean over examples of the squared gradient, elementwise: sum_i w_i g_i^2 / sum_i w_i."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hessianfree.engine.linearization import linearize
from hessianfree.engine.losses import Mean
from hessianfree.engine.models import Layered
from hessianfree.engine.objective import Batch, TracedObjective, mean_weights
from hessianfree.engine.trees import PyTree, Vector


def squared_gradients(objective: TracedObjective, params: Vector, batch: Batch) -> Vector:
    """By the layers of a model that knows them, else example by example.

    An example's gradient of a block is x delta', whose squares are those of x times those of delta. Over time it is a
    sum of such products, whose squares do not factorise. Raises TypeError for a loss of the whole batch, which has no
    gradients of single examples.
    """
    model, loss = objective.model, objective.loss
    if isinstance(loss, Mean):
        raise TypeError(
            "The diagonal preconditioner needs the gradients of single examples, but the loss returns one number "
            'for the batch; make it return a value for each example, or take preconditioner="nystrom".'
        )
    if not isinstance(model, Layered) or model.has_time:
        return example_by_example(objective, params, batch)
    flows = model.flows(
        params, batch.inputs, mean_weights(batch.weights), lambda outputs: loss.gradients(outputs, batch.targets)
    )
    squares = {name: (x**2).T @ (weights[:, None] * deltas**2) for name, (x, deltas, weights) in flows.items()}
    return model.from_blocks(squares, params)


def example_by_example(objective: TracedObjective, params: Vector, batch: Batch, chunk: int = 32) -> Vector:
    """By the gradients of single examples, `chunk` of them at once: memory is chunk x parameters."""

    def squared(example: Batch) -> Vector:
        single = jax.tree.map(lambda a: a[None], Batch(example.inputs, example.targets, jnp.ones_like(example.weights)))
        gradient = linearize(objective, params, single).gradient
        weight = example.weights  # where it is zero, targets and with them the gradient need not be finite
        return jax.tree.map(lambda g: jnp.where(weight == 0, 0, weight * g**2).astype(g.dtype), gradient)

    batch = batch._replace(weights=mean_weights(batch.weights))
    size = len(batch.weights)
    chunk = min(chunk, size)
    whole = size - size % chunk
    head = jax.tree.map(lambda a: a[:whole].reshape((-1, chunk, *a.shape[1:])), batch)

    def total(examples: Batch) -> Vector:
        return jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.vmap(squared)(examples))

    def accumulate(carry: Vector, examples: Batch) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, carry, total(examples)), None

    summed, _ = jax.lax.scan(accumulate, jax.tree.map(jnp.zeros_like, params), head)
    if whole == size:
        return summed
    return jax.tree.map(jnp.add, summed, total(jax.tree.map(lambda a: a[whole:], batch)))
