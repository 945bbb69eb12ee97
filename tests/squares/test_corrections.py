"""Chord corrections of least-squares steps, and solves beyond the digits of J'J, against scipy and dense algebra."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize

import hessianfree as hf
from hessianfree.engine import corrections, levenberg
from hessianfree.engine.metrics import Metric
from hessianfree.engine.normal_equations import Dense, Dual, Krylov, Linearized, Singular, column_norms
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.searching import Form

P, N = 36, 50
X = np.linspace(-1, 1, N)


def network(p, x):
    return jnp.tanh(x * p["W"] + p["b"]) @ p["v"]


def fit(p, x):
    return network(p, x) - jnp.sin(3 * x)


def start(seed=0):
    draw = np.random.RandomState(seed)
    return {name: draw.randn(P // 3) for name in ("W", "b", "v")}


RESIDUALS, INPUTS = Residuals((fit,)), (Points(X, 1.0),)
NO_END = levenberg.Tolerances(0.0, 0.0, 0.0)


def by_hand(flat):
    """rho and J in numpy; the order is W, b, v."""
    W, b, v = flat.reshape(3, -1)
    h = np.tanh(np.outer(X, W) + b)
    slope = (1 - h**2) * v
    return (h @ v - np.sin(3 * X)) / np.sqrt(N), np.hstack([slope * X[:, None], slope, h]) / np.sqrt(N)


def flattened(p):
    return np.concatenate([np.asarray(p[name]) for name in ("W", "b", "v")])


def solver(method, equations, damping):
    """The solution for b, and for b and y."""
    factor = method.factor(equations, damping)
    return lambda b, y=None: method.solve(equations, factor, b, jnp.zeros(P) if y is None else jnp.asarray(y))


def graded(exponent, rows=N, seed=0):
    """A matrix with singular values from 1 to 10^-exponent."""
    draw = np.random.RandomState(seed)
    U, V = (scipy.linalg.qr(draw.randn(n, P), mode="economic")[0] for n in (rows, P))
    return U * np.logspace(0, -exponent, P) @ V.T


@pytest.mark.parametrize("method", [Singular(), Dense(), Dense(conditioned=False), Dual(), Krylov(P)])
@pytest.mark.parametrize("damping", [1e-6, 1e-2, 10.0])
def test_a_solver_takes_what_is_there_already(method, damping):
    A, draw = graded(3), np.random.RandomState(1)
    b, y = A @ draw.randn(P) + 0.1 * draw.randn(N), A.T @ draw.randn(N)
    with jax.enable_x64(True):
        products = isinstance(method, Krylov)
        J = (lambda v: A @ v, lambda u: A.T @ u) if products else jnp.asarray(A)
        linear, one = Linearized(jnp.asarray(b), column_norms(jnp.asarray(A)), J), jnp.ones(P)
        solve = solver(method, method.equations(linear, one, jnp.asarray(A.T @ b), damping), damping)
        found, first = np.asarray(solve(jnp.asarray(b), jnp.asarray(y))), np.asarray(solve(jnp.asarray(b)))
    matrix = A.T @ A + damping * np.eye(P)
    # The Krylov space of the gradient is cut off where its equations are solved to 1e-5, and y is not in it.
    off = 0.2 if products else 1e-8
    np.testing.assert_allclose(first, np.linalg.solve(matrix, A.T @ b), atol=off * np.abs(first).max())
    expected = np.linalg.solve(matrix, A.T @ b + damping * y)
    if not products:
        np.testing.assert_allclose(found, expected, atol=off * np.abs(expected).max())


@pytest.mark.parametrize("damping", [1e-13, 1e-18, 1e-22])
def test_small_damping_keeps_digits_that_normal_equations_lose(damping):
    A, draw = graded(11), np.random.RandomState(2)
    b = A @ (A.T @ draw.randn(N)) + 1e-9 * draw.randn(N)
    tall = np.vstack([A, np.sqrt(damping) * np.eye(P)])
    expected = scipy.linalg.lstsq(tall, np.concatenate([b, np.zeros(P)]), lapack_driver="gelsd", cond=0)[0]

    def error(method):
        with jax.enable_x64(True):
            linear = Linearized(jnp.asarray(b), column_norms(jnp.asarray(A)), jnp.asarray(A))
            equations = method.equations(linear, jnp.ones(P), jnp.asarray(A.T @ b), damping)
            found = np.asarray(solver(method, equations, damping)(jnp.asarray(b)))
        return np.linalg.norm(found - expected) / np.linalg.norm(expected)

    assert error(Dense()) < 1e-3
    if damping < 1e-16:
        assert not error(Dense(conditioned=False)) < 0.1  # or NaN


@pytest.mark.parametrize("rows", [N, P - 2])
@pytest.mark.parametrize(("damping", "off"), [(1e-18, 1e-3), (1e-14, 1e-5), (1e-10, 1e-5), (1.0, 1e-5), (1e3, 1e-2)])
def test_equations_of_a_small_damping_serve_every_larger_one(damping, off, rows):
    A, draw = graded(8)[:rows], np.random.RandomState(3)
    b, y = A @ (A.T @ draw.randn(rows)), 1e-3 * A.T @ draw.randn(rows)
    U, S, Vt = np.linalg.svd(A)
    shares = (S * (U.T @ b)[: len(S)] + damping * (Vt @ y)[: len(S)]) / (S**2 + damping)
    expected = Vt.T @ np.concatenate([shares, (Vt @ y)[len(S) :]])
    with jax.enable_x64(True):
        linear = Linearized(jnp.asarray(b), column_norms(jnp.asarray(A)), jnp.asarray(A))
        equations = Dense().equations(linear, jnp.ones(P), jnp.asarray(A.T @ b), 1e-18)
        found = np.asarray(solver(Dense(), equations, damping)(jnp.asarray(b), jnp.asarray(y)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=off * np.abs(expected).max())


def test_corrections_find_where_the_residuals_balance_the_damping():
    damping, flat = 0.02, flattened(start(4))
    state = levenberg.init(flat, damping, Metric.UNITS)
    form = Form(Dense(), accelerated=False, corrected=True)
    with jax.enable_x64(True):
        moved, _, outcome = levenberg.compiled_step(form, RESIDUALS, start(4), INPUTS, None, state, NO_END)
        found = flattened(jax.device_get(moved)) - flat
    rho, J = by_hand(flat)
    D2 = damping * (J**2).sum(axis=0).max()
    balance = lambda d: J.T @ by_hand(flat + d)[0] + D2 * d
    plain = -np.linalg.solve(J.T @ J + D2 * np.eye(P), J.T @ rho)
    root = scipy.optimize.root(balance, plain, tol=1e-12)
    assert root.success
    assert outcome.accepted
    assert outcome.attempts == 1
    assert outcome.corrections >= 1
    assert np.linalg.norm(found - root.x) < 0.1 * np.linalg.norm(plain - root.x)
    assert by_hand(flat + found)[0] @ by_hand(flat + found)[0] < by_hand(flat + plain)[0] @ by_hand(flat + plain)[0]


@pytest.mark.parametrize("mu", [0.1, 0.5])
def test_corrections_may_be_damped_more_than_the_step(mu):
    """They end where A'rho + lambda d + mu (y - d) = 0."""
    damping, flat = 0.1, flattened(start(4))
    rho, A = by_hand(flat)
    d = -np.linalg.solve(A.T @ A + damping * np.eye(P), A.T @ rho)
    balance = lambda y: A.T @ by_hand(flat + y)[0] + damping * d + mu * (y - d)
    root = scipy.optimize.root(balance, d, tol=1e-12)
    assert root.success

    def rho_at(y):
        W, b, v = (flat + y).reshape(3, -1)
        return (jnp.tanh(X[:, None] * W + b) @ v - jnp.sin(3 * X)) / np.sqrt(N)

    with jax.enable_x64(True):
        solve = lambda factor, b, y: jnp.linalg.solve(A.T @ A + factor * np.eye(P), A.T @ b + factor * y)
        arguments = map(jnp.asarray, (rho, 0 * d, damping, mu))
        found = corrections.corrected(rho_at, lambda factor: factor, solve, *arguments)
        np.testing.assert_allclose(found.plain, d, rtol=1e-9)
        assert np.linalg.norm(found.y - root.x) < 0.1 * np.linalg.norm(d - root.x)


