"""The damped equations of sparse least squares by a Schur complement.

Where every residual sees at most one row of some leaves, and no others do, the part of A'A that belongs to these leaves
is block diagonal. With y = (z, x), z the parameters of the rows and x the others,
    [C + lambda I   W           ] [z]   [g_z]        C  (n, w, w), one small matrix for each row
    [W'             B + lambda I] [x] = [g_x]        W  (n w, R)       B  (R, R)
Rows are eliminated one by one: with C + lambda I = L L' and X = L^-1 W,
    (B + lambda I - X'X) x = g_x - X' L^-1 g_z,   z = L^-T (L^-1 g_z - X x)
In bundle adjustment the rows are the points that cameras see; in a global fit they are what each data set has of its
own.

Source: Triggs et al. 2000, "Bundle adjustment - a modern synthesis", section 6.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Float

from hessianfree.engine.blocks import Block, Blocks, product
from hessianfree.engine.normal_equations import Equations, Linearized
from hessianfree.engine.residuals import Points, Residuals, Unravel
from hessianfree.engine.trees import PyTree


@dataclass(frozen=True)
class Schur:
    """Eliminates the rows of some leaves, which have the same number of rows."""

    leaves: tuple[int, ...]
    least: ClassVar[float] = 1.0

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """J by blocks."""
        rho, blocks = residuals.blocks(unravel, theta, inputs)
        return Linearized(rho, blocks.column_norms(), blocks)

    def pull(self, linear: Linearized, b: Float[Array, "N"]) -> Float[Array, "P"]:
        """The product J'b."""
        return linear.jacobian.pull(b)

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """A by blocks, and C, W and B."""
        A = linear.jacobian.scaled(inverse)
        return Equations(0, (A, *self._parts(A)))

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """The inverse triangles of C + lambda I, X = L^-1 W, the triangle of what is left, and lambda.

        NaN if a matrix is not positive definite in this precision.
        """
        _, C, W, B = equations.matrices
        n, w, R = W.shape
        damping = jnp.asarray(damping, C.dtype)
        L = jnp.linalg.cholesky(C + damping * jnp.eye(w, dtype=C.dtype))
        inverse = jax.vmap(lambda one: solve_triangular(one, jnp.eye(w, dtype=one.dtype), lower=True))(L)
        X = jnp.einsum("nij,njr->nir", inverse, W).reshape(n * w, R)
        return inverse, X, jnp.linalg.cholesky(B + damping * jnp.eye(R, dtype=B.dtype) - X.T @ X), damping

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """Solve by Cholesky factors."""
        A = equations.matrices[0]
        inverse, X, left, damping = factor
        n, w, _ = inverse.shape
        g_z, g_x = self._split(A, A.pull(b) + damping * y, n)
        half = jnp.einsum("nij,nj->ni", inverse, g_z).ravel()
        x = cho_solve((left, True), g_x - X.T @ half)
        z = jnp.einsum("nji,nj->ni", inverse, (half - X @ x).reshape(n, w))
        return self._joined(A, z, x)

    def _parts(self, A: Blocks) -> tuple[Float[Array, "n w w"], Float[Array, "n w R"], Float[Array, "R R"]]:
        """C, W and B."""
        n = next(b.rows for blocks in A.terms for b in blocks if b.leaf in self.leaves)
        inner, outer = self._places(A, n)
        w, R = sum(A.sizes[leaf] // n for leaf in self.leaves), sum(A.sizes[leaf] for leaf in outer)
        kind = A.terms[0][0].jacobian.dtype
        C, W, B = jnp.zeros((n, w, w), kind), jnp.zeros((n, w, R), kind), jnp.zeros((R, R), kind)
        for x, y in ((x, y) for blocks in A.terms for x in blocks for y in blocks):
            if x.leaf in inner and y.leaf in inner:
                C = C.at[:, inner[x.leaf], inner[y.leaf]].add(_diagonal(x, y))
            elif x.leaf in inner:
                part = product(x, y).reshape(n, x.jacobian.shape[2], A.sizes[y.leaf])
                W = W.at[:, inner[x.leaf], outer[y.leaf]].add(part)
            elif y.leaf in outer:
                part = product(x, y).reshape(A.sizes[x.leaf], A.sizes[y.leaf])
                B = B.at[outer[x.leaf], outer[y.leaf]].add(part)
        return C, W, B

    def _places(self, A: Blocks, n: int) -> tuple[dict[int, slice], dict[int, slice]]:
        """Where each leaf is among the w parameters of a row, or among the R others."""
        inner, outer, w, R = {}, {}, 0, 0
        for leaf, size in enumerate(A.sizes):
            if leaf in self.leaves:
                inner[leaf] = slice(w, w + size // n)
                w += size // n
            else:
                outer[leaf] = slice(R, R + size)
                R += size
        return inner, outer

    def _split(self, A: Blocks, v: Float[Array, "P"], n: int) -> tuple[Float[Array, "n w"], Float[Array, "R"]]:
        """The parts z and x of a vector."""
        leaves = A.split(v)
        z = [part.reshape(n, -1) for leaf, part in enumerate(leaves) if leaf in self.leaves]
        x = [part for leaf, part in enumerate(leaves) if leaf not in self.leaves]
        return jnp.concatenate(z, axis=1), jnp.concatenate([*x, v[:0]])

    def _joined(self, A: Blocks, z: Float[Array, "n w"], x: Float[Array, "R"]) -> Float[Array, "P"]:
        """The vector of these parts."""
        inner, outer = self._places(A, len(z))
        parts = [z[:, inner[leaf]] if leaf in inner else x[outer[leaf]] for leaf in range(len(A.sizes))]
        return jnp.concatenate([jnp.ravel(part) for part in parts])


def _diagonal(x: Block, y: Block) -> Float[Array, "n v w"]:
    """The part x'y of J'J, of two blocks whose points see the same row of both."""
    each = jnp.einsum("ndv,ndw->nvw", x.jacobian, y.jacobian)
    return jax.ops.segment_sum(each, x.row, x.rows)
