"""A long run keeps nothing but its records; equal seeds give equal weights in every process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest

import hessianfree as hf

STATM = Path("/proc/self/statm")
WIDE = 100  # weights of a layer, 40 kB in float32


def resident():
    gc.collect()
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def of_ffnet(settings):
    net = hf.FFNet([WIDE, WIDE, 2], layers="Tanh", rng=0)
    return net.run_epochs(X, X[:, :2], hf.opt.HessianFree(CG_iter=1), **settings)


def of_rnnet(settings):
    net = hf.RNNet([2, WIDE, 2], layers="Tanh", rng=0)
    x = X[:, :8].reshape(4, 4, 2)
    return net.run_epochs(x, x, hf.opt.HessianFree(CG_iter=1), **settings)


def of_fit(settings):
    line = hf.Objective(lambda p, x: x @ p["W"])
    start = {"W": np.zeros((WIDE, WIDE), np.float32)}
    return hf.fit(line, start, (X, X), hf.opt.SGD(1e-3), **settings)


X = np.random.default_rng(0).standard_normal((4, WIDE)).astype(np.float32)


@pytest.mark.long
@pytest.mark.skipif(not STATM.exists(), reason="reads the memory as Linux tells it")
@pytest.mark.parametrize(
    "run", [pytest.param(of_ffnet, marks=pytest.mark.faults), pytest.param(of_rnnet, marks=pytest.mark.faults), of_fit]
)
def test_memory_does_not_grow_over_300_updates(run):
    """An update that kept one vector of the parameters would add 300 of 40 kB, which is 12 MB."""
    seen = Seen()
    while seen.updates < 300:  # a run ends where nothing is left to improve
        run({"max_epochs": 300 - seen.updates, "print_period": None, "target_err": -np.inf, "callbacks": [seen]})
    assert seen.arrays[-1] <= seen.arrays[1] + 2, "arrays of JAX are kept"
    growth = seen.memory[-1] - seen.memory[1]
    assert growth < 5e6, f"{growth:,} bytes over 240 updates"


class Seen:
    """Before and after each sixty updates, the arrays of JAX that are alive and the memory of the process."""

    def __init__(self):
        self.updates, self.arrays, self.memory = 0, [], []

    def on_update(self, *about):
        if self.updates in (0, 60, 120, 180, 240, 299):
            self.memory.append(resident())
            self.arrays.append(len(jax.live_arrays()))
        self.updates += 1


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts files as Linux shows them")
def test_threads_and_files_are_closed(tmp_path):
    def standing():
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    def run():
        net = hf.FFNet([2, 3, 1], rng=0)
        files = {"file_output": str(tmp_path / "run"), "plotting": True}
        result = net.run_epochs(X[:, :2], X[:, :1], hf.opt.HessianFree(), max_epochs=3, print_period=None, **files)
        result.save(tmp_path / "result")
        net.save(tmp_path / "net")
        hf.load(tmp_path / "net")

    run()
    before = standing()
    for _ in range(3):
        run()
    assert standing() == before


RUN = """
import sys, hashlib, numpy as np, optax, hessianfree as hf
rng = np.random.default_rng(0)
x, t = rng.standard_normal((300, 40)), rng.standard_normal((300, 3))
net = hf.FFNet([40, 60, 3], layers="Tanh", rng=1)
net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=10), minibatch_size=128, max_epochs=3, print_period=None)
line = hf.Objective(lambda p, x: x @ p["W"])
start = {"W": np.zeros((40, 3))}
found = hf.fit(line, start, (x, t), hf.opt.FirstOrder(optax.adam(0.1)), minibatch_size=50, max_epochs=5, seed=3, print_period=None)
for array in (net.W, found.params["W"]):
    print(array.dtype, hashlib.sha256(np.asarray(array).tobytes()).hexdigest())
"""


@pytest.mark.long
def test_equal_seeds_give_equal_weights_in_every_process(tmp_path):
    """The second process takes from the cache what the first one compiled."""
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = {**os.environ, **cache, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = lambda: subprocess.run(
        [sys.executable, "-c", RUN], capture_output=True, text=True, env=environment, check=True
    )
    first = run().stdout
    assert any(tmp_path.iterdir()), "nothing was kept in the cache"
    assert first.split()[::2] == ["float32", "float64"]
    assert run().stdout == first


@pytest.mark.parametrize("optimizer", [hf.opt.SGD(0.1)])
def test_minibatches_made_together_keep_double_precision(optimizer):
    """The same updates one by one, which a callback makes the loop do, give the same parameters."""
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    line = hf.Objective(lambda p, x: x @ p["W"])

    class Watching:
        def on_update(self, *about):
            pass

    settings = {"minibatch_size": 5, "max_epochs": 5, "print_period": None}
    runs = [
        hf.fit(line, {"W": np.zeros((3, 2))}, (x, t), optimizer, callbacks=callbacks, **settings)
        for callbacks in ([], [Watching()])
    ]
    together, alone = (np.asarray(run.params["W"]) for run in runs)
    np.testing.assert_allclose(together, alone, rtol=1e-13)
