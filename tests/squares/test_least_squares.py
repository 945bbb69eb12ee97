"""hf.least_squares: every solver against scipy and closed forms, and what is said of mistakes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hessianfree as hf
from hessianfree.engine import levenberg, metrics, searching
from hessianfree.engine.metrics import Metric
from hessianfree.engine.normal_equations import Dense, Dual, Krylov, Singular
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.searching import Form

SOLVERS = ("cg", "dense", "dual")
rng = np.random.RandomState(0)
X = np.linspace(-1, 1, 12)
DATA = {"x": X, "y": np.sin(2 * X) + 0.1 * X**2}
EDGE = np.array([[-1.0], [1.0]])


def network(p, x):
    return jnp.tanh(x * p["W"] + p["b"]) @ p["v"]


def fit(p, point):
    return network(p, point["x"]) - point["y"]


def slope(p, point):  # two residuals for a point
    return jnp.stack([jax.grad(network, argnums=1)(p, point[0]) - 1.0, network(p, point[0])])


TERMS = [(fit, DATA), (slope, EDGE, 0.3)]


def start(dtype=np.float64, seed=1, width=3):
    draw = np.random.RandomState(seed)
    return {name: draw.randn(width).astype(dtype) for name in ("W", "b", "v")}


def unraveled(flat):
    return dict(zip(("W", "b", "v"), jnp.reshape(flat, (3, -1)), strict=True))


def by_hand(flat):
    """rho in numpy, derivatives, weights and means written out; the order is W, b, v."""
    W, b, v = flat.reshape(3, -1)

    def o(x):
        return np.tanh(np.outer(x, W) + b) @ v

    e = EDGE[:, 0]
    do = (1 - np.tanh(np.outer(e, W) + b) ** 2) @ (v * W)
    second = np.stack([do - 1, o(e)], axis=1).ravel()
    return np.concatenate([(o(X) - DATA["y"]) / np.sqrt(len(X)), np.sqrt(0.3 / len(EDGE)) * second])


def flattened(p):
    return np.concatenate([np.asarray(p[name]) for name in ("W", "b", "v")])


def linear(p, point):
    return point["a"] @ p - point["b"]


LINEAR = {"a": rng.randn(8, 3), "b": rng.randn(8)}


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_linear_problem_ends_at_its_solution(solver):
    result = hf.least_squares([(linear, LINEAR)], np.zeros(3), solver=solver, max_steps=30, init_damping=1e-8)
    expected, residual, *_ = np.linalg.lstsq(LINEAR["a"], LINEAR["b"], rcond=None)
    np.testing.assert_allclose(result.params, expected, rtol=1e-7)
    assert result.value == pytest.approx(residual[0] / 16, rel=1e-10)
    assert result.solver == solver
    assert result.params.dtype == np.float64


@pytest.mark.parametrize("of", ["residuals", "parameters"])
@pytest.mark.parametrize("scale", [1e-15, 1e-10, 1e10, 1e15])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_unit_of_residuals_and_parameters_does_not_matter_in_float32(solver, scale, of):
    """Squares of sums of squares are far beyond the type."""
    other = 1.0 if of == "parameters" else scale
    data = {"a": np.float32(scale * LINEAR["a"]), "b": np.float32(other * LINEAR["b"])}
    result = hf.least_squares([(linear, data)], np.zeros(3, np.float32), solver=solver, max_steps=30)
    expected = np.linalg.lstsq(LINEAR["a"], LINEAR["b"], rcond=None)[0]
    np.testing.assert_allclose(np.float64(result.params) * scale / other, expected, rtol=1e-3)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loss_below_float32_is_minimised(solver):
    x, scale = np.linspace(0, 3, 30, dtype=np.float32), np.float32(1e-15)
    data = {"x": x, "y": scale * 2 * np.exp(np.float32(-1.5) * x)}
    decay = lambda p, point: scale * p["a"] * jnp.exp(-p["k"] * point["x"]) - point["y"]
    result = hf.least_squares([(decay, data)], {"a": np.float32(1), "k": np.float32(1)}, solver=solver)
    np.testing.assert_allclose([result.params["a"], result.params["k"]], [2, 1.5], rtol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_loss_beyond_float32_is_minimised(solver):
    """Its squares are 1e40, its derivatives one."""
    goal = {"goal": np.full(3, 1e20, np.float32)}
    result = hf.least_squares([(lambda p, point: p - point["goal"], goal)], np.float32(0), solver=solver)
    assert result.history["value"][0] == pytest.approx(0.5e40, rel=1e-5)
    assert float(result.params) == pytest.approx(1e20, rel=1e-6)
    assert result.history["reduction_ratio"][0] == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_nonlinear_problem_ends_where_scipy_does(solver):
    flat = flattened(start())
    reference = scipy.optimize.least_squares(by_hand, flat, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    result = hf.least_squares(TERMS, start(), solver=solver, max_steps=400)
    assert result.value <= reference.cost * (1 + 1e-3)
    assert result.history["value"][0] == pytest.approx(0.5 * (by_hand(flat) ** 2).sum(), rel=1e-10)
    assert result.value == pytest.approx(0.5 * (by_hand(flattened(result.params)) ** 2).sum(), rel=1e-8)
    # It never rises but by rounding, though a small problem may begin again, in two other metrics.
    new = result.history["new_value"]
    assert (np.diff(new) > 1e-12 * new[1:]).sum() <= 2
    assert result.value <= new.min() * (1 + 1e-12)


INPUTS, RESIDUALS = (Points(DATA, 1.0), Points(EDGE, 0.3)), Residuals((fit, slope))


def test_the_jacobian_against_finite_differences():
    flat, h = flattened(start()), 1e-6
    columns = [(by_hand(flat + h * e) - by_hand(flat - h * e)) / (2 * h) for e in np.eye(len(flat))]
    with jax.enable_x64(True):
        rho, J = RESIDUALS.jacobian(unraveled, jnp.asarray(flat), INPUTS)
        np.testing.assert_allclose(rho, by_hand(flat), rtol=1e-12)
        np.testing.assert_allclose(J, np.stack(columns, axis=1), rtol=1e-6, atol=1e-8)


METHODS = [Singular(), Dense(), Dual(), Krylov(9)]
NO_END = levenberg.Tolerances(0.0, 0.0, 0.0)


def sizes(h):
    """What `Metric.SIZES` is for parameters of these sizes, of the norms of columns."""
    return lambda c: np.sqrt(c**2 + ((c * h).max() / h) ** 2)


@pytest.mark.few(10)
@pytest.mark.parametrize("metric", Metric)
@pytest.mark.parametrize("method", METHODS)
def test_a_step_and_its_acceleration_against_dense_algebra(method, metric):
    form, h = Form(method), 1e-4
    damping = {0: 20.0, 1: 50.0}.get(metric, 5.0)
    flat, units = flattened(start()), np.linspace(0.5, 2, 9)
    state = levenberg.init(flat, damping, metric, units)
    with jax.enable_x64(True):
        found = jax.jit(levenberg.step, static_argnums=(0, 1))(form, RESIDUALS, start(), INPUTS, None, state, NO_END)
        params, after, outcome = jax.device_get(found)
        J = np.asarray(RESIDUALS.jacobian(unraveled, jnp.asarray(flat), INPUTS)[1])
    norms = np.linalg.norm(J, axis=0)
    by_units = lambda c: (c * units).max() / units
    D = {0: lambda c: c, 1: sizes(abs(flat)), 2: by_units, 3: by_units, 4: by_units}[metric](norms)
    rho, A = by_hand(flat), J.T @ J + damping * np.diag(D**2)
    d = -np.linalg.solve(A, J.T @ rho)
    along = (by_hand(flat + h * d) - 2 * rho + by_hand(flat - h * d)) / h**2
    a = -0.5 * np.linalg.solve(A, J.T @ along)
    ratio = 2 * np.linalg.norm(D * a) / np.linalg.norm(D * d)
    assert ratio < searching.ACCELERATION
    # The Krylov space of the gradient holds d, and of a what large eigenvalues make of it.
    off = 0.2 if method == Krylov(9) else 1e-5
    assert outcome.attempts == 1
    np.testing.assert_allclose(flattened(params), flat + d + a, atol=off * np.linalg.norm(a), rtol=1e-5)
    assert outcome.acceleration == pytest.approx(ratio, rel=max(off, 1e-4))
    squares = (by_hand(flattened(params)) ** 2).sum()
    assert outcome.new_squares * outcome.unit**2 == pytest.approx(squares, rel=1e-9)
    predicted = (rho**2).sum() - ((rho + J @ d) ** 2).sum()
    assert outcome.predicted * outcome.unit**2 == pytest.approx(predicted, rel=1e-7)
    assert outcome.gradient_norm == pytest.approx(np.linalg.norm(J.T @ rho), rel=1e-10)
    free = abs(J.T @ rho) / (norms * np.linalg.norm(rho))
    assert outcome.scaled_gradient == pytest.approx(free.max(), rel=1e-9)
    assert outcome.steepest == free.argmax()
    np.testing.assert_allclose(after.norms, norms, rtol=1e-9)


@pytest.mark.parametrize("far", [1e-9, 1e9])
def test_a_parameter_in_a_unit_of_its_own_leaves_the_others_in_theirs(far):
    norms = np.geomspace(0.1, 10, 40)
    expected = np.full(40, 10.0)
    norms[7] = expected[7] = far
    units, sizes = np.ones(40), np.ones(40)
    metric = lambda norms: metrics.metric(
        jnp.asarray(int(Metric.OPEN)), *map(jnp.asarray, (norms, norms, sizes)), units
    )
    chosen, found = metric(norms)
    assert chosen == Metric.MIXED
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert metric(np.geomspace(1e-9, 1e9, 40))[0] == Metric.NORMS
    assert metric(np.geomspace(0.01, 100, 40))[0] == Metric.UNITS


@pytest.mark.parametrize("method", METHODS)
def test_no_damping_is_below_rounding(method):
    state = levenberg.init(flattened(start()), 1e-30, Metric.NORMS)
    with jax.enable_x64(True):
        found = levenberg.compiled_step(Form(method), RESIDUALS, start(), INPUTS, None, state, NO_END)
        assert found[2].damping >= np.finfo(float).eps
        first = levenberg.init(flattened(start()), None, Metric.NORMS)
        found = levenberg.compiled_step(Form(method), RESIDUALS, start(), INPUTS, None, first, NO_END)
        assert found[2].damping in levenberg.FIRST * 2.0 ** np.cumsum(range(10))


def test_cg_takes_the_steps_of_dense_algebra():
    dense, by_products = (
        hf.least_squares(TERMS, start(), solver=s, max_steps=25, init_damping=1.0) for s in ("dense", "cg")
    )
    # CG ends before the weakest directions are solved for, so that the steps are near each other, not equal.
    np.testing.assert_allclose(by_products.history["new_value"], dense.history["new_value"], rtol=3e-2)
    assert (by_products.history["cg_iterations"] > 0).all()
    assert (by_products.history["cg_iterations"] <= 9).all()
    assert not dense.history["cg_iterations"].any()


@pytest.mark.parametrize("iterations", [1, 3])
def test_few_cg_iterations_lower_the_loss_all_the_same(iterations):
    result = hf.least_squares(TERMS, start(), solver="cg", max_steps=40, cg_iterations=iterations)
    assert result.value < 0.5 * result.history["value"][0]
    assert (result.history["cg_iterations"] <= iterations).all()


def test_one_function_of_all_residuals():
    def everything(p):
        return jax.vmap(lambda x, y: network(p, x) - y)(jnp.asarray(X), jnp.asarray(DATA["y"]))

    a = hf.least_squares(everything, start(), max_steps=40)
    b = hf.least_squares([(fit, DATA)], start(), max_steps=40)
    np.testing.assert_allclose(a.history["value"], b.history["value"], rtol=1e-6)


def test_float32_stays_float32():
    result = hf.least_squares(TERMS, start(np.float32), max_steps=30)
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(result.params))
    assert result.value < 0.2 * result.history["value"][0]


def test_auto_chooses_by_size():
    assert hf.least_squares(TERMS, start(), max_steps=0).solver == "dense"  # 9 parameters, 16 residuals
    assert hf.least_squares(TERMS, start(width=30), max_steps=0).solver == "dual"
    wide = {"W": np.ones(100_000), "b": np.zeros(100_000), "v": np.full(100_000, 1e-6)}
    result = hf.least_squares([(fit, {"x": np.repeat(X, 30), "y": np.repeat(DATA["y"], 30)})], wide, max_steps=0)
    assert result.solver == "cg"
    with pytest.raises(ValueError, match="about 2012 GiB"):
        hf.least_squares([(fit, DATA)], wide, solver="dense")


def bent(p):
    """Without a second derivative where p[0] is zero."""
    return jnp.array([p[0] + p[0] ** 1.5 - 2, p[1] - 1, p[0] * p[1] - 1])


@pytest.mark.parametrize("solver", SOLVERS)
def test_steps_need_no_second_derivative(solver):
    result = hf.least_squares(bent, np.zeros(2), solver=solver)
    np.testing.assert_allclose(result.params, [1, 1], rtol=1e-12)
    assert np.isnan(result.history["acceleration"][0])
    taken = result.history["accepted"][1:]
    assert (result.history["acceleration"][1:][taken] < searching.ACCELERATION).all()


def test_a_model_without_forward_mode_is_solved_without_acceleration(caplog):
    @jax.custom_vjp
    def squash(x):
        return jnp.tanh(x)

    squash.defvjp(lambda x: (jnp.tanh(x), x), lambda x, u: (u * (1 - jnp.tanh(x) ** 2),))

    def residual(p, point):
        return squash(point["x"] * p["W"] + p["b"]) @ p["v"] - point["y"]

    for solver in SOLVERS:
        result = hf.least_squares([(residual, DATA)], start(), solver=solver, max_steps=15)
        assert result.value < 0.1 * result.history["value"][0]
        assert (result.history["acceleration"] == 0).all()
        assert "not corrected" in caplog.text
        caplog.clear()
        # the whole at once, with more residuals than parameters: forward mode would be the shorter way
        whole = hf.least_squares(lambda p: jax.vmap(partial(residual, p))(DATA), start(), solver=solver, max_steps=15)
        if solver != "cg":  # which knows the norms of columns of the whole by an estimate only
            assert whole.value == pytest.approx(result.value, rel=1e-3)
        assert whole.value < 0.1 * whole.history["value"][0]


def test_points_are_drawn_anew_by_the_users_function():
    draws = []

    def resample(step):
        draws.append(step)
        x = np.random.default_rng(step).uniform(-1, 1, 12)
        return [{"x": x, "y": np.sin(2 * x) + 0.1 * x**2}, EDGE]

    result = hf.least_squares(TERMS, start(), resample=resample, resample_every=5, max_steps=20)
    assert draws == [0, 5, 10, 15]
    assert result.history["value"][5] != pytest.approx(result.history["new_value"][4], rel=1e-9)


def test_one_unlucky_draw_does_not_end_a_run():
    def resample(step):
        b = LINEAR["b"] if step != 3 else 0 * LINEAR["b"]
        return [{"a": LINEAR["a"] if step != 3 else 0 * LINEAR["a"], "b": b}]

    result = hf.least_squares([(linear, LINEAR)], np.zeros(3), resample=resample, max_steps=8)
    assert len(result.history["value"]) == 8


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_first_draw_without_gradient_says_nothing_of_the_damping(solver):
    small = {name: 1e-6 * part for name, part in LINEAR.items()}
    b = small["a"] @ np.arange(1.0, 4)

    def resample(step):
        return [{"a": small["a"] if step else 0 * small["a"], "b": b}]

    result = hf.least_squares([(linear, small)], np.zeros(3), solver=solver, resample=resample, max_steps=20)
    np.testing.assert_allclose(result.params, np.arange(1.0, 4), rtol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_damping_that_is_far_too_large_is_lowered(solver, dtype):
    data = {name: part.astype(dtype) for name, part in LINEAR.items()}
    result = hf.least_squares([(linear, data)], np.zeros(3, dtype), solver=solver, init_damping=1e300)
    expected = np.linalg.lstsq(LINEAR["a"], LINEAR["b"], rcond=None)[0]
    np.testing.assert_allclose(result.params, expected, rtol=1e-3)


def test_a_damping_that_is_far_too_small_is_raised():
    result = hf.least_squares([(lambda p, x: jnp.arctan(p * x), np.ones(1))], np.array(20.0), init_damping=1e-30)
    assert result.value < 1e-12


def test_a_derivative_that_is_infinite_at_the_start_is_told():
    result = hf.least_squares([(lambda p, x: jnp.sqrt(p) - x, np.ones(2))], np.array(0.0))
    assert "a derivative is infinite" in result.reason
    assert float(result.params) == 0


def test_what_is_returned_is_no_array_of_the_users():
    given = start()
    result = hf.least_squares(TERMS, given, max_steps=0)
    given["W"][:] = 9
    np.testing.assert_array_equal(result.params["W"], start()["W"])


class each_step:  # noqa: N801
    """A callback that calls function(step, params, record) after each step."""

    def __init__(self, function):
        self.function = function

    def on_start(self, run):
        self.run = run

    def on_update(self, number, update, updates, record):
        return self.function(number, self.run.params, record)


def test_functions_of_the_users_see_their_own_precision():
    seen = []

    def resample(step):
        seen.append(jnp.ones(1).dtype)
        return [DATA, EDGE]

    watch = each_step(lambda step, params, record: seen.append(jnp.ones(1).dtype))
    hf.least_squares(TERMS, start(), resample=resample, callbacks=[watch], max_steps=2)
    assert seen == [np.float32] * 4


def test_what_ends_a_run():
    seen = []
    stop = each_step(lambda step, params, record: seen.append((step, record.new_value)) or np.equal(step, 2))
    result = hf.least_squares(TERMS, start(), callbacks=[stop])
    assert result.reason == "a callback ended the run"
    assert [step for step, _ in seen] == [0, 1, 2]
    assert hf.least_squares(TERMS, start(), max_seconds=1e-6).reason == "1e-06 seconds are over"
    assert hf.least_squares(TERMS, start(), max_steps=4).reason == "not converged: all 4 steps are done"
    assert hf.least_squares(TERMS, start(), max_steps=0).history["value"].shape == (0,)
    assert hf.least_squares(TERMS, start(), target_err=1e3).reason == "the target error 1000 is reached"
    end = hf.least_squares([(linear, LINEAR)], np.zeros(3), max_steps=500)
    assert end.converged
    assert end.reason.startswith("converged: ")
    assert len(end.history["value"]) < 100

    def interrupts(step, params, record):
        raise KeyboardInterrupt

    assert "interrupted" in hf.least_squares(TERMS, start(), callbacks=[each_step(interrupts)]).reason


def test_progress_is_printed_when_asked(capsys):
    result = hf.least_squares(TERMS, start(), max_steps=5, print_period=2)
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 0", "step 2", "step 4"]
    assert f"loss {result.value:.4g}," in lines[-1]
    assert last == "finished after 5 steps: not converged: all 5 steps are done"


def breaks(p, point):
    return jnp.sqrt(network(p, point["x"]) + 1e3 * (point["x"] - 0.5))


def cut_over_an_axis():
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Explicit,))
    return jax.device_put(np.ones(4, np.float32), NamedSharding(mesh, PartitionSpec("d")))


MISTAKES = {
    "a loss": (
        lambda: hf.least_squares(lambda p: jnp.sum(p["W"] ** 2), start()),
        TypeError,
        "a scalar: that is a loss, not residuals",
    ),
    "no terms": (lambda: hf.least_squares([], start()), TypeError, "a list of terms"),
    "a bare term": (lambda: hf.least_squares((fit, DATA), start()), TypeError, "pass a list of terms"),
    "half a term": (lambda: hf.least_squares([(fit,)], start()), TypeError, "Term 0"),
    "a matrix of residuals": (
        lambda: hf.least_squares(lambda p: p["W"][:, None] - p["b"], start()),
        ValueError,
        r"shape \(3, 3\); one vector is expected",
    ),
    "other precision": (
        lambda: hf.least_squares([(lambda p, x: (p["W"] * x).astype(jnp.float16), X)], start()),
        TypeError,
        r"Term 0, <lambda>, returned float16\[12, 3\]; residuals must be float64",
    ),
    "callbacks": (lambda: hf.least_squares(TERMS, start(), callbacks=3), TypeError, "callbacks is 3; a list"),
    "resample": (
        lambda: hf.least_squares(TERMS, start(), resample=[DATA]),
        TypeError,
        "resample is .*; pass a function",
    ),
    "complex weight": (lambda: hf.least_squares([(fit, DATA, 2j)], start()), ValueError, "weight 2j"),
    "weights of zero": (
        lambda: hf.least_squares([(fit, DATA, 0)], start()),
        ValueError,
        "weights of all terms are zero",
    ),
    "points in words": (
        lambda: hf.least_squares([(fit, DATA), (fit, np.array(["a"]))], start()),
        TypeError,
        "points of term 1.*numbers are expected",
    ),
    "negative weight": (lambda: hf.least_squares([(fit, DATA, -1)], start()), ValueError, "weight -1"),
    "solver": (lambda: hf.least_squares(TERMS, start(), solver="qr"), ValueError, "'auto', 'cg', 'dense', 'dual'"),
    "uneven points": (
        lambda: hf.least_squares([(fit, {**DATA, "y": DATA["y"][:5]})], start()),
        ValueError,
        "same number of points",
    ),
    "no points": (lambda: hf.least_squares([(fit, {"x": X[:0], "y": X[:0]})], start()), ValueError, "at least one"),
    "points that are NaN": (
        lambda: hf.least_squares([(fit, {**DATA, "y": np.full(12, np.nan)})], start()),
        ValueError,
        r"points of term 0 are not finite: \['y'\] holds 12 .* Leave such points out",
    ),
    "integers": (
        lambda: hf.least_squares([(lambda p, x: jnp.round(x).astype(int), X)], start()),
        TypeError,
        "real floats",
    ),
    "not finite at the start": (
        lambda: hf.least_squares([(fit, DATA), (breaks, DATA)], start()),
        ValueError,
        r"Term 1, breaks, is not finite at the start: \d of 12, first at point 0",
    ),
    "parameters": (
        lambda: hf.least_squares(TERMS, {**start(), "W": np.full(3, np.inf)}),
        ValueError,
        r"\['W'\] holds 3 of 3",
    ),
    "printing": (lambda: hf.least_squares(TERMS, start(), print_period=0), ValueError, "print_period"),
    "a weight in words": (lambda: hf.least_squares([(fit, DATA, "2")], start()), ValueError, "weight '2'"),
    "seconds": (lambda: hf.least_squares(TERMS, start(), max_seconds=-1), ValueError, "max_seconds"),
    "seconds in words": (lambda: hf.least_squares(TERMS, start(), max_seconds="1"), ValueError, "max_seconds is '1'"),
    "target": (lambda: hf.least_squares(TERMS, start(), target_err=None), TypeError, "target_err is None; a number"),
    "no weight": (lambda: hf.least_squares([(fit, DATA, None)], start()), ValueError, "weight None"),
    "no draws": (
        lambda: hf.least_squares(TERMS, start(), resample=lambda step: None),
        ValueError,
        "returned None; a list",
    ),
    "residuals in numpy": (
        lambda: hf.least_squares([(fit, DATA), (lambda p, x: np.tanh(np.asarray(x)), X)], start()),
        TypeError,
        r"(?s)Term 1, <lambda>, cannot be called with the parameters and one point: The numpy.*Write it with jax.numpy",
    ),
    "cut over an explicit axis": (
        lambda: hf.least_squares(lambda p: p - 1, cut_over_an_axis()),
        ValueError,
        "explicit axis.*AxisType.Auto",
    ),
    "iterations": (lambda: hf.least_squares(TERMS, start(), cg_iterations=0), ValueError, "cg_iterations"),
    "damping": (lambda: hf.least_squares(TERMS, start(), init_damping=0), ValueError, "init_damping.*positive number"),
    "no damping": (lambda: hf.least_squares(TERMS, start(), init_damping=True), ValueError, "init_damping is True"),
    "other shapes": (
        lambda: hf.least_squares(TERMS, start(), resample=lambda step: [{"x": X[:4], "y": X[:4]}, EDGE]),
        ValueError,
        "other shapes would be compiled again",
    ),
    "resampling nothing": (
        lambda: hf.least_squares(lambda p: p["W"], start(), resample=lambda step: []),
        ValueError,
        "has no points",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    act, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        act()


def test_residuals_that_stop_being_finite_leave_the_last_good_parameters():
    def cliff(p, point):  # NaN beyond 1: large steps fall off
        return jnp.where(p["W"][0] > 1.0, jnp.nan, 2.0 - p["W"][0] + 0.1 * point)

    result = hf.least_squares([(cliff, X)], {"W": np.zeros(1)}, max_steps=200)
    assert np.isfinite(result.params["W"]).all()
    assert 0.9 < result.params["W"][0] <= 1
