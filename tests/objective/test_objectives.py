"""Any JAX model as an objective: values, curvature, steps, and what is said of mistakes."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import hessianfree as hf
from hessianfree.engine.objective import TracedObjective
from test_compilation import compilations

B = 6
rng = np.random.RandomState(0)
X, T = rng.randn(B, 3).astype(np.float32), rng.randn(B, 2).astype(np.float32)
LABELS = rng.randint(0, 2, B)


def model(p, x):
    return jnp.tanh(x @ p["W"]) @ p["V"] + p["b"]


def start(dtype=np.float32, seed=1):
    draw = np.random.RandomState(seed)
    params = {"W": 0.5 * draw.randn(3, 4), "V": 0.5 * draw.randn(4, 2), "b": 0.1 * draw.randn(2)}
    return jax.tree.map(lambda a: a.astype(dtype), params)


def half_square(o, t):
    return 0.5 * ((o - t) ** 2).sum(axis=-1)


class WithCurvature:
    def __call__(self, o, t):
        return half_square(o, t)

    def curvature(self, o, t):
        return lambda u: u


#: losses that all mean 1/2 sum (o - t)^2, averaged over examples
SAME = {
    "name": "squared_error",
    "per example": half_square,
    "optax, mean": lambda o, t: 2 * optax.l2_loss(o, t).mean(),
    "own curvature": WithCurvature(),
}


def dense(params, weights):
    """Value, gradient and G in float64 from explicit Jacobians of the model in numpy's order."""
    flat, unravel = ravel_pytree(jax.tree.map(np.float64, params))
    x, t, w = np.float64(X), np.float64(T), np.float64(weights) / np.sum(weights)
    o = np.asarray(model(unravel(flat), x))
    J = np.asarray(jax.jacfwd(lambda p: model(unravel(p), x))(flat))
    return (
        (w * 0.5 * ((o - t) ** 2).sum(axis=1)).sum(),
        np.einsum("b,bn,bnp->p", w, o - t, J),
        np.einsum("b,bnp,bnq->pq", w, J, J),
    )


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_gradient_and_product_against_dense_float64(name, dtype):
    params, objective = start(dtype), hf.Objective(model, SAME[name])
    weights = np.ones(B) if name == "optax, mean" else np.arange(B) / 2
    batch = (X, T) if name == "optax, mean" else (X, T, weights)
    with jax.enable_x64(True):
        value, gradient, G = dense(params, weights)
    rtol = 1e-5 if dtype == np.float32 else 1e-11
    local = objective.linearize(params, batch)
    assert objective.value(params, batch) == pytest.approx(value, rel=rtol)
    assert float(local.value) == pytest.approx(value, rel=rtol)
    v = start(dtype, seed=2)
    order = sorted(v)  # ravel_pytree's
    for found, expected in (
        (local.gradient, gradient),
        (local.product(v), G @ np.concatenate([np.ravel(v[k]) for k in order])),
    ):
        assert all(np.asarray(found[k]).dtype == dtype for k in order)
        np.testing.assert_allclose(np.concatenate([np.ravel(found[k]) for k in order]), expected, rtol=rtol, atol=rtol)


def test_outputs_and_targets_may_be_pytrees():
    def two(p, x):
        o = model(p, x["x"])
        return {"first": o[:, 0], "second": (o[:, 1:],)}

    params = start()
    targets = {"first": T[:, 0], "second": (T[:, 1:],)}
    value = hf.Objective(two).value(params, ({"x": X}, targets))
    assert value == pytest.approx(hf.Objective(model).value(params, (X, T)), rel=1e-6)


@pytest.mark.parametrize("name", SAME)
def test_steps_lower_the_loss_in_the_users_own_loop(name):
    objective, optimizer = hf.Objective(model, SAME[name]), hf.opt.HessianFree(init_damping=0.1)
    params = start()
    state = optimizer.init(params)
    values = []
    for _ in range(8):
        params, state, info = optimizer.step(objective, params, state, (X, T))
        values.append(info.new_value)
    assert values[-1] < 0.1 * objective.value(start(), (X, T))
    assert objective.value(params, (X, T)) == pytest.approx(values[-1], rel=1e-4)


def test_a_linear_model_is_solved_in_one_step():
    optimizer = hf.opt.HessianFree(init_damping=1e-9)
    p = np.zeros((3, 2))
    found, _, info = optimizer.step(hf.Objective(lambda p, x: x @ p), p, optimizer.init(p), (X, T))
    expected = np.linalg.lstsq(np.float64(X), np.float64(T), rcond=None)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == np.float64
    assert info.accepted


