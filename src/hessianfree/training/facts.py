"""What a run of `hf.fit` knows of its data, for `hf.diagnose`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.diagnosis.constant import best_constant
from hessianfree.diagnosis.data import NUMBERS, every_so_often, inputs_of
from hessianfree.diagnosis.facts import Facts
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.objective.objective import Objective
from hessianfree.training.stored import StoredArrays

#: Numbers in an array at most that is fetched from a device to be looked at.
FETCHED = 1_000_000


def facts_of(objective: Objective, whole: Batch | None, size: int | None) -> Facts:
    """What the data say, and a loss with a name.

    Args:
        objective: what is minimised.
        whole: all the data; None where they come in batches.
        size: examples in an update, None for all.
    """
    if whole is None:
        return Facts()
    count = len(whole.weights)
    inputs, targets, weights = _only(whole.inputs), _only(whole.targets), _fetched(whole.weights)
    # Whole numbers are indices, as a rule, and images have no columns.
    tabular = inputs is not None and inputs.dtype.kind == "f" and inputs.ndim in (2, 3)
    constant = None
    if targets is not None and weights is not None and isinstance(objective.loss, str) and targets.ndim:
        rows = max(NUMBERS // max(targets[0].size, 1), 1)
        constant = best_constant(objective.loss, every_so_often(targets, rows), every_so_often(weights, rows))
    return Facts(
        examples=count,
        batch=min(size or count, count),
        constant_loss=None if constant is None else constant.loss,
        commonest=None if constant is None else constant.commonest,
        inputs=inputs_of(inputs) if tabular and inputs is not None else None,
    )


def facts_of_stored(objective: Objective, batches: StoredArrays) -> Facts:
    """What a sample of data on a disk says: the minibatch that was read last."""
    if batches.last is None:
        return Facts(examples=batches.examples, batch=batches.size)
    return facts_of(objective, batches.last, None)._replace(examples=batches.examples, batch=batches.size)


def _only(tree: PyTree) -> NDArray[Any] | None:
    """The only array of a pytree, on the host; None where there are several."""
    leaves = jax.tree.leaves(tree)
    return _fetched(leaves[0]) if len(leaves) == 1 else None


def _fetched(leaf: Any) -> NDArray[Any] | None:
    """An array on the host; None where it would take long to fetch."""
    if isinstance(leaf, np.ndarray):
        return leaf
    near = getattr(leaf, "is_fully_addressable", True)
    return np.asarray(leaf) if near and leaf.size <= FETCHED else None
