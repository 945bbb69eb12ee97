"""Example weights in run_epochs, error and cache_minibatch."""

from __future__ import annotations

import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.demos.plant import CompiledBody, NumpyBody, network

rng = np.random.RandomState(0)
X, T = rng.randn(6, 3), rng.randn(6, 2)
COUNTS = np.array([1, 3, 0, 2, 1, 0])
REPEATED = np.repeat(np.arange(6), COUNTS)


class NumpyTanh(hf.nl.Nonlinearity):
    def activation(self, x):
        return np.tanh(np.asarray(x))

    def d_activation(self, x, a):
        return 1 - np.asarray(a) ** 2


KINDS = {
    "feedforward": (lambda: hf.FFNet([3, 4, 2], rng=0, dtype=np.float64), X, T),
    "numpy layer": (
        lambda: hf.FFNet([3, 4, 2], layers=["Linear", NumpyTanh(), "Linear"], rng=0, dtype=np.float64), X, T
    ),
    "recurrent": (lambda: hf.RNNet([3, 4, 2], rng=0, dtype=np.float64), rng.randn(6, 5, 3), rng.randn(6, 5, 2)),
    "truncated": (
        lambda: hf.RNNet([3, 4, 2], rng=0, dtype=np.float64, truncation=(2, 3)), rng.randn(6, 5, 3), rng.randn(6, 5, 2)
    ),
}  # fmt: skip
OPTIMIZERS = {
    "hf": lambda: hf.opt.HessianFree(CG_iter=8),
    "kfac": lambda: hf.opt.HessianFree(CG_iter=8, preconditioner="diagonal"),
    "sgd": lambda: hf.opt.SGD(0.1),
    "adam": lambda: hf.opt.FirstOrder(optax.adam(0.1)),
}


@pytest.mark.few(5)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_weight_counts_like_that_many_copies_and_zero_like_none(kind, name):
    make, x, t = KINDS[kind]
    weighted, repeated = make(), make()
    arguments = {"max_epochs": 3, "print_period": None, "target_err": -1}
    a = weighted.run_epochs(x, t, OPTIMIZERS[name](), weights=COUNTS, **arguments)
    b = repeated.run_epochs(x[REPEATED], t[REPEATED], OPTIMIZERS[name](), **arguments)
    np.testing.assert_allclose(weighted.W, repeated.W, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(a.test_errors, b.test_errors, rtol=1e-8)
    assert weighted.error(None, x, t, COUNTS) == pytest.approx(a.test_errors[-1], rel=1e-12)


def test_derivatives_of_a_cached_minibatch_with_weights():
    net = KINDS["feedforward"][0]()
    net.cache_minibatch(X, T, [0, 1, 3], weights=COUNTS)
    weighted = net.calc_grad(), net.calc_G(np.ones(net.W.size)), net.error()
    net.cache_minibatch(X, T, [0, 1, 1, 1, 3, 3])
    for found, expected in zip(weighted, (net.calc_grad(), net.calc_G(np.ones(net.W.size)), net.error()), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("size", [2, 4])
def test_minibatches_carry_the_weights_of_their_examples(size):
    losses = []

    class Watches(hf.opt.SGD):
        def compute_update(self, printing=False):
            losses.append((self.net.inputs.copy(), self.net.error()))
            return super().compute_update(printing)

    net, weights = KINDS["feedforward"][0](), COUNTS + 0.5
    net.run_epochs(X, T, Watches(1e-9), minibatch_size=size, weights=weights, max_epochs=1, print_period=None)
    for x, loss in losses:
        where = [int(np.argmin(np.abs(X - row).sum(axis=1))) for row in x]
        assert loss == pytest.approx(net.error(None, X[where], T[where], weights[where]), rel=1e-6)
    assert sum(len(x) for x, _ in losses) == 6


def test_test_errors_are_weighted_on_the_training_data_alone():
    net = KINDS["feedforward"][0]()
    arguments = {"max_epochs": 1, "print_period": None, "weights": COUNTS}
    error = net.run_epochs(X, T, hf.opt.SGD(0.1), test=(X, T), **arguments).test_errors[0]
    assert error == pytest.approx(net.error(None, X, T))
    absolute = hf.loss_funcs.SparseL1(1.0, layers=[2])
    found = net.run_epochs(X, T, hf.opt.SGD(0.1), test_err=absolute, **arguments).test_errors[0]
    expected = np.average(np.abs(net.forward(X)[-1]).sum(axis=1), weights=COUNTS)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.ones(5), ValueError, r"shape \(5,\); one for each example, \(6,\)"),
        (np.ones((6, 1)), ValueError, r"shape \(6, 1\)"),
        (-np.ones(6), ValueError, ">= 0"),
        ([1, 1, 1, 1, 1, np.nan], ValueError, "finite"),
        (np.zeros(6), ValueError, "All weights are zero"),
        (["a"] * 6, TypeError, "numbers are expected"),
    ],
)
def test_weights_are_checked_before_any_work(weights, error, message):
    net = KINDS["feedforward"][0]()
    for act in (
        lambda: net.run_epochs(X, T, hf.opt.SGD(), weights=weights, print_period=None),
        lambda: net.error(None, X, T, weights),
        lambda: net.cache_minibatch(X, T, weights=weights),
    ):
        with pytest.raises(error, match=message):
            act()


def test_targets_must_be_known_where_examples_count():
    t = np.where(COUNTS[:, None] > 0, np.nan, T)
    with pytest.raises(ValueError, match="All targets are NaN"):
        KINDS["feedforward"][0]().run_epochs(X, t, hf.opt.SGD(), weights=COUNTS, print_period=None)


@pytest.mark.parametrize("body", [NumpyBody, CompiledBody])
def test_a_plant_has_no_weights(body):
    starts = np.zeros((4, 2))
    net = network(body(starts), np.random.RandomState(0))
    with pytest.raises(ValueError, match="a plant generates new examples"):
        net.run_epochs(body(starts), None, hf.opt.HessianFree(), weights=np.ones(4), print_period=None)
