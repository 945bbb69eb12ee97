from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.engine import cg

import dense

N = 12


def spd(rng: np.random.RandomState, n: int, condition: float) -> np.ndarray:
    """A symmetric positive definite matrix with eigenvalues from 1/condition to 1."""
    Q, _ = np.linalg.qr(rng.randn(n, n))
    return (Q * np.geomspace(1 / condition, 1, n)) @ Q.T


def solve(B, b, x0=None, M_inverse=None, iterations=100, tolerance=0.0, slots=None):
    x0 = np.zeros_like(b) if x0 is None else x0
    inverse = np.eye(len(b)) if M_inverse is None else M_inverse
    with jax.enable_x64(np.asarray(b).dtype == np.float64):
        arrays = map(jnp.asarray, (B, b, x0, inverse))
        return jax.device_get(_solve(*arrays, iterations, tolerance, slots))


@partial(jax.jit, static_argnums=(4, 6))
def _solve(B, b, x0, inverse, iterations, tolerance, slots):
    return cg.conjugate_gradient(lambda v: B @ v, b, x0, lambda r: inverse @ r, iterations, tolerance, slots=slots)


def final(solution):
    return solution.iterates[int(solution.last)]


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_agrees_with_a_direct_solver(condition):
    rng = np.random.RandomState(0)
    B, b = spd(rng, N, condition), rng.randn(N)
    solution = solve(B, b)
    np.testing.assert_allclose(final(solution), np.linalg.solve(B, b), rtol=1e-7, atol=1e-9 * condition)
    assert cg.Stop(int(solution.stop)) is cg.Stop.RESIDUAL


def test_solves_n_distinct_eigenvalues_in_n_iterations():
    rng = np.random.RandomState(1)
    Q, _ = np.linalg.qr(rng.randn(N, N))
    B = (Q * np.repeat([1.0, 2.0, 5.0], 4)) @ Q.T
    assert int(solve(B, rng.randn(N)).iterations) == 3


def test_the_exact_inverse_as_preconditioner_converges_in_one_iteration():
    rng = np.random.RandomState(2)
    B, b = spd(rng, N, 1e6), rng.randn(N)
    solution = solve(B, b, M_inverse=np.linalg.inv(B))
    assert int(solution.iterations) == 1
    np.testing.assert_allclose(final(solution), np.linalg.solve(B, b), rtol=1e-5)


def test_a_preconditioner_lowers_the_iteration_count():
    rng = np.random.RandomState(3)
    scale = np.geomspace(1, 1e3, N)
    B, b = scale[:, None] * spd(rng, N, 10) * scale, rng.randn(N)
    plain, preconditioned = solve(B, b), solve(B, b, M_inverse=np.diag(1 / np.diag(B)))
    print("iterations without and with:", int(plain.iterations), int(preconditioned.iterations))
    assert int(preconditioned.iterations) < int(plain.iterations)
    np.testing.assert_allclose(final(preconditioned), np.linalg.solve(B, b), rtol=1e-5)


def test_quadratic_values_are_those_of_the_iterates():
    rng = np.random.RandomState(4)
    B, b = spd(rng, 40, 1e4), rng.randn(40)
    solution = solve(B, b, x0=0.1 * rng.randn(40), iterations=30)
    assert int(solution.last) == 8
    for k in range(int(solution.last) + 1):
        x = solution.iterates[k]
        np.testing.assert_allclose(solution.quadratic[k], 0.5 * x @ B @ x - b @ x, rtol=1e-9)


def test_iterates_are_stored_at_the_scheduled_iterations():
    assert cg.storage_schedule(250) == [5, 6, 7, 9, 11, 14, 18, 23, 29, 37, 48, 62, 80, 104, 135, 175, 227, 249]
    rng = np.random.RandomState(5)
    B, b = spd(rng, 40, 1e4), rng.randn(40)
    long = solve(B, b, iterations=20)
    assert cg.iteration_labels(long).tolist() == [5, 6, 7, 9, 11, 14, 18, 19]
    for k, i in enumerate(cg.iteration_labels(long)):
        np.testing.assert_allclose(long.iterates[k], final(solve(B, b, iterations=int(i) + 1)), rtol=1e-9)


