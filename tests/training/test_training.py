from __future__ import annotations

import math
import pickle

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.training import loop as training

from problems import cache

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
T = np.array([[0], [1], [1], [0]], np.float32)


def network(**kwargs):
    return hf.FFNet([2, 5, 1], **{"rng": 0, **kwargs})


def quiet(net, optimizer, inputs=X, targets=T, **kwargs):
    return net.run_epochs(inputs, targets, optimizer, **{"print_period": None, **kwargs})


class Constant(hf.opt.Optimizer):
    """A classic optimizer of the user's own: always the same update, and a note of what it saw."""

    def __init__(self, update=0.0):
        super().__init__()
        self.update, self.seen, self.printing = update, [], []

    def compute_update(self, printing=False):
        self.seen.append(self.net.inputs.copy())
        self.printing.append(printing)
        return np.full_like(self.net.W, self.update)


def test_xor_is_learnt():
    net = network()
    result = quiet(net, hf.opt.HessianFree(CG_iter=2), max_epochs=40)
    assert result.reason == "the target error 1e-06 is reached"
    np.testing.assert_array_equal(net.forward(X)[-1].round(), T)
    assert net.best_error == min(result.test_errors) < 1e-6
    assert net.epoch == len(result.epochs) - 1


@pytest.mark.parametrize(
    ("make", "epochs", "below"),
    [
        (lambda: hf.opt.HessianFree(CG_iter=10, preconditioner="diagonal"), 40, 1e-5),
        (lambda: hf.opt.SGD(l_rate=2), 1000, 0.05),
        (lambda: hf.opt.FirstOrder(optax.adam(0.05)), 300, 1e-3),
    ],
)
def test_every_optimizer_trains(make, epochs, below):
    net = network()
    result = quiet(net, make(), max_epochs=epochs)
    assert result.test_errors[-1] < below
    assert result.test_errors[-1] < result.test_errors[0]


def test_sgd_and_optax_follow_their_formulas():
    net, rate = network(dtype=np.float64), 0.3
    before = net.W.copy()
    net.cache_minibatch(X, T)
    gradient = net.calc_grad()
    quiet(net, hf.opt.SGD(l_rate=rate), max_epochs=1)
    np.testing.assert_allclose(net.W, before - rate * gradient, rtol=1e-12)

    ours, W = network(dtype=np.float64), before.copy()
    momentum = optax.sgd(rate, momentum=0.9)
    velocity = np.zeros_like(W)
    optimizer = hf.opt.FirstOrder(momentum)
    for _ in range(3):
        ours.cache_minibatch(X, T)
        velocity = 0.9 * velocity + ours.calc_grad()
        W = W - rate * velocity
        quiet(ours, optimizer, max_epochs=1)
        np.testing.assert_allclose(ours.W, W, rtol=1e-9)


def test_an_epoch_is_a_pass_over_a_permutation_in_minibatches():
    inputs = np.arange(14, dtype=np.float32).reshape(7, 2)
    net, optimizer = network(rng=np.random.RandomState(5)), Constant()
    rng = np.random.RandomState(5)
    hf.FFNet([2, 5, 1], rng=rng)
    quiet(net, optimizer, inputs, np.zeros((7, 1)), minibatch_size=3, max_epochs=2)
    expected = []
    for _ in range(2):
        order = rng.permutation(7)
        expected += [inputs[order[:3]], inputs[order[3:6]], inputs[order[6:]]]
    assert len(optimizer.seen) == 6
    for seen, want in zip(optimizer.seen, expected, strict=True):
        np.testing.assert_array_equal(seen, want)


def test_the_padded_remainder_gives_the_gradient_of_its_own_examples():
    rng = np.random.RandomState(1)
    x, t = rng.randn(5, 2), rng.randn(5, 1)
    net = network(dtype=np.float64)
    cache(net, x[3:], t[3:], 3)
    padded = net.calc_grad(), net.calc_G(np.ones(net.W.size)), net.error()
    net.cache_minibatch(x[3:], t[3:])
    np.testing.assert_allclose(padded[0], net.calc_grad(), rtol=1e-12)
    np.testing.assert_allclose(padded[1], net.calc_G(np.ones(net.W.size)), rtol=1e-12)
    assert padded[2] == pytest.approx(net.error())


