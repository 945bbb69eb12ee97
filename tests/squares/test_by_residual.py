"""Points that are drawn where the residuals are large."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.squares.by_residual import ResidualSampling, chances_of
from hessianfree.squares.terms import as_terms
from hessianfree.training.checkpoints import OtherRunError
from interrupts import Interrupts


def peak(params, x):
    return params[0] * jnp.exp(-(((x - 0.7) / 0.1) ** 2))


def edge(params, x):
    return params[0] - 1 + 0 * x


START = np.ones(1)
TERMS = [(peak, np.linspace(0, 1, 40)), (edge, np.zeros(3))]


def draw(step, rng):
    return [rng.random(400), None]


def drawn(step=0, inputs=None, **options):
    """The points that one draw gives."""
    terms = as_terms(TERMS, START)
    inputs = [term.points for term in terms] if inputs is None else inputs
    sampling = ResidualSampling(hf.ByResidual(options.pop("draw", draw), **options), terms)
    return sampling.points(step, START, inputs)


@pytest.mark.parametrize(("k", "c"), [(1, 1), (2, 0.1), (0, 0), (1, 0)])
def test_points_have_the_density_that_was_asked_for(k, c):
    one_of_many = lambda step, rng: [np.linspace(0, 1, 20), None]
    terms = as_terms([(peak, np.zeros(1)), TERMS[1]], START)
    sampling = ResidualSampling(hf.ByResidual(one_of_many, k, c), terms)
    inputs = [term.points for term in terms]
    found = np.array([sampling.points(step, START, inputs)[0].at[0] for step in range(600)])
    x = np.linspace(0, 1, 20)
    sizes = np.exp(-(((x - 0.7) / 0.1) ** 2))
    expected = sizes**k / np.mean(sizes**k) + c
    expected /= expected.sum()
    counts = np.array([(found == value).mean() for value in x])
    np.testing.assert_allclose(counts, expected, atol=4 * np.sqrt(0.25 / 600))
    np.testing.assert_allclose(chances_of(sizes, k, c) / chances_of(sizes, k, c).sum(), expected, rtol=1e-12)


def test_points_depend_on_seed_and_step_alone():
    first, again, later, other = drawn(3), drawn(3), drawn(4), drawn(3, seed=1)
    np.testing.assert_array_equal(first[0].at, again[0].at)
    assert not np.array_equal(first[0].at, later[0].at)
    assert not np.array_equal(first[0].at, other[0].at)
    np.testing.assert_array_equal(first[1].at, TERMS[1][1])  # the term for which nothing was drawn


def test_a_share_of_the_points_stays():
    after = drawn(keep=0.25)[0].at
    assert after.shape == (40,)
    assert np.isin(after, TERMS[0][1]).sum() == 10
    assert len(np.unique(after)) == 40
    assert abs(np.mean(after[:10]) - 0.7) < 0.2


def test_candidates_without_a_residual_are_not_taken():
    def broken(params, x):
        return jnp.where(x < 0.5, jnp.nan, x * params[0])

    terms = as_terms([(broken, np.linspace(0.5, 1, 5))], START)
    sampling = ResidualSampling(hf.ByResidual(lambda step, rng: [np.linspace(0, 1, 41)]), terms)
    assert (sampling.points(0, START, [terms[0].points])[0].at >= 0.5).all()


def front(params, x):
    return jnp.tanh(params[0] * (x - params[1])) - jnp.tanh(40 * (x - 0.5))


def candidates(step, rng):
    return [rng.random(300)]


def test_a_fit_gathers_its_points_at_the_front():
    seen = []

    def watched(step, rng):
        seen.append(step)
        return candidates(step, rng)

    options = {"resample": hf.ByResidual(watched, k=2, c=0.1, keep=0.5), "resample_every": 3}
    result = hf.least_squares([(front, np.linspace(0, 1, 30))], np.array([10.0, 0.4]), **options, max_steps=40)
    np.testing.assert_allclose(result.params, [40, 0.5], rtol=1e-6)
    assert seen[:3] == [0, 3, 6]


def test_a_run_that_goes_on_sees_the_same_points(tmp_path):
    def fit(keep=0.5, **options):
        resample = hf.ByResidual(candidates, k=2, c=0.1, keep=keep)
        begin = np.array([10.0, 0.4])
        return hf.least_squares(
            [(front, np.linspace(0, 1, 30))], begin, resample=resample, resample_every=3, max_steps=10, **options
        )

    expected, path = fit(), tmp_path / "run.ckpt"
    fit(checkpoint=path, callbacks=[Interrupts(5)])
    with pytest.raises(OtherRunError, match=r"keep=0.5.*given: .*keep=0.2"):
        fit(keep=0.2, checkpoint=path, resume=True)
    found = fit(checkpoint=path, resume=True)
    np.testing.assert_array_equal(found.params, expected.params)
    np.testing.assert_array_equal(found.history["value"], expected.history["value"])


def test_none_keeps_the_points_of_a_term():
    moves = lambda step: [np.linspace(0, 1, 40) + step, None]
    assert len(hf.least_squares(TERMS, START, resample=moves, max_steps=2).history["value"]) == 2


ERRORS = {
    "no function": (lambda: hf.ByResidual(3), TypeError, "draw is 3; a function"),
    "k": (lambda: hf.ByResidual(draw, k=-1), ValueError, "k is -1; a number >= 0"),
    "c": (lambda: hf.ByResidual(draw, c=np.nan), ValueError, "c is nan"),
    "keep": (lambda: hf.ByResidual(draw, keep=1), ValueError, "keep is 1; a share"),
    "seed": (lambda: hf.ByResidual(draw, seed=-1), ValueError, "seed"),
    "terms": (lambda: drawn(draw=lambda step, rng: [np.ones(400)]), ValueError, "candidates for 2 terms is expected"),
    "few": (
        lambda: drawn(draw=lambda step, rng: [np.ones(30), None]),
        ValueError,
        "30 candidates for term 0.*takes 40",
    ),
    "shapes": (lambda: drawn(draw=lambda step, rng: [np.ones((50, 2)), None]), ValueError, "the same arrays"),
    "not finite": (
        lambda: drawn(draw=lambda step, rng: [np.full(50, np.nan), None]),
        ValueError,
        "candidates of term 0 are not finite",
    ),
    "deviations": (
        lambda: hf.least_squares(TERMS, START, sigma=[np.ones(40), None], resample=hf.ByResidual(draw), max_steps=1),
        ValueError,
        "a sigma each",
    ),
    "no points": (
        lambda: hf.least_squares(lambda p: p, START, resample=hf.ByResidual(draw)),
        ValueError,
        "has no points to draw again",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_change(name):
    run, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        run()


def test_candidates_of_which_too_few_have_a_chance():
    with pytest.raises(ValueError, match=r"Only 1 of 40 candidates for term 0, peak.*c > 0"):
        drawn(draw=lambda step, rng: [np.r_[np.full(39, 1e6), 0.7], None], c=0, keep=0)
