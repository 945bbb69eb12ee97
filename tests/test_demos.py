from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import hessianfree as hf
from hessianfree import demos
from hessianfree.demos import command
from hessianfree.io.files import FileFormatError


def outputs(text: str) -> np.ndarray:
    """The network outputs that a demo printed."""
    return np.array(
        [[float(v) for v in re.findall(r"[-\d.e+]+", line)] for line in re.findall(r"output \[(.*)\]", text)]
    )


@pytest.fixture(autouse=True)
def seeded(monkeypatch):
    """The small demos start from random weights; the tests from the same ones each time."""
    monkeypatch.setattr(
        "hessianfree.arguments.random_source", lambda rng: np.random.RandomState(0 if rng is None else rng)
    )


@pytest.mark.parametrize("name", ["xor", "connections"])
def test_the_small_demos_learn_xor(name, capsys):
    demos.ALL[name]()
    np.testing.assert_allclose(outputs(capsys.readouterr().out), [[0], [1], [1], [0]], atol=0.1)


def test_crossentropy_learns_its_two_outputs(capsys):
    demos.crossentropy()
    np.testing.assert_allclose(outputs(capsys.readouterr().out), [[1, 0], [0, 1], [0, 1], [1, 0]], atol=0.1)


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
    assert float(re.search(r"test error: ([\d.]+)%", shown)[1]) < 15
    assert list(tmp_path.iterdir()) == []


def test_mnist_with_the_settings_of_the_seed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache")
    run = {"CG_iter": 250, "init_damping": 45, "minibatch_size": 7500, "max_epochs": 2, "plotting": True}
    demos.mnist({**SMALL, "loss_type": hf.loss_funcs.SquaredError()}, run, target_values=(0.01, 0.91))
    assert "damping 30" in capsys.readouterr().out
    assert (tmp_path / "HF_plots.pkl").exists()


def test_mnist_reads_all_of_mnist(mnist_path, capsys):
    model = {"shape": [784, 10], "layers": [hf.nl.Linear(), hf.nl.Softmax()]}
    demos.mnist(model, {"max_epochs": 1, "CG_iter": 3}, data=mnist_path)
    shown = capsys.readouterr().out
    assert "60000 training and 10000 test images" in shown
    assert float(re.search(r"test error: ([\d.]+)%", shown)[1]) < 15


def test_mnist_with_a_broken_file(tmp_path):
    broken = tmp_path / "mnist.npz"
    broken.write_bytes(b"PK\x03\x04 this is no archive")
    with pytest.raises(FileFormatError, match=r"mnist\.npz"):
        demos.mnist(data=broken)


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        (["False"], ([False], {})),
        (["use_hf=False"], ([], {"use_hf": False})),
        (["data=some/file.npz", "7", "a=b"], ([7], {"data": "some/file.npz", "a": "b"})),
        (["run_args={'CG_iter': 3}"], ([], {"run_args": {"CG_iter": 3}})),
        (["__import__('os')"], (["__import__('os')"], {})),
    ],
)
def test_arguments_are_literals_or_strings(arguments, parsed):
    assert command.parse_arguments(arguments) == parsed


def invoke(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, env={**os.environ, **(env or {})}, check=False
    )


@pytest.mark.parametrize("words", [["hessianfree.demos", "xor"], ["hessianfree", "demo", "xor"]])
def test_the_command_line_runs_a_demo(words, tmp_path):
    done = invoke(*words, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert outputs(done.stdout).shape == (4, 1)
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["hessianfree.demos"], "usage"),
        (["hessianfree.demos", "nosuch"], "the demos are xor"),
        (["hessianfree", "demo", "nosuch"], "the demos are xor"),
        (["hessianfree.demos", "mnist", "data=/no/such/file.npz"], "/no/such/file.npz"),
        (["hessianfree.demos", "xor", "colour=3"], "colour"),
    ],
)
def test_mistakes_on_the_command_line_are_one_line(words, message, tmp_path):
    done = invoke(*words, env={"XDG_CACHE_HOME": str(tmp_path)})
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


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
