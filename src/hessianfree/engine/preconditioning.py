"""Preconditioners by name, when they measure and prepare, and what happens when they cannot.

Plain Python around compiled parts.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from hessianfree.engine import trees
from hessianfree.engine.compilation import jit, precise
from hessianfree.engine.kfac import KFAC
from hessianfree.engine.nystrom import Nystrom
from hessianfree.engine.objective import Batch, TracedObjective
from hessianfree.engine.preconditioners import Diagonal, Preconditioner
from hessianfree.engine.system import Indices, examples
from hessianfree.engine.trees import PyTree, Vector

#: How often a damping that is too small for a preconditioner is raised, and by how much each time.
ATTEMPTS, RAISE_BY = 12, 10.0

BY_NAME: dict[Any, Preconditioner | None] = {
    None: None,
    "diagonal": Diagonal(),
    "kfac": KFAC(),
    "nystrom": Nystrom(),
}


def chosen(choice: Any) -> Preconditioner | None:
    """The preconditioner of this name, or the object itself; None for none. Raises ValueError for an unknown name.

    Example:
        >>> chosen("diagonal").exponent
        0.75
    """
    if choice is None or isinstance(choice, str):
        if choice not in BY_NAME:
            names = ", ".join(repr(name) for name in BY_NAME)
            raise ValueError(
                f"preconditioner is {choice!r}; the choices are {names}, or an object such as hf.opt.KFAC(every=4)."
            )
        return BY_NAME[choice]
    return choice


class Preconditioning(NamedTuple):
    """What a preconditioner knows."""

    recipe: Preconditioner
    # its measurements, averaged: how many there were, and updates since the last
    measured: Any
    measurements: int
    age: int
    # what it prepared of them, and for which damping; None if no damping served, and CG goes without
    prepared: Any
    damping: float


def refreshed(
    preconditioner: Preconditioner,
    before: Preconditioning | None,
    objective: TracedObjective,
    params: Vector,
    batch: Batch,
    indices: Indices | None,
    damping: float,
    key: ArrayLike,
) -> Preconditioning:
    """Measure if it is time to, and prepare for this damping.

    Args:
        preconditioner: the recipe.
        before: what it knew at the last update, or None.
        objective: model and loss.
        params: the point.
        batch: examples and weights.
        indices: the examples of the curvature batch, or None for all.
        damping: lambda, weight decay included.
        key: number of the random key, different in every update.

    Returns:
        What it knows now. Where it cannot be prepared at the damping asked for, it is at a higher one: `damping` says.
    """
    fresh = Preconditioning(preconditioner, None, 0, preconditioner.every, None, math.nan)
    now = fresh if before is None or before.recipe != preconditioner else before
    now = now._replace(age=now.age + 1)
    if now.age >= preconditioner.every or now.measurements == 0:
        new = _measure(preconditioner, objective, params, batch, indices, key)
        past = min(1 - 1 / (now.measurements + 1), preconditioner.decay)
        measured = new if past == 0 else _blend(now.measured, new, past)
        now = Preconditioning(preconditioner, measured, now.measurements + 1, 0, None, math.nan)
    if now.prepared is not None and now.damping == damping:
        return now
    dtype = jnp.result_type(*jax.tree.leaves(params))
    for attempt in range(ATTEMPTS):
        raised = damping * RAISE_BY**attempt
        if raised > float(jnp.finfo(dtype).max):
            break
        prepared, finite = _prepare(preconditioner, now.measured, np.asarray(raised, dtype))
        if finite:
            return now._replace(prepared=prepared, damping=raised)
    return fresh


@partial(precise, static_argnums=0)
def _measure(
    preconditioner: Preconditioner,
    objective: TracedObjective,
    params: Vector,
    batch: Batch,
    indices: Indices | None,
    key: ArrayLike,
) -> Any:
    return preconditioner.measure(objective, params, examples(batch, indices), jax.random.key(key))


@jit
def _blend(old: PyTree, new: PyTree, past: ArrayLike) -> PyTree:
    """The past times the old measurement, plus the rest of the new; one that is not finite leaves the old alone."""
    return trees.select(trees.all_finite(new), trees.blend(1 - past, old, new), old)


@partial(precise, static_argnums=0)
def _prepare(preconditioner: Preconditioner, measured: Any, damping: ArrayLike) -> tuple[Any, Array]:
    prepared = preconditioner.prepare(measured, damping)
    return prepared, trees.all_finite(prepared) & trees.all_finite(measured)
