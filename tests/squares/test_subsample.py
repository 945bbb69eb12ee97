"""Steps from a part of the points: those of that part alone, judged by all of them."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.squares import parting

RNG = np.random.default_rng(0)
SIZE = 40
A, B = RNG.standard_normal((60, SIZE)), RNG.standard_normal((20, SIZE))
SIGMA = 1 + RNG.random(60)


def linear(params, point):
    return point["a"] @ params - point["b"]


def curved(params, point):
    return linear(params, point) + 0.1 * jnp.sin(point["a"] @ params)


def points(rows, residual=0.0):
    return {"a": rows, "b": rows @ np.arange(SIZE) / SIZE + residual}


def by_numpy(damping, share):
    """The step from the first points, in numpy, and the loss on all of them before and after."""
    parts = [(A, SIGMA, 1.0), (B, np.ones(20), 3.0)]
    rows, rhs = [], []
    for at, sigma, weight in parts:
        count = round(share * len(at))
        scale = np.sqrt(weight / count) / sigma[:count, None]
        rows.append(at[:count] * scale)
        rhs.append((at[:count] @ np.arange(SIZE) / SIZE)[:, None] * scale)
    J, b = np.concatenate(rows), np.concatenate(rhs)[:, 0]
    # Lambda has the unit of the largest column.
    step = np.linalg.solve(J.T @ J + damping * np.max(np.sum(J**2, axis=0)) * np.eye(SIZE), J.T @ b)
    losses = [
        sum(weight * np.mean(((at @ (d - np.arange(SIZE) / SIZE)) / sigma) ** 2) / 2 for at, sigma, weight in parts)
        for d in (np.zeros(SIZE), step)
    ]
    return step, losses


@pytest.mark.parametrize("solver", ["dense", "dual", "cg"])
@pytest.mark.parametrize("share", [0.25, 0.7])
def test_a_step_solves_the_equations_of_the_first_points(solver, share):
    """With linear residuals there is nothing to correct. The Krylov space of "cg" ends at its own tolerance."""
    terms = [(linear, points(A)), (linear, points(B), 3.0)]
    options = {"solver": solver, "subsample": share, "x_scale": 1.0, "init_damping": 0.3, "sigma": [SIGMA, 1.0]}
    optimizer, start = hf.LeastSquares(cg_iterations=SIZE, **options), np.zeros(SIZE)
    params, _, record = optimizer.step(terms, start, optimizer.init(terms, start))
    step, losses = by_numpy(record.damping, share)
    assert record.accepted
    np.testing.assert_allclose([record.value, record.new_value], losses, rtol=1e-4 if solver == "cg" else 1e-9)
    np.testing.assert_allclose(params, step, rtol=0, atol=1e-4 if solver == "cg" else 1e-9)


def test_the_loss_on_all_points_never_rises():
    terms = [(curved, points(A)), (curved, points(B), 3.0)]
    start = np.zeros(SIZE)
    result = hf.least_squares(terms, start, subsample=0.8, max_steps=30)
    losses = [result.history["value"][0], *result.history["new_value"]]
    assert np.all(np.diff(losses) <= 1e-15)
    assert losses[-1] < 1e-3 * losses[0]


def least_in_span(rows):
    """The lowest loss on all points that a sum of these rows reaches, in numpy."""
    rhs = points(A)["b"]
    shares = np.linalg.lstsq(A @ rows.T, rhs, rcond=None)[0]
    return np.mean((A @ (rows.T @ shares) - rhs) ** 2) / 2


def test_other_points_are_taken_in_each_step():
    """From the same tenth of the points steps would stay in the span of its rows, whichever tenth it is."""
    few = hf.least_squares([(linear, points(A))], np.zeros(SIZE), subsample=0.1, max_steps=60, init_damping=1e-3)
    floor = min(least_in_span(A[RNG.permutation(60)[:6]]) for _ in range(500))
    assert few.history["new_value"][-1] < 0.5 * floor


@pytest.mark.few(1)
@pytest.mark.parametrize("solver", ["dense", "dual", "cg"])
def test_pieces_of_the_points_change_nothing(solver):
    terms = [(curved, points(A)), (curved, points(B), 3.0)]
    options = {"subsample": 0.7, "max_steps": 3, "solver": solver}
    whole, cut = (hf.least_squares(terms, np.zeros(SIZE), chunk_size=size, **options) for size in (None, 7))
    np.testing.assert_allclose(cut.params, whole.params, rtol=1e-7, atol=1e-9)


def test_a_run_goes_on_with_the_points_that_it_would_have_taken(tmp_path):
    terms = [(curved, points(A))]
    options = {"subsample": 0.3, "solver": "dense"}
    whole = hf.least_squares(terms, np.zeros(SIZE), max_steps=6, **options)
    for steps in (3, 6):
        path = tmp_path / "run.npz"
        halves = hf.least_squares(terms, np.zeros(SIZE), max_steps=steps, checkpoint=path, resume=True, **options)
    assert len(halves.history["value"]) == 6
    np.testing.assert_array_equal(halves.params, whole.params)


def test_all_points_are_the_same_as_none_said():
    terms = [(curved, points(A))]
    runs = [hf.least_squares(terms, np.zeros(SIZE), max_steps=4, subsample=share) for share in (None, 1.0)]
    np.testing.assert_allclose(runs[0].params, runs[1].params, rtol=1e-9, atol=1e-12)


def test_a_function_without_points_is_taken_whole():
    whole = lambda params: A @ params - points(A)["b"]
    runs = [hf.least_squares(whole, np.zeros(SIZE), max_steps=2, subsample=share) for share in (None, 0.1)]
    np.testing.assert_allclose(runs[0].params, runs[1].params, rtol=1e-12)


@pytest.fixture
def long_steps(monkeypatch):
    """Every step counts as one that takes long."""
    monkeypatch.setattr(parting, "OPERATIONS", 0)


def test_where_steps_take_long_a_run_begins_with_a_part_and_ends_with_all(long_steps):
    terms, start = [(curved, points(A, 0.1)), (curved, points(B), 3.0)], np.zeros(SIZE)
    first = hf.least_squares(terms, start, max_steps=1)
    np.testing.assert_allclose(
        first.params, hf.least_squares(terms, start, subsample=parting.SHARE, max_steps=1).params, rtol=1e-12
    )
    result, all_of_them = (hf.least_squares(terms, start, subsample=share) for share in (None, 1.0))
    assert result.reason.startswith("converged")
    np.testing.assert_allclose(result.params, all_of_them.params, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("chosen", [{"solver": "dense"}, {"subsample": 1.0}])
def test_what_the_user_chooses_is_not_changed(long_steps, chosen):
    terms, start = [(curved, points(A))], np.zeros(SIZE)
    found = hf.least_squares(terms, start, max_steps=1, **chosen)
    expected = hf.least_squares(terms, start, max_steps=1, solver="dense")
    np.testing.assert_allclose(found.params, expected.params, rtol=1e-9)


def test_a_run_that_began_with_a_part_goes_on_with_it(long_steps, tmp_path):
    terms = [(curved, points(A, 0.1))]
    whole = hf.least_squares(terms, np.zeros(SIZE), max_steps=30)
    for steps in (4, 20, 30):
        path = tmp_path / "run.npz"
        parts = hf.least_squares(terms, np.zeros(SIZE), max_steps=steps, checkpoint=path, resume=True)
    np.testing.assert_array_equal(parts.params, whole.params)
    np.testing.assert_array_equal(parts.history["damping"], whole.history["damping"])


MISTAKES = {
    "no share": ({"subsample": 0.0}, "subsample is 0.0; a share of the points in"),
    "a number of points": ({"subsample": 100}, "subsample is 100; a share of the points in"),
    "blocks": ({"subsample": 0.5, "solver": "schur"}, "subsample takes rows of J"),
}


@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        hf.least_squares([(linear, points(A))], np.zeros(SIZE), **options)


def test_sparse_terms_are_refused():
    term = hf.SparseTerm(lambda part, point: part["z"] - point, np.ones(5), {"z": np.arange(5)})
    with pytest.raises(ValueError, match="SparseTerm"):
        hf.least_squares([term], {"z": np.zeros(5)}, subsample=0.5)
