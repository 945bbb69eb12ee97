"""Losses on outputs: closed forms against automatic derivatives and against their distributions."""

from __future__ import annotations

import math
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hessianfree.engine import losses
from hessianfree.engine.models import held

from problems import per_example

B, N = 4, 3
rng = np.random.RandomState(0)
OUTPUTS = {"a": rng.randn(B, N), "b": rng.randn(B, 2, N)}
TARGETS = {
    "squared_error": jax.tree.map(lambda o: rng.randn(*o.shape), OUTPUTS),
    "binary_cross_entropy": jax.tree.map(lambda o: rng.rand(*o.shape), OUTPUTS),
    "poisson": jax.tree.map(lambda o: rng.poisson(2, o.shape).astype(float), OUTPUTS),
    "softmax_cross_entropy": jax.tree.map(lambda o: rng.dirichlet(np.ones(N), o.shape[:-1]), OUTPUTS),
}
NAMES = list(losses.BY_NAME)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def flat(tree):
    return np.concatenate([np.asarray(leaf).reshape(B, -1) for leaf in jax.tree.leaves(tree)], axis=1)


def formula(name, o, t):
    """Written with optax and numpy, entry by entry."""
    if name == "squared_error":
        return optax.l2_loss(o, t)
    if name == "binary_cross_entropy":
        return optax.sigmoid_binary_cross_entropy(o, t)
    if name == "poisson":
        return jnp.exp(o) - t * o
    return optax.softmax_cross_entropy(o, t)


