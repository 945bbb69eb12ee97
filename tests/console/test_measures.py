"""`hessianfree bench`, `profile` and `info`: what they say of this machine and of a run."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import sys
from importlib import metadata

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import hessianfree as hf
from hessianfree import demos
from hessianfree.console import bench, measuring
from hessianfree.console.main import app
from hessianfree.console.output import as_json, columns
from hessianfree.support.profiling import COMPILING, OURS, RUNNING, profiled


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), catch_exceptions=False)


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_says_what_is_installed_and_where_things_are(tmp_path, monkeypatch):
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "a").write_bytes(bytes(1_500_000))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", str(programs))
    try:
        found = json.loads(invoke("info", "--json").stdout)
        (tmp_path / "hessianfree").mkdir()
        (tmp_path / "hessianfree" / "mnist.npz").touch()
        shown = invoke("info").stdout
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert found["versions"]["hessianfree"] == hf.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["jax"] == metadata.version("jax")
    assert found["machine"]["devices"] == [f"{d.platform}: {d.device_kind}" for d in jax.devices()]
    assert found["folders"]["compiled programs"] == str(programs)
    assert found["folders"]["their size"] == "1.5 MB in 1 files"
    assert (found["folders"]["data"], found["folders"]["MNIST"]) == (str(tmp_path / "hessianfree"), "not there")
    assert found["folders"]["downloads"] == "forbidden by HESSIANFREE_OFFLINE"
    assert re.search(r"^  MNIST +there$", shown, re.MULTILINE)


def test_info_names_variables_that_are_set(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert json.loads(invoke("info", "--json").stdout)["machine"]["OMP_NUM_THREADS"] == "3"


# ---- bench -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch):
    """Networks that take no time."""
    for name, value in {"SHAPE": (6, 5, 10), "BATCH": 20, "UNITS": 3, "SEQUENCES": 4, "STEPS": 5, "ROUNDS": 2}.items():
        monkeypatch.setattr(bench, name, value)
    small = hf.FFNet([6, 5, 10], layers=["Linear", "ReLU", "Softmax"], rng=0)
    monkeypatch.setattr(sys.modules["hessianfree.demos.mnist"], "classifier", lambda pixels: small)


def test_bench_measures_and_prints(small):
    found = json.loads(invoke("bench", "--json").stdout)
    product, floor, *updates = found["seconds"]
    assert (product, floor) == ("one product G v of 6-5-10, batch 20", "its matrix products alone")
    assert [name.split(",")[0] for name in updates] == ["an update of this network", "an update of an RNN 1-3-1"]
    for median, fastest, slowest in found["seconds"].values():
        assert fastest <= median <= slowest
    assert all(found["seconds"][name][1] > 0 for name in updates)
    assert (found["rounds"], found["cores"]) == (2, os.cpu_count())
    assert found["versions"]["hessianfree"] == hf.__version__
    shown = invoke("bench").stdout
    assert re.search(
        r"^one product G v of 6-5-10, batch 20 +-?[\d.e+-]+ +-?[\d.e+-]+ +-?[\d.e+-]+$", shown, re.MULTILINE
    )


def test_bench_stops_when_its_time_is_over(small, monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 0)
    assert bench.measured()["rounds"] == 1


def test_the_floor_has_the_operations_of_the_products():
    """Counted by XLA, for each kind of product."""
    m, n, batch = 30, 20, 50
    a, w, d = np.zeros((batch, m)), np.zeros((m, n)), np.zeros((batch, n))
    kinds = [(2, measuring.forward, a, w), (1, measuring.outer, a, d), (1, measuring.back, d, w)]
    counted = [k * jax.jit(f).lower(x, y).compile().cost_analysis()["flops"] for k, f, x, y in kinds]
    shape = [40, m, n]
    assert measuring.product_flops(shape, batch) == 2 * 2 * batch * 40 * m + sum(counted)


# ---- profile ---------------------------------------------------------------------------------------------------------


def training():
    net = hf.FFNet([2, 5, 1], rng=0)
    net.run_epochs(np.eye(2), np.eye(2)[:, :1], hf.opt.HessianFree(CG_iter=3), max_epochs=2, print_period=None)


def test_shares_of_a_profile_are_all_of_its_time():
    profile = profiled(training)
    assert sum(share.seconds for share in profile.shares) == pytest.approx(profile.seconds)
    assert profile.seconds == pytest.approx(profile.stats.total_tt, rel=1e-3)
    seconds = dict(profile.shares)
    assert {RUNNING, OURS} <= set(seconds)
    assert seconds == dict(sorted(seconds.items(), key=lambda item: -item[1]))


def test_compilation_is_told_from_the_rest():
    import jax.numpy as jnp

    def compile_one():
        jax.jit(lambda x: jnp.sin(x) @ x.T + 3.25)(np.ones((7, 7), np.float32)).block_until_ready()

    assert dict(profiled(compile_one).shares)[COMPILING] > 0
    assert "ncalls" in profiled(compile_one).functions(3)


def test_profile_runs_a_demo_with_its_arguments(monkeypatch):
    seen = {}

    def xor(**arguments):
        seen.update(arguments)
        training()

    monkeypatch.setitem(demos.ALL, "xor", xor)
    shown = invoke("profile", "xor", "use_hf=False", "--top", "3").stdout
    assert seen == {"use_hf": False}
    assert "where the time went" in shown
    assert re.search(r"^all +[\d.]+ +100%$", shown, re.MULTILINE)
    assert len(shown.split("ncalls")[1].splitlines()) == 4


def test_profile_writes_a_trace(monkeypatch, tmp_path):
    monkeypatch.setitem(demos.ALL, "xor", training)
    shown = invoke("profile", "xor", "--trace", str(tmp_path / "trace")).stdout
    folder = re.search(r"trace written to (\S+);", shown)[1]
    with gzip.open(f"{folder}/perfetto_trace.json.gz") as file:
        assert "traceEvents" in json.load(file)


@pytest.mark.parametrize("words", [["nosuch"], ["profile"], ["xor", "colour=1"]])
def test_profile_refuses_what_it_cannot_run(words):
    done = invoke("profile", *words)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: ")


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_columns_are_plain_and_aligned():
    assert columns([("a", 1.23456, None), ("bcd", 20.0, "x")], ["name", "value", "note"]).splitlines() == [
        "name  value  note",
        "a     1.235",
        "bcd      20  x",
    ]


def test_json_has_no_numbers_that_json_lacks():
    assert json.loads(as_json({"a": [float("nan"), 1.5], "b": {"c": float("inf")}})) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }
