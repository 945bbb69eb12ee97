"""One update of a model of 100 million parameters: peak memory of a fresh process, a parameter at a time.

Run: python benchmarks/large.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import arena

#: Units of a network m-n-m without biases, and examples.
SIZES, BATCH, CG_ITERATIONS = [(1_000, 5_000), (5_000, 10_000)], 32, 20


def resident_gb() -> float:
    """Resident memory of this process now, in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e9


def measure(m: int, n: int) -> tuple[float, float, float, float]:
    """GB before there are parameters and at the peak of the update, what was estimated, and seconds."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import hessianfree as hf

    def network(params: Any, x: Any) -> Any:
        return jnp.tanh(x @ params["W"]) @ params["V"]

    def fit(m: int, n: int) -> tuple[float, float]:
        keys = jax.random.split(jax.random.key(0))
        params = {
            "W": jax.random.normal(keys[0], (m, n)) / m**0.5,
            "V": jax.random.normal(keys[1], (n, m)) / n**0.5,
        }
        x = np.random.RandomState(0).rand(BATCH, m).astype(np.float32)
        objective, optimizer = hf.Objective(network), hf.opt.HessianFree(CG_iter=CG_ITERATIONS, cg_memory=0)
        needed = hf.memory(objective, params, (x, x), optimizer)
        began = time.perf_counter()
        params, _, record = optimizer.step(objective, params, optimizer.init(params), (x, x))
        assert record.accepted, record.reason
        return needed.total / 1e9, time.perf_counter() - began

    fit(8, 8)  # import what there is, and compile for small shapes
    before = resident_gb()
    estimated, seconds = fit(m, n)
    return before, arena.peak_memory_gb(), estimated, seconds


def main() -> None:
    """Measure all sizes, each in a fresh process."""
    if len(sys.argv) == 3:
        print(*measure(int(sys.argv[1]), int(sys.argv[2])))
        return
    rows = []
    for m, n in SIZES:
        done = subprocess.run([sys.executable, __file__, str(m), str(n)], capture_output=True, check=True, text=True)
        before, peak, estimated, seconds = map(float, done.stdout.split())
        parameters = 2 * m * n
        rows.append(
            {
                "parameters, million": parameters / 1e6,
                "peak, GB": peak,
                "of the update, GB": peak - before,
                "estimated, GB": estimated,
                "bytes a parameter": 1e9 * (peak - before) / parameters,
                "seconds": seconds,
            }
        )
    arena.report(
        "large",
        f"peak memory of one update of {CG_ITERATIONS} CG iterations, float32, batch {BATCH}",
        rows,
        {"bytes a parameter with 100 million (bar 60)": round(rows[-1]["bytes a parameter"], 1)},
    )


if __name__ == "__main__":
    main()
