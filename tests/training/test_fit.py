"""hf.fit: any objective over arrays or batches, with the loop of run_epochs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf

N = 20
rng = np.random.RandomState(0)
X = rng.uniform(-1, 1, (N, 2)).astype(np.float32)
T = np.sin(3 * X.sum(axis=1, keepdims=True)).astype(np.float32)


def model(p, x):
    return jnp.tanh(x @ p["W"] + p["b"]) @ p["V"]


def start(seed=0):
    draw = np.random.RandomState(seed)
    return {
        "W": draw.randn(2, 8).astype(np.float32),
        "b": np.zeros(8, np.float32),
        "V": (0.3 * draw.randn(8, 1)).astype(np.float32),
    }


OBJECTIVE = hf.Objective(model)
OPTIMIZERS = {
    "hf": (lambda: hf.opt.HessianFree(init_damping=0.1), 30),
    "sgd": (lambda: hf.opt.SGD(l_rate=0.3), 200),
    "adam": (lambda: hf.opt.FirstOrder(optax.adam(0.02)), 200),
}


def batches(size=10):
    return [(X[k : k + size], T[k : k + size]) for k in range(0, N, size)]


class Loader:
    """Gives lists, as torch's loaders do, and knows its length."""

    def __len__(self):
        return 2

    def __iter__(self):
        return iter([list(batch) for batch in batches()])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_fits_arrays(name):
    make, epochs = OPTIMIZERS[name]
    before, given = start(), start()
    result = hf.fit(OBJECTIVE, given, (X, T), make(), max_epochs=epochs, minibatch_size=10, print_period=None)
    assert result.best_error < 0.3 * OBJECTIVE.value(before, (X, T))
    assert OBJECTIVE.value(result.best_params, (X, T)) == pytest.approx(result.best_error, rel=1e-4)
    assert result.history["value"].shape == (2 * epochs,)
    assert result.history["test_error"].shape == (epochs,)
    assert (result.history["epoch"] == np.repeat(np.arange(epochs), 2)).all()
    jax.tree.map(np.testing.assert_array_equal, before, given)  # what was given is not changed


@pytest.mark.parametrize("data", [batches(), Loader()], ids=["list", "loader"])
def test_batches_come_once_per_epoch(data):
    result = hf.fit(OBJECTIVE, start(), data, max_epochs=5, print_period=None)
    assert len(result.history["value"]) == 10
    assert result.reason == "all 5 epochs are done"
    per_epoch = result.history["new_value"].reshape(5, 2).mean(axis=1)
    np.testing.assert_allclose(result.history["test_error"], per_epoch, rtol=1e-6)


def test_a_generator_ends_with_its_epoch():
    result = hf.fit(OBJECTIVE, start(), (batch for batch in batches()), print_period=None)
    assert result.reason == "the data gave no more batches after 1 epoch"
    assert len(result.history["value"]) == 2


@pytest.mark.parametrize("data", [[], (b for b in [])], ids=["list", "generator"])
def test_an_iterable_that_is_exhausted_at_once_is_told(data):
    with pytest.raises(ValueError, match="no batch at all"):
        hf.fit(OBJECTIVE, start(), data, print_period=None)


def test_a_remainder_is_filled_up_by_examples_that_weigh_nothing():
    seen = []

    def watched(p, x):
        seen.append(x.shape)
        return model(p, x)

    objective = hf.Objective(watched)
    result = hf.fit(objective, start(), (X, T), minibatch_size=8, max_epochs=2, test=(X, T), print_period=None)
    assert {shape[0] for shape in seen} == {8, N}  # what was traced: minibatches and the test data
    assert len(result.history["value"]) == 6
    # the last minibatch of 4 is worth what those four are: a tiny rate leaves the parameters where they were
    order = np.random.default_rng(0).permutation(N)
    tiny = hf.fit(
        objective, start(), (X, T), hf.opt.SGD(l_rate=1e-9), minibatch_size=8, max_epochs=1, print_period=None
    )
    chosen = [order[:8], order[8:16], order[16:]]
    expected = [OBJECTIVE.value(start(), (X[indices], T[indices])) for indices in chosen]
    np.testing.assert_allclose(tiny.history["value"], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "settings", [{"preconditioner": "diagonal"}, {"preconditioner": "nystrom"}, {"curvature_batch": 0.5}]
)
def test_every_setting_serves_any_model(settings):
    optimizer = hf.opt.HessianFree(**settings)
    t, weights = T.copy(), np.ones(N)
    t[3], weights[3] = np.nan, 0
    objective = hf.Objective(model, lambda o, t: 0.5 * ((o - t) ** 2).sum(axis=-1))
    result = hf.fit(objective, start(), (X, t, weights), optimizer, max_epochs=12, print_period=None)
    assert result.best_error < 0.3 * result.history["value"][0]
    if "preconditioner" in settings:
        assert np.isfinite(result.history["preconditioner_damping"]).all()


