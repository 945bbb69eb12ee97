from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessianfree.engine import hessian_free as hf
from hessianfree.engine.cg import Stop
from hessianfree.engine.line_search import Length
from hessianfree.engine.objective import Batch
from hessianfree.engine.preconditioners import Diagonal

import dense
from problems import per_example, traced

SETTINGS = hf.Settings(cg_iterations=50, cg_tolerance=0.0)


def least_squares(o, t):
    return 0.5 * (o - t) ** 2


LINE = traced(lambda p, x: x @ p, per_example(least_squares))


def linear_problem(seed=0, n=5, size=30):
    rng = np.random.RandomState(seed)
    x, p = rng.randn(size, n), rng.randn(n)
    return p, Batch(x, rng.randn(size), np.ones(size))


@pytest.mark.parametrize("preconditioner", [None, Diagonal()])
def test_a_quadratic_is_solved_in_one_step(preconditioner):
    p, batch = linear_problem()
    settings = hf.Settings(cg_iterations=50, cg_tolerance=0.0, preconditioner=preconditioner)
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.initial_state(1e-12), settings)
    exact = np.linalg.lstsq(batch.inputs, batch.targets, rcond=None)[0]
    np.testing.assert_allclose(update.params, exact, rtol=1e-6)
    assert update.record.accepted
    assert update.record.step_length == 1
    assert update.record.reduction_ratio == pytest.approx(1, rel=1e-6)


def test_the_step_solves_the_damped_system():
    p, batch = linear_problem(1)
    damping = 0.7
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.initial_state(damping), SETTINGS)
    G = batch.inputs.T @ batch.inputs / 30
    g = batch.inputs.T @ (batch.inputs @ p - batch.targets) / 30
    d = np.linalg.solve(G + damping * np.eye(5), -g)
    np.testing.assert_allclose(update.change, d, rtol=1e-6)
    # The ratio is that of the damped model (damping.py): q(d) = g'd + 1/2 d'(G + lambda I)d.
    f = lambda q: 0.5 * np.mean((batch.inputs @ q - batch.targets) ** 2)
    q = g @ d + 0.5 * d @ (G + damping * np.eye(5)) @ d
    assert update.record.reduction_ratio == pytest.approx((f(p + d) - f(p)) / q, rel=1e-6)
    assert update.record.value == pytest.approx(f(p))
    assert update.record.new_value == pytest.approx(f(p + d))
    assert update.record.gradient_norm == pytest.approx(np.linalg.norm(g))
    assert update.record.update_norm == pytest.approx(np.linalg.norm(d), rel=1e-6)


def test_parameters_that_are_not_free_stay_and_are_left_out_of_the_solve():
    p, batch = linear_problem(2)
    free = np.array([1.0, 0, 1, 1, 0])
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.initial_state(1e-12), SETTINGS, free)
    kept = free.astype(bool)
    residual = batch.targets - batch.inputs[:, ~kept] @ p[~kept]
    exact = np.linalg.lstsq(batch.inputs[:, kept], residual, rcond=None)[0]
    np.testing.assert_allclose(np.asarray(update.params)[kept], exact, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(update.params)[~kept], p[~kept])


def test_the_warm_start_is_the_decayed_last_solution():
    p, batch = linear_problem(3)
    one_iteration = hf.Settings(cg_iterations=1, cg_tolerance=0.0, warm_start_decay=0.5)
    direction = np.array([0.1, -0.2, 0.3, 0.0, 0.1])
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.State(1.0, direction, 0), one_iteration)
    B = batch.inputs.T @ batch.inputs / 30 + np.eye(5)
    g = batch.inputs.T @ (batch.inputs @ p - batch.targets) / 30
    x0 = 0.5 * direction
    r = -g - B @ x0
    np.testing.assert_allclose(update.state.direction, x0 + (r @ r) / (r @ B @ r) * r, rtol=1e-9)


def test_zero_gradient_is_rejected_with_a_reason():
    _, batch = linear_problem(4)
    at_optimum = np.zeros(5)
    zero = Batch(batch.inputs, np.zeros(30), batch.weights)
    with jax.enable_x64(True):
        update = hf.step(LINE, at_optimum, zero, hf.initial_state(1.0), SETTINGS)
    assert not update.record.accepted
    assert "gradient is zero" in update.record.reason
    np.testing.assert_array_equal(update.params, at_optimum)


def test_singular_curvature_is_no_trouble_with_damping():
    p, batch = linear_problem(5)
    degenerate = Batch(np.repeat(batch.inputs[:, :1], 5, axis=1), batch.targets, batch.weights)
    with jax.enable_x64(True):
        update = hf.step(LINE, p, degenerate, hf.initial_state(1e-3), SETTINGS)
    assert update.record.accepted
    assert np.isfinite(update.params).all()


@pytest.mark.parametrize("size", [1, 2])
def test_one_example(size):
    p, batch = linear_problem(6, size=size)
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.initial_state(1e-6), SETTINGS)
    assert update.record.new_value < 1e-6


