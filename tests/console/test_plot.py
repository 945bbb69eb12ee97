"""`hessianfree plot`: plots files, saved results, folders of runs."""

from __future__ import annotations

import os

import pytest
from typer.testing import CliRunner

import hessianfree as hf
from hessianfree.console.main import app
from hessianfree.console.plot import file_of
from hessianfree.plotting.web import PORT
from hessianfree.training.callbacks import write_plots

PNG = b"\x89PNG\r\n\x1a\n"


def invoke(*words: object):
    return CliRunner().invoke(app, ["plot", *map(str, words)], catch_exceptions=False)


@pytest.fixture
def folder(tmp_path, backend):
    """A folder of a run, with a saved result and a network in it; no windows."""
    backend("agg")
    net = hf.FFNet([2, 5, 1], rng=0)
    result = net.run_epochs([[0, 0], [1, 1]], [[0], [1]], hf.opt.SGD(), max_epochs=3, print_period=None)
    result.save(tmp_path / "result.safetensors")
    net.save(tmp_path / "model.safetensors")
    with open(tmp_path / "plots.pkl", "wb") as file:
        write_plots({"training error (log)": [0.5, 0.1]}, file)
    return tmp_path


@pytest.mark.parametrize("name", ["plots.pkl", "result.safetensors", ""])
@pytest.mark.parametrize("saved", [True, False])
def test_what_can_be_plotted(name, saved, folder):
    newest = "plots.pkl"
    target = folder / "x.png" if saved else (folder / (name or newest)).with_suffix(".png")
    done = invoke(folder / name, *(("--save", target) if saved else ()))
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"saved {target}\n", "")
    assert target.read_bytes().startswith(PNG)


def test_of_a_folder_the_newer_file_is_plotted(folder):
    os.utime(folder / "result.safetensors", (2e9, 2e9))
    assert file_of(folder) == folder / "result.safetensors"
    os.utime(folder / "plots.pkl", (3e9, 3e9))
    assert file_of(folder) == folder / "plots.pkl"
    assert file_of(folder / "model.safetensors") == folder / "model.safetensors"


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("nosuch.pkl", ["--save", "x.png"], 1, "no file"),
        ("empty", [], 1, "is a folder without plots.pkl"),
        ("model.safetensors", ["--save", "x.png"], 1, "model.safetensors: found "),
        ("result.safetensors", ["--save", "x.pdf"], 1, "ending in .png"),
        ("plots.pkl", ["--web", "--save", "x.png"], 2, "give one of them"),
        ("plots.pkl", ["--web", "--port", "65536"], 1, "port is 65536"),
        ("plots.pkl", ["--interval", "0"], 1, "interval is 0.0"),
    ],
)
def test_what_cannot_be_plotted_is_a_line(name, options, code, message, folder):
    (folder / "empty").mkdir()
    before = sorted(folder.rglob("*"))
    done = invoke(folder / name, *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(folder.rglob("*")) == before


def test_web_serves_what_is_newest_in_the_folder(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("hessianfree.plotting.web.serve", lambda *given: seen.append(given))
    assert invoke(folder, "--web", "--port", 8123, "--interval", 2).exit_code == 0
    assert seen == [(folder / "plots.pkl", 8123, 2.0)]


def test_web_has_one_port_by_default(folder, monkeypatch):
    seen = []
    monkeypatch.setattr("hessianfree.plotting.web.serve", lambda *given: seen.append(given))
    assert invoke(folder, "--web").exit_code == 0
    assert seen == [(folder / "plots.pkl", PORT, 1.0)]
