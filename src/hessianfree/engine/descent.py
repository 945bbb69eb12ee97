"""First-order updates: the gradient, what a rule makes of it, and one or several of them in one program.

A rule is a function (gradient, state, params, numbers) -> (change, state), such as the update of an optax
transformation. `numbers` holds what it needs besides, so that other numbers compile nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from hessianfree.engine import trees
from hessianfree.engine.compilation import precise
from hessianfree.engine.linearization import linearize
from hessianfree.engine.objective import Batch, TracedObjective
from hessianfree.engine.trees import PyTree

P = ParamSpec("P")
R = TypeVar("R")

#: Parameters from which moving them all takes so long that programs are compiled with full effort; a heuristic.
#: Measured: with a thousand the usual effort takes half the time to compile and steps are as fast, with a million they
#: are a third slower.
MANY = 100_000

Rule: TypeAlias = Callable[[PyTree, Any, PyTree, Any], tuple[PyTree, Any]]


class Descent(NamedTuple):
    """Where one update leads."""

    params: PyTree
    change: PyTree  # in the types of the parameters
    state: Any  # of the rule
    value: Array  # the loss before
    gradient_norm: Array
    update_norm: Array


class IndexedBatches(NamedTuple):
    """Examples on the device, and which of them the minibatches consist of; all minibatches have one size."""

    whole: Batch
    rows: Int[ArrayLike, "n B"]
    counted: Bool[ArrayLike, "n B"]  # not so examples that fill up the last one


class Several(NamedTuple):
    """What several updates lead to, and the norms and losses of each, of which the first are used."""

    params: PyTree
    state: Any
    values: Float[Array, "n"]
    gradient_norms: Float[Array, "n"]
    update_norms: Float[Array, "n"]


class Pass(NamedTuple):
    """What updates on all the minibatches lead to."""

    made: Several
    change: PyTree
    average: PyTree


def descend(
    rule: Rule, objective: TracedObjective, params: PyTree, batch: Batch, state: Any, numbers: Any, free: PyTree | None
) -> Descent:
    """One update. Where `free` is 0 nothing changes: decay or momentum may move what the gradient leaves alone."""
    local = linearize(objective, params, batch)
    gradient = freed(free, local.gradient)
    change, after = rule(gradient, state, params, numbers)
    change = jax.tree.map(lambda leaf, c: jnp.asarray(c, leaf.dtype), params, freed(free, change))
    moved = jax.tree.map(jnp.add, params, change)
    return Descent(moved, change, after, local.value, _norm(gradient), _norm(change))


def descend_several(
    rule: Rule,
    objective: TracedObjective,
    params: PyTree,
    minibatches: IndexedBatches,
    start: Int[ArrayLike, ""],
    count: Int[ArrayLike, ""],
    state: Any,
    numbers: Any,
    free: PyTree | None,
) -> Several:
    """So many updates on the minibatches from number `start` on, one after the other."""
    whole, rows, counted = minibatches

    def update(number: Array, made: Several) -> Several:
        taken = jnp.asarray(rows)[start + number]
        batch: Batch = jax.tree.map(lambda leaf: jnp.asarray(leaf)[taken], whole)
        batch = batch._replace(weights=batch.weights * jnp.asarray(counted)[start + number])
        after = descend(rule, objective, made.params, batch, made.state, numbers, free)
        return Several(
            after.params,
            jax.tree.map(_like, after.state, made.state),
            made.values.at[number].set(after.value),
            made.gradient_norms.at[number].set(after.gradient_norm),
            made.update_norms.at[number].set(after.update_norm),
        )

    none = jnp.zeros(len(jnp.asarray(rows)), jnp.result_type(whole.weights))
    begun = jax.tree.map(jnp.asarray, Several(params, state, none, none, none))
    return lax.fori_loop(0, count, update, begun)


def pass_over(
    rule: Rule,
    objective: TracedObjective,
    params: PyTree,
    minibatches: IndexedBatches,
    state: Any,
    numbers: Any,
    free: PyTree | None,
    average: PyTree,
    share: Float[ArrayLike, ""],
) -> Pass:
    """Updates on all the minibatches, and the average of the parameters moved by this share to where they lead."""
    where = np.int32(0), np.int32(len(jnp.asarray(minibatches.rows)))
    made = descend_several(rule, objective, params, minibatches, *where, state, numbers, free)
    change = jax.tree.map(jnp.subtract, made.params, params)
    return Pass(made, change, trees.blend(share, average, made.params))


def _norm(x: PyTree) -> Array:
    """The norm, of all leaves in one vector: reducing sixteen leaves apart takes twice as long to compile."""
    return trees.safe_norm(jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(x)]))


def _like(new: Array, old: Array) -> Array:
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def freed(free: PyTree | None, vector: PyTree) -> PyTree:
    """A vector of the parameters, zero where none may change."""
    return vector if free is None else jax.tree.map(lambda f, v: jnp.where(f != 0, v, 0), free, vector)


#: The same, compiled.
compiled_descend = precise(descend, "full", static_argnums=0)


def _by_size(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a function of (rule, objective, params, ...) with the effort that its number of parameters is worth."""
    usual, full = precise(function, static_argnums=0), precise(function, "full", static_argnums=0)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        parameters = sum(np.size(leaf) for leaf in jax.tree.leaves(args[2]))
        return (full if parameters > MANY else usual)(*args, **kwargs)

    call.programs = usual, full  # type: ignore[attr-defined]  # for inspection, as `jitted` of each is
    return call


compiled_several, compiled_pass = _by_size(descend_several), _by_size(pass_over)