def test_the_diagonal_needs_losses_of_single_examples():
    objective = hf.Objective(model, lambda o, t: jnp.mean((o - t) ** 2))
    with pytest.raises(TypeError, match="one number for the batch"):
        hf.fit(objective, start(), (X, T), hf.opt.HessianFree(preconditioner="diagonal"), print_period=None)


def test_a_minibatch_without_weight_is_passed_over():
    weights = np.zeros(N)
    weights[7] = 1
    result = hf.fit(OBJECTIVE, start(), (X, T, weights), minibatch_size=5, max_epochs=2, print_period=None)
    assert len(result.history["value"]) == 8
    with pytest.raises(ValueError, match="All weights of the data are zero"):
        hf.fit(OBJECTIVE, start(), (X, T, 0 * weights))


def test_weights_are_honoured_in_minibatches():
    weights = (np.arange(N) % 2).astype(np.float32)
    noisy = np.where(weights[:, None] == 0, 100, T)
    with_weights = hf.fit(OBJECTIVE, start(), (X, noisy, weights), max_epochs=3, print_period=None)
    half = hf.fit(OBJECTIVE, start(), (X[1::2], T[1::2]), max_epochs=3, print_period=None)
    np.testing.assert_allclose(with_weights.history["value"], half.history["value"], rtol=1e-3)


def test_a_loss_of_one_number_gets_its_remainder_as_it_is():
    objective = hf.Objective(model, lambda o, t: jnp.mean((o - t) ** 2))
    result = hf.fit(objective, start(), (X, T), minibatch_size=15, max_epochs=2, print_period=None)
    assert len(result.history["value"]) == 4


def test_test_data_and_another_loss():
    test = X[:5] + 0.01, T[:5]

    def worst(o, t):
        return jnp.abs(o - t).max(axis=-1)

    result = hf.fit(OBJECTIVE, start(), (X, T), test=test, test_err=worst, max_epochs=4, print_period=None)
    expected = np.abs(np.asarray(model(result.best_params, test[0])) - test[1]).max(axis=1).mean()
    assert result.best_error == pytest.approx(expected, rel=1e-5)


def test_averages_are_what_is_evaluated():
    optimizer = hf.opt.HessianFree(averaging=0.5)
    result = hf.fit(OBJECTIVE, start(), (X, T), optimizer, max_epochs=6, minibatch_size=10, print_period=None)
    assert any(not np.array_equal(result.params[k], result.best_params[k]) for k in result.params)
    assert OBJECTIVE.value(result.best_params, (X, T)) == pytest.approx(result.best_error, rel=1e-4)


def test_dropout_is_evaluated_without_a_key():
    def dropout(p, x, key):
        o = model(p, x)
        return o if key is None else o * jax.random.bernoulli(key, 0.9, o.shape) / 0.9

    objective = hf.Objective(dropout, stochastic=True)
    squared = lambda o, t: 0.5 * ((o - t) ** 2).sum(axis=-1)
    result = hf.fit(objective, start(), (X, T), test_err=squared, max_epochs=3, print_period=None)
    assert OBJECTIVE.value(result.best_params, (X, T)) == pytest.approx(result.best_error, rel=1e-5)


def test_time_is_limited_and_what_happens_is_told():
    class Watch:
        def __init__(self):
            self.updates, self.ended = [], None

        def on_update(self, epoch, update, updates, record):
            self.updates.append((epoch, update, updates))

        def on_end(self, result):
            self.ended = result.reason

    watch = Watch()
    result = hf.fit(OBJECTIVE, start(), (X, T), max_seconds=1e-6, callbacks=[watch], print_period=None)
    assert result.reason == watch.ended == "1e-06 seconds are over"
    assert watch.updates == [(0, 0, 1)]
    assert result.best_error < OBJECTIVE.value(start(), (X, T))