def test_a_minibatch_larger_than_the_data_is_the_data():
    net, optimizer = network(), Constant()
    quiet(net, optimizer, minibatch_size=100, max_epochs=1)
    assert len(optimizer.seen) == 1
    assert len(optimizer.seen[0]) == 4


def test_the_order_of_examples_depends_on_the_seed_alone():
    rng = np.random.RandomState(0)
    x, t = rng.randn(20, 2), rng.randn(20, 1)
    W = []
    for _ in range(2):
        net = network(rng=7)
        quiet(net, hf.opt.HessianFree(CG_iter=5), x, t, minibatch_size=6, max_epochs=2)
        W.append(net.W)
    np.testing.assert_array_equal(*W)


def test_run_epoch_makes_updates_and_nothing_else():
    net, optimizer = network(), Constant(0.5)
    net.optimizer = optimizer
    before = net.W.copy()
    net._run_epoch(X, T, minibatch_size=2)
    np.testing.assert_allclose(net.W, before + 1.0, rtol=1e-6)
    assert len(optimizer.seen) == 2
    assert net.best_W is None


def test_test_errors_use_the_test_data_and_the_test_loss():
    net = network()
    test = (X[:3], 1 - T[:3])
    result = quiet(
        net, Constant(), test=test, test_err=hf.loss_funcs.SparseL2(2.0, layers=[2], target=1.0), max_epochs=1
    )
    output = net.forward(X[:3])[-1]
    assert result.test_errors[0] == pytest.approx(((output - 1) ** 2).sum(axis=1).mean(), rel=1e-5)
    result = quiet(net, Constant(), test=test, max_epochs=1)
    assert result.test_errors[0] == pytest.approx(0.5 * ((output - (1 - T[:3])) ** 2).sum(axis=1).mean(), rel=1e-5)


