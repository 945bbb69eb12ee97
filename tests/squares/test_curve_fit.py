"""hf.curve_fit against scipy's, and many fits at once against one by one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import hessianfree as hf

rng = np.random.RandomState(1)
X = np.linspace(0, 4, 50)
Y = 2.5 * np.exp(-1.3 * X) + 0.5 + 0.2 * rng.randn(50)
SIGMA = 0.1 + 0.05 * X
MATRIX = np.diag(SIGMA**2) + 0.001


def ours(x, a, b, c):
    return a * jnp.exp(-b * x) + c


def scipys(x, a, b, c):
    return a * np.exp(-b * x) + c


ARGUMENTS = {
    "defaults": {},
    "a start": {"p0": [2, 1, 0]},
    "sigma": {"sigma": SIGMA},
    "absolute sigma": {"sigma": SIGMA, "absolute_sigma": True},
    "a matrix of sigma": {"sigma": MATRIX, "absolute_sigma": True},
    "bounds that do not matter": {"bounds": (0, [3, 2, 1])},
    "options": {"method": "trf", "max_nfev": 500, "ftol": 1e-12, "xtol": 1e-12, "gtol": 1e-12},
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_the_values_of_scipy(name):
    popt, pcov = hf.curve_fit(ours, X, Y, **ARGUMENTS[name])
    expected, covariance = scipy.optimize.curve_fit(scipys, X, Y, **ARGUMENTS[name])
    np.testing.assert_allclose(popt, expected, rtol=1e-5)
    np.testing.assert_allclose(pcov, covariance, rtol=2e-3)
    assert type(popt) is type(pcov) is np.ndarray
    assert popt.dtype == np.float64


def test_the_whole_of_the_data_is_seen_at_once():
    centred = lambda x, a, b: a * (x - jnp.mean(x)) + b
    popt, _ = hf.curve_fit(centred, X, Y)
    slope, intercept = np.polyfit(X - X.mean(), Y, 1)
    np.testing.assert_allclose(popt, [slope, intercept], rtol=1e-9)


def test_full_output_and_data_that_are_missing():
    holes = np.where(X[3] == X, np.nan, Y)
    popt, _, info, message, ier = hf.curve_fit(ours, X, holes, nan_policy="omit", full_output=True)
    known = ~np.isnan(holes)
    expected, _ = scipy.optimize.curve_fit(scipys, X[known], Y[known])
    np.testing.assert_allclose(popt, expected, rtol=1e-6)
    np.testing.assert_allclose(info["fvec"], scipys(X[known], *popt) - Y[known], rtol=1e-9)
    assert ier in (1, 2, 3, 4)
    assert message.startswith("converged")
    with pytest.raises(ValueError, match=r"ydata is not finite at 1 places, the first at index \[3\]"):
        hf.curve_fit(ours, X, holes)


def test_what_cannot_be_fitted():
    with pytest.raises(RuntimeError, match="Optimal parameters not found: not converged"):
        hf.curve_fit(ours, X, Y, maxfev=2)
    with pytest.raises(TypeError, match="no options"):
        hf.curve_fit(ours, X, Y, epsfcn=1)
    with pytest.raises(ValueError, match="pass p0"):
        hf.curve_fit(lambda x, *p: p[0] * x, X, Y)
    with pytest.warns(scipy.optimize.OptimizeWarning, match="do not determine"):
        _, pcov = hf.curve_fit(lambda x, a, b: a * b * x, X, Y)
    assert np.isinf(pcov).all()


M = 12
TRUTHS = np.stack([np.linspace(1, 4, M), np.linspace(0.5, 3, M), np.linspace(0, 1, M)], axis=1)
XS = np.tile(X, (M, 1))
YS = TRUTHS[:, :1] * np.exp(-TRUTHS[:, 1:2] * XS) + TRUTHS[:, 2:] + 0.05 * rng.randn(M, 50)


def model(p, x):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "options",
    [{}, {"bounds": (0.2, [3, 2, 9])}, {"fixed": np.array([False, False, True])}, {"loss": "soft_l1", "scale": 0.1}],
    ids=str,
)
def test_a_batch_of_fits_is_each_by_itself(options):
    starts = np.ones((M, 3))
    together = hf.least_squares_batch(hf.Curve(model, XS, YS), starts, **options)
    assert together.converged.all()
    for m in (0, 5, 11):
        alone = hf.least_squares(hf.Curve(model, XS[m], YS[m]), starts[m], **options)
        np.testing.assert_allclose(together.params[m], alone.params, rtol=1e-6)
        assert together.value[m] == pytest.approx(alone.value, rel=1e-9)
        assert together.reason(m).split(":")[0] == alone.reason.split(":")[0] == "converged"
        np.testing.assert_allclose(together.stderr()[m], alone.stderr(), rtol=1e-5)


def test_a_fit_that_fails_does_not_harm_the_others():
    starts = np.ones((M, 3))
    starts[4] = [1, -1e3, 1]  # exp overflows
    together = hf.least_squares_batch(hf.Curve(model, XS, YS), starts)
    assert "not finite" in together.reason(4)
    assert np.delete(together.converged, 4).all()
    np.testing.assert_array_equal(together.params[4], starts[4])
    with pytest.raises(ValueError, match="first axes of"):
        hf.least_squares_batch(hf.Curve(model, XS, YS), np.ones((3, 3)))


def test_a_batch_in_given_units_is_not_cut_off():
    """Rosenbrock's valley takes more steps from far away than a small problem has before it begins again."""
    valley = lambda p, x: jnp.array([x * (p[1] - p[0] ** 2), 1 - p[0]])
    starts, points = np.array([[-120.0, 100.0], [-1.2, 1.0]]), np.full((2, 1), 1e3)
    alone = [hf.least_squares([(valley, points[m])], starts[m], x_scale=1.0) for m in (0, 1)]
    together = hf.least_squares_batch([(valley, points)], starts, x_scale=1.0)
    assert max(len(run.epochs) for run in alone) > 40
    assert together.converged.all()
    np.testing.assert_allclose(together.params, 1, rtol=1e-9)
    few = hf.least_squares_batch([(valley, points)], starts, max_steps=3)
    assert (few.steps <= 3).all()
    assert few.reason(0) == "not converged: all steps are done"


def test_points_of_a_batch_that_are_not_finite():
    line, holes = lambda p, x: p[0] * x - 1, np.array([[1e3], [np.nan]])
    with pytest.raises(ValueError, match=r"points of term 0 are not finite: .* holds 1 of 2 .* a large sigma"):
        hf.least_squares_batch([(line, holes)], np.ones((2, 1)))