def by_formula(name, outputs, targets):
    return sum(
        formula(name, o, t).reshape(B, -1).sum(axis=1)
        for o, t in zip(jax.tree.leaves(outputs), jax.tree.leaves(targets), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_values_gradients_and_curvature_against_autodiff_of_the_formula(name):
    loss, targets = losses.BY_NAME[name], TARGETS[name]
    np.testing.assert_allclose(loss.values(OUTPUTS, targets), by_formula(name, OUTPUTS, targets), rtol=1e-12)
    expected = jax.grad(lambda o: by_formula(name, o, targets).sum())
    np.testing.assert_allclose(flat(loss.gradients(OUTPUTS, targets)), flat(expected(OUTPUTS)), rtol=1e-10, atol=1e-12)
    u = jax.tree.map(lambda o: rng.randn(*o.shape), OUTPUTS)
    _, product = jax.jvp(expected, (OUTPUTS,), (u,))
    np.testing.assert_allclose(flat(loss.curvature(OUTPUTS, targets)(u)), flat(product), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("o", [-30.0, -1.0, 0.0, 1.0, 30.0])
def test_autodiff_of_the_logistic_loss_is_right_at_zero_too(o, t):
    """Outputs start at zero where the last layer does."""
    p = 1 / (1 + math.exp(-o))
    assert losses.logistic_loss(o, t) == pytest.approx(math.log1p(math.exp(o)) - t * o, rel=1e-10, abs=1e-12)
    assert jax.grad(losses.logistic_loss)(o, t) == pytest.approx(p - t, rel=1e-10, abs=1e-12)
    assert losses.logistic_gradient(jnp.asarray(o), t) == pytest.approx(p - t, rel=1e-10, abs=1e-12)
    second = jax.grad(jax.grad(losses.logistic_loss))(o, t)
    assert second == pytest.approx(p * (1 - p), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("t", [0.0, 1.0])
@pytest.mark.parametrize("o", [3.0, 15.0, 40.0])
def test_confident_logits_keep_their_digits_in_float32(o, t):
    """Right ones: value log(1 + exp(-|o|)), slope -+1 / (1 + exp(|o|)), both far below the rounding of o."""
    loss, sign = losses.BY_NAME["binary_cross_entropy"], 2 * t - 1
    at = np.full((1, 1), sign * o, np.float32), np.full((1, 1), t, np.float32)
    np.testing.assert_allclose(loss.values(*at), math.log1p(math.exp(-o)), rtol=1e-5)
    np.testing.assert_allclose(loss.gradients(*at), [[-sign / (1 + math.exp(o))]], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_sampled_gradients_have_zero_mean_and_covariance_h(name):
    loss, o, t = losses.BY_NAME[name], OUTPUTS["a"], TARGETS[name]["a"]
    draws = 20_000
    samples = jax.vmap(lambda key: loss.sample(o, t, key))(jax.random.split(jax.random.key(1), draws))
    H = np.stack([loss.curvature(o, t)(jnp.broadcast_to(e, o.shape)) for e in np.eye(N)], axis=-1)
    products = np.einsum("sbi,sbj->sbij", samples, samples)
    for found, expected in ((np.asarray(samples), 0), (products, H)):
        error = found.std(axis=0) / np.sqrt(draws)
        assert (abs(found.mean(axis=0) - expected) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("name", NAMES)
def test_unknown_targets_count_for_nothing(name):
    loss, o = losses.BY_NAME[name], OUTPUTS["a"]
    t = TARGETS[name]["a"].copy()
    t[1] = np.nan
    assert loss.values(o, t)[1] == 0
    assert (loss.gradients(o, t)[1] == 0).all()
    assert (loss.curvature(o, t)(jnp.ones_like(o))[1] == 0).all()
    assert (loss.sample(o, t, jax.random.key(0))[1] == 0).all()
    known = np.array([0, 2, 3])
    np.testing.assert_allclose(loss.values(o, t)[known], loss.values(o, TARGETS[name]["a"])[known])
    derivative = jax.grad(lambda o: loss.values(o, t).sum())(o)
    assert np.isfinite(derivative).all()


def test_labels_are_ones_in_their_place():
    loss, o = losses.BY_NAME["softmax_cross_entropy"], OUTPUTS["a"]
    labels = np.array([0, 2, 1, 2])
    expected = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(o), labels)
    np.testing.assert_allclose(loss.values(o, labels), expected, rtol=1e-12)
    masked = loss.values(o, np.array([0, -1, 1, 2]))
    assert masked[1] == 0
    assert masked[0] > 0


def test_binary_curvature_survives_saturation():
    with jax.enable_x64(False):
        o = jnp.full((1, 1), 30.0)
        found = losses.LOGISTIC_CROSS_ENTROPY.curvature(o, jnp.ones((1, 1)))(jnp.ones((1, 1)))
    np.testing.assert_allclose(found, np.exp(-30.0), rtol=1e-5)


def test_one_number_for_the_batch_counts_as_it_is():
    o, t = OUTPUTS["a"], TARGETS["squared_error"]["a"]

    def mixing(o, t):  # the examples mix
        return jnp.var(o - t) + jnp.mean((o - t) ** 4)

    loss = losses.Mean(held(mixing))
    w = np.full(B, 1 / B)
    np.testing.assert_allclose((w * loss.values(o, t)).sum(), mixing(o, t), rtol=1e-12)
    np.testing.assert_allclose(w[:, None] * loss.gradients(o, t), jax.grad(mixing)(o, t), rtol=1e-12)
    u = rng.randn(*o.shape)
    H = jax.hessian(mixing)(o, t).reshape(B * N, B * N)
    np.testing.assert_allclose((w[:, None] * loss.curvature(o, t)(u)).ravel(), H @ u.ravel(), rtol=1e-10)


def test_own_curvature_is_used():
    class Doubled:
        def __call__(self, o, t):
            return 0.5 * ((o - t) ** 2).sum(axis=-1)

        def curvature(self, o, t):
            return lambda u: 2 * u

    loss, o, t = losses.PerExample(held(Doubled())), OUTPUTS["a"], TARGETS["squared_error"]["a"]
    np.testing.assert_allclose(loss.gradients(o, t), o - t, rtol=1e-12)
    np.testing.assert_allclose(loss.curvature(o, t)(jnp.ones_like(o)), 2)


@pytest.mark.long
def test_positive_part_of_a_curvature_that_is_not():
    def bumpy(outputs, t):
        o = jnp.concatenate([outputs["a"], outputs["b"].reshape(B, -1)], axis=1)
        return (1 - jnp.exp(-((o - 0.3) ** 2))).sum(axis=1) + o[:, 0] * o[:, 1]

    loss = losses.Convexified(per_example(bumpy))
    u = jax.tree.map(lambda o: rng.randn(*o.shape), OUTPUTS)
    found = flat(loss.curvature(OUTPUTS, None)(u))

    def of_one(row, i):
        a, b = row[:N], row[N:]
        outputs = {
            "a": jnp.asarray(OUTPUTS["a"]).at[i].set(a),
            "b": jnp.asarray(OUTPUTS["b"]).at[i].set(b.reshape(2, N)),
        }
        return bumpy(outputs, None)[i]

    for i, row in enumerate(flat(OUTPUTS)):
        values, vectors = np.linalg.eigh(jax.hessian(of_one)(row, i))
        assert values[0] < 0  # or the test shows nothing
        expected = vectors @ np.diag(np.maximum(values, 0)) @ vectors.T @ flat(u)[i]
        np.testing.assert_allclose(found[i], expected, rtol=1e-8, atol=1e-12)


def test_a_function_names_no_distribution():
    with pytest.raises(TypeError, match="names no distribution"):
        per_example(lambda o, t: o).sample(OUTPUTS, None, jax.random.key(0))


@pytest.mark.parametrize("name", losses.BY_NAME)
def test_named_losses_can_be_pickled(name):
    assert pickle.loads(pickle.dumps(losses.BY_NAME[name])) == losses.BY_NAME[name]
