from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.engine import linearization
from hessianfree.engine import objective as ob
from hessianfree.engine.objective import Batch
from hessianfree.engine.preconditioners import example_by_example

from problems import per_example, traced


def model(p, x):
    return jnp.tanh(x @ p["W"]) @ p["v"]


def softplus_loss(o, t):
    return jnp.log1p(jnp.exp(o)) - t * o


MODEL = traced(model, per_example(softplus_loss))


def problem(seed, size=6):
    rng = np.random.RandomState(seed)
    params = {"W": rng.randn(3, 2), "v": rng.randn(2)}
    return params, Batch(rng.randn(size, 3), rng.rand(size), rng.rand(size) + 0.1)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def dense(params, batch):
    """Value, gradient and G in numpy, from the formulas of this very model."""
    W, v = params["W"], params["v"]
    w = batch.weights / batch.weights.sum()
    h = np.tanh(batch.inputs @ W)
    o = h @ v
    s = 1 / (1 + np.exp(-o))
    J = np.stack(
        [np.concatenate([np.outer(x, v * (1 - a**2)).ravel(), a]) for x, a in zip(batch.inputs, h, strict=True)]
    )
    return (
        (w * (np.log1p(np.exp(o)) - batch.targets * o)).sum(),
        J.T @ (w * (s - batch.targets)),
        (J.T * (w * s * (1 - s))) @ J,
    )


def test_value_gradient_and_product_against_formulas():
    params, batch = problem(0)
    value, gradient, G = dense(params, batch)
    with jax.enable_x64(True):
        found, found_gradient = linearization.value_and_gradient(MODEL, params, batch)
        rng = np.random.RandomState(1)
        v = {"W": rng.randn(3, 2), "v": rng.randn(2)}
        product = linearization.curvature_product(MODEL, params, batch, v)
        assert MODEL.value(params, batch) == pytest.approx(value, rel=1e-12)
        np.testing.assert_allclose(found, value, rtol=1e-12)
        np.testing.assert_allclose(flat(found_gradient), gradient, rtol=1e-10)
        np.testing.assert_allclose(flat(product), G @ flat(v), rtol=1e-10)


@given(st.integers(0, 2**31 - 1))
def test_the_product_is_symmetric_and_positive(seed):
    params, batch = problem(seed)
    rng = np.random.RandomState(seed)
    x, y = ({"W": rng.randn(3, 2), "v": rng.randn(2)} for _ in range(2))
    with jax.enable_x64(True):
        Gx, Gy = (flat(linearization.curvature_product(MODEL, params, batch, v)) for v in (x, y))
    assert flat(y) @ Gx == pytest.approx(flat(x) @ Gy, rel=1e-9, abs=1e-12)
    assert flat(x) @ Gx >= -1e-12


def test_gauss_newton_is_the_hessian_of_a_linear_model_with_squared_error():
    rng = np.random.RandomState(0)
    linear = traced(lambda p, x: x @ p, per_example(lambda o, t: 0.5 * ((o - t) ** 2).sum(axis=-1)))
    with jax.enable_x64(True):
        p, batch = rng.randn(3, 2), Batch(rng.randn(5, 3), rng.randn(5, 2), np.ones(5))
        hessian = jax.hessian(lambda q: ob.mean_loss(linear, q, batch))(p).reshape(6, 6)
        G = np.stack([np.ravel(linearization.curvature_product(linear, p, batch, e.reshape(3, 2))) for e in np.eye(6)])
    np.testing.assert_allclose(G, hessian, rtol=1e-10, atol=1e-12)


def test_weights_pad_and_repeat_examples():
    params, batch = problem(2, size=4)
    twice = jax.tree.map(lambda a: np.concatenate([a, a[:1]]), batch)
    weighted = Batch(batch.inputs, batch.targets, np.array([2.0, 1, 1, 1]))
    repeated = Batch(twice.inputs, twice.targets, np.ones(5))
    padded = Batch(twice.inputs, twice.targets, np.array([2.0, 1, 1, 1, 0]))
    with jax.enable_x64(True):
        gradients = [flat(linearization.value_and_gradient(MODEL, params, b)[1]) for b in (weighted, repeated, padded)]
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-12)
    np.testing.assert_allclose(gradients[2], gradients[0], rtol=1e-12)


def test_a_batch_without_any_weight_weighs_nothing():
    params, batch = problem(3)
    with jax.enable_x64(True):
        assert MODEL.value(params, batch._replace(weights=np.zeros(6))) == 0


@pytest.mark.parametrize("chunk", [1, 4, 5, 32])
def test_mean_squared_gradients_example_by_example(chunk):
    params, batch = problem(4, size=10)
    w = batch.weights / batch.weights.sum()
    with jax.enable_x64(True):
        found = flat(example_by_example(MODEL, params, batch, chunk))
    singles = [
        dense(params, Batch(batch.inputs[i : i + 1], batch.targets[i : i + 1], np.ones(1)))[1] for i in range(10)
    ]
    np.testing.assert_allclose(found, (w[:, None] * np.square(singles)).sum(axis=0), rtol=1e-10)


def test_a_model_without_network_keeps_its_pytree_types():
    params = {"W": np.ones((3, 2), np.float32), "v": [np.ones(2, np.float32)][0]}
    _, batch = problem(5)
    single = jax.tree.map(lambda a: a.astype(np.float32), batch)
    value, gradient = linearization.value_and_gradient(MODEL, params, single)
    assert value.dtype == np.float32
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}
