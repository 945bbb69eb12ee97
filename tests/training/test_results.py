"""The one result and the one callback protocol, of fit and of run_epochs."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.training.results import Epoch, Result

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
T = np.array([[0], [1], [1], [0]], np.float32)
LINE = hf.Objective(lambda p, x: x @ p["W"] + p["b"])


def start():
    return {"W": np.full((2, 1), 0.5, np.float32), "b": np.full(1, 0.3, np.float32)}


def fit(**kwargs):
    return hf.fit(LINE, start(), (X, T), **{"max_epochs": 3, "print_period": None, **kwargs})


def run_epochs(**kwargs):
    net = hf.FFNet([2, 5, 1], rng=0)
    optimizer = kwargs.pop("optimizer", None) or hf.opt.HessianFree(CG_iter=3)
    return net.run_epochs(X, T, optimizer, **{"max_epochs": 3, "print_period": None, **kwargs})


DOORS = pytest.mark.parametrize("run", [fit, run_epochs])


@DOORS
def test_both_doors_return_one_result(run):
    result = run(minibatch_size=2, target_err=-np.inf)
    assert type(result) is Result
    assert result.solver == "HessianFree"
    assert len(result.history["value"]) == len(result.history["epoch"]) == 6
    assert list(result.history["epoch"]) == [0, 0, 1, 1, 2, 2]
    assert list(result.history["test_error"]) == result.test_errors
    assert len(result.history["seconds"]) == 3
    assert result.best_error == min(result.test_errors)
    assert result.value == result.epochs[-1].updates[-1].new_value == result.history["new_value"][-1]
    assert len(repr(result)) < 300
    assert result.reason in repr(result)


def test_the_parameters_of_a_network_are_copies_of_its_flat_weights():
    net = hf.FFNet([2, 5, 1], rng=0)
    result = net.run_epochs(X, T, hf.opt.SGD(0.1), max_epochs=2, print_period=None)
    np.testing.assert_array_equal(result.params, net.W)
    np.testing.assert_array_equal(result.best_params, net.best_W)
    assert result.best_error == net.best_error
    net.W[:] = 7
    net.best_W[:] = 8
    assert not (result.params == 7).any()
    assert not (result.best_params == 8).any()


class Plain(NamedTuple):
    value: float
    accepted: bool = True


class Rich(NamedTuple):
    damping: float
    value: float
    new_value: float


def result(*updates):
    return Result(0, 0, 1.0, "", [Epoch(0, 1.0, 0.5, list(updates))] if updates else [], "some")


def test_history_takes_the_fields_that_all_records_share():
    assert set(result(Plain(1.0), Rich(2.0, 3.0, 4.0)).history) == {"value", "epoch", "test_error", "seconds"}
    assert list(result(Plain(1.0), Rich(2.0, 3.0, 4.0)).history["value"]) == [1, 3]
    assert set(result(Rich(2.0, 3.0, 4.0)).history) > {"damping", "new_value"}
    assert set(result(None, Plain(1.0)).history) == {"epoch", "test_error", "seconds"}
    assert list(result(None).history["epoch"]) == [0]
    assert len(result().history["epoch"]) == 0


def test_value_is_the_loss_after_the_last_update():
    assert result(Rich(2.0, 3.0, 4.0)).value == 4
    assert result(Plain(1.0)).value == 1
    assert math.isnan(result(None).value)
    assert result().value == 1.0  # without updates the error at the start


def test_a_user_optimizer_without_records_has_a_history_too():
    class Still(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            return np.zeros_like(self.net.W)

    found = run_epochs(optimizer=Still())
    assert set(found.history) == {"epoch", "test_error", "seconds"}
    assert found.solver == "Still"


# ---- callbacks -------------------------------------------------------------------------------------------------------


class Diary:
    def __init__(self):
        self.events, self.errors, self.norms = [], [], []

    def on_start(self, run):
        self.run = run
        self.events.append("start")
        assert run.epochs == ()
        assert run.best_error == np.inf

    def on_update(self, epoch_number, update, updates, record):
        self.events.append((epoch_number, update, updates))
        leaves = self.run.params.values() if isinstance(self.run.params, dict) else [self.run.params]
        self.norms.append(sum(float(np.sum(np.square(leaf))) for leaf in leaves))

    def on_epoch(self, epoch):
        self.events.append(epoch.number)
        self.errors.append(self.run.best_error)
        assert self.run.epochs[-1] is epoch

    def on_end(self, result):
        self.events.append("end")
        self.result = result


@DOORS
def test_callbacks_follow_a_run_with_a_live_view_of_it(run):
    diary = Diary()
    found = run(callbacks=[diary], minibatch_size=2, max_epochs=2, target_err=-np.inf)
    assert diary.events == ["start", (0, 0, 2), (0, 1, 2), 0, (1, 0, 2), (1, 1, 2), 1, "end"]
    assert diary.result is found
    assert diary.errors == list(np.minimum.accumulate(found.test_errors))
    assert len(set(diary.norms)) == 4  # the parameters are those of the moment
    with pytest.raises(AttributeError):
        diary.run.params = None
    if run is run_epochs:
        with pytest.raises(ValueError, match="read-only"):
            diary.run.params[:] = 0


def test_a_callback_may_have_on_start_alone_and_set_the_weights_of_a_network():
    net = hf.FFNet([2, 5, 1], rng=0)

    class Zeros:
        def on_update(self, epoch_number, update, updates, record):
            net.W[:] = 0

    found = net.run_epochs(X, T, hf.opt.HessianFree(), max_epochs=1, print_period=None, callbacks=[Zeros()])
    assert found.test_errors[0] == pytest.approx(net.error(np.zeros_like(net.W), X, T))

    class Start:
        def on_start(self, run):
            self.run = run

    seen = Start()
    run_epochs(callbacks=[seen])
    assert len(seen.run.epochs) > 0


@DOORS
def test_three_rejections_end_a_run_within_its_epoch_and_all_is_told(run):
    optimizer = hf.opt.FirstOrder(optax.scale(np.nan))
    diary = Diary()
    found = run(optimizer=optimizer, minibatch_size=1, callbacks=[diary])
    assert found.reason.startswith("3 updates in a row found no usable step: ")
    assert "lower the learning rate" in found.reason
    assert diary.events == ["start", (0, 0, 4), (0, 1, 4), (0, 2, 4), 0, "end"]


def test_lines_come_from_the_records_at_both_doors(capsys):
    fit(print_period=2)
    run_epochs(print_period=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert all("loss" in line and "damping" in line for line in lines)
    assert len(lines) >= 3
