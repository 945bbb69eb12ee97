"""Truncated, preconditioned conjugate gradient that keeps the iterates which backtracking needs.

Solves B d = b approximately, b = -g, by minimising phi(x) = 1/2 x'Bx - b'x (Martens 2010, section 4).

Symbols:
    x       current solution            r   residual b - Bx
    y       M^-1 r, M the preconditioner    p   search direction
    i       iteration, counted from 0: x_i has had i + 1 corrections
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from hessianfree.engine import trees
from hessianfree.engine.orthogonal import no_rows, with_row, without
from hessianfree.engine.trees import Rows, Scalar, Vector

#: Residual, relative to |b|, at which the system counts as solved.
RESIDUAL_TOLERANCE = 1e-10


class Stop(IntEnum):
    """Why CG stopped."""

    RUNNING = 0
    ITERATIONS = 1
    PROGRESS = 2
    RESIDUAL = 3
    CURVATURE = 4
    NOT_FINITE = 5
    PRECONDITIONER = 6

    @property
    def words(self) -> str:
        """The reason as a sentence that says what to try."""
        return {
            Stop.RUNNING: "still running",
            Stop.ITERATIONS: "the iteration limit was reached; raise CG_iter to solve further",
            Stop.PROGRESS: "relative progress fell below the tolerance",
            Stop.RESIDUAL: "the residual vanished: the system is solved",
            Stop.CURVATURE: "a direction without positive curvature was met; raise the damping",
            Stop.PRECONDITIONER: "the preconditioner is not positive definite; raise the damping or choose another",
            Stop.NOT_FINITE: "the solution stopped being finite; raise the damping or rescale the data",
        }[self]


class Solution(NamedTuple):
    """What CG leaves behind; slot k of `iterates` holds the solution after iteration `stored[k]`.

    Where slots are fewer than the iterations to store, they are used in turn: `ordered` says in which order they are.
    """

    # the stored iterates, the last of them final; phi, iteration and b'x of each
    iterates: Rows
    quadratic: Float[Array, "K"]
    stored: Int[Array, "K"]
    products: Float[Array, "K"]
    # how it ended
    last: Int[Array, ""]  # slot of the final iterate
    iterations: Int[Array, ""]  # corrections made
    stop: Int[Array, ""]  # a Stop


def ordered(solution: Solution, among: int) -> list[int]:
    """The slots in use, the final one last, where `among` iterations were to be stored.

    Example:
        >>> held = np.zeros(4)
        >>> ordered(Solution(held, held, np.array([11, 14, 7, 9]), held, last=1, iterations=15, stop=1), among=9)
        [2, 3, 0, 1]
    """
    slots, last = len(solution.stored), int(solution.last)
    count = slots if slots < among and _wrapped(solution) else last + 1
    return [(last - back) % slots for back in range(count - 1, -1, -1)]


def _wrapped(solution: Solution) -> bool:
    """Whether slots were used again: those after the last one then hold earlier iterations, not its own number."""
    stored = np.asarray(solution.stored)
    return bool(stored[(int(solution.last) + 1) % len(stored)] < stored[int(solution.last)])


class _Start(NamedTuple):
    """A start x0 that stays a direction: B x0, and x0'Bx0."""

    product: Vector
    curvature: Scalar


class _Past(NamedTuple):
    """The residuals so far, r_j / sqrt(r_j'y_j) in rows, and y_j likewise; no duals without a preconditioner."""

    residuals: Rows
    duals: Rows | None


class _System(NamedTuple):
    """What no iteration changes."""

    product: Callable[[Vector], Vector]
    precondition: Callable[[Vector], Vector] | None
    b: Vector
    x0: Vector
    b_norm: Scalar
    iterations: int  # the limit
    tolerance: ArrayLike
    memory: int  # residuals kept
    slots: Int[Array, "N"]  # where the solution of each iteration is stored
    unit: Scalar  # of b and x; stored solutions have none


class _State(NamedTuple):
    # the start if it stays a direction, and the residuals if they are kept
    start: _Start | None
    past: _Past | None
    # the recursion
    x: Vector
    r: Vector
    recursive: Vector | None  # b - Bx, if r differs from it: r is orthogonalised against some residuals, not all
    p: Vector
    ry: Scalar
    # the history: phi of every iteration, and the stored iterates
    phi: Float[Array, "N"]
    iterates: Rows
    # how far it has come
    iteration: Int[Array, ""]
    stop: Int[Array, ""]


def storage_schedule(iterations: int) -> list[int]:
    """Iterations, counted from 0, whose solution is kept: 5, 6, 7, 9, 11, 14, 18, ... (k -> int(1.3 k)), and the last.

    Example:
        >>> storage_schedule(12)
        [5, 6, 7, 9, 11]
    """
    schedule, k = [], 5
    while k < iterations - 1:
        schedule.append(k)
        k = int(1.3 * k)
    return [*schedule, iterations - 1]


