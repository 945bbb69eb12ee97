"""Terms that see a part of the parameters, and Jacobians made by parts: against dense ones, NumPy and SciPy."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import hessianfree as hf
from hessianfree.engine import residuals as engine_residuals
from hessianfree.engine.blocks import Seeing
from hessianfree.engine.by_parts import DenseByParts, DualByParts
from hessianfree.engine.normal_equations import Dense, Dual
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.schur import Schur
from hessianfree.squares import forms
from hessianfree.squares.sparse import eliminable

rng = np.random.RandomState(7)
SETS, EACH = 40, 5
WHICH, T = np.repeat(np.arange(SETS), EACH), np.tile(np.linspace(0, 2, EACH), SETS)
PARAMS = {
    "amplitude": 1 + rng.rand(SETS),
    "base": rng.rand(SETS, 2),
    "rate": np.array(1.5),
    "shift": rng.rand(4, 3),
}
SEES = {"amplitude": WHICH, "base": WHICH, "rate": True, "shift": rng.randint(0, 4, (len(WHICH), 2))}


def model(part, point):
    """Two residuals of one data set: its own amplitude and base, a common rate, and two of four shifts."""
    value = part["amplitude"] * jnp.exp(-part["rate"] * point["t"])
    return jnp.stack([value, value**2]) + part["base"] + jnp.sin(part["shift"]).sum(axis=0)[:2] - point["y"]


def close(part, point):
    """A residual of the bases alone."""
    assert part["amplitude"] is None
    assert part["shift"] is None
    return part["base"] - point


DATA = {"t": T, "y": rng.rand(len(T), 2)}
TERMS = [
    hf.SparseTerm(model, DATA, SEES),
    hf.SparseTerm(
        close, np.ones((SETS, 2)), {"amplitude": False, "base": np.arange(SETS), "rate": False, "shift": False}, 0.1
    ),
]


def plain_model(params, point):
    """The same residuals as functions of all parameters."""
    part = {name: params[name][point[name]] for name in ("amplitude", "base", "shift")}
    return model({**part, "rate": params["rate"]}, point)


def plain_close(params, point):
    return params["base"][point["row"]] - point["at"]


PLAIN = [
    (plain_model, {**DATA, **{name: SEES[name] for name in ("amplitude", "base", "shift")}}),
    (plain_close, {"row": np.arange(SETS), "at": np.ones((SETS, 2))}, 0.1),
]


def by_terms(terms, params=PARAMS, **options):
    """A prepared problem."""
    with jax.enable_x64(True):
        return forms.prepare(hf.LeastSquares(**options).options, terms, params)


def answers(method, prepared, inverse, b):
    """Residuals, norms of columns, J'b and the solution of the equations, at the parameters in a metric."""
    theta, unravel = ravel_pytree(PARAMS)

    @jax.jit
    def found(theta, inverse, b):
        linear = method.linearize(prepared.functions, unravel, theta, prepared.inputs)
        gradient = jnp.where(inverse > 0, method.pull(linear, linear.rho), 0)
        equations = method.equations(linear, inverse, gradient, 0.01)
        solution = method.solve(equations, method.factor(equations, 0.01), b, jnp.zeros_like(theta))
        return linear.rho, linear.norms, method.pull(linear, b), solution

    return map(np.asarray, found(theta, inverse, b))


