"""The network in numpy: what it computes is what `FFNet` computes compiled, in float64."""

import numpy as np
import pytest

import hessianfree as hf

pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

from hessianfree.sklearn import dense, links
from hessianfree.sklearn.dense import DenseNetwork, DenseObjective

RNG = np.random.RandomState(0)
X, WEIGHTS = RNG.randn(20, 3), RNG.rand(20)


def targets(link, units):
    values = RNG.rand(20, units)
    return values / values.sum(axis=1, keepdims=True) if link is links.SOFTMAX else values


@pytest.mark.parametrize(("link", "units"), [(links.LINEAR, 2), (links.LOGISTIC, 3), (links.SOFTMAX, 4)])
@pytest.mark.parametrize("block", [2**16, 30], ids=["one block", "blocks of six"])
def test_value_gradient_and_products_are_those_of_the_compiled_network(link, units, block, monkeypatch):
    monkeypatch.setattr(dense, "BLOCK", block)
    network = DenseNetwork((3, 5, 4, units), hf.nl.Tanh())
    W, v, t = network.initial(RNG), RNG.randn(network.size), targets(link, units)
    ours = DenseObjective(network, link, X, t, WEIGHTS, decay=0.0)
    layers = ["Linear", "Tanh", "Tanh", link.layer]
    net = hf.FFNet(network.shape, layers=layers, loss_type=link.loss(), load_weights=W, dtype=np.float64)
    net.cache_minibatch(X, t, weights=WEIGHTS)
    assert ours.value(W) == pytest.approx(net.error(), rel=1e-12)
    np.testing.assert_allclose(ours.gradient(W), net.calc_grad(), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(ours.product(W, v), net.calc_G(v), rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(link.predicted(network.outputs(W, X)), net.forward(X)[-1], rtol=1e-9)


@pytest.mark.parametrize("name", ["ReLU", "Logistic", "Gaussian", "SoftLIF", "Linear"])
def test_gradient_is_the_slope_of_the_value_for_every_activation(name):
    network = DenseNetwork((3, 6, 2), getattr(hf.nl, name)())
    W, v = network.initial(RNG), RNG.randn(network.size)
    f = DenseObjective(network, links.LINEAR, X, RNG.randn(20, 2), WEIGHTS, decay=0.1)
    step = 1e-6
    slope = (f.value(W + step * v) - f.value(W - step * v)) / (2 * step)
    assert f.gradient(W) @ v == pytest.approx(slope, rel=1e-6)


def test_decay_counts_matrices_and_not_biases():
    network = DenseNetwork((3, 4, 1), hf.nl.Tanh())
    W, v = network.initial(RNG), RNG.randn(network.size)
    of_matrices = np.concatenate([np.ones(12), np.zeros(4), np.ones(4), np.zeros(1)])
    plain, decaying = (DenseObjective(network, links.LINEAR, X, X[:, :1], WEIGHTS, c) for c in (0.0, 0.5))
    assert decaying.value(W) - plain.value(W) == pytest.approx(0.25 * of_matrices @ W**2)
    np.testing.assert_allclose(decaying.gradient(W) - plain.gradient(W), 0.5 * of_matrices * W, atol=1e-14)
    np.testing.assert_allclose(decaying.product(W, v) - plain.product(W, v), 0.5 * of_matrices * v, atol=1e-14)


def test_products_stay_those_of_the_weights_asked_for_after_trial_values():
    network = DenseNetwork((3, 4, 1), hf.nl.Tanh())
    W, v = network.initial(RNG), RNG.randn(network.size)
    f = DenseObjective(network, links.LINEAR, X, X[:, :1], WEIGHTS, 0.1)
    expected = f.product(W, v)
    f.value(W + v)
    np.testing.assert_array_equal(f.product(W, v), expected)
    assert not np.allclose(f.product(W + v, v), expected)