def conjugate_gradient(
    product: Callable[[Vector], Vector],
    b: Vector,
    x0: Vector,
    precondition: Callable[[Vector], Vector] | None,
    iterations: int,
    tolerance: ArrayLike,
    keep_start: bool = False,
    memory: int = 0,
    slots: int | None = None,
) -> Solution:
    """Minimise phi(x) = 1/2 x'Bx - b'x until progress stalls, the residual vanishes or the curvature is not positive.

    Stops after iteration i
        if i > k, phi_i < 0 and (phi_i - phi_{i-k}) / phi_i < k tolerance, k = max(10, i // 10) (Martens 2010, 4.4);
        if |r| <= 1e-10 |b|;
        if p'Bp <= 0: the last good solution is then the final one;
        if r'M^-1 r < 0: M is then not positive definite.
    Every test is relative: scaling the problem changes nothing.

    Args:
        product: v -> B v, symmetric positive definite.
        b: right-hand side, a pytree.
        x0: where to start, shaped like b.
        precondition: r -> M^-1 r, symmetric positive definite; None for r itself.
        iterations: the limit, at least 1 (static).
        tolerance: relative progress per iteration below which to stop.
        keep_start: whether x0 stays a direction. CG then scales it to the least phi and keeps all later directions
            conjugate to it, so that phi is minimised over its line too (deflated CG, Saad et al. 2000). This takes two
            vectors of memory. It pays if iterations are few and x0 solves a similar system.
        memory: how many residuals to keep (static). Later ones are made orthogonal to them. In exact arithmetic they
            are. With rounding, CG loses this as soon as it has found the largest eigenvalues of M^-1 B, and finds them
            again and again (Paige 1980). Takes as many vectors, twice as many with a preconditioner.
        slots: how many iterates to store at most (static): the last of those in the schedule. None for all.

    Returns:
        The stored iterates and why CG stopped.
    """
    schedule = storage_schedule(iterations)
    order = jnp.array([bisect.bisect_left(schedule, i) for i in range(iterations)], jnp.int32)
    count = len(schedule) if slots is None else min(slots, len(schedule))
    # In units in which b is about one: float32 cannot hold the squares of numbers beyond 1e19 or below 1e-19.
    unit = trees.power_of_two_near(b)
    b, x0 = trees.scale(1 / unit, b), trees.scale(1 / unit, x0)
    system = _System(product, precondition, b, x0, trees.norm(b), iterations, tolerance, memory, order % count, unit)
    first = _first_state(system, count, keep_start)
    final = lax.while_loop(lambda state: state.stop == int(Stop.RUNNING), partial(_iterate, system), first)
    last_iteration = jnp.maximum(final.iteration - 1, 0)
    # Slot k holds the last place of the schedule that is k modulo their number; empty ones get the last iteration.
    k, last = jnp.arange(count), order[last_iteration]
    place = last - (last - k) % count
    stored = jnp.minimum(jnp.array(schedule)[jnp.where(place < 0, k, place)], last_iteration)
    return Solution(
        iterates=final.iterates,
        quadratic=final.phi[stored] * unit * unit,  # one factor at a time: the type may not hold the unit's square
        stored=stored,
        products=jax.vmap(partial(trees.dot, b))(final.iterates) * unit,
        last=system.slots[last_iteration],
        iterations=jnp.maximum(final.iteration, 0),
        stop=final.stop,
    )


def _first_state(system: _System, slots: int, keep_start: bool) -> _State:
    b, x0, dtype, memory = system.b, system.x0, system.b_norm.dtype, system.memory
    rows = no_rows(b, memory + 1) if memory else None  # one more than fits the memory: it takes the latest residual
    zero = jax.tree.map(jnp.zeros_like, x0)
    return _State(
        start=_Start(zero, jnp.zeros((), dtype)) if keep_start else None,
        past=_Past(rows, None if system.precondition is None else rows) if memory else None,
        x=zero,
        r=b,
        recursive=b if 0 < memory < system.iterations else None,
        p=x0,
        ry=jnp.ones((), dtype),
        phi=jnp.zeros(system.iterations, dtype),
        iterates=jax.tree.map(lambda a: lax.broadcast(a, (slots,)), zero),  # sharded as x0
        iteration=jnp.int32(-1),
        stop=jnp.int32(Stop.RUNNING),
    )