def test_a_warm_start_at_the_solution_needs_no_iteration():
    rng = np.random.RandomState(6)
    B, b = spd(rng, N, 10), rng.randn(N)
    exact = np.linalg.solve(B, b)
    solution = solve(B, b, x0=exact)
    assert int(solution.iterations) <= 1
    np.testing.assert_allclose(final(solution), exact, rtol=1e-9)


def test_zero_right_hand_side_is_solved_at_once():
    solution = solve(np.eye(N), np.zeros(N))
    assert int(solution.iterations) == 0
    assert cg.Stop(int(solution.stop)) is cg.Stop.RESIDUAL
    np.testing.assert_array_equal(final(solution), np.zeros(N))


def test_relative_progress_stops_early():
    rng = np.random.RandomState(7)
    B, b = spd(rng, 200, 1e2), rng.randn(200)
    strict, loose = solve(B, b, iterations=400), solve(B, b, iterations=400, tolerance=1e-3)
    assert int(loose.iterations) < int(strict.iterations)
    assert cg.Stop(int(loose.stop)) is cg.Stop.PROGRESS
    # The test as the paper states it, on phi of a textbook CG.
    phi = textbook_phi(B, b, int(loose.iterations))
    gaps = [max(10, i // 10) for i in range(len(phi))]
    holds = [
        i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * 1e-3
        for i, k in zip(range(len(phi)), gaps, strict=True)
    ]
    assert holds[-1]
    assert not any(holds[:-1])


def textbook_phi(B, b, iterations):
    """phi after each iteration of a textbook CG."""
    return [dense.quadratic(B, b, x) for x in dense.conjugate_gradient(B, b, iterations)]


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])  # powers of two round nothing
def test_scaling_the_right_hand_side_changes_nothing(scale):
    rng = np.random.RandomState(8)
    B, b = spd(rng, 60, 1e3), rng.randn(60)
    plain, scaled = solve(B, b, tolerance=1e-4), solve(B, scale * b, tolerance=1e-4)
    assert int(plain.iterations) == int(scaled.iterations)
    np.testing.assert_allclose(final(scaled), scale * final(plain), rtol=1e-6)


def test_negative_curvature_keeps_the_last_good_solution():
    B = np.diag([1.0, 2.0, -3.0])
    solution = solve(B, np.array([1.0, 1.0, 0.1]))
    assert cg.Stop(int(solution.stop)) is cg.Stop.CURVATURE
    assert np.isfinite(final(solution)).all()
    x = final(solution)
    assert 0.5 * x @ B @ x - np.array([1.0, 1.0, 0.1]) @ x < 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_product_that_is_not_finite_never_reaches_the_solution(bad):
    B = np.eye(3)
    B[1, 1] = bad
    solution = solve(B, np.ones(3))
    assert cg.Stop(int(solution.stop)) in (cg.Stop.NOT_FINITE, cg.Stop.CURVATURE)
    assert np.isfinite(final(solution)).all()


def test_float32_keeps_its_accuracy_on_an_ill_conditioned_system():
    rng = np.random.RandomState(9)
    B, b = spd(rng, 60, 1e4), rng.randn(60)
    exact = np.linalg.solve(B, b)
    found = final(solve(B.astype(np.float32), b.astype(np.float32), iterations=200))
    energy = lambda x: 0.5 * x @ B @ x - b @ x
    assert found.dtype == np.float32
    assert energy(found.astype(float)) - energy(exact) < 1e-4 * abs(energy(exact))


@given(st.integers(0, 2**31 - 1), st.floats(0, 4))
def test_every_iteration_lowers_the_model(seed, log_condition):
    rng = np.random.RandomState(seed)
    B, b = spd(rng, N, 10**log_condition), rng.randn(N)
    solution = solve(B, b, x0=rng.randn(N), iterations=N)
    phi = solution.quadratic[: int(solution.last) + 1]
    assert (np.diff(phi) <= 1e-9 * abs(phi).max()).all(), phi


def test_every_reason_says_something():
    assert len({stop.words for stop in cg.Stop}) == len(cg.Stop)