@pytest.mark.parametrize("build", [lambda: hf.FFNet([3, 4, 2], rng=0), lambda: hf.RNNet([3, 4, 2], rng=0)])
def test_networks_go_through_the_very_same_step(build):
    net, classic, functional = build(), hf.opt.HessianFree(), hf.opt.HessianFree()
    shape = (B, 3) if net.recurrent is None else (B, 5, 3)
    net.cache_minibatch(rng.randn(*shape), rng.rand(*shape[:-1], 2))
    net.optimizer = classic
    params = jax.tree.map(np.array, net.params())  # W is about to be changed in place
    state = functional.init(params)
    for _ in range(3):
        net.W += classic.compute_update()
        params, state, info = functional.step(net.problem(), params, state, net.batch())
        assert info.new_value == pytest.approx(classic.record.new_value, rel=1e-5)
    np.testing.assert_allclose(net.flat(jax.device_get(params)), net.W, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", [hf.opt.SGD(l_rate=0.1), hf.opt.FirstOrder(optax.sgd(0.1))])
def test_first_order_steps_follow_the_gradient(optimizer):
    objective, params = hf.Objective(model), start()
    gradient = objective.linearize(params, (X, T)).gradient
    moved, state, info = optimizer.step(objective, params, optimizer.init(params), (X, T))
    for name in params:
        np.testing.assert_allclose(moved[name], params[name] - 0.1 * gradient[name], rtol=1e-5, atol=1e-6)
    assert state.updates == 1
    assert info.accepted


def test_float64_survives_without_the_global_flag():
    assert not jax.config.jax_enable_x64
    objective, optimizer = hf.Objective(model), hf.opt.HessianFree(init_damping=1e-3)
    params = start(np.float64)
    state = optimizer.init(params)
    for _ in range(30):
        params, state, info = optimizer.step(objective, params, state, (X, T))
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float64 for leaf in jax.tree.leaves(params))
    # far below what float32 can tell from zero, relative to the start
    assert info.gradient_norm < 1e-7
    with jax.enable_x64(True):
        assert objective.value(params, (X, T)) == pytest.approx(dense(params, np.ones(B))[0], rel=1e-10)


# ---- stochastic models, models without forward mode ------------------------------------------------------------------


def dropout(p, x, key):
    h = jnp.tanh(x @ p["W"])
    if key is not None:
        h = h * jax.random.bernoulli(key, 0.5, h.shape) * 2
    return h @ p["V"] + p["b"]


def test_dropout_has_one_key_per_update_and_none_for_evaluation():
    objective, params = hf.Objective(dropout, stochastic=True, seed=3), start()
    values = [float(objective.linearize(params, (X, T), update=k).value) for k in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert objective.value(params, (X, T)) == hf.Objective(model).value(params, (X, T))
    optimizer = hf.opt.HessianFree()
    state = optimizer.init(params)
    for k in range(3):
        before = params
        params, state, info = optimizer.step(objective, params, state, (X, T))
        assert info.value == pytest.approx(float(objective.linearize(before, (X, T), update=k).value), rel=1e-5)
        assert info.accepted


def test_a_model_that_is_not_deterministic_is_told():
    noise = np.random.RandomState(0)
    objective = hf.Objective(lambda p, x: model(p, x) * noise.uniform(0.5, 1.5))
    optimizer, params = hf.opt.HessianFree(), start()
    with pytest.raises(ValueError, match=r"not deterministic.*stochastic=True"):
        optimizer.step(objective, params, optimizer.init(params), (X, T))


def shifted(outputs, targets):
    return (outputs**2 - targets).sum(axis=-1)


@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_rounding_is_no_lack_of_determinism(size, decay):
    """A loss that is nothing beside its weight decay, or that is left of terms that cancel."""
    x = np.random.RandomState(0).randn(200, 5).astype("f")
    W = np.float32(size) * np.random.RandomState(1).randn(5, 3).astype("f")
    optimizer = hf.opt.HessianFree(weight_decay=decay)
    step = lambda loss, t: optimizer.step(hf.Objective(lambda p, x: x @ p, loss), W, optimizer.init(W), (x, t))[2]
    penalty = 0.5 * decay * (W.astype(float) ** 2).sum()
    close = step("squared_error", x @ W + np.float32(1e-3))
    assert close.accepted
    assert close.value == pytest.approx(penalty + 1.5e-6, rel=1e-2 if size == 1 or decay else 1)
    cancelled = step(shifted, np.tile(((x @ W) ** 2).mean(axis=0), (200, 1)))
    assert cancelled.value == pytest.approx(penalty, rel=1e-4, abs=1e-4 * size**2)


@pytest.mark.parametrize("noise", [1e-2, 1.0])
def test_random_numbers_are_told_whatever_is_added_and_however_small_the_loss(noise):
    draw, x = np.random.RandomState(0), np.random.RandomState(1).randn(200, 5).astype("f")
    objective = hf.Objective(lambda p, x: x @ p + noise * draw.randn(), "squared_error")
    optimizer, W = hf.opt.HessianFree(weight_decay=0.1), np.ones((5, 3), np.float32)
    with pytest.raises(ValueError, match="not deterministic"):
        optimizer.step(objective, W, optimizer.init(W), (x, x @ W))


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.float32])
def test_labels_of_any_type_on_the_device(kind):
    """JAX compares in the type of the array: 256 classes are none in uint8."""
    x = np.zeros((256, 1), np.float32)
    value = lambda classes: hf.Objective(lambda p, x: jnp.zeros((len(x), classes)) + p, "softmax_cross_entropy").value(
        np.float32(0), (x, jnp.arange(256).astype(kind))
    )
    assert value(256) == pytest.approx(np.log(256), rel=1e-6)
    with pytest.raises(ValueError, match=r"labels from 0 to 149.*given 150.* among 106"):
        value(150)