def test_a_run_with_test_data_ends_when_its_error_rises():
    """From the twelfth epoch on, when the error is worse than nine epochs before."""

    class Drifting(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            return np.full_like(self.net.W, 0.01)

    net = network(layers="Linear")
    net.W[:] = 0
    targets = np.zeros((4, 1))
    with_test = quiet(net, Drifting(), X, targets, test=(X, targets), max_epochs=50, target_err=0)
    assert len(with_test.epochs) == 12
    # Without records nothing says whether training went well, so that it is not called overfitting.
    assert with_test.reason == "the test error is worse than nine epochs before (early_stopping=False goes on)"
    assert net.best_error == with_test.test_errors[0]
    np.testing.assert_allclose(net.best_W, 0.01, rtol=1e-6)
    without = quiet(net, Drifting(), X, targets, max_epochs=20, target_err=0)
    assert len(without.epochs) == 20
    asked = {"test": (X, targets), "max_epochs": 20, "target_err": 0, "early_stopping": False}
    assert len(quiet(net, Drifting(), X, targets, **asked).epochs) == 20


class Ending:
    """Ends a run, by the event it is told of for the third time."""

    def __init__(self, event, answer):
        self.told, self.answer = [], answer
        setattr(self, event, self._ending)

    def _ending(self, *what):
        self.told.append(what)
        return self.answer(len(self.told) == 3)


@pytest.mark.parametrize("answer", [bool, np.bool_, jnp.asarray])
@pytest.mark.parametrize(("event", "updates"), [("on_update", [2, 1]), ("on_epoch", [2, 2, 2])])
def test_a_callback_may_end_a_run(event, updates, answer):
    told = []

    class Other:  # what others return means nothing, and all are told
        def on_update(self, epoch, update, count, record):
            told.append((epoch, update))
            return 1

    ending = Ending(event, answer)
    result = quiet(network(), hf.opt.SGD(0.1), minibatch_size=2, max_epochs=9, callbacks=[ending, Other()])
    assert result.reason == "a callback ended the run"
    assert [len(epoch.updates) for epoch in result.epochs] == updates
    assert told == [(epoch, update) for epoch, count in enumerate(updates) for update in range(count)]


class NanAfter(hf.loss_funcs.LossFunction):
    """Squared error that turns to NaN far from the start: at outputs above a bound."""

    def __init__(self, bound):
        self.bound = np.asarray(bound, float)

    @hf.loss_funcs.output_loss
    def loss(self, o, t):
        return jnp.where((o > self.bound).any(axis=1), jnp.nan, 0.5 * ((o - t) ** 2).sum(axis=1))


@pytest.mark.parametrize("optimizer", [hf.opt.HessianFree(CG_iter=5), hf.opt.SGD()])
def test_a_loss_that_is_nan_from_the_start_ends_the_run_with_a_reason(optimizer):
    net = network(loss_type=NanAfter(-1.0))
    before = net.W.copy()
    result = quiet(net, optimizer)
    assert result.reason.startswith("3 updates in a row found no usable step: ")
    assert "nan" in result.reason or "finite" in result.reason
    np.testing.assert_array_equal(net.W, before)
    assert result.epochs == [] or all(not u.accepted for e in result.epochs for u in e.updates)


def test_a_loss_that_turns_nan_mid_run_rejects_steps_and_goes_on():
    """Targets lie beyond the bound: sooner or later every step runs into the NaN."""
    loss = NanAfter(0.8)
    net = network(loss_type=loss, layers="Linear")
    net.W *= 0.1
    optimizer = hf.opt.HessianFree(CG_iter=5)
    result = quiet(net, optimizer, X + 1, T * 0 + 0.75, max_epochs=15)
    records = [record for epoch in result.epochs for record in epoch.updates]
    assert np.isfinite(net.W).all()
    assert math.isfinite(result.test_errors[-1])
    assert result.test_errors[-1] < 0.1 * records[0].value
    assert any(record.step_length < 1 or record.backtracked for record in records)


def test_damping_rises_on_rejection_and_the_warm_start_is_dropped():
    net = network(loss_type=NanAfter(-1.0))
    optimizer = hf.opt.HessianFree(CG_iter=5, init_damping=2)
    net.optimizer = optimizer
    net.cache_minibatch(X, T)
    optimizer.init_delta = np.ones_like(net.W)
    update = optimizer.compute_update()
    np.testing.assert_array_equal(update, 0)
    np.testing.assert_array_equal(optimizer.init_delta, 0)
    assert optimizer.damping > 2
    assert not optimizer.record.accepted


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_weights_are_never_left_non_finite(bad):
    net = network()
    net.W[:] = 1e38 if bad == 3e38 else net.W
    before = net.W.copy()
    with np.errstate(over="ignore"):
        result = quiet(net, Constant(bad), max_epochs=10)
    np.testing.assert_array_equal(net.W, before)
    assert "not finite" in result.reason


def test_a_mask_holds_weights():
    for optimizer in (hf.opt.HessianFree(CG_iter=5), hf.opt.SGD(), hf.opt.FirstOrder(optax.adamw(0.1))):
        net = network()
        net.mask = np.zeros(net.W.size, bool)
        net.mask[[0, 3, 7]] = True
        before = net.W.copy()
        quiet(net, optimizer, max_epochs=5)
        np.testing.assert_array_equal(net.W[net.mask], before[net.mask])
        assert (net.W[~net.mask] != before[~net.mask]).all()


def test_ctrl_c_ends_the_run_cleanly_and_keeps_the_best_weights():
    class Impatient(hf.opt.HessianFree):
        def compute_update(self, printing=False):
            if self.net.epoch == 6:
                raise KeyboardInterrupt
            return super().compute_update(printing)

    net = network()
    result = quiet(net, Impatient(CG_iter=2))
    assert "interrupted" in result.reason
    assert len(result.epochs) == 6
    assert net.best_error == min(result.test_errors)
    assert net.error(net.best_W, X, T) == pytest.approx(net.best_error, rel=1e-6)


def test_interrupted_before_anything_is_known():
    class Immediate(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            raise KeyboardInterrupt

    net = network()
    quiet(net, Immediate())
    np.testing.assert_array_equal(net.best_W, net.W)


# ---- files and lines -------------------------------------------------------------------------------------------------

HF_SERIES = {
    "training error (log)", "learning rate", "damping (log)", "CG iterations", "backtracked steps", "update norm", "W norm",
    "test error (log)",
}  # fmt: skip


def test_plot_series_and_weights_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = network()
    result = quiet(net, hf.opt.HessianFree(CG_iter=2), max_epochs=4, plotting=True)
    series = pickle.loads((tmp_path / "HF_plots.pkl").read_bytes())
    assert type(series) is dict
    assert set(series) == HF_SERIES
    assert {len(values) for values in series.values()} == {4}
    assert series["test error (log)"] == result.test_errors
    assert series["damping (log)"][0] == 1
    quiet(net, hf.opt.SGD(plotting=True), max_epochs=3, plotting=True, file_output="run")
    assert set(pickle.loads((tmp_path / "run_plots.pkl").read_bytes())) == {"training error", "test error (log)"}
    np.testing.assert_array_equal(np.load(tmp_path / "run_weights.npy"), net.W)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["HF_plots.pkl", "run_plots.pkl", "run_weights.npy"]


def test_lines_are_printed_when_due(capsys):
    net = network()
    net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=2), max_epochs=25, target_err=0)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [int(line.split(":")[0].split()[1]) for line in lines] == [0, 10, 20, 24]
    for word in ("training error", "loss", "damping", "CG steps"):
        assert word in lines[0]


