"""Orthogonal rows and Lanczos against dense float64 algebra."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.engine import lanczos, orthogonal

P = 40


def decaying(seed, condition, dtype=np.float64):
    """Eigenvalues from 1 down to 1 / condition, as of a smooth problem, and a vector."""
    rng = np.random.RandomState(seed)
    Q, _ = np.linalg.qr(rng.randn(P, P))
    return ((Q * np.geomspace(1 / condition, 1, P)) @ Q.T).astype(dtype), rng.randn(P).astype(dtype)


@partial(jax.jit, static_argnums=(3, 4))
def run(A, b, damping, iterations, tolerance):
    return lanczos.tridiagonalize(lambda v: A @ v, b, damping, iterations, tolerance)


solve = jax.jit(lanczos.solve)


def found_by(A, b, damping, iterations=P, tolerance=1e-12):
    with jax.enable_x64(A.dtype == np.float64):
        return jax.tree.map(np.asarray, run(A, b, A.dtype.type(damping), iterations, tolerance))


def solution(krylov, damping, b):
    with jax.enable_x64(b.dtype == np.float64):
        return np.asarray(solve(krylov, b.dtype.type(damping), b))


@pytest.mark.parametrize("iterations", [1, 7, P, 3 * P])
def test_basis_and_tridiagonal_matrix_belong_together(iterations):
    A, b = decaying(0, 1e3)
    krylov = found_by(A, b, 1e-3, iterations, 0.0)
    k = int(krylov.iterations)
    assert k == min(iterations, P)
    Q = krylov.basis[:k]
    np.testing.assert_allclose(Q @ Q.T, np.eye(k), atol=1e-12)
    T = np.diag(krylov.diagonal[:k]) + np.diag(krylov.beside[: k - 1], 1) + np.diag(krylov.beside[: k - 1], -1)
    np.testing.assert_allclose(Q @ A @ Q.T, T, atol=1e-12)
    assert not krylov.basis[k:].any()
    assert not krylov.beside[k - 1 :].any()


@pytest.mark.parametrize("damping", [1e-2, 1e-6, 1e-10])
def test_the_solution_and_those_of_larger_shifts_against_dense(damping):
    A, b = decaying(1, 1e10)
    krylov = found_by(A, b, damping)
    for shift in (damping, 3 * damping, 1.0):
        exact = np.linalg.solve(A + shift * np.eye(P), b)
        x = solution(krylov, shift, b)
        rounding = 10 * np.finfo(float).eps * np.linalg.norm(x)  # of A x, |A| being 1
        assert np.linalg.norm((A + shift * np.eye(P)) @ x - b) < 1e-11 * np.linalg.norm(b) + rounding
        np.testing.assert_allclose(x, exact, rtol=1e-4, atol=1e-5 * abs(exact).max())


@given(st.integers(0, 2**31 - 1), st.floats(0, 12), st.floats(-10, 0))
def test_it_ends_where_the_residual_says(seed, log_condition, log_damping):
    A, b = decaying(seed, 10**log_condition)
    damping = 10**log_damping
    krylov = found_by(A, b, damping, P, 1e-5)
    B, k = A + damping * np.eye(P), int(krylov.iterations)
    residual = np.linalg.norm(B @ solution(krylov, damping, b) - b) / np.linalg.norm(b)
    assert residual < 1.1e-5
    if k > 1:  # one vector less was not enough
        Q = krylov.basis[: k - 1]
        shorter = Q.T @ np.linalg.solve(Q @ B @ Q.T, Q @ b)
        assert np.linalg.norm(B @ shorter - b) > 0.9e-5 * np.linalg.norm(b)


def test_vectors_stay_orthogonal_where_the_recurrence_alone_loses_it():
    A, b = decaying(2, 1e12)
    krylov = found_by(A, b, 1e-12, tolerance=0.0)
    basis = [b / np.linalg.norm(b)]
    before, beta = np.zeros(P), 0.0
    for _ in range(P - 1):  # three terms, no more
        w = A @ basis[-1] - beta * before
        w -= (w @ basis[-1]) * basis[-1]
        before, beta = basis[-1], np.linalg.norm(w)
        basis.append(w / beta)
    lost = np.abs(np.array(basis) @ np.array(basis).T - np.eye(P)).max()
    assert lost > 0.1
    assert np.abs(krylov.basis[:P] @ krylov.basis[:P].T - np.eye(P)).max() < 1e-12


def test_float32_solves_what_it_can():
    A, b = decaying(3, 1e6, np.float32)
    x = solution(found_by(A, b, 1e-3, P, 1e-5), 1e-3, b)
    assert x.dtype == np.float32
    exact = np.linalg.solve(A.astype(float) + 1e-3 * np.eye(P), b.astype(float))
    np.testing.assert_allclose(x, exact, rtol=1e-2, atol=1e-4 * abs(exact).max())


def test_a_vector_of_few_eigenvectors_needs_no_more():
    A, b = np.diag(np.arange(1.0, P + 1)), np.zeros(P)
    b[[3, 17]] = 1.0
    krylov = found_by(A, b, 0.5)
    assert int(krylov.iterations) == 2
    np.testing.assert_allclose(solution(krylov, 0.5, b), b / (np.arange(1.0, P + 1) + 0.5), rtol=1e-12)


def test_another_right_hand_side_is_solved_in_the_space_there_is():
    A, b = decaying(4, 1e3)
    krylov = found_by(A, b, 1e-3, 9, 0.0)
    Q, c = krylov.basis[:9], np.random.RandomState(5).randn(P)
    expected = Q.T @ np.linalg.solve(Q @ A @ Q.T + 1e-3 * np.eye(9), Q @ c)
    np.testing.assert_allclose(solution(krylov, 1e-3, c), expected, rtol=1e-9)


@pytest.mark.parametrize("b", [np.zeros(P), np.full(P, np.nan)])
def test_a_vector_that_leads_nowhere_ends_it(b):
    A, _ = decaying(6, 10)
    krylov = found_by(A, b, 0.1)
    assert int(krylov.iterations) <= 1
    assert not np.isfinite(b).all() or not solution(krylov, 0.1, b).any()


# ---- rows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5, 32, 33, 70])
def test_without_takes_the_components_along_the_first_rows(count):
    """Rows and duals that are not orthonormal, but biorthogonal: r_j and M^-1 r_j of preconditioned CG."""
    rng = np.random.RandomState(0)
    R = np.linalg.qr(rng.randn(90, count))[0].T * rng.uniform(1, 3, (count, 1))
    D = R / (R**2).sum(axis=1, keepdims=True)
    split = lambda v: {"a": v[..., :20].reshape(*v.shape[:-1], 4, 5), "b": v[..., 20:]}
    with jax.enable_x64(True):
        v = rng.randn(90)
        rows, duals = (orthogonal.no_rows(split(v), count) for _ in range(2))
        for k in range(count):
            rows = orthogonal.with_row(rows, k, split(jnp.asarray(R[k])))
            duals = orthogonal.with_row(duals, k, split(jnp.asarray(D[k])))
        found = orthogonal.without(rows, duals, count, split(jnp.asarray(v)))
        products = orthogonal.inner(rows, split(jnp.asarray(v)))
        np.testing.assert_allclose(products[:count], R @ v, rtol=1e-10, atol=1e-12)
    flat = np.concatenate([np.ravel(found["a"]), found["b"]])
    np.testing.assert_allclose(flat, v - R.T @ (D @ v), atol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 32, 33, 70])
def test_the_first_rows_alone(count):
    """Blocks beyond the last that counts are not looked at; within it, rows beyond are zero where they are used."""
    rng = np.random.RandomState(0)
    rows = {"a": rng.randn(96, 2, 3).astype("f"), "b": rng.randn(96, 5).astype("f")}
    v, weights = {"a": rng.randn(2, 3).astype("f"), "b": rng.randn(5).astype("f")}, rng.randn(96).astype("f")
    used = -(-count // orthogonal.BLOCK) * orthogonal.BLOCK
    matrix = np.concatenate([rows["a"].reshape(96, -1), rows["b"]], axis=1)
    flat = np.concatenate([v["a"].ravel(), v["b"]])
    found = orthogonal.first_inner(rows, count, v)
    np.testing.assert_allclose(found[:used], matrix[:used] @ flat, rtol=1e-4, atol=1e-5)
    assert not np.asarray(found[used:]).any()
    summed = orthogonal.first_combination(jnp.asarray(weights), rows, count)
    flattened = np.concatenate([np.ravel(summed["a"]), summed["b"]])
    np.testing.assert_allclose(flattened, weights[:used] @ matrix[:used], rtol=1e-4, atol=1e-5)


def test_rows_fit_with_the_copies_that_work_on_them_takes():
    for space, vector in ((1000, 1), (1000, 7), (100, 3), (64, 1), (63, 1), (10, 100), (2**30, 2**20)):
        rows = orthogonal.rows_that_fit(space, vector)
        held = jax.eval_shape(lambda rows=rows: orthogonal.no_rows(jnp.zeros(2), max(rows, 1))).shape[0]
        assert rows == 0 or (held + min(held, orthogonal.BLOCK)) * vector <= space
        more = rows + orthogonal.BLOCK  # a block more would not fit
        assert (more + orthogonal.BLOCK) * vector > space
