"""CG on one array for all leaves: the same update as on the leaves, and never for leaves that are spread."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine import hessian_free, joining

X = np.linspace(-1, 1, 40)[:, None]
T = np.sin(3 * X)


def start(seed=0):
    rng = np.random.default_rng(seed)
    return {"V": rng.standard_normal((1, 7)), "c": rng.standard_normal(7), "W": rng.standard_normal((7, 1))}


def updates(monkeypatch, joins, number=4, mask=None, **arguments):
    monkeypatch.setattr(hessian_free, "joinable", lambda params: joins)
    objective = hf.Objective(lambda p, x: jnp.tanh(x @ p["V"] + p["c"]) @ p["W"], "squared_error")
    optimizer = hf.opt.HessianFree(CG_iter=12, **arguments)
    result = hf.fit(objective, start(), (X, T), optimizer, max_epochs=number, mask=mask, print_period=None)
    return result.params, result.epochs[-1].updates[-1]


@pytest.mark.few(2)
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"preconditioner": "diagonal", "weight_decay": 1e-3},
        {"warm_start": "conjugate", "cg_memory": 5, "curvature_batch": 20},
        {"mask": {"V": np.zeros((1, 7), bool), "c": np.ones(7, bool), "W": np.zeros((7, 1), bool)}},
    ],
)
def test_the_updates_are_those_on_the_leaves(monkeypatch, arguments):
    (joined, one), (apart, other) = (updates(monkeypatch, joins, **arguments) for joins in (True, False))
    assert one.accepted
    assert one.cg_iterations == other.cg_iterations
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), joined, apart)
    np.testing.assert_allclose(one.reduction_ratio, other.reduction_ratio, rtol=1e-6)
    if "mask" in arguments:
        np.testing.assert_array_equal(joined["c"], start()["c"])


def test_what_is_joined():
    some = {"a": np.ones((2, 3), np.float32), "b": jnp.ones(2)}
    assert joining.joinable(some)
    assert not joining.joinable(some["a"])  # it is one array already
    assert not joining.joinable({**some, "c": np.ones(1)})  # of another type
    assert not joining.joinable([np.broadcast_to(np.float32(1), joining.MOST), np.ones(1, np.float32)])


def test_joined_and_split_again():
    vector = start()
    packing = joining.packing(vector, joins=True)
    flat = packing.join(vector)
    np.testing.assert_allclose(flat, np.concatenate([vector[name].ravel() for name in sorted(vector)]), rtol=1e-6)
    assert jax.tree.structure(packing.split(flat)) == jax.tree.structure(vector)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), packing.split(flat), vector)
