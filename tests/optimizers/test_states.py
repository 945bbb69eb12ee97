"""States have one structure from `init` on, so that programs that know nothing of them can save them."""

from __future__ import annotations

import equinox
import jax
import numpy as np
import optax
import orbax.checkpoint
import pytest

import hessianfree as hf

RNG = np.random.RandomState(0)
X = RNG.uniform(-1, 1, (12, 2)).astype(np.float32)
T = np.sin(3 * X[:, :1])
NET = hf.FFNet([2, 3, 1], layers=["Linear", "Tanh", "Linear"], rng=0)
NET.cache_minibatch(X, T)
OBJECTIVE = hf.Objective(lambda params, x: np.tanh(1) * x @ params["W"] + params["b"])
PARAMS = {"W": np.full((2, 1), 0.1, np.float32), "b": np.zeros(1, np.float32)}
OPTIMIZERS = {
    "plain": lambda: hf.opt.HessianFree(CG_iter=3),
    "averaging": lambda: hf.opt.HessianFree(CG_iter=3, averaging=0.5),
    "hindsight": lambda: hf.opt.HessianFree(CG_iter=3, damping_rule=hf.opt.LevenbergMarquardt(hindsight=True)),
    "diagonal": lambda: hf.opt.HessianFree(CG_iter=3, preconditioner="diagonal"),
    "nystrom": lambda: hf.opt.HessianFree(CG_iter=3, preconditioner=hf.opt.Nystrom(rank=2)),
    "kfac": lambda: hf.opt.HessianFree(CG_iter=3, preconditioner="kfac"),
    "sgd": lambda: hf.opt.SGD(0.1),
    "adam": lambda: hf.opt.FirstOrder(optax.adam(0.01)),
    "auto": lambda: hf.opt.Auto(batch_size=4),
}


def problem(name):
    return (NET.problem(), NET.params(), NET.batch()) if name == "kfac" else (OBJECTIVE, PARAMS, (X, T))


def begun(optimizer, objective, params):
    known = (objective,) if isinstance(optimizer, (hf.opt.HessianFree, hf.opt.Auto)) else ()
    return optimizer.init(params, *known)


def shapes(state):
    leaves, structure = jax.tree.flatten(state)
    return structure, [(np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves]


def run(optimizer, objective, params, batch, state, updates):
    for _ in range(updates):
        params, state, _ = optimizer.step(objective, params, state, batch)
    return params, state


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_states_have_the_structure_of_the_first(name):
    objective, params, batch = problem(name)
    optimizer = OPTIMIZERS[name]()
    state = begun(optimizer, objective, params)
    expected = shapes(state)
    for _ in range(3):
        params, state, _ = optimizer.step(objective, params, state, batch)
        assert shapes(state) == expected


@pytest.mark.parametrize("name", ["plain", "averaging", "nystrom"])
def test_a_rejected_update_changes_no_structure(name):
    optimizer, hole = OPTIMIZERS[name](), (X, np.full_like(T, np.inf))
    state = optimizer.init(PARAMS)
    _, after, record = optimizer.step(hf.Objective(lambda p, x: x @ p["W"] + p["b"], lambda o, t: ((o - t) ** 2)[:, 0]), PARAMS, state, hole)  # fmt: skip
    assert not record.accepted
    assert shapes(after) == shapes(state)


def saved_by_equinox(tree, like, folder):
    path = folder / "state.eqx"
    equinox.tree_serialise_leaves(path, tree)
    return equinox.tree_deserialise_leaves(path, like)


def saved_by_orbax(tree, like, folder):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder / "state", tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(folder / "state", like)


@pytest.mark.few(9)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("saved", [saved_by_equinox, saved_by_orbax])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_that_is_saved_goes_on_as_if_it_had_not_been(name, saved, tmp_path):
    objective, params, batch = problem(name)
    optimizer = OPTIMIZERS[name]()
    start = begun(optimizer, objective, params)
    middle = run(optimizer, objective, params, batch, start, 2)
    expected = run(optimizer, objective, *[params, batch, start], updates=4)[0]
    again = saved(middle, (params, begun(OPTIMIZERS[name](), objective, params)), tmp_path)
    params, state = again
    found = run(OPTIMIZERS[name](), objective, params, batch, state, 2)[0]
    jax.tree.map(np.testing.assert_array_equal, found, expected)
