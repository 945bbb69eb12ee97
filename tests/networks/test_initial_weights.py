"""Orthogonal recurrent weights, spectral radii, and what is said of weights that make a network chaotic."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import hessianfree as hf
from hessianfree.networks import expansion


def recurrent(net, layer=1):
    return net.get_weights(net.W, (layer, layer))[0]


@pytest.mark.parametrize("shape", [(20, 20), (7, 12), (12, 7)])
def test_orthogonal_matrices(shape):
    net = hf.FFNet([2, 1], rng=0, dtype=np.float64)
    W = net.init_weights([shape], coeff=0.5, init_type="orthogonal")[: -shape[1]].reshape(shape)
    small = W @ W.T if shape[0] <= shape[1] else W.T @ W
    np.testing.assert_allclose(small, 0.25 * np.eye(min(shape)), atol=1e-12)


@pytest.mark.parametrize("init_type", ["sparse", "uniform", "gaussian", "orthogonal"])
def test_spectral_radii(init_type):
    params = {"init_type": init_type, "spectral_radius": 1.3}
    net = hf.RNNet([2, 40, 3], W_rec_params=params, rng=0, dtype=np.float64)
    eigenvalues = np.linalg.eigvals(recurrent(net))
    assert np.abs(eigenvalues).max() == pytest.approx(1.3, rel=1e-9)
    # The direction of the draw is what it is without a radius.
    plain = recurrent(hf.RNNet([2, 40, 3], W_rec_params={"init_type": init_type}, rng=0, dtype=np.float64))
    np.testing.assert_allclose(recurrent(net) / 1.3 * np.abs(np.linalg.eigvals(plain)).max(), plain, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_estimates_of_spectral_radii(seed):
    W = np.random.RandomState(seed).randn(60, 60)
    truth = np.abs(np.linalg.eigvals(W)).max()
    assert expansion.spectral_radius(W) == pytest.approx(truth, rel=0.08)
    assert expansion.spectral_radius(np.triu(W[:9, :9], 1)) == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"spectral_radius": 1.0, "coeff": 0.5}, "both set the scale"),
        ({"spectral_radius": -1.0}, "a finite number >= 0"),
        ({"spectral_radius": [1.0, 2.0]}, "lists 2 values, but there are 1"),
        ({"init_type": "identity"}, "'orthogonal'"),
    ],
)
def test_mistakes(params, message):
    with pytest.raises(ValueError, match=message):
        hf.RNNet([2, 5, 1], W_rec_params=params)
    with pytest.raises(ValueError, match="no eigenvalues; it goes with"):
        hf.FFNet([2, 5, 1], W_init_params={"spectral_radius": 1.0})


X = np.zeros((2, 30, 1), np.float32)


@pytest.mark.parametrize(
    ("layer", "params", "truncation", "told"),
    [
        ("Tanh", {}, None, True),
        ("ReLU", {}, None, True),
        ("Tanh", {}, (4, 6), False),
        ("Logistic", {}, None, False),
        ("Tanh", {"coeff": 0.25}, None, False),
        ("Tanh", {"spectral_radius": 1.0}, None, False),
        ("Tanh", {"init_type": "orthogonal"}, None, False),
    ],
)
def test_a_chaotic_network_is_told_before_it_is_trained(layer, params, truncation, told, caplog):
    net = hf.RNNet([1, 20, 1], layers=["Linear", layer, "Linear"], W_rec_params=params, truncation=truncation, rng=0)
    with caplog.at_level(logging.WARNING, "hessianfree"):
        net.run_epochs(X, X, hf.opt.SGD(1e-3), 0, print_period=None)
    assert ("W_rec_params={'spectral_radius': " in caplog.text) == told
    if told:
        # What it says mends it.
        mended = hf.RNNet([1, 20, 1], layers=["Linear", layer, "Linear"], W_rec_params={"spectral_radius": 1.0}, rng=0)
        assert expansion.expansive(mended, 30) is None