def test_silence(capsys):
    quiet(network(), hf.opt.HessianFree(CG_iter=2), max_epochs=2)
    assert capsys.readouterr() == ("", "")


def test_printing_changes_no_result(capsys):
    silent, loud = network(), network()
    quiet(silent, hf.opt.HessianFree(CG_iter=3), max_epochs=5)
    loud.run_epochs(X, T, hf.opt.HessianFree(CG_iter=3), max_epochs=5, print_period=1)
    np.testing.assert_array_equal(silent.W, loud.W)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_epochs": -1}, ValueError, "max_epochs is -1"),
        ({"minibatch_size": 0}, ValueError, "minibatch_size is 0"),
        ({"minibatch_size": 2.5}, ValueError, "minibatch_size is 2.5"),
        ({"print_period": 0}, ValueError, "print_period is 0"),
        ({"test": X}, ValueError, "pair"),
        ({"test": (X, T[:2])}, ValueError, "4 inputs but 2 targets"),
        ({"test": (X[:, :1], T)}, ValueError, "width 1"),
        ({"test_err": "classification"}, ValueError, "Did you mean 'classification_error'"),
        ({"test_err": 3}, TypeError, r"ClassificationError\(\)"),
        ({"optimizer": hf.opt.HessianFree}, TypeError, "optimizer"),
        ({"optimizer": "adam"}, TypeError, "optimizer"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, error, message):
    net = network()
    before = net.W.copy()
    with pytest.raises(error, match=message):
        net.run_epochs(**{"inputs": X, "targets": T, "optimizer": hf.opt.SGD(), "print_period": None, **arguments})
    np.testing.assert_array_equal(net.W, before)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: hf.opt.HessianFree(CG_iter=0), ValueError, "CG iterations"),
        (lambda: hf.opt.HessianFree(init_damping=0), ValueError, "positive"),
        (lambda: hf.opt.HessianFree(preconditioner="magic"), ValueError, "'diagonal'"),
        (lambda: hf.opt.HessianFree(preconditioner=3), TypeError, "prepare"),
        (lambda: hf.opt.SGD(l_rate=0), ValueError, "l_rate"),
        (lambda: hf.opt.FirstOrder(0.1), TypeError, "optax"),
    ],
)
def test_optimizers_refuse_what_makes_no_sense(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_no_epochs_is_a_run_too():
    assert training.RunSettings(max_epochs=0).max_epochs == 0
    result = quiet(network(), hf.opt.SGD(), max_epochs=0)
    assert result.epochs == []
    assert result.reason == "all 0 epochs are done"


# ---- what a custom optimizer may return, and other ways for a run to go wrong ------------------------------------------


@pytest.mark.parametrize(
    "update", [0.1, np.array([0.1]), np.zeros((1, 21)), None, np.zeros(21, complex), np.zeros((21, 1))]
)
def test_updates_of_the_wrong_shape_are_refused(update):
    class Odd(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            return update

    net = network()
    before = net.W.copy()
    with pytest.raises(ValueError, match=r"\(21,\) are expected"):
        quiet(net, Odd())
    np.testing.assert_array_equal(net.W, before)


def test_jax_updates_are_fine():
    class Jax(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            return jnp.full(self.net.W.size, 0.5)

    net = network()
    before = net.W.copy()
    quiet(net, Jax(), max_epochs=1)
    np.testing.assert_allclose(net.W, before + 0.5, rtol=1e-6)


def test_debug_checks_every_optimizer():
    class Wrong(hf.nl.Nonlinearity):
        def activation(self, x):
            return np.tanh(np.asarray(x))

        def d_activation(self, x, a):
            return np.full_like(x, 5.0)

    net = network(layers=[hf.nl.Linear(), Wrong(), hf.nl.Linear()], debug=True)
    with pytest.raises(ArithmeticError, match="finite differences"):
        quiet(net, hf.opt.SGD())


def test_classification_error_of_one_unit_is_refused():
    with pytest.raises(ValueError, match="one per class"):
        quiet(network(), hf.opt.SGD(), test_err=hf.loss_funcs.ClassificationError())


def test_a_loss_set_after_construction_is_checked_too():
    net = network()
    net.loss = hf.loss_funcs.ClassificationError()
    with pytest.raises(TypeError, match="test_err"):
        quiet(net, hf.opt.SGD())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"file_output": "/no/such/folder/run"}, FileNotFoundError, "/no/such/folder"),
        ({"target_err": None}, TypeError, "target_err"),
        ({"max_epochs": 3.0}, ValueError, "max_epochs"),
        ({"max_epochs": None}, ValueError, "max_epochs"),
    ],
)
def test_more_mistakes_are_told_before_any_work(arguments, error, message):
    net = network()
    before = net.W.copy()
    with pytest.raises(error, match=message):
        quiet(net, hf.opt.SGD(), **arguments)
    np.testing.assert_array_equal(net.W, before)