@pytest.mark.parametrize("late", [1, 3])
def test_a_breakdown_after_good_iterations_is_told_apart_and_leaves_the_last_good_solution(late):
    """Negative curvature and NaN, met late: the solution, its phi and the count are those of the good iterations."""
    rng = np.random.RandomState(10)
    b = rng.randn(N)
    for bad, reason in ((-1.0, cg.Stop.CURVATURE), (np.nan, cg.Stop.NOT_FINITE)):
        solution = broken(np.diag(np.arange(1.0, N + 1)), b, late, bad)
        assert cg.Stop(int(solution.stop)) is reason
        assert int(solution.iterations) == late
        good = solve(np.diag(np.arange(1.0, N + 1)), b, iterations=late)
        np.testing.assert_allclose(final(solution), final(good), rtol=1e-10)
        x = final(solution)
        phi = 0.5 * x @ np.diag(np.arange(1.0, N + 1)) @ x - b @ x
        np.testing.assert_allclose(solution.quadratic[int(solution.last)], phi, rtol=1e-10)
        assert np.abs(x).max() > 0


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_a_breakdown_at_once_leaves_the_warm_start_and_its_phi(bad):
    rng = np.random.RandomState(13)
    x0, b = rng.randn(N), rng.randn(N)
    along_start = lambda v: jnp.abs(v @ x0) > (1 - 1e-9) * jnp.linalg.norm(v) * jnp.linalg.norm(x0)
    product = lambda v: jnp.where(along_start(v), -v, bad * v)
    with jax.enable_x64(True):
        run = jax.jit(lambda b, x0: cg.conjugate_gradient(product, b, x0, lambda r: r, 20, 0.0))
        solution = jax.device_get(run(b, x0))
    assert int(solution.iterations) == 0
    np.testing.assert_allclose(final(solution), x0, rtol=1e-12)
    np.testing.assert_allclose(solution.quadratic[int(solution.last)], -0.5 * x0 @ x0 - b @ x0, rtol=1e-10)


def test_a_correction_that_the_preconditioner_cannot_follow_is_not_taken():
    """The preconditioner turns NaN once the residual is small: the correction that made it so is dropped."""
    B, b = np.diag(np.arange(1.0, N + 1)), np.ones(N)
    few = [solve(B, b, iterations=n) for n in (2, 3)]
    sizes = [np.linalg.norm(b - B @ final(s)) for s in few]
    limit = np.sqrt(sizes[0] * sizes[1]) / 2.0  # in the units of the solver, in which b is one half
    with jax.enable_x64(True):
        run = jax.jit(
            lambda b: cg.conjugate_gradient(
                lambda v: B @ v, b, 0 * b, lambda r: jnp.where(jnp.linalg.norm(r) < limit, jnp.nan, r), 20, 0.0
            )
        )
        solution = jax.device_get(run(b))
    assert cg.Stop(int(solution.stop)) is cg.Stop.NOT_FINITE
    assert int(solution.iterations) == 2
    np.testing.assert_allclose(final(solution), final(few[0]), rtol=1e-10)


def broken(B, b, late, bad):
    """CG whose product turns bad on the direction that textbook CG takes after `late` iterations."""
    before, after = dense.conjugate_gradient(B, b, late + 1)[-2:]
    p = after - before
    unit = p / np.linalg.norm(p)

    def product(v):
        along = jnp.abs(v @ unit) / jnp.maximum(jnp.linalg.norm(v), 1e-300)
        return jnp.where(along > 1 - 1e-9, bad * v, B @ v)

    with jax.enable_x64(True):
        run = jax.jit(lambda b: cg.conjugate_gradient(product, b, 0 * b, lambda r: r, 20, 0.0))
        return jax.device_get(run(b))