@jax.tree_util.register_pytree_node_class
class Weights:
    """Compares by identity."""

    def __init__(self, W):
        self.W = W

    def tree_flatten(self):
        return (self.W,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@pytest.mark.parametrize("optimizer", [hf.opt.HessianFree(), hf.opt.SGD(0.1), hf.opt.FirstOrder(optax.adam(1e-2))])
def test_parameters_of_a_class_of_the_users(optimizer):
    params, x = Weights(np.ones((3, 2), np.float32)), X[:, :3]
    objective = hf.Objective(lambda p, x: x @ p.W)
    moved, _, record = optimizer.step(objective, params, optimizer.init(params), (x, T))
    assert record.accepted
    assert objective.value(moved, (x, T)) < objective.value(params, (x, T))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere JAX has words of its own for it")
def test_what_is_called_inside_a_compiled_function_is_told():
    with pytest.raises(TypeError, match=r"outside jax\.jit"):
        jax.jit(lambda _: softmax_on(X, LABELS))(0)
    G = hf.curvature.GaussNewton(hf.Objective(model), start(), (X, T))
    with pytest.raises(TypeError, match=r"outside jax\.jit"):
        jax.jit(lambda v: G @ v)(start())


def test_a_batch_without_gradient_is_not_searched(monkeypatch):
    optimizer, objective = hf.opt.HessianFree(), hf.Objective(model)
    state, asked = optimizer.init(start())._replace(updates=1), []
    value = TracedObjective.value
    counted = lambda self, *where: asked.append(1) or value(self, *where)
    monkeypatch.setattr("hessianfree.engine.objective.TracedObjective.value", counted)
    record = optimizer.step(objective, start(), state, (X, np.nan * T))[2]
    assert "gradient is zero" in record.reason
    assert not asked


@jax.custom_vjp
def surrogate(x):
    return jnp.tanh(x)


surrogate.defvjp(lambda x: (jnp.tanh(x), x), lambda x, u: (u * (1 - jnp.tanh(x) ** 2),))


def test_a_model_without_forward_mode_gives_the_same_products_and_says_so_once(caplog):
    reverse = hf.Objective(lambda p, x: surrogate(x @ p["W"]) @ p["V"] + p["b"])
    params, v = start(), start(seed=2)
    with caplog.at_level(logging.WARNING, "hessianfree"):
        found = reverse.linearize(params, (X, T))
        reverse.value(params, (X[:3], T[:3]))
    assert sum("no forward mode" in message for message in caplog.messages) == 1
    expected = hf.Objective(model).linearize(params, (X, T))
    for a, b in ((found.gradient, expected.gradient), (found.product(v), expected.product(v))):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), a, b)
    optimizer = hf.opt.HessianFree()
    _, _, info = optimizer.step(reverse, params, optimizer.init(params), (X, T))
    assert info.accepted


