"""The product A A' by halves against numpy."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from hessianfree.engine.products import LEAST, WHOLE, with_own_transpose

product = jax.jit(with_own_transpose)


@pytest.mark.parametrize("rows", [1, WHOLE - 1, WHOLE, 4 * LEAST + 3])
def test_the_product_is_that_of_numpy(rows):
    A = np.random.default_rng(rows).standard_normal((rows, 5))
    with jax.enable_x64(True):
        found = np.asarray(product(A))
    np.testing.assert_allclose(found, A @ A.T, rtol=0, atol=1e-14 * np.max(np.sum(A**2, axis=1)))


def test_the_product_by_halves_is_symmetric():
    A = np.random.default_rng(0).standard_normal((4 * LEAST + 3, 5)).astype(np.float32)
    found = np.asarray(product(A))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, found.T, rtol=1e-5, atol=1e-5)


def test_half_of_the_work_is_left_out():
    """Multiplications as XLA counts them, beside those of a plain product."""
    A = jax.ShapeDtypeStruct((16 * LEAST, 64), np.float32)
    work = [jax.jit(f).lower(A).compile().cost_analysis()["flops"] for f in (with_own_transpose, lambda A: A @ A.T)]
    assert work[0] <= 0.6 * work[1]
