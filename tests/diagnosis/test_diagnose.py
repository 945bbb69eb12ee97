"""Runs that are made to go wrong are found out, what is advised mends them, and runs that do well are left alone."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf
from diagnosis_cases import (
    AIM,
    FAULTS,
    HIDDEN,
    SEQUENCES,
    SUMS,
    X,
    Y,
    linear,
    network,
    recurrent,
    train,
    without_hindsight,
)
from hessianfree.diagnosis.advice import line_of
from hessianfree.diagnosis.facts import Facts
from hessianfree.diagnosis.findings import Fault, Findings


def kinds(result, *more):
    return [finding.kind for finding in hf.diagnose(result, *more)]


#: Faults that explain a run that went wrong: the last line of the run names them. The rest are hints.
LOUD = {
    Fault.DIVERGED,
    Fault.RECURRENCE,
    Fault.PLATEAU,
    Fault.TARGETS,
    Fault.INPUTS,
    Fault.UNITS,
    Fault.NOT_FINITE,
    Fault.IMBALANCE,
    Fault.STUCK,
}


@pytest.mark.few(4)
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_first_and_its_advice_mends_the_run(name, tmp_path):
    kind, faulty, mended = FAULTS[name]
    result = faulty()
    found = hf.diagnose(result)
    assert found[0].kind == kind
    assert bool(line_of(result)) == found[0].strong == (kind in LOUD)
    result.save(tmp_path / "result.safetensors")
    assert repr(hf.diagnose(hf.load(tmp_path / "result.safetensors"))) == repr(found)
    if mended is not None:
        after = mended()
        assert kind not in kinds(after)
        assert line_of(after) == ""
        assert after.best_error < result.best_error


# ---- runs that do well -----------------------------------------------------------------------------------------------

XOR = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
ONE = np.array([[0], [1], [1], [0]], np.float32)
TWO = np.hstack([1 - ONE, ONE])
LINES = np.linspace(-1, 1, 100, dtype=np.float32)[:, None]
WAVE = np.sin(3 * LINES) + 0.05 * np.random.RandomState(0).randn(100, 1).astype(np.float32)
QUIET = {"print_period": None}


def xor(seed):
    return hf.FFNet([2, 5, 1], rng=seed).run_epochs(XOR, ONE, hf.opt.HessianFree(CG_iter=2), max_epochs=40, **QUIET)


def crossentropy(seed):
    layers, loss = ["Linear", "Tanh", "Softmax"], hf.loss_funcs.CrossEntropy()
    net = hf.FFNet([2, 5, 2], layers=layers, loss_type=loss, rng=seed)
    return net.run_epochs(XOR, TWO, hf.opt.HessianFree(CG_iter=2), max_epochs=40, **QUIET)


def connections(seed):
    net = hf.FFNet([2, 5, 5, 1], layers="Tanh", conns={0: [1, 2], 1: [2, 3], 2: [3]}, rng=seed)
    return net.run_epochs(XOR, ONE, hf.opt.HessianFree(CG_iter=2), max_epochs=40, **QUIET)


def wave(optimizer, **arguments):
    net = hf.FFNet([1, 10, 1], layers=HIDDEN, rng=0)
    return net.run_epochs(LINES, WAVE, optimizer, **{"max_epochs": 60, **QUIET, **arguments})


def gone_on():
    """A run that begins at an optimum."""
    net = hf.FFNet([1, 10, 1], layers=HIDDEN, rng=0)
    for _ in range(2):
        result = net.run_epochs(LINES, WAVE, hf.opt.HessianFree(), max_epochs=60, **QUIET)
    return result


def fitted():
    rng = np.random.RandomState(1)
    start = {"W": rng.randn(1, 10).astype(np.float32), "V": (0.1 * rng.randn(10, 1)).astype(np.float32)}
    model = hf.Objective(lambda p, x: jnp.tanh(x @ p["W"]) @ p["V"])
    return hf.fit(
        model, start, (LINES, WAVE), hf.opt.FirstOrder(optax.adam(2e-2)), minibatch_size=25, max_epochs=600, **QUIET
    )


def remembered():
    net = recurrent(W_rec_params={"init_type": "orthogonal"})
    return train(net, hf.opt.HessianFree(CG_iter=20), SUMS, SEQUENCES, max_epochs=40, target_err=5e-3)


HEALTHY = {
    "xor": lambda: xor(0),
    "xor again": lambda: xor(1),
    "xor by gradient descent": lambda: hf.FFNet([2, 5, 1], rng=0).run_epochs(
        XOR, ONE, hf.opt.SGD(1), max_epochs=10_000, target_err=2e-3, **QUIET
    ),
    "crossentropy": lambda: crossentropy(0),
    "crossentropy again": lambda: crossentropy(1),
    "connections": lambda: connections(0),
    "connections again": lambda: connections(1),
    "a curve": lambda: wave(hf.opt.HessianFree()),
    "a curve with K-FAC": lambda: wave(hf.opt.HessianFree(preconditioner="kfac")),
    "a curve on minibatches": lambda: wave(hf.opt.HessianFree(), minibatch_size=50),
    "a curve by Auto": lambda: wave(hf.opt.Auto(), max_epochs=300, target_err=2e-3),
    "from an optimum": gone_on,
    "Adam on minibatches": fitted,
    "a recurrent network": remembered,
    "well known, and ended at once": lambda: linear(X, AIM, hf.opt.HessianFree()),
}


@pytest.mark.few(7)
@pytest.mark.parametrize("name", HEALTHY)
def test_a_run_that_does_well_is_left_alone(name):
    result = HEALTHY[name]()
    assert hf.diagnose(result) == []
    assert line_of(result) == ""


@pytest.mark.parametrize(
    ("optimizer", "size"),
    [(hf.opt.HessianFree(CG_iter=30, init_damping=10), None), (hf.opt.FirstOrder(optax.adam(3e-3)), 100)],
)
def test_digits_are_learnt_without_complaint(optimizer, size):
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x, t = (data.data / 16).astype(np.float32), np.eye(10, dtype=np.float32)[data.target]
    net = hf.FFNet(
        [64, 30, 10],
        layers=["Linear", "Tanh", "Softmax"],
        loss_type=hf.loss_funcs.CrossEntropy(),
        W_init_params={"coeff": 0.3},
        rng=0,
    )
    error = {"test": (x[1400:], t[1400:]), "test_err": hf.loss_funcs.ClassificationError()}
    result = net.run_epochs(x[:1400], t[:1400], optimizer, minibatch_size=size, max_epochs=20, **error, **QUIET)
    assert result.best_error < 0.12
    assert set(kinds(result)) <= {Fault.UNFINISHED}
    assert set(kinds(result, net, (x[:1400], t[:1400]))) <= {Fault.UNFINISHED}
    assert line_of(result) == ""


# ---- test data -------------------------------------------------------------------------------------------------------

NOISY = (Y + 0.5 * np.random.RandomState(5).randn(200, 1)).astype(np.float32)
FEW, REST = slice(0, 40), slice(40, None)


@pytest.mark.parametrize("early", [True, False])
def test_overfitting_is_called_that_and_the_best_weights_are_better(early):
    net, test = network(), (X[REST], NOISY[REST])
    result = train(net, hf.opt.HessianFree(), NOISY[FEW], X[FEW], test=test, max_epochs=40, early_stopping=early)
    assert ("(overfitting; early_stopping=False goes on)" in result.reason) == early
    assert kinds(result) == [Fault.OVERFITTING]
    assert line_of(result) == ""
    assert net.error(net.best_W, *test) < net.error(result.last_params, *test)


def test_a_run_whose_training_loss_rises_is_not_called_overfitting():
    arguments = {"test": (X[REST], NOISY[REST]), "minibatch_size": 5, "max_epochs": 30}
    result = train(network(), without_hindsight(CG_iter=10), NOISY[FEW], X[FEW], **arguments)
    assert len(result.epochs) == 12
    assert "the training loss has risen from" in result.reason
    assert "diverging, not overfitting" in result.reason
    assert hf.diagnose(result)[0].kind == Fault.DIVERGED
    assert Fault.OVERFITTING not in kinds(result)


def test_an_optimizer_without_records_is_diagnosed_by_its_errors():
    class Away(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            return self.net.W

    result = train(network(), Away(), max_epochs=15)
    assert kinds(result) == [Fault.DIVERGED]

    class Odd(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            self.record = Odd  # it says nothing that numbers could be taken from
            return 0 * self.net.W

    assert set(kinds(train(network(), Odd(), max_epochs=15))) <= {Fault.PLATEAU, Fault.WORSE}


# ---- what is given besides the result --------------------------------------------------------------------------------


def test_network_and_data_tell_more_than_the_result():
    net = recurrent(W_rec_params={"coeff": 50})
    result = train(net, hf.opt.SGD(1e-30), SUMS, SEQUENCES, max_epochs=8)
    assert Fault.UNITS not in kinds(result)
    found = {finding.kind: finding for finding in hf.diagnose(result, net, (SEQUENCES, SUMS))}
    assert "of layer 1 (Tanh)" in found[Fault.UNITS].seen
    assert [finding.kind for finding in hf.diagnose(result, net)] == list(found)  # the last batch is all the data


def test_class_labels_are_targets_here_too():
    labels = np.where(Y[:, 0] > 0, "above", "below")
    net = hf.FFNet([3, 10, 2], layers=["Linear", "Tanh", "Softmax"], loss_type="cross_entropy", rng=0)
    result = train(net, hf.opt.SGD(1e-9), labels, max_epochs=8)
    share = (Y > 0).mean()
    assert result.facts.commonest == pytest.approx(max(share, 1 - share))
    assert result.facts.constant_loss == pytest.approx(-share * np.log(share) - (1 - share) * np.log(1 - share))
    net.cache_minibatch(X[:3], labels[:3])  # of which the run's own loss of constant outputs is not to be taken
    assert kinds(result) == kinds(result, net) == kinds(result, net, (X, labels)) == [Fault.PLATEAU]


def test_data_alone_are_looked_at_in_full():
    result = train(network(), hf.opt.HessianFree(), max_epochs=12)
    assert kinds(result) == [Fault.UNFINISHED]
    far = X.copy()
    far[1, 2] = 1e6  # not among the rows that are looked at in large data
    assert kinds(result, None, (far, Y)) == [Fault.INPUTS, Fault.UNFINISHED]


RESULT = object()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((network(),), TypeError, "result is a FFNet; what run_epochs, hf.fit or hf.least_squares returned"),
        ((RESULT, Y), TypeError, "net is a ndarray; the FFNet or RNNet that was trained"),
        ((RESULT, network(shape=(3, 4, 1))), ValueError, r"parameters of shape \(51,\), and the network \(21,\)"),
        ((RESULT, network(), X), TypeError, r"data is a ndarray; a pair \(inputs, targets\)"),
        ((RESULT, network(), (X, X)), ValueError, "3"),
    ],
)
def test_what_does_not_belong_together_is_refused(arguments, error, words):
    result = train(network(), hf.opt.SGD(0.1), max_epochs=2)
    with pytest.raises(error, match=words):
        hf.diagnose(*(result if argument is RESULT else argument for argument in arguments))


# ---- least squares ---------------------------------------------------------------------------------------------------

TIMES = np.linspace(0, 3, 30)
DECAY = 2 * np.exp(-TIMES) + 0.01 * np.sin(30 * TIMES)


def decay(p, x):
    return p[0] * jnp.exp(-p[1] * x)


def test_least_squares_that_converge_are_left_alone():
    assert hf.diagnose(hf.least_squares(hf.Curve(decay, TIMES, DECAY), np.ones(2))) == []


def test_least_squares_that_were_cut_short_are_to_go_on():
    result = hf.least_squares(hf.Curve(decay, TIMES, DECAY), np.array([10.0, 5.0]), max_steps=3)
    found = hf.diagnose(result)
    assert [finding.kind for finding in found] == [Fault.UNFINISHED]
    assert "max_steps" in found[0].remedy
    assert hf.least_squares(hf.Curve(decay, TIMES, DECAY), result.params).converged


def test_parameters_that_nothing_determines_are_named():
    def twice(p, x):
        return p["a"] * p["b"] * jnp.exp(-p["k"] * x)

    start = {"a": np.float64(1), "b": np.float64(1), "k": np.float64(1)}
    found = hf.diagnose(hf.least_squares(hf.Curve(twice, TIMES, DECAY), start))
    assert [finding.kind for finding in found] == [Fault.UNDETERMINED]
    assert "['a'], ['b']" in found[0].seen
    fixed = {"a": False, "b": True, "k": False}
    assert hf.diagnose(hf.least_squares(hf.Curve(twice, TIMES, DECAY), start, fixed=fixed)) == []


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_the_last_line_advises_where_a_run_went_wrong_and_nowhere_else(capsys):
    train(network(), hf.opt.SGD(3.0), print_period=10)
    train(network(), hf.opt.SGD(0.1), print_period=10)
    lines = capsys.readouterr().out.splitlines()
    ends = [place for place, line in enumerate(lines) if line.startswith("finished after")]
    advice = [place for place, line in enumerate(lines) if line.startswith("advice: ")]
    assert advice == [ends[0] + 1]
    assert lines[advice[0]].startswith("advice: diverged; try a learning rate lower by ten, as in SGD(l_rate=...)")
    assert lines[advice[0]].endswith("; hf.diagnose(result) says more")
    train(network(), hf.opt.SGD(3.0))
    assert capsys.readouterr().out == ""


def test_findings_print_in_a_few_lines_of_limited_width():
    found = hf.diagnose(FAULTS["columns in other units"][1]())
    lines = repr(found).splitlines()
    assert str(found) == repr(found)
    assert lines[0] == f"{len(found)} findings, the most likely cause first:"
    assert max(map(len, lines)) <= 100
    assert repr(Findings()).startswith("No findings")
    assert isinstance(found, list)
    with pytest.raises(AttributeError):
        found[0].kind = "other"


def test_facts_are_those_of_the_run():
    net = network(rng=1)
    facts = train(net, hf.opt.SGD(0.1), minibatch_size=50, test=(X, Y), max_epochs=2).facts
    assert (facts.network, facts.tested, facts.examples, facts.batch, facts.timesteps) == (True, True, 200, 50, None)
    assert facts.constant_loss == pytest.approx(0.5 * Y.var(), rel=1e-5)
    assert facts.targets is None  # the output layer is linear
    assert facts.inputs.largest == pytest.approx(abs(X).max())
    assert [units.layer for units in facts.layers] == [1]
    assert linear(X, AIM, hf.opt.SGD(0.1), max_epochs=1).facts.network is False
    assert hf.least_squares(hf.Curve(decay, TIMES, DECAY), np.ones(2), max_steps=1).facts == Facts(tested=False)
