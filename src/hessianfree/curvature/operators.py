"""A symmetric matrix, known by its products with vectors that are shaped like parameters, or flat.

Symbols:
    P   number of parameters
    A   the matrix, (P, P)
    m   products with A that go into an estimate
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Num
from numpy.typing import NDArray

from hessianfree.curvature.spectra import Eigenpairs, Estimate, signs
from hessianfree.engine.compilation import jit
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.support import checks

Floats = NDArray[Any]

#: The default limit of `to_dense`: a matrix of 200 MB in float64.
DENSE = 5000


class Curvature:
    """A symmetric matrix A (P, P), known by its products `A @ v`; the base of GaussNewton, Hessian and Fisher.

    A vector is a pytree shaped like the parameters, or flat, (P,), in the order of `jax.flatten_util.ravel_pytree`; the
    columns of a matrix (P, k) are flat vectors, multiplied one by one. A product has the form of the vector. It holds
    JAX arrays, or numpy arrays if the parameters are float64 and JAX is not set to that precision.

    Args:
        params: checked parameters, for their shapes.
        product: v -> A v for v shaped like params; a pytree whose leaves are the arrays it works with.
    """

    def __init__(self, params: PyTree, product: Callable[[PyTree], PyTree]) -> None:
        self._like, self._product = params, product
        self._size = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))

    @property
    def shape(self) -> tuple[int, int]:
        """The pair (P, P)."""
        return self._size, self._size

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the parameters: float32 or float64."""
        return parameters.precision(self._like)

    def __matmul__(self, v: PyTree) -> PyTree:
        """The product A v.

        Raises:
            ValueError: if the vector has another structure or shape.
            TypeError: if it is complex.
        """
        flat = not parameters.same_shapes(v, self._like)
        if flat and not self._is_flat(v):
            raise ValueError(
                f"The vector of this product is {parameters.shapes(jax.tree.map(np.asarray, v))}; give a vector shaped "
                f"like the parameters, {parameters.shapes(self._like)}, or flat, ({self._size},), or the columns of a "
                f"matrix ({self._size}, k)."
            )
        with parameters.computing(self._like):
            v = jax.tree.map(self._as_floats, v)
            if not flat:
                found = self._product(v)
            elif v.ndim == 1:
                found = self._flat_product(v)
            else:
                # One by one: memory stays that of a single product, and another number of columns compiles nothing.
                found = jnp.stack([self._flat_product(column) for column in np.asarray(v).T], axis=1)
            return parameters.returned(found, self._like)

    def times(self, columns: Floats) -> Floats:
        """The product of A and the columns of a matrix (P, k), in float64 for use in numpy.

        Raises:
            ValueError: if the columns or the product are not finite.
        """
        if not np.isfinite(columns).all():
            raise ValueError(
                f"A product with this {type(self).__name__} was given NaN or infinite numbers; the solver that gives "
                "them has diverged, or started there."
            )
        found = np.asarray(self @ columns, np.float64)
        if not np.isfinite(found).all():
            raise ValueError(
                f"A product with this {type(self).__name__} is not finite: look for NaN or infinite numbers in the "
                "parameters, the inputs, and the model's outputs."
            )
        return found

    def to_scipy(self) -> Any:
        """The operator for scipy's solvers and eigenvalue routines, on flat numpy vectors.

        Returns:
            A `scipy.sparse.linalg.LinearOperator`.

        Example:
            >>> from scipy.sparse.linalg import cg
            >>> from hessianfree import Objective, curvature
            >>> line = Objective(lambda p, x: x * p)
            >>> G = curvature.GaussNewton(line, np.ones(2), (np.eye(2), np.zeros((2, 2))))
            >>> solution, _ = cg(G.to_scipy(), np.ones(2))
            >>> solution.tolist()
            [2.0, 2.0]
        """
        from scipy.sparse.linalg import LinearOperator

        def times(v: Floats) -> Floats:
            return self.times(v).astype(self.dtype)

        def times_vector(v: Floats) -> Floats:
            return times(np.ravel(v))  # scipy passes columns (P, 1) too

        return LinearOperator(
            self.shape, matvec=times_vector, rmatvec=times_vector, matmat=times, rmatmat=times, dtype=self.dtype
        )

    def to_dense(self, limit: int = DENSE) -> Floats:
        """The whole matrix, from P products.

        Args:
            limit: the largest number of parameters to accept.

        Returns:
            A (P, P), rows and columns in the order of flat vectors.

        Raises:
            ValueError: if there are more parameters.
        """
        if self._size > limit:
            raise ValueError(
                f"A dense matrix of {self._size} x {self._size} takes {self._size} products and "
                f"{self._size**2 * self.dtype.itemsize / 1e9:.3g} GB, and the limit is {limit} parameters; to go "
                f"ahead, call to_dense(limit={self._size})."
            )
        return np.array(self @ np.eye(self._size, dtype=self.dtype))

    def trace(self, samples: int = 30, seed: int = 0) -> Estimate:
        """Estimate the sum of the eigenvalues (Hutch++).

        It uses tr A = tr Q'AQ + tr (I - QQ') A (I - QQ'), Q an orthonormal basis of A S for random signs S, (P, m/3).
        The first trace is exact. The second is estimated: the mean of x'Ax over m/3 vectors x = (I - QQ') z, z random
        signs. The standard error is that of the second. If A has rank m/3 or less, the result is exact.

        Args:
            samples: m, products in all, at least 6.
            seed: of the signs.

        Returns:
            The estimate and its standard error.

        Raises:
            ValueError: if there are fewer samples.

        Example:
            >>> from hessianfree import Objective, curvature
            >>> line = Objective(lambda p, x: x * p)
            >>> G = curvature.GaussNewton(line, np.ones(2), (np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))))
            >>> round(G.trace().value, 6)
            15.0

        Source: Meyer, Musco, Musco and Woodruff 2021, "Hutch++: optimal stochastic trace estimation", algorithm 1.
        """
        checks.at_least("samples", samples, 6)
        rng, third = np.random.default_rng(seed), samples // 3  # products each for A S, A Q and A x
        Q, _ = np.linalg.qr(self.times(signs(rng, self._size, min(third, self._size))))
        z = signs(rng, self._size, third)
        x = z - Q @ (Q.T @ z)
        rest = np.sum(x * self.times(x), axis=0)
        value = np.sum(Q * self.times(Q)) + rest.mean()
        return Estimate(float(value), float(rest.std(ddof=1) / np.sqrt(third)))

    def diagonal(self, samples: int = 100, seed: int = 0) -> PyTree:
        """Estimate the diagonal, the mean over m vectors z of random signs of z * (A z), elementwise.

        The standard error of entry i is sqrt(sum_{j != i} A_ij^2 / m): zero for a diagonal matrix.

        Args:
            samples: m, products in all.
            seed: of the signs.

        Returns:
            The estimate, shaped like the parameters.

        Raises:
            ValueError: if there is no sample.

        Example:
            >>> from hessianfree import Objective, curvature
            >>> line = Objective(lambda p, x: x * p["slope"])
            >>> data = np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))
            >>> G = curvature.GaussNewton(line, {"slope": np.ones(2)}, data)
            >>> G.diagonal(samples=1)["slope"].tolist()
            [5.0, 10.0]

        Source: Bekas, Kokiopoulou and Saad 2007, "An estimator for the diagonal of a matrix".
        """
        checks.at_least("samples", samples, 1)
        rng, total = np.random.default_rng(seed), np.zeros(self._size)
        for _ in range(samples):
            z = signs(rng, self._size, 1)
            total += (z * self.times(z))[:, 0]
        with parameters.computing(self._like):
            return parameters.returned(_unravelled(self._like, (total / samples).astype(self.dtype)), self._like)

    def largest(self, k: int = 6, seed: int = 0, tolerance: float = 0) -> Eigenpairs:
        """The k largest eigenvalues, by the implicitly restarted Lanczos method of ARPACK.

        Args:
            k: how many, at most P.
            seed: of the start vector.
            tolerance: relative accuracy of the eigenvalues; 0 for that of the parameters' type.

        Returns:
            Eigenvalues, descending, and eigenvectors.

        Raises:
            ValueError: if k is not a whole number from 1 to P.
            scipy.sparse.linalg.ArpackError: if the method does not converge; a larger tolerance may help.

        Example:
            >>> from hessianfree import Objective, curvature
            >>> line = Objective(lambda p, x: x * p)
            >>> G = curvature.GaussNewton(line, np.ones(2), (np.array([[1.0, 2.0], [3.0, 4.0]]), np.zeros((2, 2))))
            >>> G.largest(1).values.tolist()
            [10.0]

        Source: Lehoucq, Sorensen and Yang 1998, "ARPACK users' guide", as in `scipy.sparse.linalg.eigsh`.
        """
        if checks.at_least("k", k, 1) > self._size:
            raise ValueError(f"k is {k}, but a matrix of {self._size} x {self._size} has {self._size} eigenvalues.")
        start = np.random.default_rng(seed).standard_normal(self._size).astype(self.dtype)
        if self._size <= max(2 * k + 1, 20):  # ARPACK would start with the whole space
            values, vectors = np.linalg.eigh(self.times(np.eye(self._size)).astype(self.dtype))
        elif not np.any(self.times(start[:, None])):  # A is zero: an error for ARPACK
            values, vectors = np.zeros(k, self.dtype), np.eye(self._size, k, dtype=self.dtype)
        else:
            from scipy.sparse.linalg import eigsh

            values, vectors = eigsh(self.to_scipy(), k, which="LA", v0=start, tol=tolerance)
        order = np.argsort(-values)[:k]
        return Eigenpairs(values[order], vectors[:, order])

    def _is_flat(self, v: Any) -> bool:
        shape: tuple[int, ...] = getattr(v, "shape", ())
        return len(shape) in (1, 2) and shape[0] == self._size and 0 not in shape

    def _as_floats(self, leaf: Any) -> Any:
        if np.iscomplexobj(leaf):
            raise TypeError("The vector of this product is complex; multiply real and imaginary part separately.")
        if not isinstance(leaf, jax.Array) and np.asarray(leaf).dtype.kind in "OSUMm":
            raise TypeError(f"The vector of this product is of type {np.asarray(leaf).dtype}; numbers are expected.")
        # A copy: JAX may use numpy's memory as it is, and read it after the product has returned.
        return leaf.astype(self.dtype) if isinstance(leaf, jax.Array) else np.array(leaf, self.dtype)

    def _flat_product(self, v: Num[Array | np.ndarray, "P"]) -> Num[Array, "P"]:
        return _ravelled(self._product(_unravelled(self._like, v)))


@jit
def _ravelled(v: PyTree) -> Num[Array, "P"]:
    """Flatten a vector that is shaped like the parameters."""
    return ravel_pytree(v)[0]


@jit
def _unravelled(like: PyTree, v: Num[Array | np.ndarray, "P"]) -> PyTree:
    """Shape a flat vector like the parameters."""
    return ravel_pytree(like)[1](jnp.asarray(v))