def test_surrogate_gradients_inside_a_loop_are_honoured():
    @jax.custom_vjp
    def spike(x):
        return (x > 0).astype(x.dtype)

    spike.defvjp(lambda x: (spike(x), x), lambda x, u: (u / (1 + jnp.abs(x)) ** 2,))

    def recurrent(p, x):
        def step(h, x_t):
            h = spike(x_t @ p["W"] + 0.5 * h)
            return h, h

        return jax.lax.scan(step, jnp.zeros((len(x), 4), x.dtype), jnp.stack([x, x]))[0] @ p["V"]

    params = {k: start()[k] for k in ("W", "V")}
    local = hf.Objective(recurrent).linearize(params, (X, T))
    _, pull = jax.vjp(lambda p: recurrent(p, X), params)
    eye = np.eye(B * 2, dtype=np.float32).reshape(-1, B, 2)
    J = np.stack([ravel_pytree(pull(e)[0])[0] for e in eye])
    v = rng.randn(J.shape[1]).astype(np.float32)
    unravel = ravel_pytree(params)[1]
    np.testing.assert_allclose(ravel_pytree(local.product(unravel(v)))[0], J.T @ (J @ v) / B, rtol=1e-4, atol=1e-5)


# ---- losses that are looked at -----------------------------------------------------------------------------------------


def test_what_a_loss_returns_is_said(caplog):
    with caplog.at_level(logging.INFO, "hessianfree"):
        per_example, mean = hf.Objective(model, half_square), hf.Objective(model, SAME["optax, mean"])
        per_example.value(start(), (X, T))
        mean.value(start(), (X, T))
    assert per_example.reduction == "per_example"
    assert "averaged, and weights honoured" in caplog.text
    assert mean.reduction == "mean"
    assert "taken as it is" in caplog.text
    with pytest.raises(ValueError, match="cannot be weighted"):
        mean.value(start(), (X, T, np.arange(B)))


def test_a_loss_that_is_not_convex_is_named_with_the_curvature_used():
    def welsch(o, t):
        return (1 - jnp.exp(-((o - t) ** 2))).sum(axis=-1)

    objective, params = hf.Objective(model, welsch), start()
    with pytest.warns(UserWarning, match=r"welsch has negative curvature.*positive part"):
        local = objective.linearize(params, (X, 3 * T))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        for seed in range(5):
            v = start(seed=seed)
            Gv = objective.linearize(params, (X, 3 * T)).product(v)
            assert sum(float((v[k] * Gv[k]).sum()) for k in v) >= -1e-6
    assert np.isfinite(local.value)


def test_negative_curvature_is_found_in_few_directions_and_on_later_batches():
    scales = np.ones(2, np.float32)
    scales[1] = -0.05

    def saddle(o, t):
        return 0.5 * (scales * (o - t) ** 2).sum(axis=-1)

    with pytest.warns(UserWarning, match="saddle has negative curvature"):
        hf.Objective(model, saddle).linearize(start(), (X, T))

    def welsch(o, t):
        return (1 - jnp.exp(-((o - t) ** 2))).sum(axis=-1)

    objective, optimizer, params = hf.Objective(model, welsch), hf.opt.HessianFree(), start()
    near = np.asarray(model(params, X))
    state = optimizer.init(params)
    _, state, _ = optimizer.step(objective, params, state, (X, near + 0.01))
    with pytest.warns(UserWarning, match="welsch has negative curvature"):
        _, state, info = optimizer.step(objective, params, state, (X, near + 1.5))
    assert info.cg_stop.name == "CURVATURE"
    _, state, info = optimizer.step(objective, params, state, (X, near + 1.5))
    assert info.cg_stop.name != "CURVATURE"


def test_what_is_changed_after_a_product_does_not_change_it():
    big = hf.Objective(lambda p, x: x @ p)
    draw = np.random.RandomState(0)
    p, v = (draw.randn(300, 200).astype(np.float32) for _ in range(2))
    data = draw.randn(500, 300).astype(np.float32), draw.randn(500, 200).astype(np.float32)
    local = big.linearize(p, data)
    expected = np.array(local.product(v.copy()))
    for _ in range(10):
        given = v.copy()
        found = local.product(given)
        given[:] = 0
        np.testing.assert_array_equal(found, expected)


def test_a_convex_loss_of_the_users_is_not_warned_of():
    hf.Objective(model, lambda o, t: jnp.logaddexp(0, o - t).sum(axis=-1)).linearize(start(), (X, T))


def test_a_loss_without_curvature_is_warned_of():
    objective = hf.Objective(model, lambda o, t: jnp.abs(o - t).sum(axis=-1))
    objective.value(start(), (X, T))  # as a test error it is as good as any
    with pytest.warns(UserWarning, match=r"no curvature.*H = 0"):
        objective.linearize(start(), (X, T))


def test_unknown_targets_without_weight_leave_a_convex_loss_convex():
    t, weights = T.copy(), np.ones(B)
    t[1], weights[1] = np.nan, 0
    objective = hf.Objective(model, lambda o, t: jnp.logaddexp(0, o - t).sum(axis=-1))
    assert np.isfinite(objective.linearize(start(), (X, t, weights)).value)