@pytest.mark.parametrize(("rate", "expected"), [(0.05, 0.05), (0.3, 0.3), (0.7, 0.7)])
def test_the_contraction_is_that_of_a_linear_iteration(rate, expected):
    """With A = I and rho = b + (1 + q) y, the error shrinks by |q| / (1 + lambda) each time."""
    damping = 0.25
    q = rate * (1 + damping)
    with jax.enable_x64(True):
        b = jnp.asarray(np.random.RandomState(0).randn(5))
        rho_at = lambda y: b + (1 + q) * y
        solve = lambda factor, r, y: (r + factor * y) / (1 + factor)
        found = corrections.corrected(rho_at, lambda mu: mu, solve, b, 0 * b, jnp.asarray(damping), jnp.asarray(0.0))
        assert found.plain == pytest.approx(-b / (1 + damping))
        assert found.contraction == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("contraction", "fall", "expected"),
    [(0.3, 0.2, 1.0), (0.15, 0.2, 0.5), (0.001, 0.2, 0.2), (3.0, 0.2, 2.0), (np.nan, 0.2, 1.0), (0.1, 1.5, 1.5)],
)
def test_the_damping_follows_the_contraction(contraction, fall, expected):
    assert corrections.change_of_damping(jnp.float32(contraction), jnp.float32(fall)) == pytest.approx(expected)


def test_steps_that_fail_leave_finite_parameters_and_say_so():
    def cliff(p, x):  # finite at the start alone
        moved = jnp.abs(p["w"] - 1).max()
        return jnp.where(moved > 0, jnp.nan, 1.0) * (p["w"].sum() - x)

    result = hf.least_squares([(cliff, X)], {"w": np.ones(40)}, max_steps=5)
    assert np.isfinite(result.params["w"]).all()
    assert "stuck" in result.reason or "not converged" in result.reason


def test_a_network_is_fitted_to_the_rounding_of_its_residuals():
    """sin(3 x) by 12 units: J'J alone ends where its digits do."""
    run = partial(hf.least_squares, [(fit, X)], start(3), max_steps=250)
    result = run()
    assert result.value < 1e-20
    assert (result.history["damping"] < 1e-17).any()


@pytest.mark.parametrize("damping", [1e-22, 1e-30])
def test_rounding_does_not_move_what_the_residuals_do_not_see(damping):
    """Of two parameters in each sum only the sum is known. Small dampings leave both at half of it, as large ones do."""
    draws = np.random.RandomState(0)
    R, target = draws.randn(60, 20), draws.randn(20)
    points = {"r": R, "y": np.exp(0.1 * R @ target)}
    twice = lambda p, at: jnp.exp(0.1 * (p[:20] + p[20:]) @ at["r"]) - at["y"]
    found = hf.least_squares([(twice, points)], np.zeros(40), solver="dense", init_damping=damping)
    np.testing.assert_allclose(found.params, np.tile(target / 2, 2), atol=0.1)
    np.testing.assert_allclose(found.params[:20] + found.params[20:], target, atol=1e-12)
