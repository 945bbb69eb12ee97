"""Runs on many devices and in many processes end where runs on one device do; what goes wrong on one ends all.

Devices are made of one CPU, and processes meet on the loopback address, so a process of its own is needed for each.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from faults_program import arrays
from scale_cases import CASES, TOLERANCES, environment

import hessianfree as hf
from hessianfree.devices import meshes
from hessianfree.devices.placing import Placer, laid_out
from hessianfree.engine.objective import Batch
from hessianfree.engine.settings import Settings
from hessianfree.engine.shards import spread_picks
from hessianfree.training.batches import SplitArrays

HERE = Path(__file__).resolve().parent


def free_port() -> str:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


def in_processes(program: str, count: int, devices: int, *rest: str) -> list[subprocess.CompletedProcess[str]]:
    """Run a program of this folder in so many processes at once, and wait for all of them."""
    port = free_port()
    started = [
        subprocess.Popen(
            [sys.executable, str(HERE / program), str(count), str(rank), port, *rest],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(devices),
        )
        for rank in range(count)
    ]
    done = []
    for process in started:
        try:
            told = process.communicate(timeout=240)
        except subprocess.TimeoutExpired:
            process.kill()
            told = process.communicate()
        done.append(subprocess.CompletedProcess(process.args, process.returncode, *told))
    return done


def weights_from(count: int, devices: int, folder: Path, names: list[str]) -> dict[str, np.ndarray[Any, Any]]:
    """What the runs of these names end with."""
    file = folder / f"{count}x{devices}.npz"
    done = in_processes("scale_cases.py", count, devices, str(devices), str(file), *names)
    assert all(process.returncode == 0 for process in done), done[0].stderr[-3000:]
    return dict(np.load(file))


def compare(found: dict[str, np.ndarray[Any, Any]], names: list[str]) -> None:
    for name in names:
        case, dtype = name.split("-")
        alone = CASES[case](dtype, None)
        np.testing.assert_allclose(found[name], alone, rtol=0, atol=TOLERANCES[dtype], err_msg=name)


@pytest.mark.parametrize(
    ("processes", "devices", "names"),
    [
        pytest.param(1, 8, ["ffnet-float64", "squares-float64"], marks=pytest.mark.long),
        pytest.param(2, 2, ["objective-float64"], marks=pytest.mark.scale),
    ],
)
def test_a_run_does_not_depend_on_devices_and_processes(processes, devices, names, tmp_path):
    compare(weights_from(processes, devices, tmp_path, names), names)


@pytest.mark.scale
@pytest.mark.parametrize(("processes", "devices"), [(1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 2), (4, 1), (4, 2)])
def test_no_run_depends_on_devices_and_processes(processes, devices, tmp_path):
    names = [f"{case}-{dtype}" for case in CASES for dtype in TOLERANCES]
    compare(weights_from(processes, devices, tmp_path, names), names)


# ---- what goes wrong on one process ----------------------------------------------------------------------------------

#: Case, whether it is slow to show, and what processes 0 and 1 say.
FAULTS = {
    "settings": ("different things: seed (process 0: 0; process 1: 1)",) * 2,
    "shapes": ("shapes of the data (process 0: tuple float32 (50, 3)",) * 2,
    "values": ("different things: data (process 0: .inputs float32 (50, 3)",) * 2,
    "bad": ("Process 1 of the run has failed: ValueError: All targets", "ended by ValueError: All targets"),
    "callback": ("Process 1 of the run has failed: RuntimeError: the disk is full", "RuntimeError: the disk is full"),
    "iterable": ("Process 1 of the run has failed: OSError: no such file", "ended by OSError: no such file"),
    "interrupt": ("ended well: interrupted",) * 2,
    "uneven": ("ended well: all 5 epochs are done; 15 updates",) * 2,
}
QUICK = ("settings",)


@pytest.mark.parametrize(
    "case", [case if case in QUICK else pytest.param(case, marks=pytest.mark.scale) for case in FAULTS]
)
def test_what_goes_wrong_on_one_process_ends_all_with_a_reason(case, tmp_path):
    done = in_processes("faults_program.py", 2, 1, case, str(tmp_path))
    for process, expected in zip(done, FAULTS[case], strict=True):
        assert expected in process.stdout, process.stdout + process.stderr[-2000:]


@pytest.mark.scale
def test_a_process_that_dies_ends_the_others(tmp_path):
    first, second = in_processes("faults_program.py", 2, 1, "dies", str(tmp_path))
    assert second.returncode == -9
    assert first.returncode not in (0, None)
    assert "another task died" in first.stderr


@pytest.mark.scale
def test_four_processes_are_killed_and_two_go_on(tmp_path):
    killed = in_processes("faults_program.py", 4, 1, "first", str(tmp_path))
    assert {process.returncode for process in killed} == {-9}
    ends = [
        json.loads(process.stdout.rsplit("; ", 1)[1])
        for count, case in ((2, "again"), (1, "whole"))
        for process in in_processes("faults_program.py", count, 1, case, str(tmp_path))
    ]
    np.testing.assert_allclose(ends[:2], [ends[2]] * 2, rtol=1e-6)


@pytest.mark.scale
def test_processes_read_their_own_rows_of_a_memory_map(tmp_path):
    for name, array in zip("xt", arrays(), strict=True):
        np.save(tmp_path / f"{name}.npy", array)
    ends = [
        json.loads(process.stdout.rsplit("; ", 1)[1])
        for count, case in ((2, "stored"), (1, "whole"))
        for process in in_processes("faults_program.py", count, 1, case, str(tmp_path))
    ]
    np.testing.assert_allclose(ends[:2], [ends[2]] * 2, rtol=1e-5)


@pytest.mark.scale
def test_the_program_of_the_page_runs_in_two_processes(tmp_path):
    page = (HERE.parents[1] / "docs" / "scale.md").read_text()
    (program,) = re.findall(r"^```python title=\"train.py\"\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (joins,) = re.findall(r"^```python title=\"instead of initialize\(\)\"\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    joins = joins.replace("192.0.2.1:1234", f"127.0.0.1:{free_port()}").replace("process_id=0", "process_id={rank}")
    rng = np.random.RandomState(0)
    np.savez(tmp_path / "data.npz", x=rng.rand(40, 784).astype("f"), y=np.arange(40) % 10)
    program = (
        program.replace("/shared/", f"{tmp_path}/").replace("7500", "20").replace("devices=", "max_epochs=2, devices=")
    )
    started = []
    for rank in range(2):
        (tmp_path / f"train{rank}.py").write_text(
            re.sub(r"jax.distributed.initialize\(\).*\n", joins.replace("{rank}", str(rank)), program)
        )
        command = [sys.executable, f"train{rank}.py"]
        started.append(subprocess.Popen(command, cwd=tmp_path, env=environment(1), stdout=subprocess.PIPE, text=True))
    first, second = (process.communicate(timeout=240)[0] for process in started)
    assert [process.returncode for process in started] == [0, 0]
    assert "all 2 epochs are done" in first
    assert "epoch" not in second
    assert (tmp_path / "run.ckpt").exists()


@pytest.mark.long
def test_only_the_first_process_prints(tmp_path):
    first, second = in_processes("faults_program.py", 2, 1, "whole", str(tmp_path))
    assert "epoch 4" in first.stdout
    assert "epoch" not in second.stdout.replace("epochs are done", "")


# ---- placing and picking ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 7, 8, 24])
@pytest.mark.parametrize("parts", [1, 3, 8])
def test_examples_keep_their_order_and_fill_all_parts_alike(count, parts):
    places = laid_out(count, parts, 24)
    assert len(places.examples) == 24
    np.testing.assert_array_equal(places.examples[places.counted], np.arange(count))
    by_part = places.counted.reshape(parts, -1).sum(axis=1)
    assert by_part.max() - by_part.min() <= 1


def test_devices_get_nearly_equal_shares_of_a_curvature_batch():
    usable = np.ones(800, bool)
    for update in range(50):
        picks = Settings(curvature_batch=100).curvature_examples(usable, update)
        shares = np.bincount(picks // 100, minlength=8)
        assert abs(shares - 12.5).max() <= 3
        rows, counted = spread_picks(picks, 8, 100, 16)
        found = (rows + 100 * np.arange(8)[:, None])[counted]
        np.testing.assert_array_equal(np.sort(found), picks)


def test_every_example_is_as_likely_to_be_in_a_curvature_batch():
    """Counts of 3000 draws are binomial: five deviations hold for all of them."""
    drawn = np.zeros(30)
    for update in range(3000):
        drawn[Settings(curvature_batch=20).curvature_examples(np.ones(30, bool), update)] += 1
    assert abs(drawn / 3000 - 20 / 30).max() < 5 * np.sqrt(2 / 9 / 3000)


def test_an_epoch_of_split_arrays_has_every_example_once():
    model = hf.Objective(lambda p, x: x * p)
    batch = Batch(np.ones((48, 1), "f"), np.ones((48, 1), "f"), np.ones(48, "f"))
    batches = SplitArrays(batch, 10, model, np.random.default_rng(0), Placer(meshes.chosen("all")))
    drawn = batches.drawn()
    assert len(drawn) == 5
    np.testing.assert_array_equal(np.sort(np.concatenate(drawn)), np.arange(48))
    assert all((np.diff(picks) > 0).all() for picks in drawn)


# ---- bad input -------------------------------------------------------------------------------------------------------


def run_network(devices: Any, **kwargs: Any) -> None:
    net = hf.FFNet([2, 3, 1], rng=0, **kwargs)
    net.run_epochs(np.ones((4, 2)), np.ones((4, 1)), hf.opt.HessianFree(), print_period=None, devices=devices)


@pytest.mark.parametrize("devices", [8, "gpu", [0]])
def test_devices_of_another_kind_are_refused(devices):
    with pytest.raises(TypeError, match=r"None, 'all' or a mesh of devices is expected"):
        run_network(devices)


def test_a_mesh_of_more_devices_than_there_are_is_refused():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1] * 2), ("examples",))
    with pytest.raises(ValueError, match="a mesh of 2 devices, 1 different ones among those that JAX sees"):
        run_network(mesh)


class InNumpy(hf.nl.Nonlinearity):
    """A layer that runs on the host."""

    def activation(self, x):
        return np.tanh(np.asarray(x))

    def d_activation(self, x, a):
        return 1 - np.asarray(a) ** 2


def test_what_runs_on_one_device_says_so():
    with pytest.raises(ValueError, match=r"layer 1 \(InNumpy\) can run on one device only"):
        run_network("all", layers=["Linear", InNumpy(), "Linear"])
    with pytest.raises(ValueError, match="debug=True"):
        run_network("all", debug=True)
    with pytest.raises(ValueError, match="a function r\\(params\\) has no points"):
        hf.least_squares(lambda p: p - 1, np.zeros(3), devices="all")
