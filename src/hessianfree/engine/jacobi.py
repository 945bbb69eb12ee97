"""Singular values of a matrix of very few columns, by rotations of its columns (one-sided Jacobi).

Each rotation makes two columns orthogonal. After a few sweeps over all pairs B = A V has orthogonal columns: their
norms are the singular values, as accurate as the columns allow even where their scales differ (Demmel and Veselic 1992,
"Jacobi's method is more accurate than QR"). It compiles to a few products, where LAPACK has to be loaded first.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float, Int

#: Columns up to which the rotations of one sweep are written out, and sweeps at most. Convergence is quadratic: with
#: four columns the sixth sweep changes nothing any more.
MOST, SWEEPS = 4, 8

Columns: TypeAlias = tuple[Array, ...]


class _Turned(NamedTuple):
    B: Columns
    V: Columns
    sweeps: Int[Array, ""]
    overlap: Float[Array, ""]  # the largest cosine between two columns of B before the last sweep


def decomposed(A: Float[Array, "N P"]) -> tuple[Float[Array, "N P"], Float[Array, "P"], Float[Array, "P P"]]:
    """The decomposition A = U S V': (U, S, V'), S from the largest down. Where S is zero, so is the column of U."""
    largest = jnp.max(jnp.abs(A))
    unit = jnp.where(largest > 0, largest, 1)
    columns = A.shape[1]
    small = jnp.finfo(A.dtype).eps
    begun = _Turned(tuple(A.T / unit), tuple(jnp.eye(columns, dtype=A.dtype)), jnp.int32(0), jnp.ones((), A.dtype))
    made = lax.while_loop(lambda made: (made.sweeps < SWEEPS) & (made.overlap > small), _swept, begun)
    B, V = jnp.stack(made.B, axis=1), jnp.stack(made.V, axis=1)
    S = jnp.sqrt(jnp.sum(B**2, axis=0))
    order = jnp.argsort(-S)
    B, S, V = B[:, order], S[order], V[:, order]
    return B / jnp.where(S > 0, S, 1), S * unit, V.T


def _swept(made: _Turned) -> _Turned:
    """One rotation of each pair of columns."""
    B, V, overlap = list(made.B), list(made.V), jnp.zeros_like(made.overlap)
    for i in range(len(B)):
        for j in range(i + 1, len(B)):
            cosine, sine, between = _rotation(B[i], B[j])
            overlap = jnp.maximum(overlap, between)
            for of in (B, V):
                of[i], of[j] = cosine * of[i] - sine * of[j], sine * of[i] + cosine * of[j]
    return _Turned(tuple(B), tuple(V), made.sweeps + 1, overlap)


def _rotation(
    b: Float[Array, "N"], c: Float[Array, "N"]
) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """Cosine and sine of the smaller angle that makes two columns orthogonal, and the cosine between them now."""
    inner, of_b, of_c = b @ c, b @ b, c @ c
    ratio = (of_c - of_b) / jnp.where(inner != 0, 2 * inner, 1)
    tangent = jnp.where(ratio < 0, -1, 1) / (jnp.abs(ratio) + jnp.hypot(1.0, ratio))
    tangent = jnp.where(inner != 0, tangent, 0).astype(b.dtype)
    cosine = lax.rsqrt(1 + tangent**2)
    lengths = jnp.sqrt(of_b) * jnp.sqrt(of_c)
    return cosine, tangent * cosine, jnp.abs(inner) / jnp.where(lengths > 0, lengths, 1)
