"""Preconditioners by name, when they measure and prepare, and what happens when they cannot.

Plain Python around compiled parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

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
from hessianfree.engine.system import Chosen, examples
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


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("measured", "measurements", "age", "prepared", "damping"),
    meta_fields=("recipe",),
)
@dataclass(frozen=True)
class Preconditioning:
    """What a preconditioner knows: arrays and numbers of one structure, zero before the first measurement."""

    recipe: Preconditioner
    # its measurements, averaged: how many there were, and updates since the last
    measured: Any
    measurements: int
    age: int
    # what it prepared of them, and for which damping; NaN if no damping served, and CG goes without
    prepared: Any
    damping: float

    @property
    def usable(self) -> bool:
        """Whether there is something to apply."""
        return not math.isnan(self.damping)

    def unprepared(self) -> Preconditioning:
        """What is left to be kept: the rest is prepared again, to the same bits, from the same measurements."""
        return replace(self, prepared=None, damping=math.nan)


def blank(preconditioner: Preconditioner, measured: Any) -> Preconditioning:
    """What it knows before its first measurement, which will be of this form."""
    prepared = jax.eval_shape(preconditioner.prepare, measured, _scalar(1.0, measured))
    # The first measurement is due at once.
    return Preconditioning(
        preconditioner, trees.zeros(measured), 0, preconditioner.every, trees.zeros(prepared), math.nan
    )


def begun(preconditioner: Preconditioner | None, params: Vector, model: object = None) -> Preconditioning | None:
    """What a preconditioner knows before the first update; None if there is no saying what it will measure.

    Args:
        preconditioner: the recipe, or None.
        params: the point.
        model: where a recipe needs to know it.
    """
    form = getattr(preconditioner, "blank", None)
    measured = None if form is None else form(params, model)
    return None if preconditioner is None or measured is None else blank(preconditioner, measured)


def _scalar(value: float, like: Any) -> Any:
    """A number in the precision of these arrays."""
    floats = [leaf.dtype for leaf in jax.tree.leaves(like) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return np.asarray(value, jnp.result_type(*floats) if floats else jnp.float32)


def refreshed(
    preconditioner: Preconditioner,
    before: Preconditioning | None,
    objective: TracedObjective,
    params: Vector,
    batch: Batch,
    chosen: Chosen | None,
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
        chosen: the curvature batch, or None for all examples.
        damping: lambda, weight decay included.
        key: number of the random key, different in every update.

    Returns:
        What it knows now. Where it cannot be prepared at the damping asked for, it is at a higher one: `damping` says.
    """
    now = None if before is None or before.recipe != preconditioner else before
    if now is None or now.age + 1 >= preconditioner.every or now.measurements == 0:
        new = _measure(preconditioner, objective, params, batch, chosen, key)
        known = 0 if now is None else now.measurements
        past = min(1 - 1 / (known + 1), preconditioner.decay)
        measured = new if now is None or past == 0 else _blend(now.measured, new, past)
        now = replace(
            blank(preconditioner, new) if now is None else now,
            measured=measured,
            measurements=known + 1,
            age=0,
            damping=math.nan,
        )
    else:
        now = replace(now, age=now.age + 1)
    if now.damping == damping:
        return now
    dtype = jnp.result_type(*jax.tree.leaves(params))
    for attempt in range(ATTEMPTS):
        raised = damping * RAISE_BY**attempt
        if raised > float(jnp.finfo(dtype).max):
            break
        prepared, finite = _prepare(preconditioner, now.measured, np.asarray(raised, dtype))
        if finite:
            return replace(now, prepared=prepared, damping=raised)
    return blank(preconditioner, now.measured)


@partial(precise, static_argnums=0)
def _measure(
    preconditioner: Preconditioner,
    objective: TracedObjective,
    params: Vector,
    batch: Batch,
    chosen: Chosen | None,
    key: ArrayLike,
) -> Any:
    return preconditioner.measure(objective, params, examples(batch, chosen), jax.random.key(key))


@jit
def _blend(old: PyTree, new: PyTree, past: ArrayLike) -> PyTree:
    """The past times the old measurement, plus the rest of the new; one that is not finite leaves the old alone."""
    return trees.select(trees.all_finite(new), trees.blend(1 - past, old, new), old)


@partial(precise, static_argnums=0)
def _prepare(preconditioner: Preconditioner, measured: Any, damping: ArrayLike) -> tuple[Any, Array]:
    prepared = preconditioner.prepare(measured, damping)
    return prepared, trees.all_finite(prepared) & trees.all_finite(measured)
