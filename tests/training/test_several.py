"""Several first-order updates in one compiled call: the same run as update by update."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.optimizers import first_order
from hessianfree.training import trainee

rng = np.random.RandomState(0)
X = rng.rand(23, 4).astype(np.float32)
T = np.tanh(X @ rng.randn(4, 2)).astype(np.float32)


class Watcher:
    """Looks at every update."""

    def on_update(self, epoch_number, update, updates, record):
        pass


def network(**options):
    return hf.FFNet([4, 6, 2], layers=["Linear", "Tanh", "Linear"], rng=1, **options)


def run_network(callbacks, optimizer, **options):
    net = network()
    net.mask = np.s_[:3]
    weights = 1 + np.arange(23) % 3
    return net.run_epochs(X, T, optimizer, callbacks=callbacks, weights=weights, **options), net


def run_fit(callbacks, optimizer, **options):
    def model(params, x):
        return jnp.tanh(x @ params["W"] + params["b"])

    params = {"W": np.full((4, 2), 0.1, np.float32), "b": np.zeros(2, np.float32)}
    mask = {"W": np.zeros((4, 2), bool), "b": np.array([True, False])}
    return hf.fit(hf.Objective(model), params, (X, T), optimizer, mask=mask, callbacks=callbacks, **options), None


@pytest.fixture
def calls(monkeypatch):
    """How many updates each compiled call of several made."""
    counts = []
    original = first_order.compiled_several

    def counted(rule, objective, params, minibatches, start, count, *rest):
        counts.append(int(count))
        return original(rule, objective, params, minibatches, start, count, *rest)

    monkeypatch.setattr(first_order, "compiled_several", counted)
    return counts


#: Series for plots need updates that are made one by one.
OPTIMIZERS = {
    "sgd": lambda plotting=False: hf.opt.SGD(0.1, plotting=plotting),
    "adam": lambda plotting=False: hf.opt.FirstOrder(optax.adam(0.01), plotting=plotting),
}


@pytest.mark.parametrize("run", [run_network, run_fit])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_run_is_the_same(run, name, calls):
    options = {"max_epochs": 6, "minibatch_size": 5, "print_period": None}
    together, net = run([], OPTIMIZERS[name](), **options)
    assert sum(calls) == 30  # with the last of an epoch, which is filled up
    assert max(calls) > 2
    alone, other = run([], OPTIMIZERS[name](plotting=True), **options)
    assert sum(calls) == 30
    for field in ("value", "gradient_norm", "update_norm", "epoch"):
        np.testing.assert_allclose(together.history[field], alone.history[field], rtol=2e-5)
    np.testing.assert_allclose(together.test_errors, alone.test_errors, rtol=1e-5)
    ours, theirs = together.params, alone.params
    if net is None:
        for leaf in ours:
            np.testing.assert_allclose(ours[leaf], theirs[leaf], rtol=1e-4, atol=1e-6)
        assert together.params["b"][0] == 0
        return
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(net.W[:3], network().W[:3])
    np.testing.assert_array_equal(net.inputs, other.inputs)
    assert net.optimizer.record == together.epochs[-1].updates[-1]


@pytest.mark.parametrize("run", [run_network, run_fit])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_watching_changes_no_bit(run, name):
    options = {"max_epochs": 6, "minibatch_size": 5, "print_period": None}
    alone, watched = (run(callbacks, OPTIMIZERS[name](), **options)[0] for callbacks in ([], [Watcher()]))
    jax.tree.map(np.testing.assert_array_equal, alone.params, watched.params)
    assert alone.test_errors == watched.test_errors


def test_a_failing_update_ends_the_run_as_it_does_alone():
    """Adam's steps are fine, and then some data are not: the updates before the failure count."""
    runs = []
    for plotting in (False, True):
        t = T.copy()
        t[11] = 3e38  # the loss overflows in whatever minibatch this is
        net = network()
        runs.append(net.run_epochs(X, t, hf.opt.SGD(0.01, plotting=plotting), 5, 5, print_period=None))
    together, alone = runs
    assert together.reason == alone.reason
    np.testing.assert_array_equal(together.history["accepted"], alone.history["accepted"])
    assert not together.history["accepted"].all()
    np.testing.assert_allclose(together.params, alone.params, rtol=1e-5, atol=1e-7)


def test_a_last_minibatch_that_must_not_be_filled_up_is_made_alone(calls):
    class Centred(hf.nl.Nonlinearity):
        """Looks at its whole batch, in jax.numpy."""

        def activation(self, x):
            return x - jnp.mean(x, axis=0)

    net = hf.FFNet([4, 6, 2], layers=["Linear", Centred(), "Linear"], rng=1)
    assert net.assemble().is_compiled
    result = net.run_epochs(X, T, hf.opt.SGD(0.1), 3, 5, print_period=None)
    assert sum(calls) == 12
    assert [len(epoch.updates) for epoch in result.epochs] == [5, 5, 5]


def test_what_is_watched_or_draws_numbers_is_made_one_by_one(calls):
    run_network([Watcher()], hf.opt.SGD(0.1), max_epochs=1, minibatch_size=5, print_period=None)
    assert set(calls) == {1}
    calls.clear()
    run_network([], hf.opt.SGD(0.1, plotting=True), max_epochs=1, minibatch_size=5, print_period=None)
    run_network([], hf.opt.SGD(0.1), max_epochs=1, print_period=None)
    network(debug=True).run_epochs(X, T, hf.opt.SGD(0.1), 1, 5, print_period=None)
    assert calls == []


def test_the_number_of_updates_follows_the_clock():
    pace = trainee.Pace()
    pace.note(1, 30.0)  # compiled
    assert pace.count == 1
    for _ in range(5):
        pace.note(pace.count, pace.count * 1e-3)
    assert pace.count == 32
    pace.note(32, 32 * 0.05)
    assert pace.count == 5
    pace.note(5, 50)
    assert pace.count == 1


@pytest.mark.long
def test_a_time_limit_ends_between_calls(monkeypatch):
    """The weights are those after the last update that the result lists."""
    monkeypatch.setattr(trainee, "TOGETHER", 1e9)
    optimizer = hf.opt.SGD(0.1)
    result, net = run_network([], optimizer, max_epochs=10**6, minibatch_size=1, print_period=None, max_seconds=1.5)
    assert "seconds are over" in result.reason
    again = network()
    again.mask = np.s_[:3]
    count = sum(len(epoch.updates) for epoch in result.epochs)
    whole = -(-count // 23)
    weights = 1 + np.arange(23) % 3
    rest = count - 23 * (whole - 1)

    class Stop:
        made = 0

        def on_update(self, epoch_number, update, updates, record):
            return epoch_number == whole - 1 and update == rest - 1

    again.run_epochs(X, T, hf.opt.SGD(0.1), whole, 1, callbacks=[Stop()], weights=weights, print_period=None)
    np.testing.assert_allclose(net.W, again.W, rtol=1e-3, atol=1e-5)
