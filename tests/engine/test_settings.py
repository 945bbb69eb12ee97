"""Curvature batch, weight decay, averaging and precision, against dense linear algebra."""

from __future__ import annotations

import math
import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.engine import averaging, system
from hessianfree.engine import hessian_free as hf
from hessianfree.engine.cg import conjugate_gradient
from hessianfree.engine.objective import Batch
from hessianfree.engine.settings import Settings

from problems import per_example, traced

LINE = traced(lambda p, x: x @ p, per_example(lambda o, t: 0.5 * (o - t) ** 2))
LAYER = traced(lambda p, x: x @ p["W"] + p["b"], per_example(lambda o, t: 0.5 * ((o - t) ** 2).sum(axis=-1)))


def linear_problem(seed=0, n=5, size=30):
    rng = np.random.RandomState(seed)
    return rng.randn(n), Batch(rng.randn(size, n), rng.randn(size), np.ones(size))


# ---- memory of CG ----------------------------------------------------------------------------------------------------


def test_as_many_residuals_are_kept_as_asked_for_or_as_fit():
    mebibyte = 2**20
    kept = lambda size, preconditioned, **options: Settings(**options).residuals_kept(size, preconditioned)
    assert kept(mebibyte, False) == 223  # 256 vectors, 32 of which are a copy; one is a spare
    assert kept(mebibyte // 2, False) == 250  # the limit on iterations
    assert kept(4 * mebibyte, False) == 31  # 64 vectors of 4 MiB are 256 MiB; half are a copy, one is a spare
    assert kept(4 * mebibyte, True) == 15
    assert kept(2**30, False) == 0
    assert kept(2**30, True, cg_memory=7) == 7
    assert kept(1, False, cg_memory=0) == 0
    assert kept(1, False, cg_memory=300, cg_iterations=20) == 20


@pytest.mark.parametrize("memory", [-1, 2.5, "all", True])
def test_a_memory_that_is_none_is_refused(memory):
    with pytest.raises(ValueError, match="CG memory"):
        Settings(cg_memory=memory)


# ---- curvature batch -------------------------------------------------------------------------------------------------


def test_curvature_comes_from_the_subset_and_everything_else_from_the_whole_batch():
    p, batch = linear_problem()
    settings = Settings(cg_iterations=50, cg_tolerance=0.0, curvature_batch=12)
    with jax.enable_x64(True):
        update = hf.step(LINE, p, batch, hf.initial_state(0.3), settings)
    chosen = settings.curvature_examples(batch.weights > 0, 0)
    part = batch.inputs[chosen]
    B = part.T @ part / 12 + 0.3 * np.eye(5)
    g = batch.inputs.T @ (batch.inputs @ p - batch.targets) / 30
    d = np.linalg.solve(B, -g)
    np.testing.assert_allclose(update.state.direction, d, rtol=1e-6)
    f = lambda q: 0.5 * np.mean((batch.inputs @ q - batch.targets) ** 2)
    assert update.record.value == pytest.approx(f(p))
    assert update.record.new_value == pytest.approx(f(np.asarray(update.params)))
    assert update.record.gradient_norm == pytest.approx(np.linalg.norm(g))


@given(st.integers(1, 40), st.integers(0, 10**6), st.integers(0, 100))
def test_a_curvature_batch_is_a_choice_of_examples_that_weigh_something(count, update, seed):
    weights = np.ones(60)
    weights[40:] = 0  # padding
    chosen = Settings(curvature_batch=count, seed=seed).curvature_examples(weights > 0, update)
    assert len(set(chosen)) == len(chosen) == count
    assert (np.diff(chosen) > 0).all()
    assert (weights[chosen] > 0).all()


def test_padding_fills_up_a_curvature_batch_where_there_is_too_little_else():
    weights = np.array([0.0, 1, 1, 0, 1, 0])
    chosen = Settings(curvature_batch=4).curvature_examples(weights > 0, 3)
    assert len(chosen) == 4
    assert {1, 2, 4} <= set(chosen)


def test_every_update_has_a_curvature_batch_of_its_own_and_the_seed_decides():
    weights, settings = np.ones(1000), Settings(curvature_batch=0.1)
    first, second = settings.curvature_examples(weights > 0, 0), settings.curvature_examples(weights > 0, 1)
    assert len(first) == len(second) == 100
    assert len(set(first) & set(second)) < 50
    np.testing.assert_array_equal(first, Settings(curvature_batch=100).curvature_examples(weights > 0, 0))
    assert list(first) != list(Settings(curvature_batch=100, seed=1).curvature_examples(weights > 0, 0))


@pytest.mark.parametrize("everything", [None, 1.0, 30])
def test_the_whole_batch_is_no_subset(everything):
    assert Settings(curvature_batch=everything).curvature_examples(np.ones(30, bool), 0) is None


def test_a_curvature_batch_beyond_the_minibatch_is_refused():
    p, batch = linear_problem()
    with pytest.raises(ValueError, match="given 31 examples, but the minibatch has 30"):
        hf.step(LINE, p, batch, hf.initial_state(1.0), Settings(curvature_batch=31))


# ---- weight decay ----------------------------------------------------------------------------------------------------


def test_weight_decay_is_in_value_gradient_and_curvature_alike():
    """With squared error and a linear model the decayed problem is quadratic: one exact step solves it."""
    rng = np.random.RandomState(1)
    x, t, c = rng.randn(40, 3), rng.randn(40, 2), 0.7
    params = {"W": rng.randn(3, 2), "b": rng.randn(2)}
    batch = Batch(x, t, np.ones(40))
    settings = Settings(cg_iterations=100, cg_tolerance=0.0, weight_decay=c)
    with jax.enable_x64(True):
        update = hf.step(LAYER, params, batch, hf.initial_state(1e-12), settings)
    design = np.hstack([x, np.ones((40, 1))])
    decays = np.diag([c, c, c, 0.0])  # the bias is left out
    exact = np.linalg.solve(design.T @ design / 40 + decays, design.T @ t / 40)
    np.testing.assert_allclose(np.vstack([update.params["W"], update.params["b"]]), exact, rtol=1e-6)

    def f(V):
        return 0.5 * ((design @ V - t) ** 2).sum() / 40 + 0.5 * c * (V[:3] ** 2).sum()

    before = np.vstack([params["W"], params["b"]])
    assert update.record.value == pytest.approx(f(before), rel=1e-9)
    assert update.record.new_value == pytest.approx(f(exact), rel=1e-6)
    assert update.record.reduction_ratio == pytest.approx(1, rel=1e-6)


def test_biases_decay_where_they_are_told_to():
    rng = np.random.RandomState(2)
    x, t = rng.randn(40, 3), rng.randn(40, 2) + 5
    params = {"W": rng.randn(3, 2), "b": rng.randn(2)}
    settings = Settings(cg_iterations=100, cg_tolerance=0.0, weight_decay=0.7, decay_biases=True)
    with jax.enable_x64(True):
        update = hf.step(LAYER, params, Batch(x, t, np.ones(40)), hf.initial_state(1e-12), settings)
    design = np.hstack([x, np.ones((40, 1))])
    exact = np.linalg.solve(design.T @ design / 40 + 0.7 * np.eye(4), design.T @ t / 40)
    np.testing.assert_allclose(np.vstack([update.params["W"], update.params["b"]]), exact, rtol=1e-6)


def test_a_weight_decay_that_nothing_would_feel_is_refused():
    p, batch = linear_problem(9)
    with pytest.raises(ValueError, match="decay_biases=True"):
        hf.step(LINE, p, batch, hf.initial_state(1.0), Settings(weight_decay=0.1))


# ---- averaging -------------------------------------------------------------------------------------------------------


def test_the_average_weighs_a_point_by_its_age():
    decay, points, average = 0.8, np.random.RandomState(3).randn(6, 4), None
    with jax.enable_x64(True):
        for point in points:
            average = averaging.averaged(average, point, decay)
    weights = decay ** np.arange(5, -1, -1)
    np.testing.assert_allclose(average.params, weights @ points / weights.sum(), rtol=1e-12)


def test_a_step_keeps_the_average_of_the_points_it_led_to_and_of_no_rejected_one():
    p, batch = linear_problem(4)
    settings, state, points = Settings(cg_iterations=2, averaging=0.5), hf.initial_state(1.0), []
    with jax.enable_x64(True):
        for _ in range(3):
            p, _, state, record = hf.step(LINE, p, batch, state, settings)
            assert record.accepted
            points.append(np.asarray(p))
        before = state.average
        _, _, state, record = hf.step(LINE, p * np.nan, batch, state, settings)
    assert not record.accepted
    np.testing.assert_array_equal(state.average.params, before.params)
    np.testing.assert_allclose(before.params, np.array([1, 2, 4]) @ points / 7, rtol=1e-12)


def test_there_is_no_average_unless_asked_for():
    p, batch = linear_problem(5)
    with jax.enable_x64(True):
        assert hf.step(LINE, p, batch, hf.initial_state(1.0), Settings(cg_iterations=2)).state.average is None


# ---- precision -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["highest", "high", "default"])
def test_the_precision_asked_for_is_that_of_curvature_products_alone(precision):
    """Read off the program before compilation: a CPU computes all of them alike, a GPU does not."""
    params = {"W": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}
    batch = Batch(np.ones((4, 3), np.float32), np.ones((4, 2), np.float32), np.ones(4, np.float32))
    numbers = system.Numbers(*np.ones(3, np.float32))
    plan = system.Plan(5, precision=precision)
    text = system.solve.jitted().lower(plan, LAYER, params, batch, None, params, numbers).as_text()
    loop = text[text.index("stablehlo.while") :]
    inside = re.findall(r"dot_general.*?precision = \[(\w+), (\w+)\]", loop)
    before = re.findall(r"dot_general.*?precision = \[(\w+), (\w+)\]", text[: text.index("stablehlo.while")])
    assert inside
    assert set(inside) == {(precision.upper(),) * 2}
    assert ("HIGHEST", "HIGHEST") in before  # value and gradient


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6])
def test_float32_cg_keeps_its_accuracy_on_ill_conditioned_systems(condition):
    """The energy of the error, relative to that of the solution: what the quadratic model is short of its minimum."""
    rng = np.random.RandomState(6)
    n = 60
    Q = np.linalg.qr(rng.randn(n, n))[0]
    B = (Q * np.geomspace(1 / condition, 1, n)) @ Q.T
    b = B @ rng.randn(n)
    x = np.linalg.solve(B, b)
    B32, b32 = B.astype(np.float32), b.astype(np.float32)
    solution = conjugate_gradient(lambda v: B32 @ v, b32, np.zeros_like(b32), lambda r: r, 2000, 0.0)
    found = np.asarray(solution.iterates)[int(solution.last)].astype(np.float64)
    energy = (found - x) @ B @ (found - x) / (x @ B @ x)
    print(
        f"condition {condition:.0e}: {int(solution.iterations)} iterations, relative energy of the error {energy:.1e}"
    )
    assert energy < 1e-5
    # Float64 data solved in float32: what CG reports of its model is what the model is.
    reported, true = float(solution.quadratic[int(solution.last)]), 0.5 * found @ B @ found - b @ found
    assert reported == pytest.approx(true, rel=1e-4)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["kfac", Settings, object()])
def test_what_is_no_preconditioner_is_refused(choice):
    with pytest.raises(TypeError, match="preconditioner is"):
        Settings(preconditioner=choice)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("warm_start", "hot"), ("curvature_batch", 0), ("curvature_batch", 0.0), ("curvature_batch", 1.5), ("curvature_batch", -3),
        ("curvature_batch", True), ("curvature_batch", "half"), ("curvature_batch", math.nan),
        ("weight_decay", -1e-9), ("weight_decay", math.inf), ("weight_decay", math.nan),
        ("averaging", 1.0), ("averaging", -0.1), ("averaging", math.nan), ("precision", "best"), ("seed", -1),
        ("seed", 0.5),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ValueError, match=name.replace("_", " ").capitalize()):
        Settings(**{name: value})
