"""The product A A' of a matrix, of which half is computed: it is symmetric.

A library for matrices computes all entries of a product. With the rows in two halves, A = [B; C],
    A A' = [B B', (C B')'; C B', C C']
and B B' and C C' are such products again. With k levels of halves 1/2 (1 + 2^-k) of the work is left.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

#: Rows from which on the product is computed by halves, and of the smallest halves. With fewer it takes no less time.
WHOLE, LEAST = 768, 320


def with_own_transpose(A: Float[Array, "M K"]) -> Float[Array, "M M"]:
    """The product A A'."""
    return _by_halves(A) if len(A) >= WHOLE else A @ A.T


def _by_halves(A: Float[Array, "M K"]) -> Float[Array, "M M"]:
    half = len(A) // 2
    if half < LEAST:
        return A @ A.T
    upper, lower = A[:half], A[half:]
    across = lower @ upper.T
    return jnp.block([[_by_halves(upper), across.T], [across, _by_halves(lower)]])