def _iterate(system: _System, state: _State) -> _State:
    """One iteration of preconditioned CG.

    Iteration -1 goes from 0 to x0: the warm start is a first direction, followed with step length one. So the loop
    holds the only copy of the product, and compiles in half the time.
    """
    b, x0, i, p = system.b, system.x0, state.iteration, state.p
    warming = i < 0
    Bp = system.product(p)
    pBp = trees.dot(p, Bp)
    positive = warming | (pBp > 0)
    start, first = _started(state.start, system, p, Bp, pBp, warming)
    alpha = jnp.where(warming, first, jnp.where(positive, state.ry / pBp, 0))
    x = trees.axpy(alpha, p, state.x)
    row = jnp.minimum(i + 1, system.memory)
    r = _held(trees.axpy(-alpha, Bp, state.r), x0, start, state.past, row)
    recursive = None if state.recursive is None else trees.axpy(-alpha, Bp, state.recursive)
    # phi(x) = 1/2 x'Bx - b'x = -1/2 x'(r + b), without another product
    phi = -0.5 * trees.dot(x, jax.tree.map(lax.add, r if recursive is None else recursive, b))
    y = r if system.precondition is None else system.precondition(r)
    ry = trees.dot(r, y)
    beta = jnp.where(warming, 0, ry / state.ry)

    # A correction that is not finite is not taken. Without positive curvature there is none: alpha is 0.
    good = positive & jnp.isfinite(pBp) & jnp.isfinite(phi) & jnp.isfinite(ry)
    failure = jnp.where(positive | jnp.isnan(pBp), int(Stop.NOT_FINITE), int(Stop.CURVATURE))
    now = jnp.maximum(i, 0)
    history = state.phi.at[now].set(jnp.where(good, phi, state.phi[jnp.maximum(i - 1, 0)]))
    solved = trees.norm(r) <= RESIDUAL_TOLERANCE * system.b_norm
    x = trees.select(good, x, state.x)
    p = trees.axpy(beta, p, y)
    if start is not None:
        p = trees.axpy(-_share(trees.dot(start.product, y), start.curvature), x0, p)
    reason = _reason(system, i, history, solved, ry)
    return _State(
        start=start,
        past=_remembered(state.past, row, r, y, ry),
        x=x,
        r=r,
        recursive=recursive,
        p=p,
        ry=ry,
        phi=history,
        # later solutions overwrite this one in place until the iteration that the slot is for
        iterates=with_row(
            state.iterates, system.slots[jnp.where(good, now, jnp.maximum(now - 1, 0))], trees.scale(system.unit, x)
        ),
        iteration=i + good,
        stop=jnp.where(good, reason, failure).astype(jnp.int32),
    )


def _started(
    start: _Start | None, system: _System, p: Vector, Bp: Vector, pBp: Scalar, warming: Bool[Array, ""]
) -> tuple[_Start | None, Scalar]:
    """The start once its product is known, and how far to follow it: to x0, or to the least phi if it is kept."""
    if start is None:
        return None, jnp.ones_like(pBp)
    kept = _Start(trees.select(warming, Bp, start.product), jnp.where(warming, pBp, start.curvature))
    return kept, _share(trees.dot(p, system.b), pBp)


def _share(product: Scalar, curvature: Scalar) -> Scalar:
    """How far to follow a direction: not at all without positive curvature."""
    return jnp.where(curvature > 0, product / curvature, 0)


def _held(r: Vector, x0: Vector, start: _Start | None, past: _Past | None, count: Int[Array, ""]) -> Vector:
    """The residual, orthogonal again to a kept start and to the residuals so far in spite of rounding."""
    if start is not None:
        r = trees.axpy(-_share(trees.dot(x0, r), start.curvature), start.product, r)
    if past is not None:
        r = without(past.residuals, past.residuals if past.duals is None else past.duals, count, r)
    return r


def _remembered(past: _Past | None, row: Int[Array, ""], r: Vector, y: Vector, ry: Scalar) -> _Past | None:
    """The past with one more residual."""
    if past is None:
        return None
    unit = jnp.where(ry > 0, lax.rsqrt(jnp.where(ry > 0, ry, 1)), 0)
    duals = None if past.duals is None else with_row(past.duals, row, trees.scale(unit, y))
    return _Past(with_row(past.residuals, row, trees.scale(unit, r)), duals)


def _reason(
    system: _System, i: Int[Array, ""], phi: Float[Array, "N"], solved: Bool[Array, ""], ry: Scalar
) -> Int[Array, ""]:
    """The stopping tests after a good iteration i, the most informative one first."""
    k = jnp.maximum(10, i // 10)
    now, before = phi[i], phi[jnp.maximum(i - k, 0)]
    # (now - before) / now < k tolerance, multiplied out: now < 0, so the sign turns.
    stalled = (i > k) & (now < 0) & (now - before > k * system.tolerance * now)
    limit = jnp.where(i + 1 >= system.iterations, int(Stop.ITERATIONS), int(Stop.RUNNING))
    limit = jnp.where(ry < 0, int(Stop.PRECONDITIONER), limit)
    return jnp.where(solved, int(Stop.RESIDUAL), jnp.where(stalled, int(Stop.PROGRESS), limit))


def iteration_labels(solution: Solution) -> np.ndarray:
    """Iteration of each filled slot, counted from 0, as numpy."""
    return np.asarray(solution.stored)[: int(solution.last) + 1]