class Cliff:
    """Value from the host: fine at the start, NaN everywhere else."""

    def __init__(self, start):
        self.start = start

    def value(self, params, batch):
        return LINE.value(params, batch) if np.array_equal(params, self.start) else math.nan

    def localize(self, params, batch):
        return LINE, batch


def test_a_loss_that_is_nan_around_the_point_rejects_and_recovers():
    p, batch = linear_problem(7)
    with jax.enable_x64(True):
        state = hf.State(1.0, np.ones(5), 0)
        update = hf.step(Cliff(p), p, batch, state, SETTINGS)
        np.testing.assert_array_equal(update.params, p)
        assert update.change is None
        assert not np.any(update.state.direction)
        assert update.state.damping > 1.0
        assert update.state.rejections == 1
        assert "no step" in update.record.reason
        # With the loss well again, the very next step works: no stale warm start repeats the rejected one.
        again = hf.step(LINE, update.params, batch, update.state, SETTINGS)
    assert again.record.accepted
    assert again.state.rejections == 0


def test_a_non_convex_loss_with_negative_curvature_still_descends():
    bumpy = traced(lambda p, x: x * p, per_example(lambda o, t: 1 - jnp.exp(-((o - t) ** 2))))
    batch = Batch(np.ones(1), np.zeros(1), np.ones(1))
    with jax.enable_x64(True):
        params, state, reasons = np.array(1.2), hf.initial_state(1e-3), set()
        for _ in range(40):
            params, _, state, record = hf.step(bumpy, params, batch, state, SETTINGS)
            reasons.add(record.cg_stop)
    assert abs(float(params)) < 1e-3
    assert Stop.CURVATURE in reasons


@pytest.mark.parametrize(
    "bad", [{"cg_iterations": 0}, {"cg_tolerance": -1.0}, {"cg_tolerance": math.nan}, {"warm_start_decay": 1.5}]
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match="given"):
        hf.Settings(**bad)


@pytest.mark.parametrize("damping", [0.0, -1.0, math.inf, math.nan])
def test_initial_damping_must_be_positive(damping):
    with pytest.raises(ValueError, match="init_damping"):
        hf.initial_state(damping)


def test_float32_problems_stay_float32():
    p, batch = linear_problem(8)
    p32, batch32 = jax.tree.map(lambda a: a.astype(np.float32), (p, batch))
    update = hf.step(LINE, p32, batch32, hf.initial_state(1.0), SETTINGS)
    assert update.params.dtype == np.float32
    assert update.state.direction.dtype == np.float32


# ---- the decisions after CG, with losses written down beforehand ---------------------------------------------------------


class Scripted:
    """The linear problem with its values replaced, in the order they are asked for; remembers where."""

    def __init__(self, start, values):
        self.start, self.values, self.seen = start, values, []

    def value(self, params, batch):
        self.seen.append(np.asarray(params) - self.start)
        return self.values[len(self.seen) - 1]

    def localize(self, params, batch):
        return LINE, batch


def iterates_of(p, batch, iterations, damping):
    """Textbook CG iterates, gradient and damped matrix of the linear problem, in numpy."""
    size = len(batch.weights)
    B = batch.inputs.T @ batch.inputs / size + damping * np.eye(len(p))
    g = batch.inputs.T @ (batch.inputs @ p - batch.targets) / size
    return dense.conjugate_gradient(B, -g, iterations), g, B


def scripted_step(values, iterations=8):
    """One step on 20 parameters; stored iterates are 5, 6 and the last."""
    p, batch = linear_problem(11, n=20, size=60)
    problem = Scripted(p, values)
    settings = hf.Settings(cg_iterations=iterations, cg_tolerance=0.0)
    with jax.enable_x64(True):
        update = hf.step(problem, p, batch, hf.initial_state(0.01), settings)
    f = 0.5 * np.mean((batch.inputs @ p - batch.targets) ** 2)
    return update, problem, f, *iterates_of(p, batch, iterations, 0.01)


def test_backtracking_goes_through_the_stored_iterates_from_the_last():
    update, problem, _, x, _, _ = scripted_step([0.5, 0.3, 0.4])
    for seen, iteration in zip(problem.seen, (7, 6, 5), strict=True):
        np.testing.assert_allclose(seen, x[iteration], rtol=1e-7)
    np.testing.assert_allclose(update.change, x[6], rtol=1e-7)
    assert update.record.backtracked == 1
    assert update.record.new_value == 0.3


def test_the_reduction_ratio_is_that_of_the_chosen_iterate():
    update, _, f, x, g, B = scripted_step([0.5, 0.3, 0.4])
    q = g @ x[6] + 0.5 * x[6] @ B @ x[6]
    assert update.record.reduction_ratio == pytest.approx((0.3 - f) / q, rel=1e-7)


def test_the_warm_start_is_the_last_solution_whatever_was_chosen():
    update, _, _, x, _, _ = scripted_step([0.5, 0.3, 0.4])
    np.testing.assert_allclose(update.state.direction, x[7], rtol=1e-7)


