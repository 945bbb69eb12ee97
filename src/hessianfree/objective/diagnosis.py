"""What may be wrong with a model, a loss or data: randomness, numbers that are not finite, a lack of convexity."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessianfree.devices.fetching import to_host
from hessianfree.engine import trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.losses import SMALL, Leafwise, Mean, blocks
from hessianfree.engine.models import FunctionModel
from hessianfree.engine.objective import Batch, Loss, Model, Problem, TracedObjective, mean_weights
from hessianfree.engine.shards import parts_of
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters

#: Roundings of a loss, in units of eps, that two compiled programs of one model may be apart.
ROUNDINGS = 1e3


def check_deterministic(problem: Problem, params: PyTree, batch: Batch, value: float, penalty: float = 0.0) -> None:
    """Refuse a model that gives another loss for the same parameters: its curvature would change inside CG.

    Args:
        problem: model and loss.
        params: the parameters.
        batch: the batch.
        value: the loss there, from another compiled program, which may round otherwise; with the penalty.
        penalty: the part of it that is not the problem's own, such as weight decay.

    Raises:
        ValueError: if the loss is another one now.
    """
    again = problem.value(params, batch) + penalty
    apart, eps = abs(again - value), float(jnp.finfo(parameters.precision(params)).eps)
    if not np.isfinite(apart) or apart <= ROUNDINGS * eps * max(abs(again), abs(value)):
        return
    # A small loss may be what large numbers have left: what rounding makes of those is computed only for such a case.
    objective, examples = problem.localize(params, batch)
    if apart > ROUNDINGS * eps * float(_effect_of_rounding(objective, params, examples)):
        if objective.loss.by_example and not objective.model.draws and parts_of(batch, params) is not None:
            raise ValueError(
                f"The model does not treat every example by itself, or is not deterministic: with the examples split "
                f"over devices the loss of a batch was {value:.8g}, and over the whole batch {again:.8g}. Batch "
                "normalization and other means over examples do this; leave them out, or leave devices out. For random "
                "numbers write model(params, inputs, key), and say hf.Objective(model, loss, stochastic=True)."
            )
        raise ValueError(
            f"The model is not deterministic: the loss of the same parameters on the same batch was {value:.8g}, then "
            f"{again:.8g}. Curvature products need one function per update. Random numbers of numpy, and state that a "
            "model keeps outside its arguments, do this; for dropout write model(params, inputs, key), and say "
            "hf.Objective(model, loss, stochastic=True): each update has one key."
        )


def why_not_finite(problem: Problem, params: PyTree, batch: Batch) -> str:
    """Where a loss that is not finite comes from: parameters, inputs, outputs or the loss itself, in words."""
    found = parameters.not_finite(params)
    if found:
        return f"the parameters are not finite: {found}"
    if not (isinstance(problem, TracedObjective) and isinstance(problem.model, FunctionModel)):
        return "the loss or its gradient is not finite"
    looked_at = {
        "inputs": batch.inputs,
        "model's outputs": outputs_of(problem.model, params, batch.inputs),
        "targets": _that_count(batch, unknown=isinstance(problem.loss, Leafwise)),
    }
    for name, tree in looked_at.items():
        found = parameters.not_finite(tree)
        if found:
            return f"the {name} are not finite: {found}"
    return (
        "the model's outputs are finite, but their loss or its derivatives are not: too large for "
        f"{parameters.precision(params)}, or infinite where the loss is not smooth"
    )


def _that_count(batch: Batch, unknown: bool) -> PyTree:
    """The targets of examples that weigh something, without NaN where it means unknown."""
    targets, weights = to_host((batch.targets, batch.weights))
    known = jax.tree.map(lambda t: t[weights > 0], targets)
    return jax.tree.map(lambda t: np.where(np.isnan(t), 0, t), known) if unknown else known


@jit
def _effect_of_rounding(objective: TracedObjective, params: PyTree, batch: Batch) -> Array:
    """What the mean loss changes by, at most and to first order, for each eps that outputs and losses are off by.

    That is mean |l_i| + mean |o_i|'|dl_i/do_i|: far more than the mean loss where terms cancel, or near a perfect fit.
    """
    model, loss, weights = objective.model, objective.loss, mean_weights(batch.weights)
    outputs = model.outputs(params, batch.inputs)
    slopes = model.weigh(weights, loss.gradients(outputs, batch.targets))
    values = trees.weigh_examples(weights, loss.values(outputs, batch.targets))
    return trees.dot(jax.tree.map(jnp.abs, outputs), jax.tree.map(jnp.abs, slopes)) + jnp.sum(jnp.abs(values))


@jit
def outputs_of(model: Model, params: PyTree, inputs: PyTree) -> PyTree:
    """The model's outputs, compiled."""
    return model.outputs(params, inputs)


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
