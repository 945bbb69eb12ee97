"""What data, thresholds and single rules say, against independent computations and records that are made up."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import scipy.optimize

import hessianfree as hf
from hessianfree.diagnosis.advice import findings, line_of
from hessianfree.diagnosis.constant import best_constant
from hessianfree.diagnosis.course import RunCourse
from hessianfree.diagnosis.data import ROWS, inputs_of, targets_of
from hessianfree.diagnosis.facts import Facts, Said, from_plain, plain
from hessianfree.diagnosis.findings import Fault
from hessianfree.diagnosis.stopping import why_worse
from hessianfree.networks.facts import bounds
from hessianfree.optimizers.first_order import GradientRecord
from hessianfree.training.results import Epoch, Result

RNG = np.random.RandomState(0)

# ---- the loss of constant outputs ------------------------------------------------------------------------------------


def log_sum_exp(o):
    return np.log(np.exp(o - o.max()).sum()) + o.max()


LOSSES = {
    "squared_error": lambda o, t: 0.5 * (o - t) ** 2,
    "binary_cross_entropy": lambda o, t: np.log1p(np.exp(o)) - t * o,
    "poisson": lambda o, t: np.exp(o) - t * o,
}


def least(loss, outputs):
    return scipy.optimize.minimize(loss, np.zeros(outputs), tol=1e-12).fun


@pytest.mark.parametrize("name", LOSSES)
def test_the_best_constant_is_the_minimum_over_constants(name):
    """Of sequences, with weights, and targets that are not known."""
    t, w = RNG.rand(12, 4, 3), RNG.rand(12)
    t[RNG.rand(*t.shape) < 0.2] = np.nan

    def mean(o):
        return (w * np.nansum(LOSSES[name](o, t), axis=(1, 2))).sum() / w.sum()

    assert best_constant(name, t, w).loss == pytest.approx(least(mean, 3), rel=1e-8)


def test_the_best_constant_lies_within_the_bounds_of_the_outputs():
    t = np.array([[3.0], [5.0]])
    assert best_constant("squared_error", t, np.ones(2), -1.0, 1.0).loss == pytest.approx(0.5 * (4 + 16) / 2)


@pytest.mark.parametrize("labels", [True, False])
def test_the_best_constant_of_classes_are_their_shares(labels):
    classes, w = RNG.randint(0, 3, 50), RNG.rand(50)
    t = classes if labels else np.eye(3)[classes]

    def mean(o):
        return (w * (log_sum_exp(o) - o[classes])).sum() / w.sum()

    found = best_constant("softmax_cross_entropy", t, w)
    assert found.loss == pytest.approx(least(mean, 3), rel=1e-8)
    assert found.commonest == pytest.approx(max(w[classes == k].sum() for k in range(3)) / w.sum())


def test_nothing_is_said_of_other_losses_or_unknown_targets():
    assert best_constant("huber", np.ones((2, 1)), np.ones(2)) is None
    assert best_constant("squared_error", np.full((2, 1), np.nan), np.ones(2)) is None
    assert best_constant("softmax_cross_entropy", np.array([-1, -1]), np.ones(2)) is None
    assert best_constant("squared_error", np.full((2, 1), 1e200), np.zeros(2)) is None


# ---- inputs and targets ----------------------------------------------------------------------------------------------


NOISE = RNG.randn(100)


def inputs(*columns):
    return inputs_of(np.stack(np.broadcast_arrays(*columns, NOISE)[:-1], axis=1).astype(np.float32))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (inputs(NOISE, 1e4 * NOISE), ("Column 1 of the inputs has a range of", "column 0 one of")),
        (inputs(NOISE, 2000 + 5 * NOISE), ("Column 1 lies 8", "times its range away from zero")),
        (inputs(NOISE, 300 * np.abs(NOISE) / np.abs(NOISE).max()), ("Column 1 holds values of up to 300",)),
        (inputs(1e-5 * NOISE, 2e-5 * NOISE), ("No input is larger than",)),
        (inputs(NOISE, 1, 0), ("2 of 3 columns are constant in 100 rows",)),
        (inputs(1, 0), ("2 of 2 columns are constant",)),
    ],
)
def test_inputs_that_are_badly_scaled(x, words):
    found = findings(course([1.0, 0.5, 0.4], Facts(inputs=x)))
    assert [finding.kind for finding in found] == [Fault.INPUTS]
    assert all(text in found[0].seen for text in words)


@pytest.mark.parametrize(
    "x",
    [
        inputs(NOISE, 10 * NOISE, NOISE > 0),
        inputs(NOISE, NOISE > 2.2, 0),  # a rare one, and a column of zeros
        inputs_of((RNG.rand(300, 64) * (np.arange(64) > 10) * 255).astype(np.uint8) / np.float32(255)),  # an image
        inputs_of(RNG.randn(5, 20, 2)),
    ],
)
def test_inputs_that_are_usual(x):
    assert findings(course([1.0, 0.5, 0.4], Facts(inputs=x))) == []


def test_large_inputs_are_looked_at_in_part():
    assert inputs_of(np.zeros((100_000, 2))).rows <= ROWS
    assert inputs_of(np.zeros((3, 50_000, 2))).rows <= ROWS
    assert inputs_of(np.full((3, 2), np.nan)) is None
    assert inputs_of(np.array([[-1e308], [1e308]])).largest == 1e308


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (hf.nl.Tanh(), (-1, 1)),
        (hf.nl.Logistic(), (0, 1)),
        (hf.nl.Softmax(), (0, 1)),
        (hf.nl.ReLU(), (0, None)),
        (hf.nl.ReLU(max=5), (0, 5)),
        (hf.nl.Linear(), (None, None)),
        (hf.nl.Gaussian(), (0, 1)),
        (hf.nl.SoftLIF(), (0, 5)),
        (hf.nl.Continuous(hf.nl.Tanh(), tau=3), (-1, 1)),
    ],
)
def test_the_bounds_of_layers(layer, expected):
    for found, bound in zip(bounds(layer), expected, strict=True):
        assert found == (None if bound is None else pytest.approx(bound, abs=1e-3))


def test_targets_count_as_out_of_range_if_they_clearly_are():
    t = np.array([[-1.0], [1.0], [1.04], [np.nan]])
    assert targets_of(t, "Tanh", -1.0, 1.0).outside == 0
    assert targets_of(2 * t, "Tanh", -1.0, 1.0).outside == 1
    assert targets_of(t - 1, "ReLU", 0.0, None).outside == pytest.approx(1 / 3)
    assert targets_of(t, "Linear", None, None) is None
    assert targets_of(t[3:], "Tanh", -1.0, 1.0) is None


# ---- records that are made up ----------------------------------------------------------------------------------------


class Solved(NamedTuple):
    value: float
    new_value: float
    damping: float = 1.0
    gradient_norm: float = 1.0
    cg_iterations: int = 5
    accepted: bool = True
    reason: str = ""


def result(epochs, facts=None, reason="all 9 epochs are done"):
    numbered = [Epoch(number, 1.0, 0.5, updates) for number, updates in enumerate(epochs)]
    return Result(0, 0, 1.0, reason, numbered, "HessianFree", facts=facts or Facts())


def course(losses, facts=None):
    """Of a run on all the data, with these losses before the updates."""
    records = [GradientRecord(value, 1.0, 1.0, True, "") for value in losses]
    return RunCourse.of(result([[record] for record in records], facts))


def test_the_training_loss_decides_between_overfitting_and_divergence():
    def epochs(before, after, count=10):
        usual = [GradientRecord(before, 1, 1, True, "")]
        return result([usual] * (count - 1) + [[GradientRecord(after, 1, 1, True, "")]]).epochs

    worse = "the test error is worse than nine epochs before"
    assert why_worse(epochs(1.0, 0.9)) == f"{worse} (overfitting; early_stopping=False goes on)"
    assert why_worse(epochs(1.0, 1.5)).startswith(f"{worse}, and the training loss has risen from 1 to 1.5 (diverging")
    assert why_worse(epochs(1.0, 1.001)).startswith(f"{worse}, while the training loss has hardly changed")
    powers = [[GradientRecord(10.0**n, 1, 1, True, "") for n in range(first, first + 8)] for first in (-3, 6)]
    assert "the training loss has risen from" in why_worse(result([powers[0]] * 9 + [powers[1]]).epochs)
    assert why_worse(epochs(1.0, np.nan)) == f"{worse} (early_stopping=False goes on)"


def test_the_ups_and_downs_of_minibatches_are_no_divergence():
    rng = np.random.RandomState(0)
    losses = 0.1 + 2 * np.exp(-np.arange(400) / 40) + 0.08 * rng.randn(400)
    steady = [[GradientRecord(value, 1.0, 1.0, True, "") for value in part] for part in np.split(losses, 40)]
    assert findings(RunCourse.of(result(steady, Facts(constant_loss=1.0)))) == []
    rising = [
        [record._replace(value=record.value * 1.1**number) for record in part] for number, part in enumerate(steady)
    ]
    assert [finding.kind for finding in findings(RunCourse.of(result(rising, Facts(constant_loss=1.0))))] == [
        Fault.DIVERGED
    ]


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([Solved(0.7, 0.7, gradient_norm=2e10)] * 3, "The gradient's norm is 2.0e+10 at a loss of 0.7."),
        ([Solved(0.7, 0.7, gradient_norm=np.inf)] * 3, "The gradient's norm is inf"),
        ([Solved(0.7 - 0.01 * i, 0.7, damping=3.0**i) for i in range(14)], "The damping rose from 1 to 1.6e+06"),
    ],
)
def test_explosions(records, said):
    remedy = Said("The recurrent weights are large.", "W_rec_params={'spectral_radius': 1}")
    found = findings(RunCourse.of(result([[record] for record in records], Facts(expansive=remedy))))
    assert [finding.kind for finding in found][:2] == [Fault.RECURRENCE, Fault.EXPLODED]
    assert found[1].seen.startswith(said)
    assert found[0].remedy == found[1].remedy == remedy.remedy


def test_a_large_gradient_beside_a_large_loss_is_no_explosion():
    assert (
        findings(RunCourse.of(result([[Solved(1e12 / 2**i, 1e12 / 2**i, gradient_norm=1e13)] for i in range(6)]))) == []
    )


def test_expansive_weights_of_a_run_that_does_well_are_not_mentioned():
    assert findings(course([1.0, 0.5, 0.3], Facts(expansive=Said("large", "smaller")))) == []


def test_updates_that_fit_their_minibatch_alone():
    rng = np.random.RandomState(0)
    values = 0.4 + 0.02 * rng.randn(40)
    updates = [[Solved(value, 0.1 * value) for value in part] for part in np.split(values, 8)]
    facts = Facts(examples=50, batch=10, constant_loss=0.6)
    found = findings(RunCourse.of(result(updates, facts)))
    assert [finding.kind for finding in found] == [Fault.MINIBATCH]
    assert "Updates gain 90% of the loss on their own minibatch" in found[0].seen


def test_the_line_at_the_end_looks_at_some_of_many_records():
    losses = np.exp(np.linspace(0, 9, 20_000))
    epochs = [[GradientRecord(value, 1.0, 1.0, True, "") for value in part] for part in np.split(losses, 200)]
    found = result(epochs, Facts(network=True))
    assert line_of(found).startswith("advice: diverged; try a learning rate lower by ten")
    thin, whole = RunCourse.of(found, most=100), RunCourse.of(found)
    assert len(thin.records) == 100
    assert thin.updates == whole.updates == 20_000
    assert thin.records[0] is whole.records[0]
    assert thin.records[-1] is whole.records[-1]
    assert [whole.places[i] for i in (0, 99, 100, 19_999)] == [0, 0, 1, 199]


def test_a_run_without_updates_has_no_findings():
    assert findings(RunCourse.of(result([]))) == []
    assert findings(RunCourse.of(result([[]]))) == []


def test_facts_survive_as_plain_values():
    facts = Facts(
        network=True, tested=False, timesteps=5, inputs=inputs(NOISE), targets=targets_of(NOISE, "ReLU", 0.0, None)
    )
    assert from_plain(plain(facts)) == facts
    with pytest.raises(TypeError):
        from_plain({**plain(facts), "other": 1})
    older, newer = Facts(examples=5, expansive=Said("a", "b")), Facts(examples=6, tested=False)
    assert newer.filled(older) == Facts(examples=6, tested=False, expansive=Said("a", "b"))


@pytest.mark.parametrize(("start", "first"), [(1e6, "a lower init_damping than 1e+06"), (1.0, "other initial")])
def test_a_plateau_under_heavy_damping_asks_for_less_of_it(start, first):
    """Steps that damping keeps short look like gradients that vanish."""
    updates = [[Solved(1.0, 1.0 - 1e-9, damping=start * (2 / 3) ** i, gradient_norm=0.1)] for i in range(10)]
    found = findings(RunCourse.of(result(updates, Facts(constant_loss=1.0))))
    assert next(finding.remedy for finding in found if finding.kind == Fault.PLATEAU).startswith(first)
