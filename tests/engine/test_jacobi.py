"""Singular values by rotations, against LAPACK and against exact arithmetic where LAPACK loses the small ones."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hilbert

from hessianfree.engine import jacobi

ROWS = 50
decomposed = jax.jit(jacobi.decomposed)


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
@given(seed=st.integers(0, 2**32 - 1), digits=st.integers(0, 14))
def test_decomposition_is_that_of_lapack(columns, seed, digits):
    rng = np.random.default_rng(seed)
    scales = np.logspace(0, -digits, columns)
    A = rng.standard_normal((ROWS, columns)) * scales @ np.linalg.qr(rng.standard_normal((columns, columns)))[0]
    U, S, Vt = map(np.asarray, decomposed(A))
    truth = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose(S, truth, rtol=1e-12, atol=1e-14 * truth[0])
    np.testing.assert_allclose(U * S @ Vt, A, atol=1e-14 * truth[0])
    np.testing.assert_allclose(Vt @ Vt.T, np.eye(columns), atol=1e-14)
    np.testing.assert_allclose(U.T @ U, np.eye(columns), atol=1e-13)


@given(powers=st.lists(st.integers(-140, 140), min_size=4, max_size=4))
def test_columns_of_any_scale_keep_their_digits(powers):
    """Orthogonal columns times powers of ten: the singular values are known exactly, and LAPACK loses the small."""
    orthogonal = np.kron(np.linalg.qr(np.array([[1, 1], [1, -1]]))[0], np.array([[1, 1], [1, -1]]) / np.sqrt(2))
    scales = 10.0 ** np.array(powers)
    _, S, _ = decomposed(orthogonal * scales)
    expected = np.sort(scales)[::-1]
    kept = expected > expected[0] * 1e-140  # the squares of what is smaller are no numbers of the type
    np.testing.assert_allclose(np.asarray(S)[kept], expected[kept], rtol=1e-14)


def test_a_column_of_zeros_or_a_dependent_one_has_singular_value_zero():
    x = np.arange(6.0)
    U, S, _ = map(np.asarray, decomposed(np.stack([x, 0 * x, 2 * x], axis=1)))
    np.testing.assert_allclose(S, [np.sqrt(5 * x @ x), 0, 0], atol=1e-14)
    assert np.isfinite(U).all()
    assert all(np.isfinite(part).all() for part in map(np.asarray, decomposed(np.zeros((6, 3)))))


def test_the_hilbert_matrix_has_its_determinant():
    """The determinant 1 / 6048000 is exact, and is the product of the singular values."""
    assert np.prod(np.asarray(decomposed(hilbert(4))[1])) == pytest.approx(1 / 6048000, rel=1e-12)
