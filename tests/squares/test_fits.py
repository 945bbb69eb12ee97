"""Bounds, fixed parameters, robust losses, deviations, and what a fit says of itself, against scipy and numpy."""

from __future__ import annotations

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import hessianfree as hf
from hessianfree.engine import robust

rng = np.random.RandomState(3)
X = np.linspace(0, 4, 40)
TRUTH = np.array([2.5, 1.3, 0.5])
Y = TRUTH[0] * np.exp(-TRUTH[1] * X) + TRUTH[2] + 0.1 * rng.randn(40)
BEGIN = np.ones(3)


def decay(p, x):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


def by_numpy(p, x=X):
    return p[0] * np.exp(-p[1] * x) + p[2]


def jacobian(p, x=X):
    e = np.exp(-p[1] * x)
    return np.stack([e, -p[0] * x * e, np.ones_like(x)], axis=1)


CURVE = hf.Curve(decay, X, Y)


# ---- bounds ----------------------------------------------------------------------------------------------------------

BOUNDS = {
    "none that matters": ([-9, -9, -9], [9, 9, 9]),
    "one from above": ([-9, -9, -9], [2.2, 9, 9]),
    "one from below": ([-9, 1.6, -9], [9, 9, 9]),
    "two": ([-9, 1.6, 0.6], [9, 9, 9]),
    "all": ([2.8, 1.6, 0.6], [9, 9, 9]),
}


@pytest.mark.parametrize("solver", ["dense", "cg"])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounded_fits_end_where_scipy_does(name, solver):
    lower, upper = (np.array(side, float) for side in BOUNDS[name])
    inside = np.clip(BEGIN, lower, upper)
    reference = scipy.optimize.least_squares(
        lambda p: by_numpy(p) - Y,
        np.clip(BEGIN, lower + 1e-6, upper - 1e-6),
        bounds=(lower, upper),
        xtol=1e-14,
        ftol=1e-14,
    )
    result = hf.least_squares(CURVE, inside, bounds=(lower, upper), solver=solver)
    np.testing.assert_allclose(result.params, reference.x, rtol=1e-5)
    assert ((result.params >= lower) & (result.params <= upper)).all()
    assert result.converged, result.reason


def test_bounds_of_pytrees_and_of_one_side():
    model = lambda p, x: p["a"] * jnp.exp(-p["k"][0] * x) + p["k"][1]
    start = {"a": np.float64(1), "k": np.ones(2)}
    result = hf.least_squares(hf.Curve(model, X, Y), start, bounds=({"a": None, "k": [1.6, -np.inf]}, None))
    assert result.params["k"][0] == 1.6
    assert result.stderr()["k"][0] == 0
    assert "held" in result.summary()


def test_a_start_outside_is_moved_inside_and_told(caplog):
    with caplog.at_level(logging.WARNING, "hessianfree"):
        result = hf.least_squares(CURVE, BEGIN, bounds=(1.2, 9))
    assert "outside of the bounds for 3 parameters, the first [0]: moved from 1 to 1.2" in caplog.text
    assert result.history["value"][0] == pytest.approx(0.5 * np.mean((by_numpy([1.2, 1.2, 1.2]) - Y) ** 2))


def test_fixed_parameters_keep_their_values():
    begin = np.array([1.0, 1.1, 1.0])
    result = hf.least_squares(CURVE, begin, fixed=np.array([False, True, False]))
    A = jacobian(begin)[:, [0, 2]]
    expected, rest, *_ = np.linalg.lstsq(A, Y, rcond=None)  # linear in the other two
    np.testing.assert_allclose(result.params, [expected[0], 1.1, expected[1]], rtol=1e-9)
    C = rest[0] / 38 * np.linalg.inv(A.T @ A)
    np.testing.assert_allclose(result.covariance()[np.ix_([0, 2], [0, 2])], C, rtol=1e-7)
    assert result.stderr()[1] == 0


# ---- robust losses and deviations ------------------------------------------------------------------------------------

OUTLIERS = Y + 5.0 * (np.arange(40) % 9 == 4)