def test_the_gap_of_the_progress_test_grows_with_the_iterations():
    """Runs of more than 110 iterations compare over i // 10 of them: a textbook CG agrees on when to stop."""
    rng = np.random.RandomState(11)
    B, b = spd(rng, 300, 1e4), rng.randn(300)
    found = int(solve(B, b, iterations=300, tolerance=2e-5).iterations)
    phi = textbook_phi(B, b, 300)
    expected = next(
        i + 1
        for i in range(300)
        if i > (k := max(10, i // 10)) and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * 2e-5
    )
    assert expected > 130
    assert abs(found - expected) <= 2  # rounding moves a run of this length by an iteration


@pytest.mark.parametrize("scale", [2.0**-70, 2.0**-40, 1.0, 2.0**40, 2.0**70])
def test_float32_systems_of_any_scale_are_solved_alike(scale):
    rng = np.random.RandomState(12)
    B, b = spd(rng, N, 100).astype(np.float32), rng.randn(N).astype(np.float32)
    plain, scaled = solve(B, b, iterations=30), solve(B, b * np.float32(scale), iterations=30)
    assert int(scaled.iterations) == int(plain.iterations)
    np.testing.assert_array_equal(final(scaled) / np.float32(scale), final(plain))


@pytest.mark.parametrize("scale", [2.0**-70, 2.0**70])
def test_the_quadratic_is_right_where_squares_leave_float32(scale):
    """B and b scaled alike: so is phi, which is well inside of the type, and x stays."""
    rng = np.random.RandomState(12)
    B, b = spd(rng, N, 100).astype(np.float32), rng.randn(N).astype(np.float32)
    plain, scaled = (solve(s * B, s * b, iterations=30) for s in (np.float32(1), np.float32(scale)))
    np.testing.assert_array_equal(np.asarray(scaled.quadratic) / np.float32(scale), plain.quadratic)
    assert plain.quadratic[int(plain.last)] < -0.1


# ---- a start that stays a direction --------------------------------------------------------------------------------------


def kept(B, b, x0, iterations, inverse=None):
    apply = (lambda r: r) if inverse is None else (lambda r: inverse @ r)
    with jax.enable_x64(True):
        solution = cg.conjugate_gradient(lambda v: B @ v, b, x0, apply, iterations, 0.0, keep_start=True)
        return np.asarray(solution.iterates)[: int(solution.last) + 1], jax.device_get(solution._replace(iterates=None))


def system(seed, n=12, condition=1e3):
    rng = np.random.RandomState(seed)
    return spd(rng, n, condition), rng.randn(n), rng.randn(n)


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("iterations", [1, 3, 7])
def test_a_kept_start_is_part_of_the_space_that_is_minimised_over(iterations, preconditioned):
    """Against dense: span{x0, M^-1 r0, M^-1 B p, ...} orthonormal, phi minimised over it directly."""
    B, b, x0 = system(0)
    inverse = np.diag(1 / np.diag(B)) if preconditioned else np.eye(len(b))
    first = (x0 @ b) / (x0 @ B @ x0) * x0
    deflate = lambda v: v - x0 * (x0 @ B @ v) / (x0 @ B @ x0)
    K, v = np.zeros((len(b), 0)), deflate(inverse @ (b - B @ first))
    for _ in range(iterations):
        new = v - K @ (K.T @ v)
        K = np.column_stack([K, new / np.linalg.norm(new)])
        v = deflate(inverse @ (B @ K[:, -1]))
    V = np.linalg.qr(np.column_stack([x0, K]))[0]
    best = V @ np.linalg.solve(V.T @ B @ V, V.T @ b)
    found, solution = kept(B, b, x0, iterations, inverse)
    np.testing.assert_allclose(found[-1], best, rtol=1e-6, atol=1e-9)
    assert solution.quadratic[int(solution.last)] == pytest.approx(0.5 * best @ B @ best - b @ best, rel=1e-8)


@pytest.mark.parametrize("scale", [-1e6, 1e-6, 3.0])
def test_the_length_of_a_kept_start_does_not_matter(scale):
    B, b, x0 = system(1)
    np.testing.assert_allclose(kept(B, b, scale * x0, 4)[0], kept(B, b, x0, 4)[0], rtol=1e-6, atol=1e-9)


def test_a_kept_start_of_zero_is_a_cold_start():
    B, b, _ = system(2)
    with jax.enable_x64(True):
        cold = cg.conjugate_gradient(lambda v: B @ v, b, np.zeros_like(b), lambda r: r, 6, 0.0)
        np.testing.assert_allclose(kept(B, b, np.zeros_like(b), 6)[0], np.asarray(cold.iterates), rtol=1e-12)


def test_a_kept_start_along_the_solution_needs_nothing_more():
    B, b, _ = system(3)
    found, solution = kept(B, b, 5 * np.linalg.solve(B, b), 10)
    np.testing.assert_allclose(found[-1], np.linalg.solve(B, b), rtol=1e-9)
    assert int(solution.iterations) <= 1


def test_a_kept_start_without_curvature_is_dropped():
    B = np.diag([1.0, 2.0, 3.0, 0.0])
    b = np.array([1.0, 1.0, 1.0, 0.0])
    found, _ = kept(B, b, np.array([0, 0, 0, 1.0]), 3)
    np.testing.assert_allclose(found[-1], [1, 1 / 2, 1 / 3, 0], atol=1e-12)


def test_a_preconditioner_that_is_not_positive_definite_is_told_of_and_what_was_found_is_kept():
    B, b, _ = system(4)
    indefinite = np.diag([1.0] * 11 + [-1.0])
    with jax.enable_x64(True):
        solution = cg.conjugate_gradient(lambda v: B @ v, b, np.zeros_like(b), lambda r: indefinite @ r, 30, 0.0)
        stop, iterates = cg.Stop(int(solution.stop)), np.asarray(solution.iterates)
    assert stop in (cg.Stop.PRECONDITIONER, cg.Stop.CURVATURE)
    assert np.isfinite(iterates).all()
    assert "preconditioner is not positive definite" in cg.Stop.PRECONDITIONER.words
    backwards = -np.eye(12)
    with jax.enable_x64(True):
        solution = cg.conjugate_gradient(lambda v: B @ v, b, np.zeros_like(b), lambda r: backwards @ r, 30, 0.0)
    assert cg.Stop(int(solution.stop)) is cg.Stop.PRECONDITIONER


# ---- residuals that stay orthogonal --------------------------------------------------------------------------------------


@partial(jax.jit, static_argnums=(3, 4, 5))
def _remembering(B, b, x0, iterations, memory, keep_start, inverse=None):
    apply = None if inverse is None else (lambda r: inverse @ r)
    return cg.conjugate_gradient(lambda v: B @ v, b, x0, apply, iterations, 0.0, keep_start, memory)


def remembering(B, b, iterations, memory, *, inverse=None, x0=None, keep_start=False):
    x0 = np.zeros_like(b) if x0 is None else x0
    with jax.enable_x64(np.asarray(b).dtype == np.float64):
        return jax.device_get(_remembering(B, b, x0, iterations, memory, keep_start, inverse))


def hard(seed=14, n=60, condition=1e10):
    rng = np.random.RandomState(seed)
    return spd(rng, n, condition), rng.randn(n)


def shortfall(B, b, x):
    """phi(x) - min phi, relative."""
    best = np.linalg.solve(B, b)
    return (dense.quadratic(B, b, x) - dense.quadratic(B, b, best)) / abs(dense.quadratic(B, b, best))


@pytest.mark.parametrize("start", ["cold", "decayed", "kept"])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_memory_ends_in_n_iterations_where_rounding_takes_several_times_as_many(preconditioned, start):
    B, b = hard()
    inverse = np.diag(np.geomspace(1, 4, len(b))) if preconditioned else None
    x0 = None if start == "cold" else 0.5 * np.linalg.solve(B + 1e-6 * np.eye(len(b)), b)
    options = {"inverse": inverse, "x0": x0, "keep_start": start == "kept"}
    n = len(b)
    with_memory, without = (remembering(B, b, n, memory, **options) for memory in (n, 0))
    print("shortfall:", shortfall(B, b, final(with_memory)), shortfall(B, b, final(without)))
    assert shortfall(B, b, final(with_memory)) < 1e-6
    assert shortfall(B, b, final(without)) > 0.9
    k = int(with_memory.last)
    phi = dense.quadratic(B, b, with_memory.iterates[k])
    assert with_memory.quadratic[k] == pytest.approx(phi, rel=1e-6)


def test_a_memory_shorter_than_the_solve_still_helps():
    B, b = hard()
    shortfalls = [shortfall(B, b, final(remembering(B, b, 100, memory))) for memory in (0, 20, 40, 100)]
    print(shortfalls)
    assert shortfalls[0] > 2 * shortfalls[1] > 2 * shortfalls[2]
    assert np.abs(shortfalls[2:]).max() < 1e-6


@pytest.mark.parametrize("memory", [5, 20, 40])
def test_a_memory_shorter_than_the_solve_tells_its_own_progress(memory):
    """Residuals without what they had in common with a few early ones are no longer b - Bx."""
    B, b = hard(n=100, condition=1e4)
    solution = remembering(B, b, 120, memory)
    k = int(solution.last) + 1
    true = [dense.quadratic(B, b, x) for x in solution.iterates[:k]]
    np.testing.assert_allclose(solution.quadratic[:k], true, rtol=1e-9)
    assert (np.diff(true) < 0).all()
    assert solution.iterations == 120


def test_memory_changes_nothing_where_rounding_does_not_matter():
    B, b, x0 = system(4, condition=30)
    for iterations in (3, 8):
        plain = remembering(B, b, iterations, 0, x0=x0)
        kept_all = remembering(B, b, iterations, iterations, x0=x0)
        np.testing.assert_allclose(kept_all.iterates, plain.iterates, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(kept_all.quadratic, plain.quadratic, rtol=1e-12)


def test_memory_in_float32_finds_each_eigenvector_once():
    """A large eigenvalue beside small ones, as networks have: found again and again without memory."""
    rng = np.random.RandomState(15)
    Q, _ = np.linalg.qr(rng.randn(50, 50))
    values = np.concatenate([[1e4, 3e3, 1e3], np.geomspace(1e-2, 10, 47)])
    B, b = ((Q * values) @ Q.T).astype(np.float32), rng.randn(50).astype(np.float32)
    exact = B.astype(float)
    found = [shortfall(exact, b.astype(float), final(remembering(B, b, 30, m)).astype(float)) for m in (0, 30)]
    print("shortfall after 30 iterations, without and with memory:", found)
    assert found[1] < 0.1 * found[0]


def test_memory_ends_with_a_space_that_is_exhausted():
    B, b = np.diag([1.0, 2.0, 5.0]), np.ones(3)
    solution = remembering(B, b, 20, 20)
    assert int(solution.iterations) == 3
    np.testing.assert_allclose(final(solution), b / np.diag(B), rtol=1e-12)


# ---- fewer slots than iterations to store ----------------------------------------------------------------------------


CASES = [(20, 1), (20, 3), (20, 8), (20, 20), (4, 3), (60, 3), (60, 12)]


@pytest.mark.parametrize(("limit", "slots"), CASES)
def test_slots_hold_the_last_of_the_scheduled_iterates(limit, slots):
    """Whether they are used again or not; with a limit of 60 CG ends before it."""
    rng = np.random.RandomState(5)
    B, b = spd(rng, 30, 1e2), rng.randn(30)
    whole, few = (solve(B, b, iterations=limit, slots=count) for count in (None, slots))
    order, last = cg.ordered(few, len(cg.storage_schedule(limit))), slice(-slots, None)
    labels = cg.iteration_labels(whole)
    assert (int(whole.iterations) < limit) == (limit == 60)
    assert np.asarray(few.stored)[order].tolist() == labels[last].tolist()
    kept = np.asarray(whole.iterates)[: len(labels)][last]
    np.testing.assert_array_equal(np.asarray(few.iterates)[order], kept)
    np.testing.assert_array_equal(np.asarray(few.quadratic)[order], np.asarray(whole.quadratic)[: len(labels)][last])
    np.testing.assert_allclose(np.asarray(few.products)[order], kept @ b, rtol=1e-12)


@pytest.mark.parametrize("turn", [5, 6, 7, 8, 9])
def test_slots_survive_an_iteration_that_is_not_taken(turn):
    """A direction of negative curvature comes late: the last good iterates stay what they are, each in its slot."""
    values = np.r_[np.linspace(1, 2, turn), -1e-6]
    B, b = np.diag(values), np.r_[np.ones(turn), 1e-9]
    whole, few = (solve(B, b, iterations=40, slots=count) for count in (None, 2))
    assert cg.Stop(int(few.stop)) is cg.Stop(int(whole.stop))
    order = cg.ordered(few, len(cg.storage_schedule(40)))
    kept = np.asarray(whole.iterates)[: int(whole.last) + 1][-2:]
    np.testing.assert_array_equal(np.asarray(few.iterates)[order], kept)
