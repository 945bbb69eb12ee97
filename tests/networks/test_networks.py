"""Whole networks against dense references: value, gradient and G for every layer, loss and connectivity."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessianfree as hf
from hessianfree.engine.preconditioners import squared_gradients

import dense
from problems import cache

CHAIN, SKIPS = {0: [1], 1: [2]}, {0: [1, 2], 1: [2]}

CASES = [
    *[(["Linear", name, "Linear"], "SquaredError", CHAIN) for name in hf.nl.BY_NAME if name != "Linear"],
    *[(["Linear", "Tanh", name], "SquaredError", SKIPS) for name in hf.nl.BY_NAME],
    *[(["Linear", "Tanh", name], "BinaryCrossEntropy", CHAIN) for name in ("Logistic", "Softmax")],
    (["Linear", "Logistic", "Softmax"], "CrossEntropy", SKIPS),
    (["Linear", "Tanh", "Logistic"], "CrossEntropy", CHAIN),
    (["Tanh", "Gaussian", "Linear"], "SquaredError", SKIPS),
]


def network(names, loss, conns, seed=0, **kwargs):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "CrossEntropy with Logistic")
        return hf.FFNet(
            [2, 3, 2],
            layers=[getattr(hf.nl, name)() for name in names],
            loss_type=getattr(hf.loss_funcs, loss)(),
            conns=conns,
            rng=seed,
            dtype=np.float64,
            W_init_params={"init_type": "gaussian", "coeff": 0.7},
            **kwargs,
        )


def data(rng, loss, size=4):
    t = rng.rand(size, 2)
    if loss == "CrossEntropy":
        t /= t.sum(axis=1, keepdims=True)
    return rng.randn(size, 2), t


@pytest.mark.parametrize(("names", "loss", "conns"), CASES)
def test_value_gradient_and_curvature(names, loss, conns):
    net = network(names, loss, conns)
    net.W += 0.1 * np.random.RandomState(1).randn(net.W.size)
    x, t = data(np.random.RandomState(2), loss)
    net.cache_minibatch(x, t)

    run = lambda w: dense.run(net.shape, conns, names, w, x)
    value = lambda w: dense.loss(loss, run(w)[1][-1], t).mean()
    assert net.error() == pytest.approx(value(net.W), rel=1e-9)
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(value, net.W), rtol=1e-5, atol=1e-8)

    # Where the loss matches the output layer, G is that of the logits; elsewhere that of the outputs.
    matched = (names[-1], loss) in (("Softmax", "CrossEntropy"), ("Logistic", "BinaryCrossEntropy"))
    outputs = (lambda w: run(w)[0][-1]) if matched else (lambda w: run(w)[1][-1])
    last = (lambda z: dense.activation(names[-1], z)) if matched else (lambda a: a)
    reference = dense.gauss_newton(outputs, lambda q: dense.loss(loss, last(q), t), net.W)
    G = np.stack([net.calc_G(e) for e in np.eye(net.W.size)])
    np.testing.assert_allclose(G, reference, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 2**31 - 1))
def test_curvature_is_symmetric_and_positive(seed):
    net = SHARED
    rng = np.random.RandomState(seed)
    net.W = rng.randn(net.W.size)
    net.cache_minibatch(*data(rng, "CrossEntropy"))
    x, y = rng.randn(2, net.W.size)
    assert y @ net.calc_G(x) == pytest.approx(x @ net.calc_G(y), rel=1e-8, abs=1e-12)
    assert x @ net.calc_G(x) >= -1e-12


SHARED = network(["Linear", "Tanh", "Softmax"], "CrossEntropy", SKIPS)


def test_nan_targets_count_for_nothing():
    for loss, last in [("SquaredError", "Linear"), ("BinaryCrossEntropy", "Logistic"), ("CrossEntropy", "Softmax")]:
        net = network(["Linear", "Tanh", last], loss, CHAIN)
        x, t = data(np.random.RandomState(3), loss)
        t[0] = np.nan
        net.cache_minibatch(x, t)
        gradient, product, value = net.calc_grad(), net.calc_G(np.ones(net.W.size)), net.error()
        net.cache_minibatch(x[1:], t[1:])
        # The example still counts in the mean, with no error.
        np.testing.assert_allclose(gradient, 0.75 * net.calc_grad(), rtol=1e-9)
        np.testing.assert_allclose(product, 0.75 * net.calc_G(np.ones(net.W.size)), rtol=1e-9)
        assert value == pytest.approx(0.75 * net.error())


def test_a_single_nan_target_leaves_the_other_units():
    net = network(["Linear", "Tanh", "Linear"], "SquaredError", CHAIN)
    x, t = data(np.random.RandomState(4), "SquaredError")
    t[1, 0] = np.nan
    value = lambda w: dense.loss(
        "SquaredError", dense.run(net.shape, CHAIN, ["Linear", "Tanh", "Linear"], w, x)[1][-1], t
    ).mean()
    net.cache_minibatch(x, t)
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(value, net.W), rtol=1e-5, atol=1e-9)


def test_penalties_and_sets_add_up():
    parts = [
        hf.loss_funcs.SquaredError(),
        hf.loss_funcs.SparseL2(0.3, layers=[1], target=0.1),
        hf.loss_funcs.SparseL1(0.2, layers=[1]),
    ]
    names = ["Linear", "Tanh", "Linear"]
    net = hf.FFNet([2, 3, 2], layers=names, loss_type=parts, rng=0, dtype=np.float64)
    x, t = data(np.random.RandomState(5), "SquaredError")
    net.cache_minibatch(x, t)

    def value(w):
        a = dense.run(net.shape, CHAIN, names, w, x)[1]
        penalty = 0.15 * (a[1] - 0.1) ** 2 + 0.2 * abs(a[1])
        return (dense.loss("SquaredError", a[2], t) + penalty.sum(axis=1)).mean()

    assert net.error() == pytest.approx(value(net.W))
    assert net.loss.batch_loss(net.forward(x), t) == pytest.approx(value(net.W))
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(value, net.W), rtol=1e-5, atol=1e-8)
    hidden = lambda w: dense.run(net.shape, CHAIN, names, w, x)[1][1]
    outputs = lambda w: dense.run(net.shape, CHAIN, names, w, x)[1][2]
    J1, J2 = dense.jacobian(hidden, net.W), dense.jacobian(outputs, net.W)
    reference = (np.einsum("bip,biq->pq", J2, J2) + 0.3 * np.einsum("bip,biq->pq", J1, J1)) / len(x)
    G = np.stack([net.calc_G(e) for e in np.eye(net.W.size)])
    np.testing.assert_allclose(G, reference, rtol=1e-5, atol=1e-8)


def test_structural_damping_is_curvature_alone_and_follows_the_optimizer():
    optimizer = hf.opt.HessianFree(init_damping=8)
    damping = hf.loss_funcs.StructuralDamping(0.5, layers=[1], optimizer=optimizer)
    names = ["Linear", "Tanh", "Linear"]
    plain = hf.FFNet([2, 3, 2], layers=names, rng=0, dtype=np.float64)
    net = hf.FFNet([2, 3, 2], layers=names, loss_type=[hf.loss_funcs.SquaredError(), damping], rng=0, dtype=np.float64)
    x, t = data(np.random.RandomState(6), "SquaredError")
    plain.cache_minibatch(x, t)
    net.cache_minibatch(x, t)
    assert net.error() == pytest.approx(plain.error())
    np.testing.assert_allclose(net.calc_grad(), plain.calc_grad(), rtol=1e-12)
    J = dense.jacobian(lambda w: dense.run(net.shape, CHAIN, names, w, x)[1][1], net.W)
    added = np.einsum("bip,biq->pq", J, J) / len(x)
    v = np.random.RandomState(7).randn(net.W.size)
    for value in (8.0, 3.0):
        optimizer.damping = value
        np.testing.assert_allclose(net.calc_G(v) - plain.calc_G(v), 0.5 * value * added @ v, rtol=1e-5, atol=1e-8)


def test_products_with_damping_and_out():
    net = network(["Linear", "Tanh", "Linear"], "SquaredError", CHAIN)
    net.cache_minibatch(*data(np.random.RandomState(8), "SquaredError"))
    v, out = np.random.RandomState(9).randn(net.W.size), np.empty(net.W.size)
    assert net.calc_G(v, damping=2.0, out=out) is out
    np.testing.assert_allclose(out, net.calc_G(v) + 2 * v, rtol=1e-12)


@pytest.mark.parametrize("conns", [CHAIN, SKIPS])
def test_mean_squared_gradients_are_exact(conns):
    import jax

    net = network(["Linear", "Tanh", "Softmax"], "CrossEntropy", conns)
    x, t = data(np.random.RandomState(10), "CrossEntropy")
    squares = []
    for i in range(len(x)):
        net.cache_minibatch(x, t, [i])
        squares.append(net.calc_grad() ** 2)
    net.cache_minibatch(x, t)
    with net.computing():
        found = jax.jit(squared_gradients)(net.problem(), net.params(), net.batch())
        flat = net.flat(jax.device_get(found))
    np.testing.assert_allclose(flat, np.mean(squares, axis=0), rtol=1e-9, atol=1e-15)


def test_forward_agrees_with_the_reference_and_gives_derivatives():
    names = ["Linear", "Tanh", "Softmax"]
    net = network(names, "CrossEntropy", SKIPS)
    x, _ = data(np.random.RandomState(11), "CrossEntropy")
    a, d = net.forward(x, deriv=True)
    z, reference = dense.run(net.shape, SKIPS, names, net.W, x)
    for layer in range(3):
        np.testing.assert_allclose(a[layer], reference[layer], rtol=1e-10)
    np.testing.assert_allclose(d[1], 1 - np.tanh(z[1]) ** 2, rtol=1e-9)
    jac = np.stack([dense.jacobian(lambda q: dense.activation("Softmax", q), row) for row in z[2]])
    np.testing.assert_allclose(d[2], jac, rtol=1e-6, atol=1e-9)
    other = net.W + 1
    np.testing.assert_allclose(
        net.forward(x, other)[-1], dense.run(net.shape, SKIPS, names, other, x)[1][-1], rtol=1e-9
    )


def test_softmax_cross_entropy_with_targets_that_do_not_sum_to_one():
    names = ["Linear", "Tanh", "Softmax"]
    net = network(names, "CrossEntropy", CHAIN)
    rng = np.random.RandomState(12)
    x, t = rng.randn(4, 2), 3 * rng.rand(4, 2)
    net.cache_minibatch(x, t)
    logits = lambda w: dense.run(net.shape, CHAIN, names, w, x)[0][-1]
    per_example = lambda z: dense.loss("CrossEntropy", dense.activation("Softmax", z), t)
    np.testing.assert_allclose(
        net.calc_grad(), dense.jacobian(lambda w: per_example(logits(w)).mean(), net.W), rtol=1e-5, atol=1e-8
    )
    G = np.stack([net.calc_G(e) for e in np.eye(net.W.size)])
    np.testing.assert_allclose(G, dense.gauss_newton(logits, per_example, net.W), rtol=1e-4, atol=1e-5)


def test_mean_squared_gradients_honour_the_weights_of_padding():
    import jax

    net = network(["Linear", "Tanh", "Softmax"], "CrossEntropy", CHAIN)
    x, t = data(np.random.RandomState(13), "CrossEntropy")
    found = []
    for size in (3, 5):
        cache(net, x[:3], t[:3], size)
        with net.computing():
            squares = jax.jit(squared_gradients)(net.problem(), net.params(), net.batch())
            found.append(net.flat(jax.device_get(squares)))
    np.testing.assert_allclose(found[1], found[0], rtol=1e-12)


def test_swapping_the_output_layer_changes_what_the_loss_looks_at():
    net = network(["Linear", "Tanh", "Logistic"], "BinaryCrossEntropy", CHAIN)
    x, t = data(np.random.RandomState(14), "BinaryCrossEntropy")
    net.cache_minibatch(x, t)
    net.calc_grad()
    net.layers[-1] = hf.nl.Softmax()
    fresh = network(["Linear", "Tanh", "Softmax"], "BinaryCrossEntropy", CHAIN)
    fresh.cache_minibatch(x, t)
    np.testing.assert_allclose(net.calc_grad(), fresh.calc_grad(), rtol=1e-12)
    assert net.error() == pytest.approx(fresh.error())
