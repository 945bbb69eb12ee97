"""Metrics beside the error: what they are computed on, where they are shown, and that files and checkpoints hold them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.networks.scores import accuracy
from hessianfree.training.judging import Judged

RNG = np.random.RandomState(0)
X = RNG.uniform(-1, 1, (24, 2)).astype(np.float32)
CLASS = (X[:, 0] > 0).astype(int) + (X[:, 1] > 0.3)
TEST = X[:9], CLASS[:9]
SEQUENCES = RNG.uniform(-1, 1, (8, 5, 1)).astype(np.float32)
STEPS = (np.cumsum(SEQUENCES[..., 0], axis=1) > 0).astype(int) + (SEQUENCES[..., 0] > 0.5)


def classifier():
    return hf.FFNet([2, 4, 3], layers=["Linear", "Tanh", "Softmax"], loss_type="cross_entropy", rng=0)


def run_epochs(net=None, x=X, t=CLASS, **options):
    options = {"max_epochs": 3, "print_period": None, **options}
    return (net or classifier()).run_epochs(x, t, hf.opt.HessianFree(CG_iter=4), **options)


OBJECTIVE = hf.Objective(lambda p, x: x @ p["W"] + p["b"], "softmax_cross_entropy")


def start():
    return {"W": np.full((2, 3), 0.1, np.float32), "b": np.zeros(3, np.float32)}


def fit(data=(X, CLASS), **options):
    return hf.fit(OBJECTIVE, start(), data, **{"max_epochs": 3, "print_period": None, **options})


# ---- values --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [None, TEST])
def test_the_accuracy_is_that_of_the_predictions(test):
    net = classifier()
    result = run_epochs(net, test=test)
    x, labels = test or (X, CLASS)
    assert [list(epoch.metrics) for epoch in result.epochs] == [["accuracy"]] * 3
    best = result.best_epoch.metrics["accuracy"]
    assert best == pytest.approx((net.forward(x, net.best_W)[-1].argmax(axis=1) == labels).mean())
    assert result.metrics["accuracy"][-1] == result.epochs[-1].metrics["accuracy"]


def test_without_labels_there_is_no_accuracy():
    assert run_epochs(t=np.eye(3)[CLASS]).epochs[0].metrics == {}
    assert run_epochs(t=np.eye(3)[CLASS]).metrics == {}
    assert fit((X, np.eye(3, dtype=np.float32)[CLASS])).epochs[0].metrics == {}


def test_the_accuracy_over_time_is_that_of_the_timesteps():
    for labels, one in ((STEPS, False), (STEPS[:, -1] + 3, True)):
        net = hf.RNNet([1, 4, 3], layers=["Linear", "Tanh", "Softmax"], loss_type="cross_entropy", rng=0)
        net.classes = [3, 4, 5] if one else [0, 1, 2]
        result = net.run_epochs(SEQUENCES, labels, hf.opt.HessianFree(CG_iter=4), max_epochs=2, print_period=None)
        guess = net.forward(SEQUENCES)[-1].argmax(axis=-1)
        expected = (guess[:, -1] + 3 == labels).mean() if one else (guess == labels).mean()
        assert result.epochs[-1].metrics["accuracy"] == pytest.approx(expected)


def test_one_logistic_unit_has_an_accuracy():
    net = hf.FFNet([2, 4, 1], loss_type="binary_cross_entropy", rng=0)
    result = net.run_epochs(X, CLASS > 0, hf.opt.HessianFree(CG_iter=4), max_epochs=2, print_period=None)
    expected = ((net.forward(X)[-1][:, 0] > 0.5) == (CLASS > 0)).mean()
    assert result.epochs[-1].metrics["accuracy"] == pytest.approx(expected)


def test_outputs_that_are_not_finite_are_wrong():
    o = np.array([[np.nan, 0.1], [0.9, 0.1]])
    assert accuracy(o, np.array([[1.0, 0.0], [1.0, 0.0]])) == 0.5
    assert math.isnan(accuracy(o, np.full((2, 2), np.nan)))


def largest(outputs, targets):
    assert not outputs.flags.writeable
    assert not targets.flags.writeable
    return abs(outputs - targets).max()


def test_metrics_of_ones_own_are_functions_losses_or_names():
    net, t = classifier(), np.eye(3)[CLASS]
    given = {"largest": largest, "wrong": hf.loss_funcs.ClassificationError(), "half square": "squared_error", "hidden": hf.loss_funcs.SparseL2(2.0)}  # fmt: skip
    result = run_epochs(net, metrics=given)
    found, activities = result.epochs[-1].metrics, net.forward(X)
    o = activities[-1].astype(float)
    assert list(found) == ["accuracy", *given]
    assert found["largest"] == pytest.approx(abs(o - t).max(), rel=1e-5)
    assert found["wrong"] == pytest.approx((o.argmax(axis=1) != CLASS).mean())
    assert found["half square"] == pytest.approx(0.5 * ((o - t) ** 2).sum(axis=1).mean(), rel=1e-5)
    assert found["hidden"] == pytest.approx((activities[1].astype(float) ** 2).sum(axis=1).mean(), rel=1e-5)


def test_losses_honour_the_weights_of_training_examples():
    weights = RNG.randint(1, 4, len(X))
    rows = np.repeat(np.arange(len(X)), weights)
    asked = {"metrics": {"half square": "squared_error"}, "max_epochs": 1}
    one, other = run_epochs(weights=weights, **asked), run_epochs(x=X[rows], t=CLASS[rows], **asked)
    for name in ("accuracy", "half square"):
        assert one.metrics[name] == pytest.approx(other.metrics[name], rel=1e-4)


def test_metrics_do_not_change_the_run():
    plain, measured = classifier(), classifier()
    expected = run_epochs(plain, minibatch_size=10, test=TEST)
    found = run_epochs(measured, minibatch_size=10, test=TEST, metrics={"largest": largest})
    np.testing.assert_array_equal(plain.W, measured.W)
    assert found.test_errors == expected.test_errors


def test_a_metric_of_ones_own_may_be_called_accuracy():
    result = run_epochs(metrics={"accuracy": lambda outputs, targets: 7})
    assert result.epochs[0].metrics == {"accuracy": 7.0}
    assert result.judged == Judged("training", ())


def test_a_plant_is_measured_on_what_it_generates():
    class Walk(hf.nl.Plant):
        shape, targets = (4, 5, 1), np.full((4, 5, 1), 0.3, np.float32)

        def initial_state(self, batch):
            return jnp.zeros((batch, 1))

        def step(self, state, x):
            return state + 0.1 * x, state + 0.1 * x

    net = hf.RNNet([1, 3, 1], layers="Tanh", rng=0)
    result = net.run_epochs(Walk(), None, hf.opt.HessianFree(CG_iter=3), max_epochs=2, print_period=None, metrics={"half square": "squared_error", "largest": largest})  # fmt: skip
    assert result.metrics["half square"] == pytest.approx(result.test_errors)
    assert set(result.epochs[0].metrics) == {"half square", "largest"}


# ---- fit -----------------------------------------------------------------------------------------------------------------


def logits(params, x):
    return x @ np.asarray(params["W"]) + np.asarray(params["b"])


@pytest.mark.parametrize("test", [None, TEST, (*TEST, np.arange(9) % 3)])
def test_fit_measures_on_test_data_or_on_all(test):
    given = {"largest": lambda o, t: np.max(o), "loss": "softmax_cross_entropy"}
    result = fit(test=test, metrics=given)
    x, labels, weights = (*(test or (X, CLASS)), None, None)[:3]
    found, o = result.best_epoch.metrics, logits(result.best_params, x)
    assert list(found) == ["accuracy", "largest", "loss"]
    assert found["accuracy"] == pytest.approx(np.average(o.argmax(axis=1) == labels, weights=weights))
    assert found["largest"] == pytest.approx(o.max(), rel=1e-5)
    assert found["loss"] == pytest.approx(result.best_error, rel=1e-5)
    assert result.judged == Judged("training" if test is None else "test", ("accuracy",))


def test_unknown_labels_of_fit_count_for_nothing():
    labels = CLASS.astype(np.float32)
    labels[3] = np.nan
    result = fit((X, labels))
    o, known = logits(result.params, X), ~np.isnan(labels)
    assert result.epochs[-1].metrics["accuracy"] == pytest.approx((o.argmax(axis=1) == labels)[known].mean())


def test_losses_of_networks_serve_fit_too():
    t = np.eye(3, dtype=np.float32)[CLASS]
    result = fit((X, t), metrics={"wrong": hf.loss_funcs.ClassificationError()})
    expected = (logits(result.params, X).argmax(axis=1) != CLASS).mean()
    assert result.epochs[-1].metrics["wrong"] == pytest.approx(expected)


def test_functions_are_given_pytrees_of_numpy_arrays():
    objective = hf.Objective(lambda p, x: {"y": x @ p["W"], "z": p["b"] + x[:, :1]})
    data = X, {"y": X[:, :1].repeat(3, axis=1), "z": X[:, :1].repeat(3, axis=1)}
    seen = []

    def metric(outputs, targets):
        seen.extend(type(leaf) for leaf in jax.tree.leaves((outputs, targets)))
        return np.float32(1)

    result = hf.fit(objective, start(), data, max_epochs=2, print_period=None, metrics={"ones": metric})
    assert set(seen) == {np.ndarray}
    assert list(result.metrics["ones"]) == [1, 1]


def test_batches_of_an_iterable_have_no_metrics_without_test_data():
    batches = [(X[:12], CLASS[:12]), (X[12:], CLASS[12:])]
    result = fit(batches)
    assert (result.judged, result.metrics) == (Judged("updates"), {})
    assert fit(batches, test=TEST).metrics["accuracy"].shape == (3,)
    with pytest.raises(ValueError, match=r"metrics are computed on test data, or on data in memory; pass test="):
        fit(batches, metrics={"largest": largest})


# ---- files and checkpoints -----------------------------------------------------------------------------------------------


def same(found, expected):
    assert [dict(epoch.metrics) for epoch in found.epochs] == [dict(epoch.metrics) for epoch in expected.epochs]
    assert found.judged == expected.judged


@pytest.mark.parametrize("run", [run_epochs, fit])
def test_results_in_files_hold_them(run, tmp_path):
    result = run(test=TEST, metrics={"largest": lambda o, t: np.max(o), "nan": lambda o, t: np.nan})
    result.save(tmp_path / "r")
    found = hf.load(tmp_path / "r")
    assert found.judged == result.judged == Judged("test", ("accuracy",))
    for name in ("accuracy", "largest", "nan"):
        np.testing.assert_array_equal(found.metrics[name], result.metrics[name])
    assert repr(found) == repr(result)


@pytest.mark.parametrize("run", [run_epochs, fit])
def test_a_resumed_run_has_those_of_the_run_in_one_piece(run, tmp_path):
    expected, path = run(test=TEST, max_epochs=4), tmp_path / "run.ckpt"
    run(test=TEST, max_epochs=2, checkpoint=path)
    same(run(test=TEST, max_epochs=4, checkpoint=path, resume=True), expected)


def test_epochs_may_differ_in_their_metrics(tmp_path):
    path = tmp_path / "run.ckpt"
    run_epochs(max_epochs=2, checkpoint=path)
    result = run_epochs(max_epochs=3, checkpoint=path, resume=True, metrics={"largest": largest})
    assert [list(epoch.metrics) for epoch in result.epochs] == [["accuracy"], ["accuracy"], ["accuracy", "largest"]]
    assert np.isnan(result.metrics["largest"]).tolist() == [True, True, False]
    result.save(tmp_path / "r")
    same(hf.load(tmp_path / "r"), result)


# ---- lines ---------------------------------------------------------------------------------------------------------------


def lines(capsys):
    return capsys.readouterr().out.splitlines()


def test_lines_name_what_the_error_is_of(capsys):
    run_epochs(print_period=1, max_epochs=1)
    fit(print_period=1, max_epochs=1)
    assert [line.split(" 0")[0] for line in lines(capsys) if "loss" in line] == ["epoch"] * 2
    run_epochs(print_period=1, max_epochs=1, metrics={"largest": largest})
    (shown,) = [line for line in lines(capsys) if line.startswith("epoch 0: training error ")]
    assert ", accuracy " in shown
    assert " %, largest 0." in shown
    run_epochs(print_period=1, max_epochs=1, test=TEST)
    assert lines(capsys)[0].startswith("epoch 0: test error ")
    fit([(X, CLASS)], print_period=1, max_epochs=1)
    assert lines(capsys)[0].startswith("epoch 0: mean training loss ")


def test_classification_errors_are_shown_as_a_share_of_the_examples(capsys):
    net = classifier()
    given = {
        "test": TEST,
        "test_err": "classification_error",
        "metrics": {"wrong": hf.loss_funcs.ClassificationError()},
    }
    result = run_epochs(net, print_period=1, max_epochs=1, target_err=-np.inf, **given)
    share = result.test_errors[0]
    shown = lines(capsys)[0]
    assert shown.startswith(
        f"epoch 0: test error {100 * share:.4g} %, accuracy {100 - 100 * share:.4g} %, wrong {100 * share:.4g} %"
    )
    assert result.judged.shares == ("error", "wrong", "accuracy")
    assert f"best test error {100 * share:.4g} %" in repr(result)


def test_mistakes_in_sequences_are_no_share_of_the_examples():
    net = hf.RNNet([1, 4, 3], layers=["Linear", "Tanh", "Softmax"], loss_type="cross_entropy", rng=0)
    asked = {"max_epochs": 1, "print_period": None, "test_err": "classification_error", "target_err": -np.inf}
    of_steps = net.run_epochs(SEQUENCES, STEPS, hf.opt.HessianFree(CG_iter=4), **asked)
    assert of_steps.judged.shares == ("accuracy",)
    assert of_steps.judged.error(3.5) == "training error 3.5"
    of_ends = net.run_epochs(SEQUENCES, STEPS[:, -1], hf.opt.HessianFree(CG_iter=4), **asked)
    assert of_ends.judged.shares == ("error", "accuracy")


# ---- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [run_epochs, fit])
@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ([largest], TypeError, "a dict is expected"),
        ({3: largest}, TypeError, "the name 3; text is expected"),
        ({"": largest}, ValueError, "1 to 40 characters"),
        ({"x" * 41: largest}, ValueError, "1 to 40 characters"),
        ({"error": largest}, ValueError, "which the test error goes by"),
        ({"a": 3}, TypeError, r"The metric 'a' is 3; a function \(outputs, targets\) -> number"),
        ({"a": hf.loss_funcs.SquaredError}, TypeError, "The metric 'a' is <class"),
        ({"a": "l1"}, ValueError, "There is no loss 'l1'. The names are 'squared_error'"),
        ({"a": lambda outputs, targets: outputs}, TypeError, r"The metric 'a' returned float32 of shape \(24, 3\); one number"),
        ({"a": lambda outputs, targets: None}, TypeError, "The metric 'a' returned None"),
        ({"a": lambda outputs: 1.0}, TypeError, "positional argument"),
    ],
)  # fmt: skip
def test_metrics_that_make_no_sense_are_refused_before_any_work(run, metrics, error, message):
    made = []

    class Note:
        def on_update(self, *event):
            made.append(event)

    with pytest.raises(error, match=message):
        run(metrics=metrics, callbacks=[Note()])
    assert made == []


def test_a_classification_error_of_one_unit_is_refused_as_a_metric():
    with pytest.raises(ValueError, match="one per class"):
        hf.FFNet([2, 4, 1]).run_epochs(X, CLASS > 0, hf.opt.SGD(), metrics={"a": "classification_error"})
