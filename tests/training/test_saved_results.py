"""A result comes back from its file with parameters, history and reason."""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.io.files import FileFormatError
from hessianfree.training.results import Epoch, Result

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
T = np.array([[0], [1], [1], [0]], np.float32)
LINE = hf.Objective(lambda p, x: x @ p["W"][0] + p["b"][1])


class Seen(NamedTuple):
    value: float
    why: str
    accepted: bool


def start():
    return {"W": [np.full((2, 1), 0.5, np.float32)], "b": (None, np.full(1, 0.3, np.float32))}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert np.asarray(x).dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def same_results(found, result):
    same(result.params, found.params)
    same(result.best_params, found.best_params)
    assert found.history.keys() == result.history.keys()
    for name, values in result.history.items():
        np.testing.assert_array_equal(values, found.history[name])
    for name in ("best_error", "reason", "solver", "fields", "test_errors", "value"):
        assert getattr(found, name) == getattr(result, name), name
    assert repr(found) == repr(result)


@pytest.mark.parametrize("optimizer", [hf.opt.HessianFree(CG_iter=3), hf.opt.FirstOrder(optax.adam(0.1))])
@pytest.mark.parametrize("epochs", [0, 3])
def test_a_fit_comes_back(tmp_path, optimizer, epochs):
    result = hf.fit(LINE, start(), (X, T), optimizer, max_epochs=epochs, minibatch_size=3, print_period=None)
    result.save(tmp_path / "r")
    same_results(hf.load(tmp_path / "r"), result)


def test_a_network_s_run_comes_back(tmp_path):
    net = hf.FFNet([2, 5, 1], rng=0)
    result = net.run_epochs(X, T, hf.opt.SGD(0.1), max_epochs=3, print_period=None)
    result.save(tmp_path / "r")
    same_results(hf.load(tmp_path / "r"), result)


def test_least_squares_come_back_without_their_residuals(tmp_path):
    result = hf.least_squares(
        [(lambda p, point: p["a"] * point["x"] - point["y"], {"x": X[:, 0], "y": T[:, 0]})],
        {"a": np.float64(1)},
        print_period=None,
    )
    result.save(tmp_path / "r")
    found = hf.load(tmp_path / "r")
    assert type(found) is Result
    assert found.params == result.params
    assert found.reason == result.reason
    np.testing.assert_array_equal(found.history["status"], result.history["status"])


def test_records_that_differ_and_numbers_that_are_not_finite(tmp_path):
    class Own:
        pass

    updates = [Own(), *[Seen(np.nan, "a", True), Seen(np.inf, "b", False)], Own()]
    result = Result(
        np.ones(2), np.ones(2), np.inf, "done", [Epoch(0, np.nan, 1.5, updates), Epoch(1, 2.0, 3.0, [])], "x"
    )
    result.save(tmp_path / "r")
    found = hf.load(tmp_path / "r")
    assert [getattr(u, "_fields", ()) for u in found.epochs[0].updates] == [(), *[Seen._fields] * 2, ()]
    assert [(u.why, u.accepted) for u in found.epochs[0].updates[1:3]] == [("a", True), ("b", False)]
    assert found.best_error == np.inf
    assert np.isnan(found.test_errors[0])
    with pytest.raises(AttributeError, match="no field 'other'"):
        _ = found.epochs[0].updates[1].other


def test_other_structures_need_parameters_like_them(tmp_path):
    model = eqx.nn.Linear(2, 1, key=jax.random.key(0))
    result = Result(model, model, 1.0, "done", [], "x")
    result.save(tmp_path / "r")
    with pytest.raises(TypeError, match=r"structure of your own, .*Linear.*like=params"):
        hf.load(tmp_path / "r")
    found = hf.load(tmp_path / "r", like=eqx.nn.Linear(2, 1, key=jax.random.key(1)))
    assert isinstance(found.params, eqx.nn.Linear)
    np.testing.assert_array_equal(found.params(jnp.ones(2)), model(jnp.ones(2)))
    with pytest.raises(TypeError, match=r"like has shape \(2, 2\) at .weight; the file has \(1, 2\)"):
        hf.load(tmp_path / "r", like=eqx.nn.Linear(2, 2, key=jax.random.key(1)))
    with pytest.raises(TypeError, match=r"like has the leaf \['a'\], where the parameters in the file have .weight"):
        hf.load(tmp_path / "r", like={"a": np.ones(2)})


def test_other_files_are_refused(tmp_path):
    hf.fit(LINE, start(), (X, T), max_epochs=1, print_period=None, file_output=str(tmp_path / "f"))
    with pytest.raises(FileFormatError, match="found a safetensors file of another program; expected a saved network"):
        hf.load(tmp_path / "f_params.safetensors")
    with pytest.raises(FileNotFoundError):
        hf.load(tmp_path / "none")
