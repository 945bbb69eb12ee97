"""Processes that are killed: the runs that go on from what they left end as the run that was not killed.

The long loop, of fifty kills, is behind a marker: python -m pytest -m faults
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hessianfree.io import checkpoints

#: A run of many short updates, which tells when it is on its way, and writes its last weights at the end.
PROGRAM = """
import sys
import numpy as np
import hessianfree as hf

class Tell:
    updates = 0

    def on_update(self, *event):
        self.updates += 1
        if self.updates == 2:  # all is compiled
            print("begun", flush=True)

rng = np.random.RandomState(0)
x = rng.uniform(-1, 1, (40, 30)).astype(np.float32)
net = hf.FFNet([30, 40, 30], layers=["Linear", "Tanh", "Linear"], rng=0)
optimizer = hf.opt.HessianFree(CG_iter=2, preconditioner=hf.opt.KFAC(every=5), averaging=0.9)
path = sys.argv[1] or None
result = net.run_epochs(
    x, np.sin(3 * x), optimizer, int(sys.argv[2]), 8, target_err=0, print_period=None, callbacks=[Tell()],
    checkpoint=path, resume=path is not None, checkpoint_every=1,
)
np.savez(sys.argv[3], W=net.W, best_W=net.best_W, errors=result.test_errors, values=result.history["value"])
"""


def started(path, epochs, output):
    """A process that trains, from its second update on."""
    cache = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", Path(output).parent / "cache"))
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", PROGRAM, str(path), str(epochs), str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True)
    assert process.stdout.readline() == "begun\n"
    return process


def killed_and_resumed(folder, kills, epochs, longest):
    """Kill a run at random moments; once it has ended, compare it with one in a piece. Returns updates at each kill."""
    path, chance = folder / "run.ckpt", random.Random(0)
    whole = started("", epochs, folder / "whole.npz")
    whole.communicate()
    seen = []
    for _ in range(kills):
        process = started(path, epochs, folder / "found.npz")
        time.sleep(chance.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "the run was over before it was killed: make it longer"
        seen.append(checkpoints.newest(path).description["updates"])
    started(path, epochs, folder / "found.npz").communicate()
    with np.load(folder / "whole.npz") as expected, np.load(folder / "found.npz") as found:
        for name in expected.files:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    return seen


@pytest.mark.long
def test_three_kills(tmp_path):
    seen = killed_and_resumed(tmp_path, kills=3, epochs=40, longest=0.1)
    assert seen == sorted(seen)
    assert len(set(seen)) > 1


@pytest.mark.faults
def test_fifty_kills(tmp_path):
    """Most of the kills hit while a checkpoint is being written: the writer is always at work."""
    seen = killed_and_resumed(tmp_path, kills=50, epochs=500, longest=0.3)
    assert seen == sorted(seen)
    assert len(set(seen)) > 10


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_the_command_line_ends_with_a_checkpoint(number, code, tmp_path):
    path = tmp_path / "digits.ckpt"
    endless = "run_args={'max_epochs': 10000, 'target_err': 0, 'early_stopping': False}"
    command = [sys.executable, "-m", "hessianfree", "demo", "mnist", f"checkpoint={path}", "model_args={'shape': [64, 20, 10], 'layers': ['Linear', 'Tanh', 'Softmax']}"]  # fmt: skip
    process = subprocess.Popen([*command, endless], stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if line.startswith("epoch 1"):
            break
    process.send_signal(number)
    output, _ = process.communicate()
    assert process.returncode == code
    assert "interrupted" in output
    found = checkpoints.read(path).description
    assert found["updates"] >= 2
    assert found["reason"] == ""
    ended = f"run_args={{'max_epochs': {found['updates'] + 1}, 'target_err': 0, 'early_stopping': False}}"
    again = subprocess.run([*command, ended], stdout=subprocess.PIPE, text=True, check=True)
    assert f"finished after {found['updates'] + 1} epochs" in again.stdout
    assert "epoch 0" not in again.stdout
