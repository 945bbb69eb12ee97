"""Truncated, preconditioned conjugate gradient, with the iterates kept that backtracking needs.

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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import ArrayLike

from hessianfree.engine import trees
from hessianfree.engine.orthogonal import no_rows, with_row, without
from hessianfree.engine.trees import PyTree

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
    """What CG leaves behind; slot k of `iterates` holds the solution after iteration `stored[k]`."""

    # the stored iterates, the last of them final: leaves (K, ...), phi of each (K,), iteration of each (K,)
    iterates: PyTree
    quadratic: Array
    stored: Array
    # how it ended
    last: Array  # slot of the final iterate
    iterations: Array  # corrections made
    stop: Array  # a Stop


class _Start(NamedTuple):
    """A start x0 that stays a direction: B x0, and x0'Bx0."""

    product: PyTree
    curvature: Array


class _Past(NamedTuple):
    """The residuals so far, r_j / sqrt(r_j'y_j) in rows, and y_j likewise, which without a preconditioner is r_j."""

    residuals: PyTree
    duals: PyTree | None


class _State(NamedTuple):
    # the start, where it stays a direction, and the residuals, where they are kept
    start: _Start | None
    past: _Past | None
    # the recursion
    x: PyTree
    r: PyTree
    recursive: PyTree | None  # b - Bx, where r is made orthogonal to so few residuals that it becomes another vector
    p: PyTree
    ry: Array
    # the history: phi of every iteration (N,), and the stored iterates
    phi: Array
    iterates: PyTree
    # how far it has come
    iteration: Array
    stop: Array


