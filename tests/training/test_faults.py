"""Data, weights and settings at the edges of what float32 holds: every run ends with finite weights and a reason."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hessianfree as hf
from hessianfree.networks.parts import loss_funcs as lf

ERRORS = (ValueError, TypeError, OverflowError)
SCALES = st.sampled_from([1e-12, 1e-6, 1e-3, 1.0, 1e3, 1e6, 1e12])
FAULTS = st.sampled_from(["none", "zero", "nan", "huge", "tiny", "offset"])
DAMPING = st.sampled_from([1e-30, 1e-12, 1.0, 1e12, 1e30])
RATES = st.sampled_from([1e-12, 0.1, 1e6, 1e30])
SEEDS = st.integers(0, 99)


def data(shape, scale, fault, seed):
    """Normal numbers with a fault in them."""
    array = np.random.default_rng(seed).standard_normal(shape) * scale
    flat = array.reshape(-1)
    if fault == "zero":
        array[...] = 0
    elif fault == "offset":
        array += 1e6 * scale
    elif fault != "none":
        flat[seed % flat.size] = {"nan": np.nan, "huge": 1e38, "tiny": 1e-45}[fault]
    return array


def optimizer(kind, damping, rate):
    if kind == "sgd":
        return hf.opt.SGD(rate)
    preconditioner = {"plain": None, "kfac": hf.opt.KFAC(), "diagonal": hf.opt.Diagonal()}[kind]
    return hf.opt.HessianFree(CG_iter=5, init_damping=damping, preconditioner=preconditioner)


def check(run):
    """Finite parameters and a reason; or an error of the package's own, before any work."""
    try:
        result = run()
    except ERRORS as error:
        frame = error.__traceback__
        while frame.tb_next is not None:
            frame = frame.tb_next
        assert "/hessianfree/" in frame.tb_frame.f_code.co_filename, "an error that is not the package's own"
        return None
    assert result.reason
    for leaf in jax.tree.leaves((result.params, result.best_params)):
        assert np.isfinite(np.asarray(leaf)).all(), result.reason
    return result


OPTIMIZERS = st.sampled_from(["sgd", "plain", "kfac", "diagonal"])


@pytest.mark.long
@settings(max_examples=25)
@given(OPTIMIZERS, DAMPING, RATES, SCALES, SCALES, FAULTS, FAULTS, st.sampled_from([0.0, 1.0, 1e6, 1e18]), SEEDS)
def test_feedforward_networks(kind, damping, rate, x_scale, t_scale, x_fault, t_fault, coeff, seed):
    x, t = data((6, 2), x_scale, x_fault, seed), data((6, 2), t_scale, t_fault, seed + 1)
    loss = [lf.SquaredError(), lf.SparseL2(x_scale)]
    weights = {"coeff": coeff}
    net = hf.FFNet([2, 3, 2], layers=["Linear", "Tanh", "Linear"], loss_type=loss, rng=seed, W_init_params=weights)
    chosen = optimizer(kind, damping, rate)
    check(lambda: net.run_epochs(x, t, chosen, max_epochs=3, minibatch_size=4, print_period=None))
    assert np.isfinite(net.W).all()


@pytest.mark.long
@settings(max_examples=15)
@given(OPTIMIZERS, DAMPING, RATES, SCALES, SCALES, FAULTS, FAULTS, st.sampled_from([0.0, 1.0, 1e6, 1e18]), SEEDS)
def test_recurrent_networks(kind, damping, rate, x_scale, t_scale, x_fault, t_fault, coeff, seed):
    x, t = data((4, 5, 1), x_scale, x_fault, seed), data((4, 5, 1), t_scale, t_fault, seed + 1)
    loss = [lf.SquaredError(), lf.StructuralDamping(x_scale)]
    net = hf.RNNet([1, 3, 1], layers="ReLU", loss_type=loss, rng=seed, W_rec_params={"coeff": coeff})
    chosen = optimizer(kind, damping, rate)
    check(lambda: net.run_epochs(x, t, chosen, max_epochs=3, print_period=None))
    assert np.isfinite(net.W).all()


def line(p, x):
    return x @ p["W"] + p["b"]


def growth(p, x):
    return jnp.exp(x @ p["W"]) * p["b"]


def quotient(p, x):
    return p["b"] / (x @ p["W"])


def flat(p, x):
    return 0 * (x @ p["W"]) + 0 * p["b"]


MODELS = [line, growth, quotient, flat]


def start(scale, seed):
    rng = np.random.default_rng(seed)
    return {"W": np.float32(rng.standard_normal((2, 2)) * scale), "b": np.float32(rng.standard_normal(2) * scale)}


@settings(max_examples=8)
@given(st.sampled_from(["sgd", "plain", "diagonal"]), DAMPING, RATES, SCALES, SCALES, SCALES, FAULTS, FAULTS, SEEDS)
@pytest.mark.parametrize("model", MODELS)
def test_models(model, kind, damping, rate, x_scale, t_scale, p_scale, x_fault, t_fault, seed):
    batch = data((6, 2), x_scale, x_fault, seed), data((6, 2), t_scale, t_fault, seed + 1)
    objective, chosen = hf.Objective(model, "squared_error"), optimizer(kind, damping, rate)
    check(lambda: hf.fit(objective, start(p_scale, seed), batch, chosen, max_epochs=3, minibatch_size=4, print_period=None))  # fmt: skip


RESIDUALS = {model: lambda p, at, model=model: model(p, at["x"][None])[0] - at["t"] for model in MODELS}


@settings(max_examples=8)
@given(st.none() | DAMPING, SCALES, SCALES, SCALES, FAULTS, FAULTS, SEEDS)
@pytest.mark.parametrize("model", MODELS)
def test_least_squares(model, damping, x_scale, t_scale, p_scale, x_fault, t_fault, seed):
    points = {"x": data((6, 2), x_scale, x_fault, seed), "t": data((6, 2), t_scale, t_fault, seed + 1)}
    fitted = lambda: hf.least_squares([(RESIDUALS[model], points)], start(p_scale, seed), max_steps=30, init_damping=damping, print_period=None)  # fmt: skip
    result = check(fitted)
    if result is not None:
        assert result.reason in result.summary()


def test_a_fit_of_outliers_alone_knows_nothing():
    """Huber's loss bends nowhere: error bars are infinite."""
    points = {"x": np.linspace(0, 1, 6)[:, None], "t": np.linspace(1e6, 2e6, 6)[:, None]}
    residuals = lambda p, at: p["a"] * at["x"] - at["t"]
    start = {"a": np.float64(0)}
    result = hf.least_squares([(residuals, points)], start, loss="huber", scale=1e-9, max_steps=0, print_period=None)
    assert result.stderr()["a"] == np.inf
    assert "undetermined" in result.summary()


def test_covariances_of_large_float32_numbers():
    """The same in float64."""
    x = np.linspace(1, 2, 8)[:, None] * 1e15
    t = 2 * x + np.sin(np.arange(8.0))[:, None] * 1e14
    residuals = lambda p, at: p["a"] * at["x"] - at["t"]
    errors = []
    for dtype in (np.float32, np.float64):
        points = {"x": x.astype(dtype), "t": t.astype(dtype)}
        result = hf.least_squares([(residuals, points)], {"a": dtype(1)}, print_period=None)
        errors.append(float(result.stderr()["a"]))
    assert errors[1] > 0
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-4)
