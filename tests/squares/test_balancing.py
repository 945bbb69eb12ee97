"""Weights that follow the sizes of the terms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine.levenberg import Status
from hessianfree.squares.balancing import BOUND, Balancing, averaged
from hessianfree.squares.forms import prepare
from hessianfree.squares.options import Options
from hessianfree.training.checkpoints import OtherRunError
from interrupts import Interrupts

X = np.linspace(0, 2, 15)


def large(params, x):
    return 100 * (params[0] * jnp.exp(-params[1] * x) - 2 * jnp.exp(-1.5 * x))


def small(params, x):
    return 0.1 * (params[0] - 2 + params[1] * x - 1.5 * x)


TERMS, START = [(large, X), (small, X[:4], 3.0)], np.array([1.0, 1.0])


def traces(params):
    """The mean squares of the gradients of r_k, by hand."""
    e = np.exp(-params[1] * X)
    return np.array([1e4 * np.mean(e**2 + (params[0] * X * e) ** 2), 0.01 * np.mean(1 + X[:4] ** 2)])


def test_factors_make_the_traces_alike():
    with jax.enable_x64(True):
        prepared = prepare(Options(), TERMS, START)
        balance = Balancing(prepared.functions, prepared.inputs, 5)
        weights = np.array([p.weight for p in balance.inputs(0, START, prepared.inputs)])
    expected = 1 / traces(START) / np.array([1, 3])
    ratio = np.clip(expected[1] * 3 / expected[0], 0, BOUND)
    assert weights[1] / weights[0] / 3 == pytest.approx(ratio, rel=1e-6)
    assert weights.sum() == pytest.approx(4)
    assert balance.changed
    again = balance.inputs(1, START + 1, prepared.inputs)
    np.testing.assert_array_equal([p.weight for p in again], weights)
    assert not balance.changed


def test_the_average_moves_by_a_share_and_is_bounded():
    given, sizes = np.array([1.0, 2, 0, 5]), np.array([1.0, 1e-2, 3, 0])
    whole = averaged(np.ones(4), sizes, given, 1.0)
    assert whole[1] / whole[0] == pytest.approx(100)
    assert (whole[2:] == 1).all()  # no weight, and no effect
    assert given[:2] @ whole[:2] == pytest.approx(3)
    part = averaged(np.ones(4), sizes, given, 0.25)
    assert part[1] / part[0] == pytest.approx(100**0.25)
    far = averaged(np.ones(2), np.array([1e-30, 1e30]), np.ones(2), 1.0)
    assert far[0] / far[1] == pytest.approx(BOUND)
    np.testing.assert_array_equal(averaged(far, np.array([np.nan, 1.0]), np.ones(2), 1.0), far)


def test_a_run_reports_the_loss_of_the_given_weights():
    result = hf.least_squares(TERMS, np.array([5.0, 4.0]), balance_every=1, max_steps=2)
    a, k = result.params
    r = 100 * (a * np.exp(-k * X) - 2 * np.exp(-1.5 * X)), 0.1 * (a - 2 + (k - 1.5) * X[:4])
    by_hand = 0.5 * np.mean(r[0] ** 2) + 1.5 * np.mean(r[1] ** 2)
    assert by_hand > 1e-6
    assert result.test_errors[-1] == pytest.approx(by_hand, rel=1e-8)
    assert result.history["new_value"][-1] != pytest.approx(by_hand, rel=1e-3)
    assert result.history["accepted"].all()
    # The weights change before every step, and the loss that a step lowers is that of its own ones.
    assert (result.history["new_value"] <= result.history["value"]).all()


def test_a_run_converges_between_changes():
    result = hf.least_squares(TERMS, START, balance_every=4, max_steps=60)
    assert result.converged
    assert (len(result.history["value"]) - 1) % 4 != 0
    np.testing.assert_allclose(result.params, [2, 1.5], rtol=1e-9)
    done = hf.least_squares(TERMS, result.params, balance_every=4, max_steps=60)
    assert len(done.history["value"]) == 2
    assert done.history["status"][0] in (Status.GRADIENT, Status.PRECISION, Status.CHANGE)


def test_a_run_goes_on_with_the_same_weights(tmp_path):
    def fit(every=2, **options):
        return hf.least_squares(TERMS, np.array([5.0, 4.0]), balance_every=every, max_steps=7, **options)

    expected, path = fit(), tmp_path / "run.ckpt"
    fit(checkpoint=path, callbacks=[Interrupts(3)])
    with pytest.raises(OtherRunError, match=r"Its options: .*2 steps; given: .*3 steps"):
        fit(3, checkpoint=path, resume=True)
    found = fit(checkpoint=path, resume=True)
    np.testing.assert_array_equal(found.params, expected.params)
    np.testing.assert_array_equal(found.history["value"], expected.history["value"])


ERRORS = {
    "steps": (lambda: hf.least_squares(TERMS, START, balance_every=0), "balance_every"),
    "one term": (lambda: hf.least_squares(TERMS[:1], START, balance_every=5), "balance_every is 5, but.*single term"),
    "no points": (lambda: hf.least_squares(lambda p: p, START, balance_every=5), "single term"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_change(name):
    run, message = ERRORS[name]
    with pytest.raises(ValueError, match=message):
        run()