def storage_schedule(iterations: int) -> list[int]:
    """Iterations whose solution is kept: 5, 6, 7, 9, 11, 14, 18, ... (k -> int(1.3 k)), and the last possible one.

    Args:
        iterations: the iteration limit, at least 1.

    Returns:
        Iterations counted from 0, ascending, the last of them iterations - 1.

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
    product: Callable[[PyTree], PyTree],
    b: PyTree,
    x0: PyTree,
    precondition: Callable[[PyTree], PyTree] | None,
    iterations: int,
    tolerance: ArrayLike,
    keep_start: bool = False,
    memory: int = 0,
) -> Solution:
    """Minimise phi(x) = 1/2 x'Bx - b'x until progress, residual or curvature give out.

    Stops after iteration i when i > k, phi_i < 0 and (phi_i - phi_{i-k}) / phi_i < k tolerance with
    k = max(10, i // 10) (Martens 2010, section 4.4); when |r| <= 1e-10 |b|; on p'Bp <= 0, in which case the
    last good solution is the final one; and on r'M^-1 r < 0, which no preconditioner should give. Every test is
    relative: scaling the problem changes nothing.

    Args:
        product: v -> B v, symmetric positive definite.
        b: right-hand side, a pytree.
        x0: where to start, shaped like b.
        precondition: r -> M^-1 r, symmetric positive definite; None for r itself.
        iterations: the limit, at least 1 (static).
        tolerance: relative progress per iteration below which to stop.
        keep_start: whether x0 stays a direction: it is scaled to where phi is least, and all later directions are made
            conjugate to it, so that phi is minimised over its line too (deflated CG, Saad et al. 2000). Worth two
            vectors of memory where a few iterations are all there is, and x0 is the solution of a similar system.
        memory: residuals that are kept, and that later ones are made orthogonal to; they are so in exact arithmetic,
            but rounding makes CG lose it as soon as the largest eigenvalues of M^-1 B are found (Paige 1980), and find
            them again and again. Takes so many vectors, twice as many with a preconditioner (static).

    Returns:
        The stored iterates and why it stopped.
    """
    schedule = storage_schedule(iterations)
    slots = jnp.array([bisect.bisect_left(schedule, i) for i in range(iterations)], jnp.int32)
    # In units in which b is about one: float32 cannot hold the squares of numbers beyond 1e19 or below 1e-19.
    unit = trees.power_of_two_near(b)
    b, x0 = trees.scale(1 / unit, b), trees.scale(1 / unit, x0)
    b_norm = trees.norm(b)

    def step(state: _State) -> _State:
        # Iteration -1 goes from 0 to x0: the warm start is a first direction, followed with step length one. So the
        # loop holds the only copy of the product, and compiles in half the time.
        i, p = state.iteration, state.p
        warming = i < 0
        Bp = product(p)
        pBp = trees.dot(p, Bp)
        positive = warming | (pBp > 0)
        start, first = state.start, jnp.ones_like(pBp)
        if start is not None:
            start = _Start(trees.select(warming, Bp, start.product), jnp.where(warming, pBp, start.curvature))
            first = _share(trees.dot(p, b), pBp)
        alpha = jnp.where(warming, first, jnp.where(positive, state.ry / pBp, 0))
        x = trees.axpy(alpha, p, state.x)
        r = _held(trees.axpy(-alpha, Bp, state.r), x0, start, state.past, jnp.minimum(i + 1, memory))
        recursive = None if state.recursive is None else trees.axpy(-alpha, Bp, state.recursive)
        phi = _quadratic(x, r if recursive is None else recursive, b)
        y = r if precondition is None else precondition(r)
        ry = trees.dot(r, y)
        beta = jnp.where(warming, 0, ry / state.ry)

        # A correction that is not finite is not taken; without positive curvature there is none (alpha = 0).
        good = positive & jnp.isfinite(pBp) & jnp.isfinite(phi) & jnp.isfinite(ry)
        failure = jnp.where(positive | jnp.isnan(pBp), int(Stop.NOT_FINITE), int(Stop.CURVATURE))
        now = jnp.maximum(i, 0)
        history = state.phi.at[now].set(jnp.where(good, phi, state.phi[jnp.maximum(i - 1, 0)]))
        solved = trees.norm(r) <= RESIDUAL_TOLERANCE * b_norm
        x = trees.select(good, x, state.x)
        p = trees.axpy(beta, p, y)
        if start is not None:
            p = trees.axpy(-_share(trees.dot(start.product, y), start.curvature), x0, p)
        return _State(
            start=start,
            past=_remembered(state.past, jnp.minimum(i + 1, memory), r, y, ry),
            x=x,
            r=r,
            recursive=recursive,
            p=p,
            ry=ry,
            phi=history,
            iterates=_store(state.iterates, x, slots[now]),
            iteration=i + good,
            stop=jnp.where(good, _reason(i, history, solved, ry, tolerance, iterations), failure).astype(jnp.int32),
        )

    past = None
    if memory:
        rows = no_rows(b, memory + 1)  # the last row takes what has no room: the last residual
        past = _Past(rows, None if precondition is None else rows)
    first_state = _first_state(b, x0, b_norm.dtype, iterations, len(schedule), keep_start, past)
    if 0 < memory < iterations:
        first_state = first_state._replace(recursive=b)
    final = lax.while_loop(lambda state: state.stop == int(Stop.RUNNING), step, first_state)
    last_iteration = jnp.maximum(final.iteration - 1, 0)
    stored = jnp.minimum(jnp.array(schedule), last_iteration)
    return Solution(
        iterates=trees.scale(unit, final.iterates),
        quadratic=final.phi[stored] * unit * unit,  # the square of the unit may be beyond the type
        stored=stored,
        last=slots[last_iteration],
        iterations=jnp.maximum(final.iteration, 0),
        stop=final.stop,
    )


def _first_state(
    b: PyTree, x0: PyTree, dtype: Any, iterations: int, slots: int, keep_start: bool, past: _Past | None
) -> _State:
    zero = jax.tree.map(jnp.zeros_like, x0)
    return _State(
        start=_Start(zero, jnp.zeros((), dtype)) if keep_start else None,
        past=past,
        x=zero,
        r=b,
        recursive=None,
        p=x0,
        ry=jnp.ones((), dtype),
        phi=jnp.zeros(iterations, dtype),
        iterates=jax.tree.map(lambda a: lax.broadcast(a, (slots,)), zero),  # sharded as x0
        iteration=jnp.int32(-1),
        stop=jnp.int32(Stop.RUNNING),
    )


def _share(product: Array, curvature: Array) -> Array:
    """How much of a direction to take; nothing of one without positive curvature."""
    return jnp.where(curvature > 0, product / curvature, 0)


def _held(r: PyTree, x0: PyTree, start: _Start | None, past: _Past | None, count: Array) -> PyTree:
    """The residual without what rounding left in it of a kept start and of the residuals so far."""
    if start is not None:
        r = trees.axpy(-_share(trees.dot(x0, r), start.curvature), start.product, r)
    if past is not None:
        r = without(past.residuals, past.residuals if past.duals is None else past.duals, count, r)
    return r


def _remembered(past: _Past | None, row: Array, r: PyTree, y: PyTree, ry: Array) -> _Past | None:
    """The past with one more residual."""
    if past is None:
        return None
    unit = jnp.where(ry > 0, lax.rsqrt(jnp.where(ry > 0, ry, 1)), 0)
    duals = None if past.duals is None else with_row(past.duals, row, trees.scale(unit, y))
    return _Past(with_row(past.residuals, row, trees.scale(unit, r)), duals)


def _quadratic(x: PyTree, r: PyTree, b: PyTree) -> Array:
    """phi(x) = 1/2 x'Bx - b'x = -1/2 x'(r + b), without another product."""
    return -0.5 * trees.dot(x, jax.tree.map(lax.add, r, b))


def _reason(i: Array, phi: Array, solved: Array, ry: Array, tolerance: ArrayLike, iterations: int) -> Array:
    """The stopping tests after a good iteration i, the most telling one first."""
    k = jnp.maximum(10, i // 10)
    now, before = phi[i], phi[jnp.maximum(i - k, 0)]
    # (now - before) / now < k tolerance, multiplied out: now < 0, so the sign turns.
    stalled = (i > k) & (now < 0) & (now - before > k * tolerance * now)
    limit = jnp.where(i + 1 >= iterations, int(Stop.ITERATIONS), int(Stop.RUNNING))
    limit = jnp.where(ry < 0, int(Stop.PRECONDITIONER), limit)
    return jnp.where(solved, int(Stop.RESIDUAL), jnp.where(stalled, int(Stop.PROGRESS), limit))


def _store(iterates: PyTree, x: PyTree, slot: Array) -> PyTree:
    """Write x into its slot; until the iteration of the slot comes, later solutions overwrite it in place."""
    return jax.tree.map(lambda stack, leaf: lax.dynamic_update_index_in_dim(stack, leaf, slot, 0), iterates, x)


def iteration_labels(solution: Solution) -> np.ndarray:
    """Iteration of each filled slot, counted from 0, as numpy."""
    return np.asarray(solution.stored)[: int(solution.last) + 1]