def test_a_run_without_usable_steps_says_why():
    result = hf.fit(hf.Objective(lambda p, x: jnp.sqrt(model(p, x) - 1e3)), start(), (X, T), print_period=None)
    assert "3 updates in a row found no usable step" in result.reason
    assert "the model's outputs are not finite" in result.reason
    assert len(result.history["value"]) == 3
    jax.tree.map(np.testing.assert_array_equal, result.params, start())


def test_an_interrupted_epoch_is_kept():
    class Interrupts:
        def on_update(self, epoch, update, updates, record):
            if (epoch, update) == (1, 0):
                raise KeyboardInterrupt

    result = hf.fit(OBJECTIVE, start(), (X, T), minibatch_size=10, callbacks=[Interrupts()], print_period=None)
    assert "interrupted" in result.reason
    assert list(result.history["epoch"]) == [0, 0, 1]
    assert OBJECTIVE.value(result.params, (X, T)) == pytest.approx(result.history["test_error"][1], rel=1e-4)


def test_progress_is_printed(capsys):
    hf.fit(OBJECTIVE, start(), (X, T), max_epochs=3, print_period=1)
    printed = capsys.readouterr().out
    assert printed.count("epoch ") == 3
    assert "finished after 3 epochs" in printed


def test_the_optax_form_is_the_same_optimizer():
    optimizer = hf.opt.HessianFree()
    form = hf.opt.as_optax(OBJECTIVE, hf.opt.HessianFree())
    a = b = start()
    state, other = optimizer.init(a), form.init(b)
    for _ in range(3):
        a, state, info = optimizer.step(OBJECTIVE, a, state, (X, T))
        updates, other = form.update(jax.tree.map(jnp.zeros_like, b), other, b, batch=(X, T))
        b = optax.apply_updates(b, updates)
        assert other.info.new_value == pytest.approx(info.new_value, rel=1e-5)
    with pytest.raises(TypeError, match="batch=batch"):
        form.update(a, other, a)
    with pytest.raises(TypeError, match=r"outside jax\.jit"):
        jax.jit(lambda p: form.update(p, other, p, batch=(X, T)))(a)


def test_losses_that_can_be_negative_do_not_end_a_run():
    counts = np.round(5 * np.exp(T))
    result = hf.fit(hf.Objective(model, "poisson"), start(), (X, counts), max_epochs=4, print_period=None)
    assert result.best_error < 0
    assert result.reason == "all 4 epochs are done"


def test_a_batch_that_is_not_finite_leaves_the_others_error():
    result = hf.fit(OBJECTIVE, start(), [(X, T), (np.nan * X, T)], max_epochs=5, print_period=None)
    assert result.best_error < OBJECTIVE.value(start(), (X, T))
    reasons = result.history["reason"]
    assert all("the inputs are not finite" in reason for reason in reasons[1::2])
    assert not any("not finite" in reason for reason in reasons[::2])


def test_what_is_returned_is_no_array_of_the_users():
    given = start()
    result = hf.fit(OBJECTIVE, given, (X, T), max_epochs=0, print_period=None)
    given["W"][:] = 9
    np.testing.assert_array_equal(result.best_params["W"], start()["W"])
    np.testing.assert_array_equal(result.params["W"], start()["W"])


def test_float64_on_the_device_stays_what_it_is():
    """Test data and batches in JAX's arrays, float64 under a local switch."""
    with jax.enable_x64(True):
        x, t = jnp.asarray(X, np.float64), jnp.asarray(T + 1e-9, np.float64)
    parameters = jax.tree.map(lambda leaf: leaf.astype(np.float64), start())
    exact = OBJECTIVE.value(parameters, (X.astype(float), T + 1e-9))
    for data in ((x, t), [(x, t)]):
        result = hf.fit(OBJECTIVE, parameters, data, test=(x, t), max_epochs=0, print_period=None)
        assert result.best_error == pytest.approx(exact, rel=1e-14)


