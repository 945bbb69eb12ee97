"""`chunk_size`: objectives that work through a batch in pieces, and the refusal of those that cannot."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessianfree.engine import losses
from hessianfree.engine.chunks import Chunks, chunks_of, collected
from hessianfree.engine.compilation import precise
from hessianfree.engine.objective import Batch, Model, Problem, TracedObjective
from hessianfree.engine.trees import PyTree
from hessianfree.objective.diagnosis import outputs_of
from hessianfree.support import checks

#: Examples that are looked at together and apart.
FEW = 4


def checked_size(chunk_size: Any) -> int | None:
    """The size of pieces. Raises ValueError unless it is a positive whole number, or None for whole batches."""
    return None if chunk_size is None else checks.at_least("chunk_size", chunk_size, 1)


def in_pieces(problem: Problem, size: int | None, batch: Batch | None = None) -> Problem:
    """The same problem, worked through in pieces of this size; it is traced as a whole.

    Args:
        problem: see there.
        size: checked.
        batch: where its examples are, if they are known.
    """
    if size is None:
        return problem
    assert isinstance(problem, TracedObjective)
    return replace(problem, chunks=chunks_of(size, None if batch is None else batch.weights))


def check_cuts(objective: TracedObjective, params: PyTree, batch: Batch, size: int | None, built_in: bool) -> None:
    """Refuse to cut where an example's loss depends on the others.

    Args:
        objective: model and loss.
        params: the point.
        batch: of which a few examples are looked at.
        size: of the pieces, None for whole batches.
        built_in: whether model and loss are known to look at each example by itself.

    Raises:
        ValueError: if there is one loss of the whole batch, or examples mix.
    """
    if size is None:
        return
    if isinstance(objective.loss, losses.Mean):
        raise ValueError(
            f"chunk_size is {size}, but the loss returns one number for the batch, which cannot be summed over pieces; "
            "let it return a value for each example, or leave chunk_size out and take a smaller minibatch_size."
        )
    count = min(FEW, len(batch.weights))
    if built_in or count < 2:
        return
    few = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:count], batch)
    half = jax.tree.map(lambda leaf: leaf[: count // 2], few)
    together, apart = (np.asarray(_values(objective, params, part)) for part in (few, half))
    together = together[: count // 2]
    if not np.allclose(together, apart, rtol=np.sqrt(np.finfo(apart.dtype).eps), atol=0, equal_nan=True):
        raise ValueError(
            f"chunk_size is {size}, but an example's loss depends on the others in the batch: it is {together[0]:g} "
            f"beside {count - 1} others and {apart[0]:g} beside {count // 2 - 1}. Batch normalization does so; use "
            "layer normalization or fixed statistics, or leave chunk_size out and take a smaller minibatch_size."
        )


@precise
def _values(objective: TracedObjective, params: PyTree, batch: Batch) -> Array:
    return objective.loss.values(objective.model.outputs(params, batch.inputs), batch.targets)


def outputs_in_pieces(size: int, model: Model, params: PyTree, inputs: PyTree) -> PyTree:
    """The outputs of a function for all examples, whose leaves have them along their first axis."""
    count = len(jax.tree.leaves(inputs)[0])
    if size >= count:
        return outputs_of(model, params, inputs)
    chunks = chunks_of(size, inputs)
    assert chunks is not None
    return _outputs(chunks, model, params, inputs, jnp.ones(count))


@partial(precise, static_argnums=0)
def _outputs(chunks: Chunks, model: Model, params: PyTree, inputs: PyTree, weights: Array) -> PyTree:
    def of_piece(number: Array, shared: PyTree, inputs: PyTree, weights: Array) -> PyTree:
        model, params = shared
        return model.of_piece(number).outputs(params, inputs)

    return collected(chunks, of_piece, (model, params), inputs, weights)
