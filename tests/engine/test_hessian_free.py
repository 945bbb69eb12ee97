from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessianfree.engine import hessian_free as hf
from hessianfree.engine.cg import Stop
from hessianfree.engine.objective import Batch, ModelObjective
from hessianfree.engine.preconditioners import Diagonal

SETTINGS = hf.Settings(cg_iterations=50, cg_tolerance=0.0)


def least_squares(o, t):
    return 0.5 * (o - t) ** 2


LINE = ModelObjective(lambda p, x: x @ p, least_squares)


def linear_problem(seed=0, n=5, size=30):
    rng = np.random.RandomState(seed)
    x, p = rng.randn(size, n), rng.randn(n)
    return p, Batch(x, rng.randn(size), np.ones(size))


@pytest.mark.parametrize("preconditioner", [hf.Identity(), Diagonal()])
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
        assert update.state.direction is None
        assert update.state.damping > 1.0
        assert update.state.rejections == 1
        assert "no step" in update.record.reason
        # With the loss well again, the very next step works: no stale warm start repeats the rejected one.
        again = hf.step(LINE, update.params, batch, update.state, SETTINGS)
    assert again.record.accepted
    assert again.state.rejections == 0


def test_a_non_convex_loss_with_negative_curvature_still_descends():
    bumpy = ModelObjective(lambda p, x: x * p, lambda o, t: 1 - jnp.exp(-((o - t) ** 2)))
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
    with pytest.raises(ValueError, match="Damping"):
        hf.initial_state(damping)


def test_float32_problems_stay_float32():
    p, batch = linear_problem(8)
    p32, batch32 = jax.tree.map(lambda a: a.astype(np.float32), (p, batch))
    update = hf.step(LINE, p32, batch32, hf.initial_state(1.0), SETTINGS)
    assert update.params.dtype == np.float32
    assert update.state.direction.dtype == np.float32
