"""Whether a model's outputs, a loss and its targets fit each other; what was given and expected is said where not."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from hessianfree import parameters
from hessianfree.engine.models import ModelObjective
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree


def name_of(function: Any) -> str:
    """What to call a user's function or object in messages."""
    return getattr(function, "__name__", type(function).__name__)


def shapes_of_outputs(model: ModelObjective, params: PyTree, inputs: PyTree) -> PyTree:
    """The model's outputs, without computing them."""
    try:
        return jax.eval_shape(model.outputs, params, inputs)
    except (TypeError, ValueError) as error:
        key = ", and None for its key, which means evaluation" if model.stochastic else ""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"The model {name_of(model.model)} cannot be called with parameters {parameters.shapes(params)} and "
            f"inputs {parameters.shapes(inputs)}{key}: {error}\nIt is given all examples at once; a model of one is "
            "mapped by jax.vmap(model, in_axes=(None, 0))."
        ) from error


def shape_of_loss(loss: Any, outputs: PyTree, targets: PyTree) -> tuple[int, ...]:
    """What a user's loss returns, without computing it."""
    try:
        result = jax.eval_shape(loss, outputs, targets)
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"The loss {name_of(loss)} cannot be called with outputs {parameters.shapes(outputs)} and targets "
            f"{parameters.shapes(targets)}: {error}"
        ) from error
    if not hasattr(result, "shape"):
        raise TypeError(f"The loss {name_of(loss)} returned {parameters.shapes(result)}; one array is expected.")
    if not np.issubdtype(result.dtype, np.floating):
        raise TypeError(f"The loss {name_of(loss)} returned {result.dtype}; real floats are expected.")
    return tuple(result.shape)


def check_outputs(outputs: PyTree, size: int, dtype: np.dtype[Any]) -> None:
    """All leaves hold the examples along their first axis, in the parameters' precision."""
    leaves = jax.tree.leaves(outputs)
    if not leaves:
        raise ValueError("The model returned no arrays.")
    for leaf in leaves:
        if leaf.ndim == 0 or leaf.shape[0] != size:
            raise ValueError(
                f"The model returned {parameters.shapes(outputs)} for {size} examples; every leaf needs them along its "
                "first axis. A model of one example is mapped by jax.vmap(model, in_axes=(None, 0)); for residuals "
                "that are no outputs of examples there is hf.least_squares."
            )
        if leaf.dtype != dtype:
            raise TypeError(
                f"The model returned {parameters.shapes(outputs)}; outputs must be {dtype}, as its parameters."
            )


def check_targets(loss: str, outputs: PyTree, targets: PyTree) -> None:
    """Shapes agree: nothing is broadcast silently."""
    structures: list[Any] = [jax.tree.structure(outputs), jax.tree.structure(targets)]
    if structures[0] == structures[1]:
        pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(targets), strict=True)
        if all(_fits(loss, o, t) for o, t in pairs):
            return
    hint = ", or labels without the last axis," if loss == "softmax_cross_entropy" else ""
    raise ValueError(
        f"Outputs and targets differ: the model returned {parameters.shapes(outputs)}, the targets are "
        f"{parameters.shapes(targets)}; the same structure and shapes{hint} are expected."
    )


def _fits(loss: str, output: Any, target: Any) -> bool:
    labels = loss == "softmax_cross_entropy" and target.shape == output.shape[:-1] and output.ndim > 1
    return labels or target.shape == output.shape


def check_range(loss: str, outputs: PyTree, batch: Batch) -> None:
    """Tell of targets that the loss cannot mean, where they are at hand in numpy and count."""
    for output, target in zip(jax.tree.leaves(outputs), jax.tree.leaves(batch.targets), strict=True):
        if loss == "softmax_cross_entropy" and output.shape[-1] == 1:
            raise ValueError(
                f"softmax_cross_entropy of one logit, outputs {output.shape}, is always zero; for two classes return "
                "two logits, or one logit with binary_cross_entropy."
            )
        if not isinstance(target, np.ndarray) or not isinstance(batch.weights, np.ndarray):
            continue
        known = target[batch.weights > 0]
        known = known[~np.isnan(known)]
        if loss == "softmax_cross_entropy" and target.ndim < output.ndim:
            bad = (known >= output.shape[-1]) | (known % 1 != 0)
            expected = f"labels from 0 to {output.shape[-1] - 1}, or -1 for unknown ones"
        elif loss == "binary_cross_entropy":
            bad, expected = (known < 0) | (known > 1), "targets from 0 to 1"
        elif loss == "poisson":
            bad, expected = known < 0, "counts of zero or more"
        else:
            continue
        if bad.any():
            raise ValueError(f"{loss} expects {expected}; given {known[bad][0]} among {int(bad.sum())} such targets.")


def check_no_stray_axis(outputs: PyTree, targets: PyTree) -> None:
    """(B,) against (B, 1) broadcasts to (B, B) in a user's own loss, silently."""
    leaves = jax.tree.leaves(outputs), jax.tree.leaves(targets)
    if len(leaves[0]) == len(leaves[1]) == 1:
        a, b = leaves[0][0].shape, leaves[1][0].shape
        if (*a, 1) == b or (*b, 1) == a:
            raise ValueError(f"The model returned shape {a}, the targets have {b}: give both the same number of axes.")


def check_equal(weights: Any) -> None:
    """A loss of the whole batch knows no weights."""
    found = np.asarray(weights)
    if len(found) and not (found == found[0]).all():
        raise ValueError(
            "The loss returns one number for the batch, so that examples cannot be weighted; make it return a value "
            "for each example, or leave the weights out."
        )
