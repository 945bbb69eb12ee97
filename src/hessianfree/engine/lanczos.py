"""Lanczos with full reorthogonalisation: a symmetric matrix on the Krylov space of a vector, solved for any shift.

Symbols:
    A   the matrix, (P, P), positive semi-definite, known by products v -> A v
    Q   orthonormal rows q_1 = b / |b|, q_2, ... that span b, Ab, A^2 b, ..., (k, P)
    T   the tridiagonal matrix Q A Q', (k, k)
    x   Q'(T + lambda I)^-1 Q b: in exact arithmetic, iterate k of conjugate gradient on (A + lambda I) x = b

With rounding, CG loses the orthogonality of its residuals as soon as it has found the largest eigenvalues, and finds
them again and again. Iterations then grow with the condition number instead of the number of eigenvalues that matter
(Paige 1980). Keeping Q and orthogonalising against all of it prevents that, for k vectors of memory. Q does not depend
on lambda: it serves every other shift and right-hand side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.lax.linalg import tridiagonal_solve
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from hessianfree.engine import trees
from hessianfree.engine.orthogonal import first_combination, first_inner, no_rows, with_row, without
from hessianfree.engine.trees import Scalar


class KrylovSpace(NamedTuple):
    """Q and T. Rows of Q beyond k are zero; entries of the diagonal of T beyond k are one."""

    basis: Float[Array, "K P"]  # Q
    diagonal: Float[Array, "K"]  # of T
    beside: Float[Array, "K"]  # T[k, k + 1] in place k
    iterations: Int[Array, ""]  # k


class Recurrence(NamedTuple):
    """Lanczos after k products."""

    space: KrylovSpace
    q: Float[Array, "P"]  # the next row of Q, and the last one
    last: Float[Array, "P"]
    beta: Scalar  # T[k - 1, k], the length of A q_k outside of the space


def begun(b: Float[Array, "P"], limit: int) -> Recurrence:
    """The recurrence before the first product, with room for `limit` rows (static)."""
    basis, zero = no_rows(b, limit), jnp.zeros_like(b, shape=())
    rows = len(basis)
    space = KrylovSpace(basis, jnp.ones(rows, b.dtype), jnp.zeros(rows, b.dtype), jnp.int32(0))
    return Recurrence(space, divided(b, trees.safe_norm(b)), jnp.zeros_like(b), zero)


def extended(state: Recurrence, Aq: Float[Array, "P"]) -> Recurrence:
    """The recurrence after one more product, A q for its next row q; orthogonalised against all rows."""
    (basis, diagonal, beside, k), q = state.space, state.q
    basis = with_row(basis, k, q)
    alpha = q @ Aq
    w = without(basis, basis, k + 1, Aq - alpha * q - state.beta * state.last)
    beta = trees.safe_norm(w)
    space = KrylovSpace(basis, diagonal.at[k].set(alpha), beside.at[k].set(beta), k + 1)
    return Recurrence(space, divided(w, beta), q, beta)


class _State(NamedTuple):
    recurrence: Recurrence
    pivot: Scalar  # the last one in the elimination of T + lambda I
    residual: Scalar  # |b - (A + lambda I) x| / |b|


def tridiagonalize(
    product: Callable[[Float[Array, "P"]], Float[Array, "P"]],
    b: Float[Array, "P"],
    damping: ArrayLike,
    iterations: int,
    tolerance: float,
) -> KrylovSpace:
    """Follow the Krylov space of b until it holds an x with |b - (A + lambda I) x| <= tolerance |b|.

    The product is v -> A v, and the damping lambda >= 0: the space holds the solution for every larger one too. The
    iterations limit k (at least 1, static).

    Source: Lanczos 1950; Parlett 1998, "The symmetric eigenvalue problem", section 13.
    """
    limit = min(iterations, b.size)

    def step(state: _State) -> _State:
        before = state.recurrence
        after = extended(before, product(before.q))
        alpha = after.space.diagonal[before.space.iterations]
        pivot = alpha + damping - before.beta * (before.beta / state.pivot)
        return _State(after, pivot, state.residual * after.beta / jnp.abs(pivot))

    def unfinished(state: _State) -> Bool[Array, ""]:
        return (state.recurrence.space.iterations < limit) & (state.residual > tolerance)

    one = jnp.ones((), b.dtype)
    space = lax.while_loop(unfinished, step, _State(begun(b, limit), one, one)).recurrence.space
    return space._replace(beside=space.beside.at[space.iterations - 1].set(0))


def solve(krylov: KrylovSpace, damping: ArrayLike, b: Float[Array, "P"]) -> Float[Array, "P"]:
    """The solution Q'(T + lambda I)^-1 Q b, for a lambda at least as large as it was in `tridiagonalize`.

    If the space was made for another vector, the part of b outside of it is left out.
    """
    Q, count, beside = krylov.basis, krylov.iterations, krylov.beside
    below = jnp.roll(beside, 1).at[0].set(0)
    Qb = first_inner(Q, count, b)
    return first_combination(tridiagonal_solve(below, krylov.diagonal + damping, beside, Qb[:, None])[:, 0], Q, count)


def divided(v: Float[Array, "P"], length: Scalar) -> Float[Array, "P"]:
    """The quotient v / length; zero if the length is zero."""
    return v * jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