def test_a_test_loss_that_is_undefined_at_the_start_is_let_be():
    undefined = lambda o, t: jnp.where(jnp.std(o) > 0, 1.0, jnp.nan) * ((o - t) ** 2).sum(axis=-1)
    constant = {**start(), "V": 0 * start()["V"]}
    result = hf.fit(OBJECTIVE, constant, (X, T), test=(X, T), test_err=undefined, max_epochs=1, print_period=None)
    assert result.reason == "all 1 epochs are done"


def test_no_epochs_are_an_evaluation():
    result = hf.fit(OBJECTIVE, start(), (X, T), max_epochs=0, print_period=None)
    assert result.best_error == pytest.approx(OBJECTIVE.value(start(), (X, T)), rel=1e-6)
    assert hf.fit(OBJECTIVE, start(), batches(), max_epochs=0, print_period=None).best_error == np.inf


EVEN = np.arange(len(X)) % 2 == 0
MISTAKES = {
    "objective": (lambda: hf.fit(model, start(), (X, T)), TypeError, r"hf.Objective\(model, loss\)"),
    "optimizer": (lambda: hf.fit(OBJECTIVE, start(), (X, T), hf.opt.HessianFree), TypeError, "init and step"),
    "optimizer of optax": (lambda: hf.fit(OBJECTIVE, start(), (X, T), optax.adam(1e-3)), TypeError, "opt.FirstOrder"),
    "optax in optax": (lambda: hf.opt.as_optax(OBJECTIVE, optax.adam(1e-3)), TypeError, "a HessianFree"),
    "data": (lambda: hf.fit(OBJECTIVE, start(), X), TypeError, "a ndarray"),
    "size of an iterable": (
        lambda: hf.fit(OBJECTIVE, start(), batches(), minibatch_size=5),
        ValueError,
        "minibatch_size goes with arrays",
    ),
    "batches of arrays": (lambda: hf.fit(OBJECTIVE, start(), [X, T]), TypeError, "a list is taken as batches"),
    "batches that are none": (lambda: hf.fit(OBJECTIVE, start(), iter([X, T])), TypeError, "A batch is"),
    "no list of callbacks": (lambda: hf.fit(OBJECTIVE, start(), (X, T), callbacks=print), TypeError, "a list"),
    "callback": (lambda: hf.fit(OBJECTIVE, start(), (X, T), callbacks=[print]), TypeError, "on_update"),
    "time": (lambda: hf.fit(OBJECTIVE, start(), (X, T), max_seconds=0), ValueError, "max_seconds"),
    "test data": (lambda: hf.fit(OBJECTIVE, start(), (X, T), test=(X, T[:3])), ValueError, "first axis"),
    "unknown test data": (
        lambda: hf.fit(OBJECTIVE, start(), (X, T), test=(X, np.nan * T)),
        ValueError,
        "All targets of the test data are unknown",
    ),
    "test data without weight": (
        lambda: hf.fit(OBJECTIVE, start(), (X, T), test=(X, T, np.zeros(len(X)))),
        ValueError,
        "All weights of the test data are zero",
    ),
    "test inputs": (
        lambda: hf.fit(OBJECTIVE, start(), (X, T), test=(np.nan * X, T)),
        ValueError,
        "test error is nan at the start; the inputs are not finite",
    ),
    "unknown data": (lambda: hf.fit(OBJECTIVE, start(), (X, np.nan * T)), ValueError, "All targets of the data"),
    "labels all unknown": (
        lambda: hf.fit(hf.Objective(model, "softmax_cross_entropy"), start(), (X, np.full(len(X), -1))),
        ValueError,
        "All targets of the data are unknown",
    ),
    "targets known only where nothing counts": (
        lambda: hf.fit(OBJECTIVE, start(), (X, np.where(EVEN[:, None], T, np.nan), 1.0 - EVEN)),
        ValueError,
        "All targets of the data are unknown",
    ),
    "no targets": (lambda: hf.fit(OBJECTIVE, start(), (X, None)), ValueError, "Outputs and targets differ"),
    "weights": (
        lambda: hf.fit(OBJECTIVE, {**start(), "b": np.full(8, np.nan, np.float32)}, (X, T)),
        ValueError,
        r"\['b'\] holds 8 of 8",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    act, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        act()
