"""The damped system of an update and its solution by CG: the one expensive, compiled part.

    B d = -g,    B = G + lambda I + c D,    f(theta) = loss(theta) + c/2 theta'D theta

with the loss and g on the whole batch, G on the curvature batch, and c D the weight decay: D is 1 for weights that
decay and 0 for others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from numpy.typing import NDArray

from hessianfree.engine import trees
from hessianfree.engine.cg import Solution, conjugate_gradient
from hessianfree.engine.compilation import PRECISION, precise
from hessianfree.engine.joining import packing
from hessianfree.engine.linearization import Linearization, gauss_newton, linearize
from hessianfree.engine.objective import Batch, TracedObjective
from hessianfree.engine.preconditioners import Preconditioner
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import Vector

#: Relative progress per iteration at which the 2016 package's CG stopped.
CLASSIC_TOLERANCE = 5e-6

#: The curvature batch: indices of its examples, or the batch itself.
Chosen = NDArray[np.intp] | Array | Batch


class Plan(NamedTuple):
    """What is static about the solution of a system; each plan is compiled."""

    cg_iterations: int  # the limit
    preconditioner: Preconditioner | None = None
    decay_biases: bool = False  # whether parameters with fewer than two axes decay too, where there is weight decay
    precision: str = PRECISION  # of the matrix products in G v
    keep_start: bool = False  # whether CG's start stays a direction, see conjugate_gradient
    memory: int = 0  # residuals that CG stays orthogonal to
    joined: bool = False  # whether CG works on one array for all leaves
    slots: int | None = None  # iterates that CG stores at most
    parts: Parts | None = None  # how the batch is split over devices


class Numbers(NamedTuple):
    """What may change from update to update without compiling again; scalars of the parameters' type."""

    damping: ArrayLike  # lambda
    start_decay: ArrayLike  # factor on the last solution as CG's start
    tolerance: ArrayLike  # relative progress per iteration at which CG stops
    weight_decay: ArrayLike | None = None  # c, or None for none


class Solved(NamedTuple):
    """What the compiled part of an update hands to the decisions after it."""

    value: Array
    gradient_norm: Array
    slopes: Array  # g'd of each stored iterate, (K,)
    solution: Solution  # joined, where the plan says so


@partial(precise, static_argnums=0)
def solve(
    plan: Plan,
    objective: TracedObjective,
    params: Vector,
    batch: Batch,
    chosen: Chosen | None,
    start: Vector,
    numbers: Numbers,
    free: Vector | None = None,
    prepared: Any = None,
) -> Solved:
    """Linearise and run CG.

    Args:
        plan: see Plan (static).
        objective: model and loss.
        params: the point.
        batch: examples and weights.
        chosen: the curvature batch, or None for all examples.
        start: the last solution, before its decay.
        numbers: see Numbers.
        free: 1 where a parameter may change and 0 where not, or None.
        prepared: what the preconditioner prepared.
    """
    arguments = objective, params, batch, chosen, start, numbers, free, prepared
    if plan.parts is None:
        return _solve(plan, *arguments)
    split = [False, False, True, chosen is not None, False, False, False, False]
    return plan.parts.over_parts(partial(_solve, plan), split)(*arguments)