def test_the_line_search_starts_at_the_chosen_iterate_with_its_slope():
    """The loss at full length is just above what Armijo demands of the chosen iterate, and just below at 0.8."""
    _, _, f, x, g, _ = scripted_step([0.5, 0.3, 0.4])
    slope = g @ x[6]
    just_above, just_below = f + 0.01 * slope * (1 - 1e-6), f + 0.01 * 0.8 * slope * (1 + 1e-6)
    update, problem, _, _, _, B = scripted_step([f, just_above, f, just_below])
    np.testing.assert_allclose(problem.seen[-1], 0.8 * x[6], rtol=1e-7)
    assert update.record.step_length == pytest.approx(0.8)
    np.testing.assert_allclose(update.change, 0.8 * x[6], rtol=1e-7)
    # The ratio is that of the full step; the search comes after it.
    q = slope + 0.5 * x[6] @ B @ x[6]
    assert update.record.reduction_ratio == pytest.approx((just_above - f) / q, rel=1e-6)


def test_a_model_that_promises_an_increase_raises_the_damping():
    """One CG iteration from a bad warm start ends above zero: q(d) > 0, so there is no ratio to trust."""
    p, batch = linear_problem(12)
    settings = hf.Settings(cg_iterations=1, cg_tolerance=0.0)
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.State(1.0, np.full(5, 30.0) * [1, -1, 1, -1, 1], 0), settings)
        assert update.record.cg_iterations == 1
        assert math.isnan(update.record.reduction_ratio)
        assert update.state.damping > 1


@pytest.mark.parametrize(("damping", "at_bound"), [(1e-12, True), (1.0, False), (1e12, True)])
def test_meeting_a_bound_of_the_damping_is_recorded(damping, at_bound):
    p, batch = linear_problem(13)
    with jax.enable_x64(True):
        record = hf.step(LINE, p, batch, hf.initial_state(damping), SETTINGS).record
    assert record.at_damping_bound is at_bound


FOUND, NOWHERE = Length(1.0, 0.5, 0), Length(0.0, 1.0, 60)

REJECTIONS = [
    ((1.0, 1.0, FOUND, True, 1.0), ""),
    ((math.nan, 1.0, FOUND, True, 1.0), "loss is nan"),
    ((1.0, math.inf, FOUND, True, 1.0), "norm is inf"),
    ((1.0, 0.0, FOUND, True, 0.0), "gradient is zero"),
    ((1.0, 1.0, NOWHERE, True, 0.0), "no step"),
    ((1.0, 1.0, FOUND, False, 1.0), "update is not finite"),
    ((1.0, 1.0, FOUND, True, math.inf), "update is not finite"),
    ((1.0, 1.0, FOUND, True, 0.0), "update is zero"),
]


@pytest.mark.parametrize(("situation", "words"), REJECTIONS)
def test_every_reason_for_rejection(situation, words):
    """By the function that decides: some of these cannot be brought about by a loss that float32 can hold."""
    reason = hf._rejection(*situation)
    assert words in reason
    assert bool(reason) == bool(words)


def test_a_displacement_knows_whether_the_parameters_are_still_finite():
    p, iterates = np.array([3e38, 1.0], np.float32), np.array([[0, 1], [1e38, 0]], np.float32)
    assert [bool(hf._displace(False, False, p, iterates, np.int32(k), np.float32(1), None).finite) for k in (0, 1)] == [
        True,
        False,
    ]


@pytest.mark.parametrize("preconditioner", [None, Diagonal()])
def test_masks_project_warm_start_and_preconditioner_too(preconditioner):
    p, batch = linear_problem(14)
    free = np.array([1.0, 0, 1, 1, 0])
    settings = hf.Settings(cg_iterations=50, cg_tolerance=0.0, preconditioner=preconditioner)
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.State(0.1, np.ones(5), 0), settings, free)
    kept = free.astype(bool)
    B = (batch.inputs.T @ batch.inputs / 30 + 0.1 * np.eye(5))[np.ix_(kept, kept)]
    g = (batch.inputs.T @ (batch.inputs @ p - batch.targets) / 30)[kept]
    np.testing.assert_allclose(np.asarray(update.change)[kept], np.linalg.solve(B, -g), rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(update.change)[~kept], 0)


def test_the_diagonal_preconditioner_is_its_formula():
    p, batch = linear_problem(15)
    errors = batch.inputs @ p - batch.targets
    squares = np.mean((errors[:, None] * batch.inputs) ** 2, axis=0)
    r = np.arange(1.0, 6.0)
    with jax.enable_x64(True):
        diagonal = Diagonal(exponent=0.6)
        prepared = diagonal.prepare(diagonal.measure(LINE, p, batch, jax.random.key(0)), 0.3)
        np.testing.assert_allclose(diagonal.apply(LINE, prepared, r), r / (squares + 0.3) ** 0.6, rtol=1e-9)


@pytest.mark.parametrize("exponent", [-0.1, 1.1, math.nan])
def test_an_exponent_out_of_range_is_refused(exponent):
    with pytest.raises(ValueError, match="exponent"):
        Diagonal(exponent=exponent)
