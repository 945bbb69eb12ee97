from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.engine import line_search
from hessianfree.engine.damping import LevenbergMarquardt, overshot, parabola


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [(0.1, 1.5), (-5.0, 1.5), (math.nan, 1.5), (0.25, 1.0), (0.5, 1.0), (0.75, 1.0), (0.8, 2 / 3), (3.0, 2 / 3)],
)
def test_the_classic_rule(ratio, factor):
    assert LevenbergMarquardt().adapt(6.0, ratio) == pytest.approx(6.0 * factor)


@given(st.floats(1e-12, 1e12), st.floats(-1e3, 1e3))
def test_damping_stays_within_its_bounds(damping, ratio):
    rule = LevenbergMarquardt()
    for value in (rule.adapt(damping, ratio), rule.reject(damping)):
        assert rule.minimum <= value <= rule.maximum
    assert rule.at_bound(rule.minimum)
    assert rule.at_bound(rule.maximum)
    assert not rule.at_bound(1.0)


@pytest.mark.parametrize(
    "bad",
    [{"raise_by": 1.0}, {"lower_by": 1.2}, {"reject_by": 0.5}, {"low": 0.8}, {"minimum": 0.0}, {"maximum": 1e-13}],
)
def test_a_rule_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ValueError, match="LevenbergMarquardt"):
        LevenbergMarquardt(**bad)


LOSSES = st.floats(-1e3, 1e3)


@given(LOSSES, LOSSES, LOSSES)
def test_the_parabola_is_the_interpolating_polynomial(before, halfway, after):
    slope, curvature = parabola(before, halfway, after)
    constant, linear, quadratic = np.linalg.solve(np.vander([0, 0.5, 1], increasing=True), [before, halfway, after])
    assert slope == pytest.approx(linear, abs=1e-9)
    assert curvature == pytest.approx(2 * quadratic, abs=1e-9)
    assert constant == pytest.approx(before)


@pytest.mark.parametrize(
    ("minimum", "curvature", "expected"),
    [
        (0.4, 1.0, True),  # it fell at first, then rose beyond where it began
        (0.6, 1.0, False),  # too long by little: still lower than before
        (-1.0, 1.0, True),  # uphill from the start, and bending
        (-5.0, 1.0, False),  # uphill nearly straight: this minibatch wants to go the other way
        (0.5, -1.0, False),  # bending downwards
    ],
)
def test_what_counts_as_overshot(minimum, curvature, expected):
    phi = lambda a: 3.0 + curvature / 2 * (a - minimum) ** 2
    assert overshot(phi(0), phi(0.5), phi(1), eps=1e-16) == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_says_nothing_in_hindsight(bad):
    for values in ((bad, 1.0, 2.0), (1.0, bad, 2.0), (1.0, 1.0, bad)):
        assert not overshot(*values, eps=1e-7)


def test_rounding_is_no_overshooting():
    assert overshot(1.0, 1.0, 1.0 + 1e-9, eps=1e-16)
    assert not overshot(1.0, 1.0, 1.0 + 1e-9, eps=1e-7)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 3.0, math.nan])
def test_lambda_rises_once_after_a_change_that_has_overshot(ratio):
    assert LevenbergMarquardt().adapt(6.0, ratio, overshot=True) == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("values", "index"),
    [
        ([5.0, 4.0, 3.0], 2),
        ([5.0, 2.0, 3.0], 1),
        ([1.0, 2.0, 3.0], 0),
        ([1.0, 4.0, 3.0], 2),  # it stops where the loss rises again
        ([2.0, math.inf, math.nan], 0),  # a loss that is not finite is no improvement, and no reason to stop
        ([3.0], 0),
    ],
)
def test_backtracking(values, index):
    choice = line_search.backtrack(values.__getitem__, len(values) - 1)
    assert choice == (index, values[index])


def test_backtracking_without_any_finite_loss():
    assert line_search.backtrack([math.nan, math.inf].__getitem__, 1).value == math.inf


def test_the_line_search_takes_the_first_sufficient_step():
    loss = lambda a: (4 * a - 1) ** 2
    step = line_search.shrink(loss, loss(1.0), loss(0.0), -8.0)
    expected = next(0.8**k for k in range(60) if loss(0.8**k) <= 1 - 0.01 * 0.8**k * 8)
    assert step.length == pytest.approx(expected)
    assert step.value == pytest.approx(loss(expected))


@pytest.mark.parametrize("loss", [lambda a: 1 + a, lambda a: math.nan, lambda a: math.inf])
def test_the_line_search_gives_up(loss):
    step = line_search.shrink(loss, loss(1.0), 1.0, -1.0)
    assert step.length == 0
    assert step.value == 1.0
    assert step.evaluations == 60


def test_the_line_search_counts_its_evaluations_and_makes_none_without_a_start():
    asked = []
    loss = lambda a: asked.append(a) or 2.0
    assert line_search.shrink(loss, 2.0, 1.0, -1.0).evaluations == len(asked) == 60
    assert line_search.shrink(loss, 2.0, math.nan, -1.0)[0::2] == (0.0, 0)
    assert len(asked) == 60


@pytest.mark.parametrize("slope", [-1e-20, 0.0, 0.5])
def test_a_loss_that_stays_the_same_is_no_success(slope):
    assert line_search.shrink(lambda a: 1.0, 1.0, 1.0, slope).length == 0
    assert line_search.shrink(lambda a: 1 - 1e-15, 1.0, 1.0, -1e-20).length == 0.8


def test_a_direction_that_climbs_may_not_raise_the_loss():
    step = line_search.shrink(lambda a: 1 + 0.001 * a, 1.001, 1.0, slope=0.5)
    assert step.length == 0
