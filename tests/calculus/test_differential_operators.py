"""The operators: exact formulas, shapes, what is shared, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessianfree as hf
from hessianfree import calculus
from hessianfree.calculus import operators


def network(params, x):
    for W in params:
        x = jnp.tanh(x @ W)
    return jnp.sum(x)


def weights(inputs=5):
    rng = np.random.RandomState(0)
    return [rng.randn(inputs, 4), rng.randn(4, 3)]


# ---- exact -----------------------------------------------------------------------------------------------------------


@jax.jit
def everything(a, b, point):
    """All operators, of u = sin(a x) exp(b y) and of the field (u, a x u)."""
    u = lambda p: jnp.sin(a * p[0]) * jnp.exp(b * p[1])
    field = lambda p: jnp.stack([u(p), a * p[0] * u(p)])
    return {
        "partials": calculus.partials(u, (), 0, (1,), (0, 0), (0, 1), (1, 1, 0), (0, 0, 0))(point),
        "derivatives": calculus.derivatives(u, 4, axis=-1)(point),
        "directional": calculus.directional(u, jnp.array([1.0, -2.0]), 2)(point),
        "gradient": calculus.gradient(u)(point),
        "laplacian": calculus.laplacian(u)(point),
        "along y": calculus.laplacian(u, axes=[1])(point),
        "second order": calculus.value_gradient_laplacian(u, axes=(0,))(point),
        "hessian": calculus.hessian(u)(point),
        "biharmonic": calculus.biharmonic(u)(point),
        "divergence": calculus.divergence(field)(point),
        "nested": calculus.divergence(lambda p: p[0] * calculus.gradient(u)(p))(point),
    }


def by_hand(a, b, x, y):
    s, c, e = np.sin(a * x), np.cos(a * x), np.exp(b * y)
    u = s * e
    return {
        "partials": (u, a * c * e, b * u, -a * a * u, a * b * c * e, a * b * b * c * e, -(a**3) * c * e),
        "derivatives": tuple(b**k * u for k in range(5)),
        "directional": (-a * a * s - 4 * a * b * c + 4 * b * b * s) * e,
        "gradient": np.array([a * c * e, b * u]),
        "laplacian": (b * b - a * a) * u,
        "along y": b * b * u,
        "second order": (u, np.array([a * c * e, b * u]), -a * a * u),
        "hessian": np.array([[-a * a * u, a * b * c * e], [a * b * c * e, b * b * u]]),
        "biharmonic": (b * b - a * a) ** 2 * u,
        "divergence": a * c * e + a * x * b * u,
        "nested": a * c * e + x * (b * b - a * a) * u,
    }


NUMBERS = st.floats(-2, 2)


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_operators_are_exact_of_a_wave(a, b, x, y):
    with jax.enable_x64(True):
        found = everything(a, b, np.array([x, y]))
    for name, expected in by_hand(a, b, x, y).items():
        assert {leaf.dtype for leaf in jax.tree.leaves(found[name])} == {np.dtype(np.float64)}
        for ours, theirs in zip(jax.tree.leaves(found[name]), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11, err_msg=name)


@given(st.floats(-3, 3))
def test_a_point_may_be_a_number(time):
    with jax.enable_x64(True):
        found = of_a_number(time)
    sine, cosine = np.sin(2 * time), np.cos(2 * time)
    expected = [sine, 2 * cosine, -4 * sine, -8 * cosine, 2 * cosine, -4 * sine, 16 * sine, -4 * sine, -4 * sine]
    expected += [2 * cosine, -4 * sine]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


@jax.jit
def of_a_number(time):
    u = lambda time: jnp.sin(2 * time)
    value, slope, bend = calculus.value_gradient_laplacian(u)(time)
    found = [*calculus.derivatives(u, 3)(time), calculus.gradient(u)(time), calculus.laplacian(u)(time)]
    found += [calculus.biharmonic(u)(time), calculus.hessian(u)(time), calculus.partials(u, (0, 0))(time)[0]]
    return jnp.stack([*found, calculus.directional(u, 1.0)(time), bend]) + 0 * (value + slope)


@pytest.mark.parametrize("coordinates", [2, 5])
def test_shapes_of_arrays_and_what_depends_on_their_elements(coordinates):
    """Few coordinates go through one by one, more as one array: their results are those of nested forward mode."""
    matrix = np.random.RandomState(1).randn(coordinates, 6)
    field = lambda x: jnp.sin(x @ matrix).reshape(3, 2) * x[0]
    vector = lambda x: jnp.sin(x @ matrix @ matrix.T)

    def ours(x):
        value, gradient, laplacian = calculus.value_gradient_laplacian(field, axes=range(1, coordinates))(x)
        whole = calculus.laplacian(field)(x), calculus.biharmonic(vector)(x)
        return value, gradient, laplacian, *whole, calculus.hessian(field)(x), calculus.divergence(vector)(x)

    def theirs(x):
        slope, bend = jax.jacfwd(field)(x), jax.jacfwd(jax.jacfwd(field))(x)
        laplace = lambda v: lambda x: jnp.trace(jax.jacfwd(jax.jacfwd(v))(x), axis1=-2, axis2=-1)
        whole = laplace(field)(x), laplace(laplace(vector))(x)
        return field(x), slope, whole[0] - bend[..., 0, 0], *whole, bend, jnp.trace(jax.jacfwd(vector)(x))

    with jax.enable_x64(True):
        x = np.linspace(0.1, 0.5, coordinates)
        for found, expected in zip(jax.jit(ours)(x), jax.jit(theirs)(x), strict=True):
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_gradients_of_arrays():
    field = lambda x: jnp.stack([x[0] * x[1], x[1] ** 2, x[0]])
    many = lambda x: jnp.stack([x @ x, x[3]])
    assert calculus.gradient(field)(jnp.array([2.0, 3.0])).tolist() == [[3, 2], [0, 6], [1, 0]]
    assert calculus.gradient(many)(jnp.arange(4.0)).tolist() == [[0, 2, 4, 6], [0, 0, 0, 1]]


def test_precision_is_that_of_the_point():
    u = lambda x: jnp.sin(x[0]) * x[1] / (1 + x[1] ** 2)
    low = calculus.value_gradient_laplacian(u)(np.array([0.3, 0.4], np.float32))
    assert {part.dtype for part in low} == {np.dtype(np.float32)}
    assert calculus.derivatives(u, 3)(np.array([0.3, 0.4], np.float16))[3].dtype == np.float16


# ---- in residuals ----------------------------------------------------------------------------------------------------


def burgers(params, x):
    value, along, rate, bend = calculus.partials(lambda x: network(params, x), (), 0, 1, (0, 0))(x)
    return rate + value * along - 0.1 * bend


def burgers_nested(params, x):
    u = lambda x: network(params, x)
    slope = jax.grad(u)(x)
    return slope[1] + u(x) * slope[0] - 0.1 * jax.hessian(u)(x)[0, 0]


def poisson(params, x):
    return calculus.laplacian(lambda x: network(params, x))(x)


def poisson_nested(params, x):
    return jnp.trace(jax.hessian(lambda x: network(params, x))(x))


@pytest.mark.parametrize(
    ("ours", "theirs", "inputs"),
    [(burgers, burgers_nested, 2), (poisson, poisson_nested, 2), (poisson, poisson_nested, 5)],
)
@pytest.mark.parametrize("mode", [jax.jacrev, jax.jacfwd])
def test_rows_of_the_jacobian(ours, theirs, inputs, mode):
    points = np.random.RandomState(1).randn(4, inputs)
    with jax.enable_x64(True):
        rows = [jax.jit(jax.vmap(mode(r), (None, 0)))(weights(inputs), points) for r in (ours, theirs)]
        for found, expected in zip(*rows, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.few(1)
@pytest.mark.parametrize("solver", ["dense", "cg"])
def test_least_squares_takes_the_steps_that_it_takes_without(solver):
    points, runs = np.random.RandomState(1).rand(20, 2), []
    for residual in (burgers, burgers_nested):
        anchored = lambda params, x, residual=residual: jnp.stack([residual(params, x), network(params, x) - x[0]])
        runs.append(hf.least_squares([(anchored, points)], weights(2), solver=solver, max_steps=3))
    np.testing.assert_allclose(runs[0].history["value"], runs[1].history["value"], rtol=1e-8)


# ---- what is shared --------------------------------------------------------------------------------------------------


def products(operator, inputs):
    """Matrix products in a forward pass through two layers, each for the rows of how many coordinates."""
    program = jax.make_jaxpr(lambda x: operator(lambda x: network(weights(inputs), x))(x))(np.zeros(inputs))
    return [op.invars[0].aval.shape for op in program.jaxpr.eqns if op.primitive.name == "dot_general"]


@pytest.mark.parametrize(
    ("operator", "count"),
    [
        (calculus.laplacian, 3 + 4),  # the value, two slopes, and the sum, which the first layer has not yet
        (lambda u: calculus.partials(u, (), 0, 1, (0, 0)), 3 + 4),
        (lambda u: calculus.derivatives(u, 5), 2 + 6),
        (lambda u: calculus.partials(u, ()), 1 + 1),
    ],
    ids=["laplacian", "burgers", "fifth", "value"],
)
def test_one_pass_has_one_product_for_each_coefficient(operator, count):
    assert len(products(operator, 2)) == count


def test_many_coordinates_are_one_array():
    assert operators.FEW < 5
    assert sorted(products(calculus.laplacian, 5)) == [(4,), (4,), (5,), (5, 4), (5, 5)]


# ---- what is refused -------------------------------------------------------------------------------------------------

HALF = lambda x: x[0] / 2
REFUSED = {
    "not a function": (
        lambda: calculus.laplacian(3.0)(np.ones(2)),
        TypeError,
        "was given float; a function of a point",
    ),
    "whole numbers": (
        lambda: calculus.gradient(HALF)(np.arange(2)),
        TypeError,
        "the point is of type int32; pass floats",
    ),
    "a number": (lambda: calculus.derivatives(HALF, 1)(1), TypeError, "of type int32"),
    "many points": (lambda: calculus.hessian(HALF)(np.ones((9, 2))), ValueError, r"shape \(9, 2\).*jax.vmap\(hessian"),
    "no floats": (
        lambda: calculus.gradient(lambda x: x > 0)(np.ones(2)),
        TypeError,
        "returns bool, which has no deriv",
    ),
    "a tuple": (
        lambda: calculus.laplacian(lambda x: (x, x))(np.ones(2)),
        TypeError,
        "returns a tuple; one number or ar",
    ),
    "no such axis": (
        lambda: calculus.partials(HALF, 0, (1, 2))(np.ones(2)),
        ValueError,
        "no coordinate 2, the point has 2",
    ),
    "negative": (lambda: calculus.laplacian(HALF, (-3,))(np.ones(2)), ValueError, "no coordinate -3"),
    "axis of a number": (lambda: calculus.derivatives(jnp.sin, 1, 1)(1.0), ValueError, "the point has 1: 0 to 0"),
    "a name": (lambda: calculus.partials(HALF, "x")(np.ones(2)), TypeError, "'x' is not the number of a coordinate"),
    "a fraction": (lambda: calculus.derivatives(HALF, 1, 0.0)(np.ones(2)), TypeError, "0.0 is not the number"),
    "True": (lambda: calculus.partials(HALF, True)(np.ones(2)), TypeError, "True is not the number"),
    "one axis": (lambda: calculus.laplacian(HALF, 0)(np.ones(2)), TypeError, r"axes is 0; a tuple .* such as \(0, 1\)"),
    "no axes": (lambda: calculus.laplacian(HALF, ())(np.ones(2)), ValueError, "one coordinate or more, each once"),
    "axis twice": (lambda: calculus.biharmonic(HALF, (1, -1))(np.ones(2)), ValueError, "each once"),
    "order zero": (lambda: calculus.derivatives(HALF, 0), ValueError, "the order is 0; a whole number of at least 1"),
    "half an order": (lambda: calculus.directional(HALF, 1.0, 0.5), ValueError, "the order is 0.5"),
    "direction": (
        lambda: calculus.directional(HALF, np.ones(3))(np.ones(2)),
        ValueError,
        r"shape \(3,\), the point \(2,",
    ),
    "components": (lambda: calculus.divergence(HALF)(np.ones(2)), ValueError, r"shape \(\) at a point of shape \(2,\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_arguments_are_named(case):
    call, kind, message = REFUSED[case]
    with pytest.raises(kind, match=message):
        call()


def test_what_has_no_forward_mode_says_what_to_do():
    @jax.custom_vjp
    def square(x):
        return x**2

    square.defvjp(lambda x: (x**2, x), lambda x, g: (2 * x * g,))
    with pytest.raises(TypeError, match="forward-mode") as caught:
        calculus.laplacian(lambda x: square(x)[0])(np.ones(2))
    notes = "".join(caught.value.__notes__)
    assert "the operation custom_vjp_call" in notes
    assert "jax.custom_jvp" in notes
