"""hf.LeastSquares: steps in your own loop, against hf.least_squares, and what both refuse."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine.levenberg import LeastSquaresState

X = np.linspace(0, 3, 20)
DATA = {"x": X, "y": 2 * np.exp(-1.5 * X) + 0.01 * np.sin(40 * X)}


def decay(params, point):
    return params["a"] * jnp.exp(-params["k"] * point["x"]) - point["y"]


def ridge(params, point):
    return point * params["k"]


TERMS = [(decay, DATA), (ridge, np.ones(1), 1e-3)]


def start(dtype=np.float64):
    return {"a": np.ones((), dtype), "k": np.ones((), dtype)}


def steps(optimizer, terms, params, count):
    """Parameters and records of so many steps."""
    state, records = optimizer.init(terms, params), []
    for _ in range(count):
        params, state, record = optimizer.step(terms, params, state)
        records.append(record)
    return params, records


@pytest.mark.parametrize("arguments", [{}, {"solver": "dual"}, {"solver": "cg", "cg_iterations": 1, "init_damping": 2}])
def test_your_own_loop_takes_the_steps_of_least_squares(arguments):
    result = hf.least_squares(TERMS, start(), max_steps=6, **arguments)
    params, records = steps(hf.LeastSquares(**arguments), TERMS, start(), 6)
    for name in records[0]._fields:
        np.testing.assert_array_equal([getattr(record, name) for record in records], result.history[name])
    for name, leaf in params.items():
        np.testing.assert_array_equal(leaf, result.params[name])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_depends_on_its_arguments_only(dtype):
    """It changes neither them nor the optimizer, needs no global flag, and its states are of one structure."""
    optimizer, params = hf.LeastSquares(), start(dtype)
    state = first = optimizer.init(TERMS, params)
    for _ in range(3):
        moved, after, record = optimizer.step(TERMS, params, state)
        again, after_again, record_again = optimizer.step(TERMS, params, state)
        assert record == record_again
        assert after.damping == after_again.damping
        assert [np.asarray(leaf).dtype for leaf in after] == [leaf.dtype for leaf in first]
        assert [np.shape(leaf) for leaf in after] == [leaf.shape for leaf in first]
        assert jax.tree.structure(after) == jax.tree.structure(first)
        for name, leaf in moved.items():
            assert leaf.dtype == dtype
            np.testing.assert_array_equal(leaf, again[name])
        params, state = moved, after
    assert np.isnan(first.damping)
    assert not jax.config.jax_enable_x64


def test_a_state_may_be_kept_and_taken_up_by_another_optimizer():
    params, state = start(), hf.LeastSquares().init(TERMS, start())
    for _ in range(4):
        params, state, record = hf.LeastSquares().step(TERMS, params, LeastSquaresState(*map(np.asarray, state)))
    assert record == steps(hf.LeastSquares(), TERMS, start(), 4)[1][-1]


def test_nothing_is_compiled_again_while_shapes_stay():
    traces = []

    def residual(params, point):
        traces.append(point["x"].shape)
        return decay(params, point)

    optimizer, params = hf.LeastSquares(), start()
    state = optimizer.init([(residual, DATA)], params)
    for number in range(4):
        if number == 1:
            count = len(traces)
        terms = [(residual, {"x": X, "y": DATA["y"] + 0.01 * number}, 1.0 + number)]
        params, state, _ = optimizer.step(terms, params, state)
    assert len(traces) == count


def test_without_a_step_the_given_parameters_come_back():
    params, records = steps(hf.LeastSquares(), [(lambda p, x: p * x, np.ones(1))], np.zeros(2), 1)
    np.testing.assert_array_equal(params, np.zeros(2))
    assert not records[0].accepted
    assert records[0].reason == "converged: the gradient is zero, nothing is left to improve"


def test_the_result_of_a_run_holds_its_best():
    """On points drawn again, the loss goes up and down."""
    draws = [1.0, 3.0, 0.1, 2.0]

    def resample(step):
        return [{"x": X, "y": draws[step] * np.cos(5 * X)}]

    seen = []

    class Watch:
        def on_start(self, run):
            self.run = run

        def on_epoch(self, epoch):
            seen.append((epoch.test_error, self.run.params))

    result = hf.least_squares([(decay, DATA)], start(), resample=resample, max_steps=4, callbacks=[Watch()])
    errors = [error for error, _ in seen]
    assert result.test_errors == errors == list(result.history["new_value"])
    assert result.best_error == min(errors) == errors[2]
    assert result.best_params == seen[2][1]
    assert result.params == seen[3][1]
    assert result.value == errors[3]
    assert len(result.epochs) == len(result.history["seconds"]) == 4


class Unhashable:
    __hash__ = None

    def __call__(self, params, point):
        return ridge(params, point)


BEGUN = hf.LeastSquares().init(TERMS, start())
MISTAKES = {
    "a damping for a state": (
        lambda: hf.LeastSquares().step(TERMS, start(), 1.0),
        TypeError,
        r"The state is a float; pass the state that init\(residuals, params\)",
    ),
    "a state of another optimizer": (
        lambda: hf.LeastSquares().step(TERMS, start(), hf.opt.HessianFree().init(start())),
        TypeError,
        "The state is a State",
    ),
    "points that are NaN": (
        lambda: hf.LeastSquares().step([(ridge, np.full(1, np.nan))], start(), BEGUN),
        ValueError,
        "points of term 0 are not finite",
    ),
    "a start that is not finite": (
        lambda: hf.LeastSquares().init(TERMS, {**start(), "a": np.array(np.inf)}),
        ValueError,
        "holds 1 of 1 that are NaN or infinite",
    ),
    "residuals that are not finite": (
        lambda: hf.LeastSquares().init([(ridge, X), (lambda p, x: jnp.log(x * p["a"]), X)], start()),
        ValueError,
        "Term 1, <lambda>, is not finite at the start: 1 of 20, first at point 0",
    ),
    "integers as parameters": (
        lambda: hf.LeastSquares().init(TERMS, {"a": np.array(1), "k": np.array(1)}),
        TypeError,
        "float32 or float64 is needed",
    ),
    "solver": (
        lambda: hf.LeastSquares("qr"),
        ValueError,
        "solver is 'qr'; choose one of 'auto', 'cg', 'dense', 'dual'",
    ),
    "iterations": (lambda: hf.LeastSquares(cg_iterations=2.5), ValueError, "cg_iterations"),
    "damping": (lambda: hf.LeastSquares(init_damping=np.inf), ValueError, "init_damping is inf; a positive number"),
    "a function that cannot be hashed": (
        lambda: hf.LeastSquares().init([(ridge, X), (Unhashable(), X)], start()),
        TypeError,
        "The function of term 1 is a Unhashable that cannot be hashed.*wrap it in a function",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_rejected_before_work_starts(name):
    act, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        act()
