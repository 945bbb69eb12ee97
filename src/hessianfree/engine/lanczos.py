"""Lanczos with full reorthogonalisation: a symmetric matrix on the Krylov space of a vector, solved for any shift.

Symbols:
    A   the matrix, (P, P), positive semi-definite, known by products v -> A v
    Q   orthonormal rows q_1 = b / |b|, q_2, ... that span b, Ab, A^2 b, ..., (k, P)
    T   the tridiagonal matrix Q A Q', (k, k)
    x   Q'(T + lambda I)^-1 Q b: what conjugate gradient has after k iterations on (A + lambda I) x = b, in exact
        arithmetic

In rounded arithmetic CG loses the orthogonality of its residuals as soon as the largest eigenvalues are found, and
finds them again and again: iterations grow with the condition number instead of the number of eigenvalues that matter
(Paige 1980). Keeping Q and orthogonalising against all of it prevents that, for k vectors of memory; and Q, which does
not depend on lambda, serves every other shift and right-hand side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.lax.linalg import tridiagonal_solve
from jax.typing import ArrayLike

from hessianfree.engine import trees
from hessianfree.engine.orthogonal import first_combination, first_inner, no_rows, with_row, without


class Krylov(NamedTuple):
    """Q and T; rows that were not reached are zero, and one on the diagonal of T."""

    basis: Array  # Q, (K, P)
    diagonal: Array  # of T, (K,)
    beside: Array  # T[k, k + 1] in place k, (K,)
    iterations: Array  # k


class _State(NamedTuple):
    basis: Array
    diagonal: Array
    beside: Array
    iterations: Array
    q: Array  # the next row of Q, and the last one
    last: Array
    beta: Array  # T[k - 1, k]
    pivot: Array  # the last one in the elimination of T + lambda I
    residual: Array  # |b - (A + lambda I) x| / |b|


def tridiagonalize(
    product: Callable[[Array], Array], b: Array, damping: ArrayLike, iterations: int, tolerance: float
) -> Krylov:
    """Follow the Krylov space of b until it holds an x with |b - (A + lambda I) x| <= tolerance |b|.

    Args:
        product: v -> A v.
        b: the vector, (P,).
        damping: lambda >= 0; for a larger one the solution is there as well.
        iterations: the limit on k, at least 1 (static).
        tolerance: |b - (A + lambda I) x| / |b| at which to stop.

    Returns:
        See Krylov.

    Source: Lanczos 1950; Parlett 1998, "The symmetric eigenvalue problem", section 13.
    """
    limit = min(iterations, b.size)
    basis = no_rows(b, limit)
    zero, one = jnp.zeros((), b.dtype), jnp.ones((), b.dtype)
    first = _State(
        basis=basis,
        diagonal=jnp.ones(len(basis), b.dtype),
        beside=jnp.zeros(len(basis), b.dtype),
        iterations=jnp.int32(0),
        q=divided(b, trees.safe_norm(b)),
        last=jnp.zeros_like(b),
        beta=zero,
        pivot=one,
        residual=one,
    )

    def step(state: _State) -> _State:
        k, q = state.iterations, state.q
        basis = with_row(state.basis, k, q)
        w = product(q)
        alpha = q @ w
        w = without(basis, basis, k + 1, w - alpha * q - state.beta * state.last)
        beta = trees.safe_norm(w)
        pivot = alpha + damping - state.beta * (state.beta / state.pivot)
        return _State(
            basis=basis,
            diagonal=state.diagonal.at[k].set(alpha),
            beside=state.beside.at[k].set(beta),
            iterations=k + 1,
            q=divided(w, beta),
            last=q,
            beta=beta,
            pivot=pivot,
            residual=state.residual * beta / jnp.abs(pivot),
        )

    end = lax.while_loop(lambda s: (s.iterations < limit) & (s.residual > tolerance), step, first)
    return Krylov(end.basis, end.diagonal, end.beside.at[end.iterations - 1].set(0), end.iterations)


def solve(krylov: Krylov, damping: ArrayLike, b: Array) -> Array:
    """Q'(T + lambda I)^-1 Q b.

    Args:
        krylov: of `tridiagonalize`.
        damping: lambda, at least the one it was made with.
        b: (P,); where it is another one than the Krylov space's own, what lies outside of that space is left out.
    """
    Q, count, beside = krylov.basis, krylov.iterations, krylov.beside
    below = jnp.roll(beside, 1).at[0].set(0)
    Qb = first_inner(Q, count, b)
    return first_combination(tridiagonal_solve(below, krylov.diagonal + damping, beside, Qb[:, None])[:, 0], Q, count)


def divided(v: Array, length: Array) -> Array:
    """The vector v / length; zero if the length is zero."""
    return v * jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1), 0)