@pytest.mark.few(3)
@pytest.mark.parametrize(
    ("method", "terms"),
    [
        (Schur((0, 1)), TERMS),
        (Schur((1,)), TERMS),
        (DenseByParts(), TERMS),
        (DenseByParts(), PLAIN),
        (DualByParts(7), PLAIN),
        (Dual(), TERMS),
    ],
)
def test_every_method_solves_the_dense_equations(method, terms, monkeypatch):
    """Norms, products with J' and solutions, against those of the dense Jacobian of plain functions."""
    monkeypatch.setattr(engine_residuals, "CHUNK", 17 * 133)
    with jax.enable_x64(True):
        theta, unravel = ravel_pytree(PARAMS)
        plain = by_terms(PLAIN)
        flat = jax.jit(lambda at: plain.functions.flat(unravel, plain.inputs, at))
        J = np.asarray(jax.jit(jax.jacfwd(flat))(theta))
        inverse = np.random.RandomState(1).rand(theta.size) + 0.5
        inverse[3] = 0  # held
        A, b = J * inverse, rng.randn(len(J))
        truth = np.linalg.solve(A.T @ A + 0.01 * np.eye(theta.size), A.T @ b)
        rho, norms, pulled, solution = answers(method, by_terms(terms), inverse, b)
        np.testing.assert_allclose(rho, flat(theta), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(pulled, J.T @ b, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(solution, truth, rtol=1e-8, atol=1e-11)
        # A point that names one row of the shifts twice counts as two.
        single = np.ones(theta.size, bool)
        if isinstance(method, Schur):
            single[-12:] = False
        np.testing.assert_allclose(norms[single], np.linalg.norm(J, axis=0)[single], rtol=1e-9)


@pytest.mark.long
def test_products_and_dense_rows_of_sparse_terms():
    with jax.enable_x64(True):
        prepared, plain = by_terms(TERMS), by_terms(PLAIN)
        theta, unravel = ravel_pytree(PARAMS)
        J = plain.functions.jacobian(unravel, theta, plain.inputs)[1]
        np.testing.assert_allclose(prepared.functions.jacobian(unravel, theta, prepared.inputs)[1], J, atol=1e-13)
        _, blocks = prepared.functions.blocks(unravel, theta, prepared.inputs)
        v = jnp.asarray(rng.randn(theta.size))
        np.testing.assert_allclose(blocks.push(v), J @ v, atol=1e-12)


@pytest.mark.parametrize("solver", ["auto", "dense", "cg"])
def test_a_global_fit_ends_where_scipy_does(solver):
    """Many data sets with a rate in common; "auto" eliminates what each has of its own."""
    sets, t = 30, np.linspace(0, 3, 12)
    own = 1 + rng.rand(sets, 2)
    y = own[:, :1] * np.exp(-0.7 * t) + own[:, 1:] + 0.01 * rng.randn(sets, 12)

    def decay(part, point):
        return part["own"][0] * jnp.exp(-part["rate"] * point["t"]) + part["own"][1] - point["y"]

    def by_numpy(flat):
        return (flat[:-1].reshape(-1, 2)[:, :1] * np.exp(-flat[-1] * t) + flat[:-1].reshape(-1, 2)[:, 1:] - y).ravel()

    which = np.repeat(np.arange(sets), 12)
    points = {"t": np.tile(t, sets), "y": y.ravel()}
    term = hf.SparseTerm(decay, points, {"own": which, "rate": True})
    start = {"own": np.ones((sets, 2)), "rate": np.array(1.0)}
    result = hf.least_squares([term], start, solver=solver)
    assert result.solver == ("schur" if solver == "auto" else solver)
    assert result.converged
    reference = scipy.optimize.least_squares(by_numpy, np.ones(2 * sets + 1), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    np.testing.assert_allclose(result.params["own"].ravel(), reference.x[:-1], rtol=1e-6)
    np.testing.assert_allclose(result.params["rate"], reference.x[-1], rtol=1e-7)
    assert result.residuals().shape == (sets * 12,)
    free = np.linalg.inv(reference.jac.T @ reference.jac) * 2 * reference.cost / (y.size - 2 * sets - 1)
    np.testing.assert_allclose(result.stderr()["rate"], np.sqrt(free[-1, -1]), rtol=1e-5)


def test_states_in_a_row_are_estimated_by_products():
    """Each residual sees two neighbouring states: nothing can be eliminated. Linear, so that NumPy has the answer."""
    steps = 60
    noisy = np.cumsum(rng.randn(steps, 2), axis=0)
    pairs = np.stack([np.arange(steps - 1), np.arange(1, steps)], axis=1)
    terms = [
        hf.SparseTerm(lambda part, point: part - point, noisy, np.arange(steps)),
        hf.SparseTerm(lambda part, point: part[1] - part[0] + 0 * point, np.zeros(steps - 1), pairs, 5.0),
    ]
    result = hf.least_squares(terms, np.zeros((steps, 2)), solver="cg")
    D = np.diff(np.eye(steps), axis=0)
    truth = np.linalg.solve(np.eye(steps) / steps + 5 * D.T @ D / (steps - 1), noisy / steps)
    np.testing.assert_allclose(result.params, truth, atol=1e-8)
    with pytest.raises(ValueError, match="at most one row, and there is none"):
        hf.least_squares(terms, np.zeros((steps, 2)), solver="schur")


def test_what_can_be_eliminated():
    functions = [Seeing(model, ("rows", "rows", "all", "rows")), Seeing(close, ("none", "rows", "none", "none"))]
    rows = [(WHICH, WHICH, SEES["shift"]), (np.arange(SETS),)]
    assert eliminable(functions, rows, PARAMS) == (0, 1)
    assert eliminable(functions, [(WHICH[::-1], WHICH, SEES["shift"]), (np.arange(SETS),)], PARAMS) == (1,)
    assert eliminable([*functions, plain_close], [*rows, ()], PARAMS) == ()
    both = [(WHICH, np.stack([WHICH, WHICH], axis=1), SEES["shift"]), (np.arange(SETS),)]
    assert eliminable(functions, both, PARAMS) == (0,)


def test_steps_are_the_same_by_parts(monkeypatch):
    """With room for a part of the Jacobian only, and said before."""
    shape = {"a": rng.randn(60), "b": rng.randn(2)}
    points = rng.randn(500, 60)

    def r(params, point):
        return jnp.tanh(params["a"] @ point + params["b"][0]) + params["b"][1] - point[0]

    whole = hf.least_squares([(r, points)], shape, max_steps=4)
    assert isinstance(by_terms([(r, points)], shape).form.method, Dense)
    monkeypatch.setattr(forms, "MEMORY", 3 * 62**2 * 8)
    forms._kind.cache_clear()
    assert isinstance(by_terms([(r, points)], shape).form.method, DenseByParts)
    apart = hf.least_squares([(r, points)], shape, max_steps=4)
    np.testing.assert_allclose(apart.history["new_value"], whole.history["new_value"], rtol=1e-9)
    wide = hf.least_squares([(r, points[:40])], shape, max_steps=4, solver="dual")
    forms._kind.cache_clear()
    monkeypatch.undo()
    whole = hf.least_squares([(r, points[:40])], shape, max_steps=4, solver="dual")
    np.testing.assert_allclose(wide.history["new_value"], whole.history["new_value"], rtol=1e-7)
    forms._kind.cache_clear()


def test_large_jacobians_are_announced(monkeypatch, caplog):
    monkeypatch.setattr(forms, "MEMORY", 10**6)
    forms._kind.cache_clear()
    by_terms([(plain_close, {"row": np.zeros(900, int), "at": np.ones((900, 2))})])
    assert "is made by parts" in caplog.text
    forms._kind.cache_clear()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_gram_matrices_of_any_unit(kind):
    """Squares of these derivatives are no numbers of the type."""
    huge = 1e25 if kind == np.float32 else 1e200

    def r(params, point):
        return params[0] * point[0] * kind(huge) + params[1] * point[1] / kind(huge)

    at = rng.randn(200, 2).astype(kind)
    with jax.enable_x64(kind == np.float64):
        terms = (Points(at, np.ones((), kind), np.ones((), kind), np.ones((), kind)),)
        gram, units = Residuals((r,)).gram(lambda theta: theta, jnp.zeros(2, kind), terms)
        cosine = gram[0, 1] / np.sqrt(gram[0, 0] * gram[1, 1])
        truth = at[:, 0].astype(float) @ at[:, 1] / np.linalg.norm(at[:, 0]) / np.linalg.norm(at[:, 1])
        np.testing.assert_allclose(cosine, truth, rtol=1e-3)
        assert np.isfinite(units).all()


MISTAKES = {
    "another structure": (SEES["amplitude"], TypeError, "a pytree like the parameters is expected"),
    "a row too many": ({**SEES, "amplitude": np.where(WHICH == 7, SETS, WHICH)}, ValueError, r"by 40 at point 35"),
    "a negative row": (
        {**SEES, "base": WHICH - 1},
        ValueError,
        r"\['base'\] by -1 at point 0; numbers from 0 to 39 are expected",
    ),
    "too few": ({**SEES, "base": WHICH[1:]}, ValueError, r"an array of shape \(199,\); \(200,\) or \(200, k\)"),
    "floats": ({**SEES, "base": WHICH * 1.0}, TypeError, "integers are expected"),
    "rows of a number": ({**SEES, "rate": WHICH}, ValueError, "a single number and has no rows"),
    "nothing": (dict.fromkeys(SEES, False), ValueError, "sees nothing"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_in_what_a_term_sees(name):
    sees, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        hf.least_squares([hf.SparseTerm(model, DATA, sees)], PARAMS)


def test_mistakes_in_a_sparse_term():
    with pytest.raises(TypeError, match=r"residual of term 0 is 3; a function residual\(part, point\) is expected"):
        hf.least_squares([hf.SparseTerm(3, DATA, SEES)], PARAMS)
    with pytest.raises(TypeError, match="a term sees nothing is None: see it"):
        hf.least_squares([hf.SparseTerm(model, DATA, {**SEES, "rate": False})], PARAMS)
    with pytest.raises(TypeError, match=r"rows of \['amplitude'\] by a traced array; integers are expected"):
        jax.jit(lambda rows: hf.least_squares([hf.SparseTerm(model, DATA, {**SEES, "amplitude": rows})], PARAMS))(WHICH)
    with pytest.raises(TypeError, match=r"A hf\.SparseTerm of all fits together goes to"):
        hf.least_squares_batch(TERMS, PARAMS)


def test_new_points_are_refused():
    with pytest.raises(ValueError, match="what the points of a SparseTerm see is fixed"):
        hf.least_squares(TERMS, PARAMS, resample=lambda step: [])


def test_rows_of_one_leaf_may_have_any_units():
    """In float32 the squares of derivatives that differ by 1e24 are no numbers beside each other."""
    units = np.ones(50, np.float32)
    units[[3, 4, 5]] = 1e-12, 1e12, 1e8
    which = np.repeat(np.arange(50), 4)
    points = {"unit": units[which], "y": rng.rand(200)}
    term = hf.SparseTerm(lambda part, point: part / point["unit"] - point["y"], points, which)
    means = points["y"].reshape(50, 4).mean(axis=1)
    for solver in ("schur", "cg"):
        result = hf.least_squares([term], np.zeros(50, np.float32), solver=solver, x_scale="jac")
        np.testing.assert_allclose(result.params / units, means, rtol=1e-4)
