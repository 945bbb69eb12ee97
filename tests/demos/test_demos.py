from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import hessianfree as hf
from hessianfree import demos
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.io.files import FileFormatError


def outputs(text: str) -> np.ndarray:
    """The network outputs that a demo printed."""
    return np.array(
        [[float(v) for v in re.findall(r"[-\d.e+]+", line)] for line in re.findall(r"output \[(.*)\]", text)]
    )


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """The small demos start from random weights; the tests from the same ones each time."""
    from hessianfree.networks import arguments

    original = arguments.random_source
    monkeypatch.setattr(arguments, "random_source", lambda rng: original(0 if rng is None else rng))


@pytest.mark.parametrize("name", ["xor", "connections"])
def test_the_small_demos_learn_xor(name, capsys):
    demos.ALL[name]()
    np.testing.assert_allclose(outputs(capsys.readouterr().out), [[0], [1], [1], [0]], atol=0.1)


def test_crossentropy_learns_its_two_outputs(capsys):
    demos.crossentropy()
    np.testing.assert_allclose(outputs(capsys.readouterr().out), [[1, 0], [0, 1], [0, 1], [1, 0]], atol=0.1)


@pytest.mark.long
def test_xor_with_sgd(capsys):
    demos.xor(use_hf=False)
    shown = capsys.readouterr().out
    assert "CG" not in shown
    np.testing.assert_allclose(outputs(shown), [[0], [1], [1], [0]], atol=0.2)


SMALL = {"shape": [64, 20, 10], "layers": [hf.nl.Linear(), hf.nl.ReLU(), hf.nl.Softmax()]}


def test_mnist_falls_back_on_the_digits_of_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    demos.mnist(SMALL, {"max_epochs": 4, "CG_iter": 5, "init_damping": 0.1})
    shown = capsys.readouterr().out
    assert "8x8" in shown
    assert float(re.search(r"test error: ([\d.]+) %", shown)[1]) < 15
    assert list(tmp_path.iterdir()) == []


def test_mnist_with_the_settings_of_the_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    run = {"minibatch_size": 7500, "max_epochs": 2, "plotting": True}
    optimizer = {
        "CG_iter": 250,
        "init_damping": 45,
        "preconditioner": None,
        "curvature_batch": None,
        "warm_start": "decayed",
        "averaging": 0,
        "damping_rule": LevenbergMarquardt(),
    }
    demos.mnist({**SMALL, "loss_type": hf.loss_funcs.SquaredError()}, run, None, (0.01, 0.91), optimizer)
    assert "damping 30" in capsys.readouterr().out
    assert (tmp_path / "HF_plots.pkl").exists()


@pytest.mark.long
def test_mnist_reads_all_of_mnist(mnist_path, capsys):
    model = {"shape": [784, 10], "layers": [hf.nl.Linear(), hf.nl.Softmax()]}
    demos.mnist(model, {"max_epochs": 1, "CG_iter": 3}, data=mnist_path)
    shown = capsys.readouterr().out
    assert "60000 training and 10000 test images" in shown
    assert float(re.search(r"test error: ([\d.]+) %", shown)[1]) < 15


