"""Inverse problems: an unknown coefficient beside the weights of a network, and its standard error."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf

#: Diffusivity in m^2/s, length in m, seconds, and the standard deviation of the measured values.
DIFFUSIVITY, LENGTH, TIME, NOISE = 1e-9, 1e-3, 300.0, 0.02


def value(params, x, t):
    """A network that is zero at the ends."""
    hidden = jnp.tanh(params["W"] @ jnp.stack([2 * x / LENGTH - 1, 2 * t / TIME - 1]) + params["b"])
    return 4 * x * (LENGTH - x) / LENGTH**2 * (hidden @ params["V"])


def measured(params, point):
    return value(params, point["x"], point["t"]) - point["u"]


def diffusion(params, point):
    x, t = point["x"], point["t"]
    curvature = jax.grad(jax.grad(value, 1), 1)(params, x, t)
    return TIME * (jax.grad(value, 2)(params, x, t) - params["D"] * curvature)


def diffusion_in_its_unit(params, point):
    return diffusion({**params, "D": DIFFUSIVITY * params["D"]}, point)


def problem(noise, unit=1.0, count=200, size=16):
    """Terms and a start; the exact solution is exp(-D (pi / L)^2 t) sin(pi x / L)."""
    rng = np.random.default_rng(0)
    x, t = rng.uniform(0, LENGTH, (2, count))[0], rng.uniform(0, TIME, count)
    exact = np.exp(-DIFFUSIVITY * (np.pi / LENGTH) ** 2 * t) * np.sin(np.pi * x / LENGTH)
    data = {"x": x, "t": t, "u": exact + noise * rng.standard_normal(count)}
    inside = {"x": rng.uniform(0, LENGTH, 100), "t": rng.uniform(0, TIME, 100)}
    network = {
        "W": rng.standard_normal((size, 2)),
        "b": rng.standard_normal(size),
        "V": 0.3 * rng.standard_normal(size),
    }
    equation = diffusion if unit == 1 else diffusion_in_its_unit
    return [(measured, data), (equation, inside)], {**network, "D": np.array(2 * DIFFUSIVITY / unit)}


@pytest.mark.long
def test_the_unit_of_a_coefficient_does_not_slow_a_network():
    steps = []
    for unit in (1.0, DIFFUSIVITY):
        result = hf.least_squares(*problem(0.0, unit), max_steps=80)
        assert float(result.params["D"]) * unit == pytest.approx(DIFFUSIVITY, rel=1e-3)
        steps.append(int(np.argmax(result.history["new_value"] < 1e-7)))
    assert 0 < steps[0] < 1.5 * steps[1] + 5, steps


def test_a_coefficient_is_found_within_its_band():
    result = hf.least_squares(*problem(NOISE), max_steps=60)
    error = result.stderr(data=0)["D"]
    assert abs(result.params["D"] - DIFFUSIVITY) < 3 * error  # missed by chance for one seed in 400
    assert 0.002 * DIFFUSIVITY < error < 0.05 * DIFFUSIVITY
    assert "['D']" not in result.undetermined
    # With the network's true form, exp(-D (pi / L)^2 t) sin(pi x / L), the data tell hardly more.
    x, t = (problem(NOISE)[0][0][1][name] for name in ("x", "t"))
    slope = (np.pi / LENGTH) ** 2 * t * np.exp(-DIFFUSIVITY * (np.pi / LENGTH) ** 2 * t) * np.sin(np.pi * x / LENGTH)
    shape = np.exp(-DIFFUSIVITY * (np.pi / LENGTH) ** 2 * t) * np.sin(np.pi * x / LENGTH)
    J = np.stack([slope / 1e9, shape], axis=1)
    least = NOISE / 1e9 * np.sqrt(np.linalg.inv(J.T @ J)[0, 0])
    assert 0.7 * least < error < 2 * least


# ---- terms that hold exactly, against the model without them ---------------------------------------------------------

A, Y = np.random.default_rng(0).standard_normal((30, 3)), np.random.default_rng(1).standard_normal(30)
#: Both parameters b and c are there for one effect, and d for none.
LINEAR = {"a": np.float64(0), "b": np.float64(0), "c": np.float64(0), "d": np.float64(0)}


def line(params, point):
    return point["A"] @ jnp.stack([params["a"], params["b"] + params["c"], jnp.zeros(())]) - point["y"]


def twice(params, point):
    return params["a"] - 2 * (params["b"] + params["c"]) + 0 * point


@pytest.mark.parametrize("absolute", [False, True])
def test_noise_enters_by_the_measured_terms_alone(absolute):
    terms = [(line, {"A": A, "y": Y}), (twice, np.zeros(7), 1e4)]
    sigma = [0.5, None] if absolute else None
    result = hf.least_squares(terms, LINEAR, sigma=sigma)
    j = 2 * A[:, 0] + A[:, 1]  # of b + c, where a = 2 (b + c)
    s = j @ Y / (j @ j)
    variance = 0.25 if absolute else np.sum((Y - j * s) ** 2) / 29
    assert float(result.params["a"]) == pytest.approx(2 * s, rel=1e-3)
    errors = result.stderr(absolute, data=0)
    assert float(errors["a"]) == pytest.approx(2 * np.sqrt(variance / (j @ j)), rel=1e-3)
    assert float(result.covariance(absolute, data=[0])["a"]["a"]) == pytest.approx(float(errors["a"]) ** 2, rel=1e-9)
    assert np.isinf([errors["b"], errors["c"], errors["d"]]).all()
    assert result.undetermined == ["['b']", "['c']", "['d']"]
    everything = result.covariance(absolute, data=[0, 1])
    np.testing.assert_array_equal(everything["a"]["a"], result.covariance(absolute)["a"]["a"])


@pytest.mark.parametrize("data", [2, -1, [], [0, 5], "0", True, 0.0])
def test_terms_that_do_not_exist(data):
    result = hf.least_squares([(line, {"A": A, "y": Y}), (twice, np.zeros(7))], LINEAR, max_steps=1)
    with pytest.raises(ValueError, match=r"data is .*from 0 to 1 is expected"):
        result.stderr(data=data)