def test_weight_decay_is_no_randomness():
    optimizer, params = hf.opt.HessianFree(weight_decay=0.1), start()
    _, _, info = optimizer.step(hf.Objective(model), params, optimizer.init(params), (X, T))
    decay = 0.05 * sum((params[name] ** 2).sum() for name in ("W", "V"))  # biases do not
    assert info.value == pytest.approx(hf.Objective(model).value(params, (X, T)) + decay, rel=1e-5)


def test_plain_numbers_and_nested_lists_are_arrays():
    params = {"slope": np.zeros(1), "offset": 0.5}
    line = hf.Objective(lambda p, x: x * p["slope"] + p["offset"])
    assert line.value(params, ([[1.0], [2.0]], [[0.5], [1.5]])) == pytest.approx(0.25, rel=1e-12)


# ---- mistakes --------------------------------------------------------------------------------------------------------


class WithCurvature:
    """A loss that brings what it is given as its curvature."""

    def __init__(self, product):
        self.product = product

    def __call__(self, o, t):
        return 0.5 * ((o - t) ** 2).sum(axis=-1)

    def curvature(self, o, t):
        return self.product


@dataclasses.dataclass(frozen=True)
class WithArray:
    weights: np.ndarray

    def __call__(self, o, t):
        return (self.weights * (o - t) ** 2).sum(axis=-1)


@dataclasses.dataclass
class NotHashable:
    delta: float = 1.0

    def __call__(self, o, t):
        return self.delta * ((o - t) ** 2).sum(axis=-1)


def stepped(optimizer, state):
    return optimizer.step(hf.Objective(model), start(), state, (X, T))


def softmax_on(*batch):
    return hf.Objective(model, "softmax_cross_entropy").value(start(), batch)


def growing(updates, state, params):
    return jax.tree.map(lambda g: -g[None], updates), state


def state_of(params):
    optimizer = hf.opt.HessianFree()
    return optimizer.step(hf.Objective(model), params, optimizer.init(params), (X, T))[1]


