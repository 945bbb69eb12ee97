"""Singular values of a matrix of very few columns, by rotations of its columns (one-sided Jacobi).

Each rotation makes two columns orthogonal. After a few sweeps over all pairs B = A V has orthogonal columns: their
norms are the singular values, as accurate as the columns allow even where their scales differ (Demmel and Veselic 1992,
"Jacobi's method is more accurate than QR"). It compiles to a few products, where LAPACK has to be loaded first.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

#: Columns up to which the rotations of one sweep are written out, and sweeps. Convergence is quadratic: with four
#: columns the sixth changes nothing any more.
MOST, SWEEPS = 4, 8


def decomposed(A: Float[Array, "N P"]) -> tuple[Float[Array, "N P"], Float[Array, "P"], Float[Array, "P P"]]:
    """The decomposition A = U S V': (U, S, V'), S from the largest down. Where S is zero, so is the column of U."""
    largest = jnp.max(jnp.abs(A))
    unit = jnp.where(largest > 0, largest, 1)
    pairs = [(i, j) for i in range(A.shape[1]) for j in range(i + 1, A.shape[1])]

    def sweep(number: Array, made: tuple[Array, Array]) -> tuple[Array, Array]:
        B, V = made
        for i, j in pairs:
            cosine, sine = _rotation(B[:, i], B[:, j])
            B, V = (_rotated(matrix, i, j, cosine, sine) for matrix in (B, V))
        return B, V

    B, V = lax.fori_loop(0, SWEEPS, sweep, (A / unit, jnp.eye(A.shape[1], dtype=A.dtype)))
    S = jnp.sqrt(jnp.sum(B**2, axis=0))
    order = jnp.argsort(-S)
    B, S, V = B[:, order], S[order], V[:, order]
    return B / jnp.where(S > 0, S, 1), S * unit, V.T


def _rotation(b: Float[Array, "N"], c: Float[Array, "N"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cosine and sine of the smaller angle that makes two columns orthogonal."""
    inner = b @ c
    ratio = (c @ c - b @ b) / jnp.where(inner != 0, 2 * inner, 1)
    tangent = jnp.where(ratio < 0, -1, 1) / (jnp.abs(ratio) + jnp.hypot(1.0, ratio))
    tangent = jnp.where(inner != 0, tangent, 0).astype(b.dtype)
    cosine = lax.rsqrt(1 + tangent**2)
    return cosine, tangent * cosine


def _rotated(matrix: Float[Array, "M P"], i: int, j: int, cosine: Array, sine: Array) -> Float[Array, "M P"]:
    b, c = matrix[:, i], matrix[:, j]
    return matrix.at[:, i].set(cosine * b - sine * c).at[:, j].set(sine * b + cosine * c)
