"""Whether a model's outputs, a loss and its targets fit each other; what was given and expected is said where not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessianfree.devices.fetching import to_host
from hessianfree.engine.compilation import jit
from hessianfree.engine.models import FunctionModel
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters


def name_of(function: Any) -> str:
    """What to call a user's function or object in messages."""
    return getattr(function, "__name__", type(function).__name__)


def shapes_of_outputs(model: FunctionModel, params: PyTree, inputs: PyTree) -> PyTree:
    """The model's outputs, without computing them."""
    try:
        return jax.eval_shape(model.outputs, params, inputs)
    except (TypeError, ValueError) as error:
        name = name_of(model.function.function)
        key = ", and None for its key, which means evaluation" if model.stochastic else ""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"The model {name} cannot be called with parameters {parameters.shapes(params)} and "
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
    """Shapes agree: nothing is broadcast silently; and numbers are real."""
    for leaf in jax.tree.leaves(targets):
        if np.issubdtype(leaf.dtype, np.complexfloating):
            raise TypeError(f"The targets are {leaf.dtype}; the loss {loss!r} compares real numbers.")
    structures: list[Any] = [jax.tree.structure(outputs), jax.tree.structure(targets)]
    if structures[0] == structures[1]:
        pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(targets), strict=True)
        if all(_fits(loss, o, t) for o, t in pairs):
            return
    hint = " (B, ..., K), or labels without the last axis," if loss == "softmax_cross_entropy" else ""
    raise ValueError(
        f"Outputs and targets differ: the model returned {parameters.shapes(outputs)}, the targets are "
        f"{parameters.shapes(targets)}; the same structure and shapes{hint} are expected."
    )


def _fits(loss: str, output: Any, target: Any) -> bool:
    if loss == "softmax_cross_entropy":
        return output.ndim > 1 and target.shape in (output.shape, output.shape[:-1])
    return target.shape == output.shape


def check_range(loss: str, outputs: PyTree, batch: Batch) -> None:
    """Refuse targets that have no meaning for the loss, where they count."""
    for output, target in zip(jax.tree.leaves(outputs), jax.tree.leaves(batch.targets), strict=True):
        if loss == "softmax_cross_entropy" and output.shape[-1] == 1:
            raise ValueError(
                f"softmax_cross_entropy of one logit, outputs {output.shape}, is always zero; for two classes return "
                "two logits, or one logit with binary_cross_entropy."
            )
        classes = output.shape[-1] if target.ndim < output.ndim else 0  # of labels
        expected = _expected(loss, classes)
        if expected and _some(_out_of_range, (loss, classes), target, batch.weights):
            target, weights = to_host((target, batch.weights))
            bad = np.asarray(_out_of_range(loss, classes, target, weights))
            first = target[bad][0]
            raise ValueError(f"{loss} expects {expected}; given {first} among {int(bad.sum())} such targets.")


def _expected(loss: str, classes: int) -> str:
    """What targets may be, in words, nothing where they may be anything; classes of labels, 0 for other targets."""
    if classes:
        return f"labels from 0 to {classes - 1}, or -1 for unknown ones"
    return {
        "softmax_cross_entropy": "probabilities of zero or more",
        "binary_cross_entropy": "targets from 0 to 1",
        "poisson": "counts of zero or more",
    }.get(loss, "")


def check_some_known(what: str, loss: Any, batch: Batch) -> None:
    """Refuse data of which no example counts, or none has a target that the loss knows."""
    if not _any_weight(batch.weights):
        raise ValueError(f"All weights of the {what} are zero: no example counts.")
    targets = jax.tree.leaves(batch.targets)
    if not isinstance(loss, str) or not targets:
        return  # NaN may mean something else; missing targets are refused where they meet the outputs
    labels = loss == "softmax_cross_entropy"
    if not any(_some(_known, (labels,), target, batch.weights) for target in targets):
        raise ValueError(
            f"All targets of the {what} are unknown, NaN or negative labels, where examples count: there is nothing to "
            "compare with."
        )


def _any_weight(weights: Any) -> bool:
    return bool(_anything(weights) if isinstance(weights, jax.Array) else np.any(weights))


@jit
def _anything(weights: Any) -> Any:
    return jnp.any(weights != 0)


def _some(where: Callable[..., Any], options: tuple[Any, ...], target: Any, weights: Any) -> bool:
    """Whether there is any such target: in numpy where the arrays are, compiled on the device."""
    on_host = isinstance(target, np.ndarray) and isinstance(weights, np.ndarray)
    look = _some_on_host if on_host else _some_on_device
    return bool(look(where, options, target, weights))


def _some_on_host(where: Callable[..., Any], options: tuple[Any, ...], target: Any, weights: Any) -> Any:
    return where(*options, target, weights).any()


_some_on_device = jit(_some_on_host, static_argnums=(0, 1))


def _out_of_range(loss: str, classes: int, target: Any, weights: Any) -> Any:
    """Where targets count and have no meaning; classes of labels, 0 for other targets."""
    if not jnp.issubdtype(target.dtype, jnp.floating) and target.dtype.itemsize < 4:
        target = target.astype(np.int32)  # JAX compares in the type of the array: 256 classes are 0 in uint8
    counts = _known(False, target, weights)
    if classes:
        return counts & ((target >= classes) | (target % 1 != 0))
    return counts & ((target < 0) | ((target > 1) if loss == "binary_cross_entropy" else False))


def _known(labels: bool, target: Any, weights: Any) -> Any:
    """Where targets are known, neither NaN nor negative labels, and of examples that weigh something."""
    counts = (weights > 0).reshape((-1,) + (1,) * (target.ndim - 1)) & (target == target)
    return counts & (target >= 0) if labels else counts


def check_no_stray_axis(outputs: PyTree, targets: PyTree) -> None:
    """(B,) against (B, 1) broadcasts to (B, B) in a user's own loss, silently."""
    structures: list[Any] = [jax.tree.structure(outputs), jax.tree.structure(targets)]
    if structures[0] == structures[1] or all(structure.num_leaves == 1 for structure in structures):
        for o, t in zip(jax.tree.leaves(outputs), jax.tree.leaves(targets), strict=True):
            a, b = o.shape, t.shape
            if (*a, 1) == b or (*b, 1) == a:
                raise ValueError(
                    f"The model returned shape {a}, the targets have {b}: give both the same number of axes."
                )


def check_own_curvature(loss: Any, outputs: PyTree, targets: PyTree) -> None:
    """A loss's own curvature is a function of vectors shaped like the outputs, and returns such."""
    try:
        found = jax.eval_shape(lambda o, t: loss.curvature(o, t)(o), outputs, targets)
    except (TypeError, ValueError, AttributeError) as error:
        raise TypeError(_wrong_curvature(loss, outputs, str(error))) from error
    if parameters.layout(found) != parameters.layout(outputs):
        raise TypeError(_wrong_curvature(loss, outputs, parameters.shapes(found)))


def _wrong_curvature(loss: Any, outputs: PyTree, found: str) -> str:
    return (
        f"The loss {name_of(loss)} brings its own curvature: curvature(outputs, targets) must return the function "
        f"u -> H u, u and H u shaped like the outputs, {parameters.shapes(outputs)}; tried with such a u it gave "
        f"{found}."
    )


def check_equal(weights: Any) -> None:
    """A loss of the whole batch knows no weights."""
    found = to_host(weights)
    if len(found) and not (found == found[0]).all():
        raise ValueError(
            "The loss returns one number for the batch, so that examples cannot be weighted; make it return a value "
            "for each example, or leave the weights out."
        )
