from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessianfree import nonlinearities as nl

import dense

ELEMENTWISE = [name for name in nl.BY_NAME if name != "Softmax"]
X = np.linspace(-4, 4, 25).reshape(5, 5) + 0.01


@pytest.mark.parametrize("name", nl.BY_NAME)
def test_values(name):
    np.testing.assert_allclose(nl.BY_NAME[name]().activation(X), dense.activation(name, X), rtol=1e-10)


@pytest.mark.parametrize("name", nl.BY_NAME)
def test_derivatives_against_differences(name):
    layer = nl.BY_NAME[name]()
    J = np.stack([dense.jacobian(layer.activation, row) for row in X])
    found = layer.d_activation(X, layer.activation(X))
    if name != "Softmax":
        J = np.einsum("bii->bi", J)
    np.testing.assert_allclose(found, J, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", nl.BY_NAME)
def test_automatic_derivatives_equal_the_written_ones(name):
    """The engine differentiates the activation; d_activation is for callers. They must not disagree, kinks included."""
    layer = nl.BY_NAME[name]()
    at = np.concatenate([X, np.zeros((1, 5)), np.full((1, 5), 30.0), np.full((1, 5), -30.0)])
    with jax.enable_x64(True):
        dx = np.random.RandomState(0).randn(*at.shape)
        tangent = np.asarray(jax.jvp(layer.activation, (jnp.asarray(at),), (dx,))[1])
    J = layer.d_activation(at, layer.activation(at))
    expected = J * dx if J.ndim == 2 else np.einsum("bij,bj->bi", J, dx)
    np.testing.assert_allclose(tangent, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", nl.BY_NAME)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numpy_in_numpy_out(name, dtype):
    layer, x = nl.BY_NAME[name](), X.astype(dtype)
    a = layer.activation(x)
    d = layer.d_activation(x, a)
    assert type(a) is np.ndarray
    assert type(d) is np.ndarray
    assert a.dtype == d.dtype == dtype


@pytest.mark.parametrize("name", nl.BY_NAME)
def test_finite_at_extreme_inputs(name):
    layer = nl.BY_NAME[name]()
    if name == "SoftLIF":
        layer = nl.SoftLIF(sigma=0.02)
    x = np.array([[0, 1e-30, -1e-30, 88, -88], [1e4, -1e4, 1e10, -1e10, 1]], np.float32)
    x = (
        np.concatenate([x, np.full((1, 5), 3e38, np.float32), np.full((1, 5), -3e38, np.float32)])
        if name == "SoftLIF"
        else x
    )
    with np.errstate(over="ignore", under="ignore"):
        a = layer.activation(x)
        d = layer.d_activation(x, a)
    tangent = jax.jvp(layer.activation, (jnp.asarray(x),), (jnp.ones_like(x),))[1]
    assert np.isfinite(a).all()
    assert np.isfinite(d).all()
    assert np.isfinite(tangent).all()


def test_relu_has_slope_one_at_zero_and_a_ceiling():
    relu = nl.ReLU(max=2.0)
    x = np.array([[-1.0, 0.0, 1.0, 2.0, 3.0]])
    np.testing.assert_array_equal(relu.activation(x), [[0, 0, 1, 2, 2]])
    np.testing.assert_array_equal(relu.d_activation(x, relu.activation(x)), [[0, 1, 1, 1, 0]])


def test_softmax_is_clipped_from_below():
    a = nl.Softmax().activation(np.array([[0.0, 1000.0]]))
    np.testing.assert_array_equal(a, [[1e-10, 1.0]])


def test_softlif_far_below_threshold_follows_the_limit():
    """There j = sigma exp(x / sigma), so a = amp / (tau_ref - tau_rc (log sigma + x / sigma)) as j vanishes."""
    layer = nl.SoftLIF(sigma=0.5)
    x = np.array([[-50.0, -200.0]])
    expected = 0.01 / (0.002 - 0.02 * (np.log(0.5) + x / 0.5))
    np.testing.assert_allclose(layer.activation(x), expected, rtol=1e-10)


@pytest.mark.parametrize("tau", [3.0, np.array([1.0, 2.0, 5.0])])
@pytest.mark.parametrize("base", [nl.Tanh(), nl.Softmax()])
def test_continuous_follows_its_difference_equation(tau, base):
    layer = nl.Continuous(base, tau=tau, dt=0.5)
    rng = np.random.RandomState(0)
    s = np.zeros((2, 3))
    for _ in range(4):
        x = rng.randn(2, 3)
        previous, s = s, (1 - 0.5 / tau) * s + (0.5 / tau) * x
        a = layer.activation(x)
        np.testing.assert_allclose(a, base.activation(s), rtol=1e-12)
    d = layer.d_activation(x, a)
    d_input, d_state, d_output = np.moveaxis(d, -1, 0)
    for found, function, at in [
        (d_input, lambda q: (1 - 0.5 / tau) * previous[0] + (0.5 / tau) * q, x[0]),
        (d_state, lambda q: (1 - 0.5 / tau) * q + (0.5 / tau) * x[0], previous[0]),
        (d_output, base.activation, s[0]),
    ]:
        J = dense.jacobian(function, at)
        np.testing.assert_allclose(found[0] if found.ndim == 3 else np.diag(found[0]), J, rtol=1e-6, atol=1e-8)
    layer.reset()
    np.testing.assert_allclose(layer.activation(x), base.activation((0.5 / tau) * x), rtol=1e-12)
    layer.reset(s)
    np.testing.assert_allclose(layer.activation(x), base.activation((1 - 0.5 / tau) * s + (0.5 / tau) * x), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nl.ReLU(max=0), "max"),
        (lambda: nl.SoftLIF(sigma=0), "sigma"),
        (lambda: nl.Continuous(nl.Tanh(), tau=0.0), "tau"),
        (lambda: nl.Continuous(nl.Tanh(), tau=np.array([1.0, -1.0])), "tau"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_continuous_wants_a_base_without_state():
    with pytest.raises(TypeError, match="base"):
        nl.Continuous(nl.Continuous(nl.Tanh()))


def test_the_base_class_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="must define activation"):
        nl.Nonlinearity().activation(X)
    with pytest.raises(NotImplementedError, match="d_activation"):
        nl.Nonlinearity().d_activation(X, X)
