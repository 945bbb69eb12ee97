"""Units of the parameters do not matter, and the fits that units used to break are found."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
import nist

X = np.linspace(0, 3, 30)
Y = 2 * np.exp(-1.5 * X) + 0.3 + 0.05 * np.sin(9 * X)
#: Powers of two, so that no rounding comes with them; from 1e-12 to 1e12.
FACTORS = [2.0**-40, 2.0**40, 2.0**-17]


def decay(p, x):
    return p[0] * jnp.exp(-p[1] * x) + p[2]


@pytest.mark.parametrize("solver", ["dense", "dual", "cg"])
def test_steps_do_not_depend_on_units(solver):
    points, factors = {"x": X, "y": Y}, np.array(FACTORS)
    if solver == "dual":  # with fewer residuals than parameters
        points, factors = {"x": X[:8:3], "y": Y[:8:3]}, np.array([*FACTORS, 2.0**33])
    extra = lambda p, x: p[3] * x**2 if len(factors) == 4 else 0.0

    def residual(p, point):
        return decay(p, point["x"]) + extra(p, point["x"]) - point["y"]

    def rescaled(q, point):
        return residual(q * factors, point)

    begin = np.array([1.0, 0.5, 0.1, 0.2])[: len(factors)]
    plain = hf.least_squares([(residual, points)], begin, solver=solver, max_steps=8)
    other = hf.least_squares([(rescaled, points)], begin / factors, solver=solver, max_steps=8)
    assert plain.solver == other.solver == solver
    count = min(len(plain.epochs), 6)
    np.testing.assert_allclose(
        other.history["new_value"][:count], plain.history["new_value"][:count], rtol=1e-7, atol=1e-20
    )
    np.testing.assert_allclose(other.history["damping"][:count], plain.history["damping"][:count], rtol=1e-6)
    np.testing.assert_array_equal(other.history["attempts"][:count], plain.history["attempts"][:count])
    np.testing.assert_allclose(other.params * factors, plain.params, rtol=1e-6)


def test_the_metric_of_norms_serves_many_parameters_when_asked():
    """With more than 32 parameters "auto" takes given units where norms are alike, and "jac" never does."""
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(60, 40)), rng.normal(size=60)
    factors = 2.0 ** rng.integers(-40, 40, 40)
    lines = lambda p, point: jnp.tanh(point["a"] @ p) - point["b"]
    runs = [
        hf.least_squares([(lines, {"a": A * f, "b": b})], np.full(40, 0.01) / f, x_scale="jac", max_steps=5)
        for f in (np.ones(40), factors)
    ]
    np.testing.assert_allclose(runs[1].history["new_value"], runs[0].history["new_value"], rtol=1e-7)
    # Spread over 80 powers of two, the norms tell "auto" that there is no common unit.
    auto = hf.least_squares([(lines, {"a": A * factors, "b": b})], np.full(40, 0.01) / factors, max_steps=5)
    np.testing.assert_array_equal(auto.history["new_value"], runs[1].history["new_value"])


def lorentzian(p, x):
    return p[1] * p[2] / ((x - p[0]) ** 2 + p[2] ** 2)


def dip(p, f):
    return p[0] - p[1] / (1 + ((f - p[2]) / p[3]) ** 2)


T = np.array([300.0, 350.0, 400.0, 450.0, 500.0])
YEARS = np.arange(1990.0, 2021.0)
BADLY_SCALED = {
    "a Lorentzian": (lorentzian, np.linspace(-64, -61, 400), [-62.85, 5.2e7, 0.031], [-62.88, 6e7, 0.02]),
    "a decay in seconds": (lambda p, t: p[0] * jnp.exp(-t / p[1]), np.linspace(0, 2e-9, 50), [3, 4e-10], [1, 1e-10]),
    "an Arrhenius rate": (lambda p, T: p[0] * jnp.exp(-p[1] / (8.314 * T)), T, [1e13, 8e4], [5e12, 7.9e4]),
    "a dip in Hz": (dip, np.linspace(2.85e9, 2.89e9, 300), [1, 0.03, 2.872e9, 3e6], [1, 0.02, 2.870e9, 5e6]),
}


@pytest.mark.parametrize("name", BADLY_SCALED)
def test_parameters_of_very_different_size_are_found(name):
    model, x, truth, begin = BADLY_SCALED[name]
    with jax.enable_x64(True):
        y = np.asarray(model(jnp.array(truth, jnp.float64), jnp.asarray(x)))
    result = hf.least_squares(hf.Curve(model, x, y), np.array(begin, float))
    assert result.converged, result.reason
    np.testing.assert_allclose(result.params, truth, rtol=1e-8)


def test_a_quadratic_in_the_calendar_year():
    A, y = np.vander(YEARS, 3), 1e-3 * (YEARS - 2000) ** 2 + 5
    result = hf.least_squares([(lambda p, q: q["a"] @ p - q["y"], {"a": A, "y": y})], np.zeros(3))
    assert result.converged, result.reason
    np.testing.assert_allclose(A @ result.params, y, atol=1e-7)
    np.testing.assert_allclose(result.params, [1e-3, -4, 4005], rtol=1e-6)


def test_float32_takes_units_far_apart():
    model = lambda p, x: p[0] * jnp.exp(-x * p[1])
    x = np.linspace(0, 3e-5, 40, dtype=np.float32)
    y = (2 * np.exp(-1e5 * x)).astype(np.float32)
    result = hf.least_squares(hf.Curve(model, x, y), np.array([1, 5e4], np.float32))
    np.testing.assert_allclose(result.params, [2, 1e5], rtol=1e-5)


@pytest.mark.few(3)
@pytest.mark.skipif(not nist.FOLDER.exists(), reason="NIST's files are not there")
@pytest.mark.parametrize("name", ["BoxBOD", "Hahn1", "MGH09", "MGH10", "MGH17", "Nelson", "Bennett5", "Roszman1"])
def test_hard_sets_of_nist_from_both_starts(name):
    problem = nist.load(name)
    for begin in problem.starts:
        result = hf.least_squares(nist.residual_term(problem), begin)
        assert nist.digits(result.params, problem.certified) > 8
        assert nist.digits(result.stderr(), problem.deviations) > 6
        assert result.converged, result.reason