def test_mnist_with_an_optimizer_of_another_kind(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    result = demos.mnist(SMALL, {"max_epochs": 60, "minibatch_size": None}, optimizer=hf.opt.Auto())
    assert result.solver == "Auto"
    assert float(re.search(r"test error: ([\d.]+) %", capsys.readouterr().out)[1]) < 15
    with pytest.raises(ValueError, match="CG_iter"):
        demos.mnist(SMALL, {"CG_iter": 5}, optimizer=hf.opt.Auto())


# ---- recurrent demos -------------------------------------------------------------------------------------------------


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_integrator_learns_to_sum(in_folder, capsys):
    result = demos.integrator(plots=False)
    assert result.test_errors[-1] < 1e-3
    assert float(re.search(r"final error (\S+):", capsys.readouterr().out)[1]) == pytest.approx(
        result.test_errors[-1], rel=0.01
    )
    assert list(in_folder.iterdir()) == []


def test_integrator_takes_arguments_and_writes_its_figures_beside_the_run(in_folder, capsys):
    (in_folder / "run").mkdir()
    model = {"shape": [1, 4, 1], "rng": 0}
    run = {"max_epochs": 2, "CG_iter": 3, "init_damping": 5, "file_output": "run/small"}
    result = demos.integrator(model, run, n_inputs=3, sig_len=4)
    assert result.epochs[0].updates[0].damping == 5
    assert sorted(path.name for path in (in_folder / "run").iterdir()) == [
        *(f"integrator_{name}.png" for name in ("inputs", "outputs", "targets")),
        *("small_plots.pkl", "small_weights.npy"),
    ]
    assert "run/integrator_outputs.png" in capsys.readouterr().out


def test_integrator_signals():
    from hessianfree.demos.integrator import signals

    x, t = signals(3, 5)
    np.testing.assert_allclose(x[:, :, 0], [[0.1] * 5, [0.5] * 5, [0.9] * 5], rtol=1e-6)
    np.testing.assert_allclose(t[1, :, 0], [0, 0.125, 0.25, 0.375, 0.5], rtol=1e-6)


@pytest.mark.long
def test_adding_learns(in_folder, capsys, monkeypatch):
    """A short problem and few sequences; its network is the demo's."""
    module = sys.modules["hessianfree.demos.adding"]
    monkeypatch.setattr(module, "SEQUENCES", 600)
    monkeypatch.setattr(module, "TRAINED_ON", 500)
    result = demos.adding(T=10, run_args={"minibatch_size": 500, "max_epochs": 25, "print_period": None})
    assert result.test_errors[-1] < 0.1 * result.test_errors[0]
    shown = capsys.readouterr().out
    assert "of 100 test sequences" in shown
    assert {"adding_outputs.png", "HF_plots.pkl"} <= {path.name for path in in_folder.iterdir()}


def test_addings_recurrent_weights_have_spectral_radius_one():
    from hessianfree.demos.adding import network

    net = network(hf.opt.HessianFree())
    W, _ = net.get_weights(net.W, (2, 2))
    assert np.abs(np.linalg.eigvals(W)).max() == pytest.approx(1, rel=1e-5)
    assert net.rec_layers == (2,)


@pytest.mark.parametrize("closed_loop", [pytest.param(False, marks=pytest.mark.long), True])
def test_plant_is_steered(closed_loop, in_folder, capsys):
    result = demos.plant(plots=not closed_loop, closed_loop=closed_loop)
    assert min(result.test_errors) < (1e-5 if closed_loop else 1e-3)
    written = {path.name for path in in_folder.iterdir()}
    assert written == (set() if closed_loop else {"HF_plots.pkl", "plant_position.png", "plant_velocity.png"})


def test_both_bodies_of_the_plant_demo_move_alike():
    from hessianfree.demos.plant import CompiledBody, NumpyBody

    starts = np.random.RandomState(0).uniform(-0.5, 0.5, (3, 2)).astype(np.float32)
    pushes = np.random.RandomState(1).randn(4, 3, 2).astype(np.float32)
    first, second = NumpyBody(starts), CompiledBody(starts)
    state = second.initial_state(3)
    for x in pushes:
        state, seen = second.step(state, x)
        np.testing.assert_allclose(first.activation(x), seen, rtol=1e-5)


def test_profile_prints_a_table(in_folder, capsys, monkeypatch):
    monkeypatch.setattr("hessianfree.demos.profiling.integrator", lambda *args, **kwargs: demos.xor())
    demos.profile("integrator")
    assert "tottime" in capsys.readouterr().out


@pytest.mark.long
def test_profile_writes_a_trace_and_says_how_to_open_it(in_folder, capsys, monkeypatch):
    monkeypatch.setattr("hessianfree.demos.profiling.integrator", lambda *args, **kwargs: demos.xor())
    demos.profile("integrator", cprofile=False)
    shown = capsys.readouterr().out
    assert "perfetto" in shown
    folder = re.search(r"trace written to (\S+);", shown)[1]
    assert (in_folder / folder / "perfetto_trace.json.gz").exists()


def test_profile_runs_what_the_seed_profiled(monkeypatch):
    seen = {}
    monkeypatch.setattr("hessianfree.demos.profiling.integrator", lambda *a, **k: seen.update(integrator=(a, k)))
    monkeypatch.setattr("hessianfree.demos.profiling.mnist", lambda *a, **k: seen.update(mnist=(a, k)))
    demos.profile("integrator", max_epochs=2)
    demos.profile("mnist")
    (model, run), sizes = seen["integrator"]
    assert (model["shape"], run, sizes) == (
        [1, 100, 1],
        {"max_epochs": 2, "CG_iter": 10},
        {"n_inputs": 500, "sig_len": 200, "plots": False},
    )
    (_, run), _ = seen["mnist"]
    assert (run["CG_iter"], run["minibatch_size"]) == (10, 7500)
    with pytest.raises(ValueError, match="'mnist', 'integrator'"):
        demos.profile("nosuch")


def test_mnist_with_a_broken_file(tmp_path):
    broken = tmp_path / "mnist.npz"
    broken.write_bytes(b"PK\x03\x04 this is no archive")
    with pytest.raises(FileFormatError, match=r"mnist\.npz"):
        demos.mnist(data=broken)


def invoke(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
    )


@pytest.mark.few(1)
@pytest.mark.parametrize("words", [["hessianfree.demos", "xor"], ["hessianfree", "demo", "xor"]])
def test_the_command_line_runs_a_demo(words, tmp_path):
    done = invoke(*words, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert outputs(done.stdout).shape == (4, 1)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["hessianfree.demos", "nosuch"], 2, "The names are 'xor', "),
        (["hessianfree", "demo", "nosuch"], 2, "The names are 'xor', "),
        (["hessianfree.demos", "mnist", "data=/no/such/file.npz"], 1, "/no/such/file.npz"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, code, message, tmp_path):
    done = invoke(*words, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_public_names():
    for name in (
        "FFNet",
        "nl",
        "nonlinearities",
        "opt",
        "optimizers",
        "loss_funcs",
        "dataplotter",
        "demos",
        "gpu_enabled",
        "__version__",
    ):
        assert hasattr(hf, name), name
    assert hf.nl is hf.nonlinearities
    assert hf.opt is hf.optimizers
    assert isinstance(hf.gpu_enabled, bool)
    with pytest.raises(AttributeError, match="nosuch"):
        hf.nosuch  # noqa: B018