@pytest.mark.parametrize("loss", ["huber", "soft_l1", "cauchy"])
def test_robust_fits_end_where_scipy_does(loss):
    reference = scipy.optimize.least_squares(
        lambda p: by_numpy(p) - OUTLIERS, TRUTH, loss=loss, f_scale=0.2, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    result = hf.least_squares(hf.Curve(decay, X, OUTLIERS), TRUTH, loss=loss, scale=0.2)
    assert result.value == pytest.approx(reference.cost / 40, rel=1e-8)
    np.testing.assert_allclose(result.params, reference.x, rtol=1e-4)
    squares = hf.least_squares(hf.Curve(decay, X, OUTLIERS), TRUTH)
    assert abs(result.params - TRUTH).max() < 0.5 * abs(squares.params - TRUTH).max()


@pytest.mark.parametrize("name", robust.BY_NAME)
def test_robust_residuals_are_the_roots_of_the_loss(name):
    rho = {
        "huber": lambda z: np.where(z <= 1, z, 2 * np.sqrt(z) - 1),
        "soft_l1": lambda z: 2 * (np.sqrt(1 + z) - 1),
        "cauchy": np.log1p,
    }[name]
    r = np.array([-30.0, -2.0, -0.7, -1e-3, 0.0, 1e-9, 0.3, 1.0, 55.0])
    with jax.enable_x64(True):
        q = np.asarray(robust.as_residuals(robust.BY_NAME[name], jnp.asarray(r), 0.5))
        slopes = np.asarray(
            jax.vmap(jax.grad(lambda x: robust.as_residuals(robust.BY_NAME[name], x, 0.5)))(jnp.asarray(r))
        )
    np.testing.assert_allclose(q**2, 0.25 * rho((r / 0.5) ** 2), rtol=1e-6, atol=1e-17)
    assert (np.sign(q) == np.sign(r)).all()
    assert slopes[4] == 1
    assert np.isfinite(slopes).all()


def test_a_robust_loss_of_ones_own():
    def barron(z):  # alpha = -2
        return 2 * z / (z / 2 + 2)

    result = hf.least_squares(hf.Curve(decay, X, OUTLIERS), TRUTH, loss=barron, scale=0.3)
    best = scipy.optimize.minimize(
        lambda p: np.sum(barron(((by_numpy(p) - OUTLIERS) / 0.3) ** 2)), result.params, tol=1e-12
    )
    np.testing.assert_allclose(result.params, best.x, rtol=1e-4)


def test_deviations_weigh_residuals():
    sigma = 0.1 + 0.1 * X
    result = hf.least_squares(CURVE, BEGIN, sigma=sigma)
    popt, pcov = scipy.optimize.curve_fit(lambda x, *p: by_numpy(p, x), X, Y, BEGIN, sigma, ftol=1e-14, xtol=1e-14)
    np.testing.assert_allclose(result.params, popt, rtol=1e-6)
    np.testing.assert_allclose(result.covariance(), pcov, rtol=1e-3)
    _, absolute = scipy.optimize.curve_fit(
        lambda x, *p: by_numpy(p, x), X, Y, popt, sigma, absolute_sigma=True, ftol=1e-14, xtol=1e-14
    )
    np.testing.assert_allclose(result.covariance(absolute_sigma=True), absolute, rtol=1e-3)


# ---- what a fit says -------------------------------------------------------------------------------------------------


def test_covariance_of_pytrees_against_dense_algebra():
    model = lambda p, x: p["a"] * jnp.exp(-p["k"][0] * x) + p["k"][1]
    result = hf.least_squares(hf.Curve(model, X, Y), {"a": np.float64(1), "k": np.ones(2)})
    p = np.array([result.params["a"], *result.params["k"]])
    r, J = by_numpy(p) - Y, jacobian(p)
    C = r @ r / 37 * np.linalg.inv(J.T @ J)
    found = result.covariance()
    np.testing.assert_allclose(found["a"]["a"], C[0, 0], rtol=1e-6)
    np.testing.assert_allclose(found["a"]["k"], C[0, 1:], rtol=1e-6)
    np.testing.assert_allclose(found["k"]["k"], C[1:, 1:], rtol=1e-6)
    np.testing.assert_allclose(result.stderr()["k"], np.sqrt(np.diag(C))[1:], rtol=1e-6)
    np.testing.assert_allclose(result.residuals(), r, rtol=1e-12)
    assert result.rank == 3
    assert result.undetermined == []
    assert "37 degrees of freedom" in result.summary()
    assert f"{np.sqrt(r @ r / 37):.4g}, rank 3 of 3" in result.summary()


def test_parameters_that_data_do_not_determine_are_named():
    model = lambda p, x: (p["a"] * p["b"]) * jnp.exp(-p["k"] * x)
    start = {name: np.float64(1) for name in "abkz"}
    result = hf.least_squares(hf.Curve(model, X, Y), start)
    assert result.rank == 2
    assert result.undetermined == ["['a']", "['b']", "['z']"]
    assert result.stderr()["a"] == np.inf
    assert 0 < result.stderr()["k"] < 1
    few = hf.least_squares(hf.Curve(decay, X[:2], Y[:2]), BEGIN)
    assert few.value < 1e-20
    assert not np.isfinite(few.stderr()).any()


def test_many_points_take_no_square_matrix():
    """A matrix with a row and a column for each of these points would take 320 GB."""
    points = np.arange(200_000) / 200_000
    line = hf.least_squares(hf.Curve(lambda p, x: p * x, points, points + np.cos(7 * points)), np.array(1.0))
    r = line.residuals()
    assert line.covariance() == pytest.approx(r @ r / (r.size - 1) / (points @ points), rel=1e-9)


def test_the_band_of_predictions_by_the_delta_method():
    result = hf.least_squares(CURVE, BEGIN)
    at = np.linspace(-1, 6, 9)
    band = result.predict(at)
    J, C = jacobian(result.params, at), result.covariance()
    np.testing.assert_allclose(band.value, by_numpy(result.params, at), rtol=1e-12)
    np.testing.assert_allclose(band.stderr, np.sqrt(np.einsum("ni,ij,nj->n", J, C, J)), rtol=1e-9)
    t = scipy.stats.t.ppf(0.975, 37)
    np.testing.assert_allclose(band.upper - band.value, t * band.stderr, rtol=1e-9)
    half = result.predict(at, model=lambda p, x: 0.5 * decay(p, x), level=0.5)
    np.testing.assert_allclose(half.stderr, 0.5 * band.stderr, rtol=1e-9)
    with pytest.raises(TypeError, match=r"fit hf.Curve\(model, x, y\)"):
        hf.least_squares([(lambda p, x: p * x, X)], np.float64(1)).predict(at)


def test_a_plot_shows_data_fit_band_and_residuals():
    figure = hf.plot(hf.least_squares(CURVE, BEGIN))
    above, below = figure.axes
    data, curve = above.lines[0], above.lines[1]
    np.testing.assert_allclose(data.get_ydata(), Y)
    assert len(curve.get_xdata()) > len(X)
    assert len(above.collections) == 1  # the band
    np.testing.assert_allclose(below.lines[0].get_ydata(), Y - by_numpy(hf.least_squares(CURVE, BEGIN).params))
    with pytest.raises(TypeError, match="draws a result of hf"):
        hf.plot(3)


def test_a_loop_goes_forward_where_it_cannot_go_back():
    def newton_root(p, x):  # the square root of p x, by a while_loop
        def body(state):
            guess, n = state
            return 0.5 * (guess + p[0] * x / guess), n + 1

        return jax.lax.while_loop(lambda state: state[1] < 20, body, (jnp.ones_like(x), 0))[0]

    y = np.sqrt(3.0 * X[1:])
    result = hf.least_squares(hf.Curve(newton_root, X[1:], y), np.array([1.0]))
    np.testing.assert_allclose(result.params, 3, rtol=1e-9)
    with pytest.raises(TypeError, match=r"Term 0, newton_root, has no reverse mode.*solver='dense'"):
        hf.least_squares(hf.Curve(newton_root, X[1:], y), np.array([1.0]), solver="cg")


# ---- mistakes --------------------------------------------------------------------------------------------------------

fit = lambda **options: lambda: hf.least_squares(CURVE, BEGIN, **options)
MISTAKES = {
    "bounds that cross": (fit(bounds=([0, 2, 0], [3, 1, 3])), ValueError, r"bounds of \[1\] are 2 and 1"),
    "bounds of other shape": (fit(bounds=([0, 2], 9)), ValueError, "lower bounds"),
    "no pair": (fit(bounds=3), ValueError, r"a pair \(lower, upper\)"),
    "sigma of zero": (fit(sigma=np.where(X[7] == X, 0, 1.0)), ValueError, r"sigma of term 0 is 0.0 at \[7\]"),
    "sigma of other shape": (fit(sigma=np.ones(3)), ValueError, r"sigma of term 0 has shape \(3,\)"),
    "an unknown loss": (fit(loss="l1"), ValueError, "'huber', 'soft_l1', 'cauchy'"),
    "a scale without a loss": (fit(scale=2.0), ValueError, "no robust loss"),
    "gtol": (fit(gtol=-1), ValueError, "gtol is -1"),
    "x_scale": (fit(x_scale=[1, 0, 1]), ValueError, r"x_scale of \[1\] is 0"),
    "NaN in the data": (
        lambda: hf.Curve(decay, X, np.where(X[5] == X, np.nan, Y)),
        ValueError,
        "y is not finite at 1 of 40 points, the first at index 5",
    ),
    "complex data": (lambda: hf.Curve(decay, X, Y + 0j), TypeError, "stack the real and imaginary parts"),
    "complex residuals": (
        lambda: hf.least_squares([(lambda p, x: p[0] * jnp.exp(1j * x), X)], BEGIN),
        TypeError,
        r"stack the two parts: jnp.stack\(\[r.real, r.imag\]\)",
    ),
    "integers": (lambda: hf.least_squares(CURVE, np.array([1, 3, 1])), TypeError, r"np.array\(\[1.0, 3.0\]\)"),
    "bfloat16": (lambda: hf.least_squares(CURVE, jnp.ones(3, jnp.bfloat16)), TypeError, "bfloat16.*float32 or float64"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    act, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        act()