def test_a_run_that_ends_in_its_first_epoch_keeps_what_it_has():
    class Two(hf.opt.SGD):
        def compute_update(self, printing=False):
            if self.record is not None:
                raise KeyboardInterrupt
            return super().compute_update(printing)

    net = network()
    quiet(net, Two(), minibatch_size=2)
    np.testing.assert_array_equal(net.best_W, net.W)
    assert net.best_error == pytest.approx(net.error(None, X, T))


def test_minibatches_without_known_targets_do_not_end_a_run():
    rng = np.random.RandomState(0)
    x, t = rng.randn(20, 2), np.full((20, 1), np.nan)
    t[3] = 1.0
    net, optimizer = network(), hf.opt.HessianFree(CG_iter=3)
    result = quiet(net, optimizer, x, t, minibatch_size=1, max_epochs=2, target_err=0)
    assert len(result.epochs) == 2
    assert optimizer.damping < 2
    assert result.test_errors[-1] < result.test_errors[0]


def test_an_optimum_ends_the_run():
    net = network(layers="Linear")
    net.W[:] = 0
    result = quiet(net, hf.opt.HessianFree(CG_iter=3), X, np.zeros((4, 1)), target_err=0)
    assert "gradient is zero" in result.reason


def test_first_order_state_starts_afresh_with_a_new_network():
    optimizer = hf.opt.FirstOrder(optax.adam(0.1))
    first, second, fresh = network(), network(), network()
    quiet(first, optimizer, max_epochs=5)
    quiet(second, optimizer, max_epochs=3)
    quiet(fresh, hf.opt.FirstOrder(optax.adam(0.1)), max_epochs=3)
    np.testing.assert_array_equal(second.W, fresh.W)


def test_same_inputs_with_other_targets_are_other_examples():
    net, t = network(), 1 - T
    cache(net, X, T, 4)
    before = net.error()
    cache(net, X, t, 4)
    assert net.error() != before


def test_first_order_state_starts_afresh_after_an_update_that_was_not_finite():
    bound = NanAfter(-1.0)
    optimizer, net = hf.opt.FirstOrder(optax.adam(0.1)), network(loss_type=bound)
    net.optimizer = optimizer
    net.cache_minibatch(X, T)
    np.testing.assert_array_equal(optimizer.compute_update(), 0)
    assert not optimizer.record.accepted
    bound.bound = np.asarray(1e3)
    fresh = network(loss_type=NanAfter(1e3))
    fresh.optimizer = hf.opt.FirstOrder(optax.adam(0.1))
    fresh.cache_minibatch(X, T)
    np.testing.assert_array_equal(optimizer.compute_update(), fresh.optimizer.compute_update())
