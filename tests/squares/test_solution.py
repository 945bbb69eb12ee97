"""hf.least_squares_solution: derivatives of fits against differences of fits, and closed forms."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf

X = np.linspace(0, 3, 20)
NOISY = 2 * np.exp(-1.5 * X) + 0.2 * np.random.RandomState(0).randn(20)
BEGIN = {"a": np.array(1.0), "k": np.array(1.0)}


def decay(params, point):
    return params["a"] * jnp.exp(-params["k"] * point["x"]) - point["y"]


def pulled(params, pull):
    return pull * (params["k"] - 1)


def terms(y=NOISY, weight=1.0, pull=0.3, closing_over=False):
    """A curve, and a pull of its rate towards one, from a point or from what the residual closes over."""
    to_one = (lambda params, one: pulled(params, pull), np.ones(1)) if closing_over else (pulled, np.full(1, pull))
    return [(decay, {"x": X, "y": y}, weight), to_one]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def slope(function, at, h=1e-5):
    """The derivative by one number, by central differences."""
    return (function(at + h) - function(at - h)) / (2 * h)


OPTIONS = {
    "squares": {},
    "robust": {"loss": "soft_l1", "scale": 0.1},
    "products": {"solver": "cg"},
    "dual": {"solver": "dual"},
    "one at its bound": {"bounds": ({"a": -9.0, "k": 1.6}, None)},
}


@pytest.mark.few(2)
@pytest.mark.parametrize(
    ("name", "what"), [(name, "datum") for name in OPTIONS] + [("squares", "weight"), ("robust", "closure")]
)
def test_derivatives_against_differences_of_fits(name, what):
    """By a datum, a weight, and a number that a residual closes over; the residuals are large."""
    options = OPTIONS[name]
    given = {
        "datum": lambda u, **how: terms(y=jnp.asarray(NOISY).at[3].add(u), **how),
        "weight": lambda u, **how: terms(weight=1 + u, **how),
        "closure": lambda u, **how: terms(pull=0.3 + u, **how),
    }[what]

    def solved(u):
        params = hf.least_squares_solution(given(u, closing_over=what == "closure"), BEGIN, **options).params
        return jnp.stack([params["a"], params["k"]])

    def again(u):
        params = hf.least_squares(given(float(u)), BEGIN, **options).params
        return np.array([params["a"], params["k"]])

    forward, backward = jax.jit(lambda u: (jax.jacfwd(solved)(u), jax.jacrev(solved)(u)))(0.0)
    np.testing.assert_allclose(forward, slope(again, 0.0), rtol=2e-5, atol=1e-8)
    np.testing.assert_allclose(backward, forward, rtol=1e-8, atol=1e-12)
    if name == "one at its bound":
        assert forward[1] == 0


def test_a_linear_fit_has_the_pseudo_inverse_for_derivative():
    A = np.random.RandomState(1).randn(12, 3)

    def fitted(y):
        return hf.least_squares_solution([(lambda p, q: q["a"] @ p - q["y"], {"a": A, "y": y})], np.zeros(3)).params

    np.testing.assert_allclose(jax.jit(jax.jacrev(fitted))(np.ones(12)), np.linalg.pinv(A), atol=1e-12)


def test_what_data_do_not_determine_does_not_move():
    """Only the sum of two parameters matters: the solution with the smallest change."""

    def fitted(y):
        return hf.least_squares_solution([(lambda p, q: p[0] + p[1] - q, y)], np.zeros(2)).params

    np.testing.assert_allclose(jax.jit(jax.jacrev(fitted))(np.ones(4)), np.full((2, 4), 1 / 8), atol=1e-12)


def test_units_of_parameters_do_not_matter():
    @jax.jit
    @jax.jacrev
    def slopes(y, unit):
        def r(p, q):
            return p[0] / unit * jnp.exp(-p[1] * q["x"]) - q["y"]

        result = hf.least_squares_solution([(r, {"x": X, "y": y})], jnp.stack([unit, 1.0]))
        return result.params / jnp.stack([unit, 1.0])

    for unit in (1e-12, 1e12):
        np.testing.assert_allclose(slopes(NOISY, unit), slopes(NOISY, 1.0), rtol=1e-5, atol=1e-9)


def test_many_fits_at_once_and_deviations():
    def fitted(y, sigma):
        points = {"x": X, "y": y}
        result = hf.least_squares_solution([(decay, points)], BEGIN, sigma=sigma)
        return result.params["k"], result.value, result.converged

    sigma = 1 + np.random.RandomState(2).rand(3, 20)
    many = np.stack([NOISY, NOISY[::-1] + 2 * NOISY, 0.5 * NOISY])
    found, values, converged = jax.jit(jax.vmap(fitted))(many, sigma)
    assert converged.all()
    for k, value, y, s in zip(found, values, many, sigma, strict=True):
        alone = hf.least_squares([(decay, {"x": X, "y": y})], BEGIN, sigma=s)
        np.testing.assert_allclose(k, alone.params["k"], rtol=1e-6)
        np.testing.assert_allclose(value, alone.value, rtol=1e-12)


def test_sparse_terms_and_many_parameters(monkeypatch):
    """Amplitudes of their own and a common rate; beyond some size the equations are solved by products."""
    which = np.repeat(np.arange(30), 20)

    def r(part, point):
        return part["a"] * jnp.exp(-part["k"] * point["x"]) - point["y"]

    def rate(y):
        points = {"x": np.tile(X, 30), "y": y}
        term = hf.SparseTerm(r, points, {"a": which, "k": True})
        return hf.least_squares_solution([term], {"a": np.ones(30), "k": np.array(1.0)}).params["k"]

    y = np.concatenate([a * NOISY for a in np.linspace(1, 2, 30)])
    before, formed = jax.jit(jax.value_and_grad(rate))(y)
    monkeypatch.setattr("hessianfree.engine.implicit.FORMED", 5)
    moved = y.copy()
    moved[7] += 1e-5
    after, by_products = jax.jit(lambda y: jax.value_and_grad(rate)(y))(moved)
    np.testing.assert_allclose(by_products, formed, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose((after - before) / 1e-5, formed[7], rtol=1e-3)


def test_what_is_refused():
    with jax.enable_x64(False), pytest.raises(ValueError, match="JAX computes in float32 here"):
        hf.least_squares_solution(terms(), BEGIN)
    with pytest.raises(ValueError, match="not finite"):
        hf.least_squares_solution(terms(y=np.full(20, np.nan)), BEGIN)
    with pytest.raises(ValueError, match="not finite to begin with"):
        hf.least_squares_solution(terms(), {"a": np.array(np.nan), "k": np.array(1.0)})
    for name in ("bounds", "scale", "x_scale", "gtol"):
        with pytest.raises(TypeError, match=f"{name} is traced"):
            jax.jit(lambda u, name=name: hf.least_squares_solution(terms(), BEGIN, **{name: u}).value)(0.5)
    with pytest.raises(TypeError, match="complex"):
        jax.grad(lambda u: hf.least_squares_solution([(lambda p, q: p["a"] + 1j * q, u * X)], BEGIN).value)(1.0)


def test_a_run_that_did_not_converge_says_so():
    assert not hf.least_squares_solution(terms(), BEGIN, max_steps=1).converged
    assert hf.least_squares_solution(terms(), BEGIN).converged


def test_traced_deviations_of_several_terms():
    """One number holds for all of them, as where it is not traced."""

    def rate(one, other):
        return hf.least_squares_solution(terms(), BEGIN, sigma=[one * np.ones(20), other]).params["k"]

    found = jax.jit(rate)(0.5, 0.1)
    reference = hf.least_squares(terms(), BEGIN, sigma=[0.5, 0.1])
    np.testing.assert_allclose(found, reference.params["k"], rtol=1e-7)
    value = jax.jit(lambda s: hf.least_squares_solution(terms(), BEGIN, sigma=s).value)(0.1)
    np.testing.assert_allclose(value, hf.least_squares(terms(), BEGIN, sigma=0.1).value, rtol=1e-9)


def test_a_weight_of_zero_has_a_derivative():
    """How the solution moves when a term comes in: -H^-1 J_k'r_k."""

    def rate(weight):
        pull = (lambda params, one: params["k"] - one, np.ones(1), weight)
        return hf.least_squares_solution([(decay, {"x": X, "y": NOISY}), pull], BEGIN).params["k"]

    jitted = jax.jit(jax.value_and_grad(rate))
    np.testing.assert_allclose(jitted(0.0)[1], (jitted(1e-6)[0] - jitted(0.0)[0]) / 1e-6, rtol=1e-4)


def test_traced_data_of_a_curve():
    def rate(y):
        curve = hf.Curve(lambda p, x: p["a"] * jnp.exp(-p["k"] * x), X, y)
        return hf.least_squares_solution(curve, BEGIN).params["k"]

    by_terms = lambda y: hf.least_squares_solution([(decay, {"x": X, "y": y})], BEGIN).params["k"]
    np.testing.assert_allclose(jax.grad(rate)(NOISY), jax.grad(by_terms)(NOISY), rtol=1e-9)