def _solve(
    plan: Plan,
    objective: TracedObjective,
    params: Vector,
    batch: Batch,
    chosen: Chosen | None,
    start: Vector,
    numbers: Numbers,
    free: Vector | None,
    prepared: Any,
) -> Solved:
    """The same of a batch that is whole, or on each device of one that is split."""
    join, split = packing(params, plan.joined)
    local = linearize(objective, params, batch)
    product, part = _curvature(plan, local, objective, params, batch, chosen)
    over_batch, over_part = _mean_over_parts(plan.parts, batch), _mean_over_parts(plan.parts, part)
    decays = decay_coefficients(numbers.weight_decay, plan.decay_biases, params)
    shift = jax.tree.map(lambda c: numbers.damping + c, decays)

    def damped_product(v: Vector) -> Vector:
        Gv = split(over_part(join(product(v))))
        return _freed(free, jax.tree.map(lambda gv, a, c: lax.add(gv, lax.mul(lax.full_like(a, c), a)), Gv, v, shift))

    def precondition(residual: Vector) -> Vector:
        assert plan.preconditioner is not None
        return _freed(free, plan.preconditioner.apply(objective, prepared, residual))

    gradient = split(over_batch(join(local.gradient)))
    if numbers.weight_decay is not None:
        gradient = jax.tree.map(lambda g, a, c: (g + c * a).astype(g.dtype), gradient, params, decays)
    gradient = join(_freed(free, gradient))
    norm = trees.safe_norm(gradient)
    solution = conjugate_gradient(
        lambda v: join(damped_product(split(v))),
        b=trees.scale(-1, gradient),
        x0=trees.scale(numbers.start_decay, join(_freed(free, start))),
        precondition=None if plan.preconditioner is None else lambda r: join(precondition(split(r))),
        iterations=plan.cg_iterations,
        tolerance=numbers.tolerance,
        keep_start=plan.keep_start,
        memory=plan.memory,
        slots=plan.slots,
    )
    return Solved(
        value=over_batch(local.value) + penalty(numbers.weight_decay, plan.decay_biases, params),
        gradient_norm=norm,
        slopes=-solution.products,
        solution=solution,
    )


#: The same for models so large that the memory of vectors counts more than the time to compile: inner products are then
#: made without a vector of products, and an update of 20 CG iterations takes a third less.
solve_large = precise(solve.__wrapped__, "full", static_argnums=0)  # type: ignore[attr-defined]


def _curvature(
    plan: Plan, local: Linearization, objective: TracedObjective, params: Vector, batch: Batch, chosen: Chosen | None
) -> tuple[Callable[[Vector], Vector], Batch]:
    """The product v -> G v on the curvature batch in the plan's precision, and that batch.

    The linearisation at hand serves where it can.
    """
    if chosen is None and plan.precision == PRECISION:
        return gauss_newton(objective, local, batch), batch
    with jax.default_matmul_precision(plan.precision):
        part = examples(batch, chosen)
        return gauss_newton(objective, linearize(objective, params, part), part), part


def examples(batch: Batch, chosen: Chosen | None) -> Batch:
    """These examples of a batch, or all."""
    if isinstance(chosen, Batch):
        return chosen
    return batch if chosen is None else jax.tree.map(lambda a: jnp.asarray(a)[chosen], batch)


def _mean_over_parts(parts: Parts | None, batch: Batch) -> Callable[[Vector], Vector]:
    """What makes a mean over all examples of means over the batch, where that is a part of them."""
    if parts is None:
        return lambda x: x
    share = parts.share(batch.weights)
    return lambda x: parts.total(trees.scale(share, x))


def decay_coefficients(weight_decay: ArrayLike | None, biases: bool, params: Vector) -> Vector:
    """The coefficient c for every leaf that decays, 0 for others; leaves with a single axis are biases."""
    if weight_decay is None:
        return jax.tree.map(lambda a: 0.0, params)
    return jax.tree.map(lambda a: weight_decay if biases or np.ndim(a) > 1 else 0.0, params)


def penalty(weight_decay: ArrayLike | None, biases: bool, params: Vector) -> Array | float:
    """c/2 theta'D theta."""
    if weight_decay is None:
        return 0.0
    coefficients = jax.tree.map(jnp.full_like, params, decay_coefficients(weight_decay, biases, params))
    return 0.5 * trees.dot(coefficients, trees.multiply(params, params))


def _freed(free: Vector | None, v: Vector) -> Vector:
    """Leave out the directions where `free` is 0: vectors that start inside the subspace stay there."""
    return v if free is None else trees.multiply(free, v)


@partial(precise, static_argnums=0)
def solve_plainly(
    iterations: int,
    objective: TracedObjective,
    params: Vector,
    batch: Batch,
    gradient: Vector,
    start: Vector,
    damping: ArrayLike,
) -> Solution:
    """CG on (G + lambda I) d = -gradient as in the 2016 package: no preconditioner, its own stopping test."""
    product = gauss_newton(objective, linearize(objective, params, batch), batch)
    b = trees.scale(-1, gradient)
    return conjugate_gradient(
        lambda v: trees.axpy(damping, v, product(v)), b, start, None, iterations, CLASSIC_TOLERANCE
    )