MISTAKES = {
    "unknown loss": (lambda: hf.Objective(model, "l2"), ValueError, "Did you mean 'squared_error'. The names are"),
    "no function": (lambda: hf.Objective(3), TypeError, "a function"),
    "no loss": (lambda: hf.Objective(model, 3), TypeError, "a name or a function"),
    "integer leaf": (
        lambda: hf.Objective(model).value({**start(), "n": np.arange(3)}, (X, T)),
        TypeError,
        r"int64 at \['n'\]",
    ),
    "empty leaf": (
        lambda: hf.Objective(model).value({**start(), "n": np.zeros((0, 2), np.float32)}, (X, T)),
        ValueError,
        r"empty array of shape \(0, 2\) at \['n'\]",
    ),
    "function leaf": (
        lambda: hf.Objective(model).value({**start(), "f": jnp.tanh}, (X, T)),
        TypeError,
        r"at \['f'\].*eqx.partition",
    ),
    "two precisions": (
        lambda: hf.Objective(model).value({**start(), "b": np.zeros(2)}, (X, T)),
        TypeError,
        "two precisions",
    ),
    "nothing": (lambda: hf.Objective(model).value({}, (X, T)), ValueError, "no arrays"),
    "shapes": (
        lambda: hf.Objective(model).value(start(), (X, T[:, :1])),
        ValueError,
        r"returned float32\[6, 2\].*targets are float32\[6, 1\]",
    ),
    "structure": (
        lambda: hf.Objective(model).value(start(), (X, {"t": T})),
        ValueError,
        r"returned float32\[6, 2\].*targets are \{t: float32\[6, 2\]\}",
    ),
    "lengths": (lambda: hf.Objective(model).value(start(), (X, T[:4])), ValueError, "examples along their first axis"),
    "no pair": (lambda: hf.Objective(model).value(start(), X), TypeError, "a ndarray"),
    "no examples": (lambda: hf.Objective(model).value(start(), (X[:0], T[:0])), ValueError, "no examples"),
    "weights' shape": (
        lambda: hf.Objective(model).value(start(), (X, T, np.ones(3))),
        ValueError,
        "weights have shape",
    ),
    "negative weights on the device": (lambda: softmax_on(X, LABELS, -jnp.ones(B)), ValueError, "none negative"),
    "weights on the device that are NaN": (lambda: softmax_on(X, LABELS, jnp.full(B, jnp.nan)), ValueError, "finite"),
    "complex weights": (lambda: softmax_on(X, LABELS, 1j * np.ones(B)), TypeError, "weights are complex128"),
    "a tuple of batches": (lambda: softmax_on((X, LABELS), (X, LABELS), (X, LABELS)), ValueError, "a list of them"),
    "traced weights": (
        lambda: jax.jit(lambda w: softmax_on(X, LABELS, w))(np.ones(B)),
        TypeError,
        r"outside jax\.jit",
    ),
    "complex targets": (lambda: hf.Objective(model).value(start(), (X, 1j * T)), TypeError, "targets are complex64"),
    "masked targets": (
        lambda: hf.Objective(model).value(start(), (X, np.ma.masked_less(T, 0))),
        TypeError,
        "masked array; fill it first",
    ),
    "wide integers": (
        lambda: hf.Objective(model).value(start(), (X, np.full((B, 2), 2**31))),
        ValueError,
        "int64 from 2147483648 to 2147483648.*32 bits",
    ),
    "words": (lambda: softmax_on(X, ["a"]), TypeError, "arrays of numbers"),
    "ragged data": (lambda: softmax_on([[1.0, 2.0], [3.0]], [0, 1]), ValueError, "lists of different lengths"),
    "weights beyond the type": (lambda: softmax_on(X, LABELS, np.full(B, 1e300)), ValueError, "finite in float32"),
    "a loss that holds an array": (
        lambda: hf.Objective(model, WithArray(np.ones(1))),
        TypeError,
        "unhashable type: 'numpy.ndarray'",
    ),
    "a rate that is none": (lambda: hf.opt.SGD(True), ValueError, "l_rate is True"),
    "a random key": (
        lambda: hf.opt.HessianFree().init({**start(), "key": jax.random.key(0)}),
        TypeError,
        r"key<fry> at \['key'\]",
    ),
    "a loss that cannot be hashed": (
        lambda: hf.Objective(model, NotHashable()),
        TypeError,
        r"dataclass\(frozen=True\)",
    ),
    "curvature that is no function": (
        lambda: hf.Objective(model, WithCurvature(3.0)).value(start(), (X, T)),
        TypeError,
        r"float32\[6, 2\].*'float' object is not callable",
    ),
    "curvature of another shape": (
        lambda: hf.Objective(model, WithCurvature(lambda u: u.sum(axis=-1))).value(start(), (X, T)),
        TypeError,
        r"float32\[6, 2\].*gave float32\[6\]",
    ),
    "logits without classes": (
        lambda: hf.Objective(lambda p, x: model(p, x)[:, 0], "softmax_cross_entropy").value(start(), (X, T[:, 0])),
        ValueError,
        r"\(B, ..., K\)",
    ),
    "no state of SGD": (lambda: stepped(hf.opt.SGD(), None), TypeError, "state is a NoneType"),
    "another optimizer's state": (
        lambda: stepped(hf.opt.FirstOrder(optax.adam(1e-3)), hf.opt.HessianFree().init(start())),
        TypeError,
        "state is a State",
    ),
    "no state of the optax form": (
        lambda: hf.opt.as_optax(hf.Objective(model)).update(None, None, start(), batch=(X, T)),
        TypeError,
        "state is a NoneType",
    ),
    "a change of another shape": (
        lambda: stepped(
            hf.opt.FirstOrder(optax.GradientTransformation(lambda p: None, growing)),
            hf.opt.SGD().init(start()),
        ),
        ValueError,
        "change of the parameters is.*the same structure and shapes",
    ),
    "rate": (lambda: hf.opt.SGD(np.inf), ValueError, "l_rate is inf"),
    "negative weights": (lambda: hf.Objective(model).value(start(), (X, T, -np.ones(B))), ValueError, "none negative"),
    "stray axis among others": (
        lambda: hf.Objective(lambda p, x: (model(p, x)[:, 0], x), lambda o, t: o[0] - t[0].sum(-1)).value(
            start(), (X, (T[:, :1], X))
        ),
        ValueError,
        r"\(6,\).*\(6, 1\)",
    ),
    "stray axis": (
        lambda: hf.Objective(lambda p, x: model(p, x)[:, :1], half_square).value(start(), (X, T[:, 0])),
        ValueError,
        r"\(6, 1\).*\(6,\)",
    ),
    "matrix of losses": (
        lambda: hf.Objective(model, lambda o, t: (o - t) ** 2).value(start(), (X, T)),
        ValueError,
        r"returned shape \(6, 2\) for 6 examples",
    ),
    "other reduction": (
        lambda: hf.Objective(model, half_square, reduction="mean").value(start(), (X, T)),
        ValueError,
        "reduction is 'mean'",
    ),
    "model of one example": (
        lambda: hf.Objective(lambda p, x: model(p, x).sum()).value(start(), (X, T)),
        ValueError,
        "jax.vmap",
    ),
    "integers put out": (
        lambda: hf.Objective(lambda p, x: model(p, x).astype(int)).value(start(), (X, T)),
        TypeError,
        "must be float32",
    ),
    "labels beyond the last": (
        lambda: hf.Objective(model, "softmax_cross_entropy").value(start(), (X, LABELS + 1)),
        ValueError,
        r"labels from 0 to 1.*given 2",
    ),
    "labels on the device": (
        lambda: softmax_on(X, jnp.asarray(LABELS + 1)),
        ValueError,
        r"labels from 0 to 1.*given 2",
    ),
    "labels beside weights on the device": (
        lambda: softmax_on(X, LABELS + 1, jnp.ones(B)),
        ValueError,
        r"labels from 0 to 1.*given 2",
    ),
    "negative probabilities": (lambda: softmax_on(X, -abs(T)), ValueError, "probabilities of zero or more"),
    "half a label": (
        lambda: hf.Objective(model, "softmax_cross_entropy").value(start(), (X, LABELS + 0.5)),
        ValueError,
        "labels from 0 to 1",
    ),
    "one logit": (
        lambda: hf.Objective(lambda p, x: model(p, x)[:, :1], "softmax_cross_entropy").value(start(), (X, LABELS)),
        ValueError,
        "binary_cross_entropy",
    ),
    "targets of plus and minus one": (
        lambda: hf.Objective(model, "binary_cross_entropy").value(start(), (X, np.sign(T))),
        ValueError,
        "targets from 0 to 1",
    ),
    "negative counts": (
        lambda: hf.Objective(model, "poisson").value(start(), (X, -abs(T))),
        ValueError,
        "counts of zero or more",
    ),
    "inputs of another width": (
        lambda: hf.Objective(model).value(start(), (X[:, :2], T)),
        TypeError,
        r"model cannot be called with parameters.*inputs float32\[6, 2\]",
    ),
    "half precision put out": (
        lambda: hf.Objective(lambda p, x: model(p, x).astype(jnp.bfloat16)).value(start(), (X, T)),
        TypeError,
        "must be float32, as its parameters",
    ),
    "another precision put out": (
        lambda: hf.Objective(lambda p, x: model(p, x).astype(jnp.float32)).value(start(np.float64), (X, T)),
        TypeError,
        "must be float64",
    ),
    "seed": (lambda: hf.Objective(model, seed=-1), ValueError, "seed"),
    "inside jit": (
        lambda: jax.jit(lambda p: hf.opt.HessianFree().init(p))(start()),
        TypeError,
        r"outside jax\.jit",
    ),
    "no state": (
        lambda: hf.opt.HessianFree().step(hf.Objective(model), start(), None, (X, T)),
        TypeError,
        "state is a NoneType",
    ),
    "a state of other parameters": (
        lambda: hf.opt.HessianFree().step(hf.Objective(model), start(), state_of(start(np.float64)), (X, T)),
        ValueError,
        "belongs to other parameters.*float64.*float32",
    ),
    "a loss in numpy": (
        lambda: hf.Objective(model, lambda o, t: np.square(np.asarray(o) - t).sum(-1)).value(start(), (X, T)),
        TypeError,
        r"The loss <lambda> cannot be called(.|\n)*TracerArrayConversionError",
    ),
    "a loss that looks at values": (
        lambda: hf.Objective(model, lambda o, t: (o if o[0, 0] > 0 else -o).sum(-1)).value(start(), (X, T)),
        TypeError,
        r"The loss <lambda> cannot be called(.|\n)*boolean",
    ),
    "a loss in whole numbers": (
        lambda: hf.Objective(model, lambda o, t: jnp.sum(o > t, -1)).value(start(), (X, T)),
        TypeError,
        "The loss <lambda> returned int.*real floats",
    ),
    "a line search": (lambda: hf.opt.FirstOrder(optax.lbfgs()), TypeError, "want the loss's value"),
    "not finite": (
        lambda: hf.opt.HessianFree().init({**start(), "b": np.array([0, np.nan], np.float32)}),
        ValueError,
        r"\['b'\] holds 1 of 2",
    ),
    "no objective": (
        lambda: hf.opt.HessianFree().step(model, start(), hf.opt.HessianFree().init(start()), (X, T)),
        TypeError,
        r"hf.Objective\(model, loss\) is expected",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_with_what_was_given_and_expected(name):
    act, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        act()


def test_a_model_that_returns_nan_says_where_and_when():
    def breaks(p, x):
        return {"good": x @ p["W"], "bad": jnp.sqrt(x[:, :1] @ p["W"][:1] - 1e3)}

    params = {"W": start()["W"]}
    targets = {"good": np.zeros((B, 4), np.float32), "bad": np.zeros((B, 4), np.float32)}
    optimizer = hf.opt.HessianFree()
    after, _, info = optimizer.step(hf.Objective(breaks), params, optimizer.init(params), (X, targets))
    assert not info.accepted
    assert (
        info.reason == "update 0: the model's outputs are not finite: ['bad'] holds 24 of 24 that are NaN or infinite"
    )
    np.testing.assert_array_equal(after["W"], params["W"])


@pytest.mark.parametrize("optimizer", [hf.opt.HessianFree(), hf.opt.SGD(), hf.opt.FirstOrder(optax.adam(1e-3))])
def test_infinite_targets_are_named(optimizer):
    t = T.copy()
    t[0] = np.nan, np.inf  # NaN is unknown
    reason = optimizer.step(hf.Objective(model), start(), optimizer.init(start()), (X, t))[2].reason
    assert reason == "update 0: the targets are not finite: the only leaf holds 1 of 12 that are NaN or infinite"


@pytest.mark.parametrize("transformation", [optax.scale(np.nan), optax.scale(np.inf)])
def test_a_change_that_is_not_finite_is_no_fault_of_the_loss(transformation):
    optimizer = hf.opt.FirstOrder(transformation)
    params, _, record = optimizer.step(hf.Objective(model), start(), optimizer.init(start()), (X, T))
    assert "change is not finite" in record.reason
    assert not record.accepted
    np.testing.assert_array_equal(params["W"], start()["W"])


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_gradients_whose_squares_are_beyond_float32_are_gradients(scale):
    x, t = np.float32(scale) * X, np.float32(scale) * X @ np.ones((X.shape[1], 1), np.float32)
    optimizer, params = hf.opt.HessianFree(init_damping=1e-6 * scale**2), np.zeros((X.shape[1], 1), np.float32)
    objective = hf.Objective(lambda p, x: x @ p)
    moved, _, record = optimizer.step(objective, params, optimizer.init(params), (x, t))
    expected = np.linalg.norm(x.astype(float).T @ t.astype(float)) / B
    assert record.gradient_norm == pytest.approx(expected, rel=1e-5)
    assert record.reduction_ratio == pytest.approx(1, rel=1e-2)
    np.testing.assert_allclose(moved, 1, rtol=1e-2)


def test_inputs_that_are_not_finite_are_named():
    optimizer, params = hf.opt.HessianFree(), start()
    x = X.copy()
    x[2, 1] = np.inf
    _, _, info = optimizer.step(hf.Objective(model), params, optimizer.init(params), (x, T))
    assert not info.accepted
    assert "the inputs are not finite: the only leaf holds 1 of 18" in info.reason


@partial(jax.tree_util.register_dataclass, data_fields=("scale",), meta_fields=())
@dataclass(frozen=True)
class Scaled:
    """Squared errors, each output with a weight of its own."""

    scale: Any

    def __call__(self, outputs, targets):
        return jnp.sum(0.5 * self.scale * (outputs - targets) ** 2, axis=-1)


@partial(jax.tree_util.register_dataclass, data_fields=("mean",), meta_fields=())
@dataclass(frozen=True)
class Centred:
    """A model that takes its inputs less a mean."""

    mean: Any

    def __call__(self, params, x):
        return jnp.tanh((x - self.mean) @ params["W"])


def test_a_loss_and_a_model_may_hold_arrays():
    """Their arrays are traced: the numbers are right, and other numbers compile nothing."""
    rng = np.random.RandomState(3)
    x, t, params = rng.randn(6, 3), rng.randn(6, 2), {"W": rng.randn(3, 2)}

    def check(seed):
        scale, mean = np.random.RandomState(seed).rand(2), np.random.RandomState(seed).randn(3)
        local = hf.Objective(Centred(mean), Scaled(scale)).linearize(params, (x, t))
        o = np.tanh((x - mean) @ params["W"])
        assert float(local.value) == pytest.approx(np.mean(np.sum(0.5 * scale * (o - t) ** 2, axis=1)), rel=1e-12)
        gradient = (x - mean).T @ (scale * (o - t) * (1 - o**2)) / len(x)
        np.testing.assert_allclose(local.gradient["W"], gradient, rtol=1e-10)

    check(0)
    with compilations() as events:
        check(1)
    assert events == []
