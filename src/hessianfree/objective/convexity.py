"""Whether a user's loss is convex in the model's outputs, and has any curvature at all."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from hessianfree.engine import trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.losses import SMALL, Mean, blocks
from hessianfree.engine.objective import Batch, Loss
from hessianfree.engine.trees import PyTree

#: Random directions along which the curvature of a loss with many outputs is looked at.
PROBES = 8


class CurvatureRange(NamedTuple):
    """The least curvature of an example that counts, and the largest magnitude."""

    least: Array
    largest: Array


@jit
def range_of_curvature(loss: Loss, outputs: PyTree, batch: Batch) -> CurvatureRange:
    """Look at the curvature of a loss at these outputs.

    Args:
        loss: the loss.
        outputs: of the model.
        batch: examples and weights.

    Returns:
        Eigenvalues of H where it is small, u'Hu along some random directions u where it is not.
    """
    if is_convexible(loss, outputs):
        found = jnp.linalg.eigvalsh(blocks(loss, outputs, batch.targets))
        found = jnp.where(batch.weights[:, None] > 0, found, 0)
        return CurvatureRange(jnp.min(found), jnp.max(jnp.abs(found)))
    product = loss.curvature(outputs, batch.targets)

    def probe(key: Array) -> Array:
        u = trees.random_normal(key, outputs)
        Hu = product(u)
        if isinstance(loss, Mean):
            return trees.dot(u, Hu)[None]
        return jnp.where(batch.weights > 0, trees.dot_examples(u, Hu), 0)

    found = jax.vmap(probe)(jax.random.split(jax.random.key(0), PROBES))
    return CurvatureRange(jnp.min(found), jnp.max(jnp.abs(found)))


def is_convexible(loss: Loss, outputs: PyTree) -> bool:
    """Whether an example has few enough outputs for its H to be made positive."""
    size = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(outputs))
    return not isinstance(loss, Mean) and size <= SMALL
