"""What `fit` shares with run_epochs: a mask, files and plots."""

from __future__ import annotations

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import keystr, tree_leaves_with_path
from safetensors.numpy import load_file

import hessianfree as hf

rng = np.random.RandomState(0)
X = rng.uniform(-1, 1, (20, 2)).astype(np.float32)
T = np.sin(3 * X.sum(axis=1, keepdims=True)).astype(np.float32)


def model(p, x):
    return jnp.tanh(x @ p["in"][0] + p["in"][1]) @ p["out"]


OBJECTIVE = hf.Objective(model)


def start(dtype=np.float32):
    draw = np.random.RandomState(0)
    return {"in": (draw.randn(2, 8).astype(dtype), np.zeros(8, dtype)), "out": (0.3 * draw.randn(8, 1)).astype(dtype)}


def fit(**kwargs):
    return hf.fit(OBJECTIVE, start(), (X, T), **{"print_period": None, "max_epochs": 5, **kwargs})


# ---- masks -----------------------------------------------------------------------------------------------------------

OPTIMIZERS = {
    "hf": lambda: hf.opt.HessianFree(init_damping=0.1),
    "averaging": lambda: hf.opt.HessianFree(init_damping=0.1, averaging=0.8),
    "nystrom": lambda: hf.opt.HessianFree(init_damping=0.1, preconditioner="nystrom"),
    "sgd": lambda: hf.opt.SGD(0.3),
    "adamw": lambda: hf.opt.FirstOrder(optax.adamw(0.02)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_mask_holds_parameters_and_lets_all_others_go(name, dtype):
    mask = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), start())
    mask["in"][0][0, :3] = mask["out"][2:] = True
    begun = start(dtype)
    result = hf.fit(OBJECTIVE, begun, (X, T), OPTIMIZERS[name](), mask=mask, max_epochs=5, print_period=None)
    for params in (result.params, result.best_params):
        for before, after, held in zip(*map(jax.tree.leaves, (begun, params, mask)), strict=True):
            np.testing.assert_array_equal(np.asarray(after)[held], before[held])
            assert (np.asarray(after)[~held] != before[~held]).all()


def test_a_masked_fit_is_the_fit_of_the_free_parameters():
    begun = start(np.float64)
    mask = {"in": (np.ones((2, 8), bool), np.ones(8, bool)), "out": np.zeros((8, 1), bool)}
    optimizer = lambda: hf.opt.HessianFree(init_damping=0.1)
    masked = hf.fit(OBJECTIVE, begun, (X, T), optimizer(), mask=mask, max_epochs=4, print_period=None)
    free = hf.Objective(lambda out, x: model({"in": start(np.float64)["in"], "out": out}, x))
    alone = hf.fit(free, begun["out"], (X, T), optimizer(), max_epochs=4, print_period=None)
    np.testing.assert_allclose(masked.params["out"], alone.params, rtol=1e-8)
    np.testing.assert_allclose(masked.history["value"], alone.history["value"], rtol=1e-10)


class OwnStep(hf.opt.HessianFree):
    def step(self, objective, params, state, batch):
        self.steps = getattr(self, "steps", 0) + 1
        return super().step(objective, params, state, batch)


def test_an_optimizer_for_networks_alone_is_refused():
    class Networks(hf.opt.Optimizer):
        def compute_update(self, printing=False):
            return 0 * self.net.W

    with pytest.raises(TypeError, match="an object with init and step is expected"):
        fit(optimizer=Networks())


def test_a_step_of_the_users_own_is_called():
    optimizer = OwnStep()
    fit(optimizer=optimizer, max_epochs=3)
    assert optimizer.steps == 3


SMALL = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), start())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"mask": {"in": SMALL["in"]}}, ValueError, "the same structure and shapes are expected"),
        ({"mask": {**SMALL, "out": np.zeros(8, bool)}}, ValueError, "the same structure and shapes are expected"),
        ({"mask": jax.tree.map(lambda leaf: leaf.astype(int), SMALL)}, TypeError, "booleans are expected"),
        ({"mask": SMALL, "optimizer": OwnStep()}, TypeError, "OwnStep defines a step of its own"),
        ({"file_output": "/no/such/folder/run"}, FileNotFoundError, "/no/such/folder"),
    ],
)
def test_mistakes_are_told_before_any_work(arguments, error, message):
    with pytest.raises(error, match=message):
        fit(**arguments)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_are_written_under_their_key_paths(tmp_path, dtype):
    prefix = str(tmp_path / "run")
    result = hf.fit(OBJECTIVE, start(dtype), (X, T), max_epochs=2, print_period=None, file_output=prefix)
    written = load_file(f"{prefix}_params.safetensors")
    expected = {keystr(path): leaf for path, leaf in tree_leaves_with_path(result.params)}
    assert set(written) == set(expected) == {"['in'][0]", "['in'][1]", "['out']"}
    for name, leaf in expected.items():
        np.testing.assert_array_equal(written[name], leaf)
        assert written[name].dtype == dtype
    assert [path.name for path in tmp_path.iterdir()] == ["run_params.safetensors"]


def test_a_single_array_is_written_as_params(tmp_path):
    line = hf.Objective(lambda p, x: x * p)
    result = hf.fit(line, np.float32(1), (X, X), max_epochs=2, print_period=None, file_output=str(tmp_path / "run"))
    np.testing.assert_array_equal(load_file(tmp_path / "run_params.safetensors")["params"], result.params)


def test_parameters_are_written_while_the_run_goes_on(tmp_path):
    seen = []

    class Looks:
        def on_epoch(self, epoch):
            seen.append((tmp_path / "run_params.safetensors").exists())

    fit(file_output=str(tmp_path / "run"), callbacks=[Looks()])
    assert seen[1:] == [True] * 4


HF_SERIES = {
    "training error (log)", "learning rate", "damping (log)", "CG iterations", "backtracked steps", "update norm", "W norm",
    "test error (log)",
}  # fmt: skip


def test_plots_are_those_of_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = fit(plotting=True)
    series = pickle.loads((tmp_path / "HF_plots.pkl").read_bytes())
    assert type(series) is dict
    assert set(series) == HF_SERIES
    assert series["test error (log)"] == result.test_errors
    np.testing.assert_allclose(series["damping (log)"], result.history["damping"])
    np.testing.assert_allclose(series["training error (log)"], result.history["new_value"])
    before = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(start())))
    assert series["W norm"][0] == pytest.approx(before, rel=1e-5)
    assert len(set(map(len, series.values()))) == 1
    fit(plotting=True, optimizer=hf.opt.SGD(0.1, plotting=True), file_output="run")
    assert set(pickle.loads((tmp_path / "run_plots.pkl").read_bytes())) == {"training error", "test error (log)"}


def test_a_network_and_a_fit_of_the_same_function_write_the_same_plots(tmp_path, monkeypatch):
    """A linear layer with squared error at both doors."""
    monkeypatch.chdir(tmp_path)
    net = hf.FFNet([2, 1], layers="Linear", rng=0, dtype=np.float64)
    W, b = (part.copy() for part in net.get_weights(net.W, (0, 1)))
    line = hf.Objective(lambda p, x: x @ p["W"] + p["b"])
    arguments = {"max_epochs": 4, "print_period": None, "plotting": True, "target_err": -1.0}
    net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=2), file_output="net", **arguments)
    hf.fit(line, {"W": W, "b": b}, (X, T), hf.opt.HessianFree(CG_iter=2), file_output="fit", **arguments)
    ours, theirs = (pickle.loads((tmp_path / f"{name}_plots.pkl").read_bytes()) for name in ("net", "fit"))
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-6, atol=1e-9)
