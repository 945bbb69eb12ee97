"""Peak memory of an update of a recurrent network against batch size times timesteps, each in a fresh process.

Run: python benchmarks/memory.py
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

import arena

SIZES = [(250, 100), (500, 100), (500, 200), (1000, 200), (1000, 400)]


def measure(batch: int, steps: int) -> float:
    """Peak resident memory in GB of one update of a 1-100-1 network."""
    import hessianfree as hf

    net = hf.RNNet([1, 100, 1], rng=0)
    net.optimizer = hf.opt.HessianFree(CG_iter=10)
    x = np.random.RandomState(0).rand(batch, steps, 1).astype(np.float32)
    net.cache_minibatch(x, x)
    net.optimizer.compute_update()
    return arena.peak_memory_gb()


def main() -> None:
    """Measure all sizes and fit a line through them."""
    if len(sys.argv) == 3:
        print(measure(int(sys.argv[1]), int(sys.argv[2])))
        return
    rows = []
    for batch, steps in SIZES:
        done = subprocess.run([sys.executable, __file__, str(batch), str(steps)], capture_output=True, check=True)
        rows.append({"batch": batch, "steps": steps, "B T": batch * steps, "peak GB": float(done.stdout)})
    sizes, peaks = np.array([(row["B T"], row["peak GB"]) for row in rows]).T
    slope, base = np.polyfit(sizes, peaks, 1)
    worst = np.abs(base + slope * sizes - peaks).max()
    per_activation = slope * 1e9 / (4 * 100)
    arena.report(
        "memory",
        "peak memory of an update, RNN 1-100-1, float32",
        rows,
        {
            "fit, GB": f"{base:.2f} + {slope * 1e6:.2f} per million B T, largest deviation {worst:.2f}",
            "arrays as large as the hidden activations": round(per_activation, 1),
        },
    )


if __name__ == "__main__":
    main()
