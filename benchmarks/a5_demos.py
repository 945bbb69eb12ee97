"""Row A5, the small recurrent demos: errors over ten seeds against hessianfree 0.4.0, and time as whole processes.

Run: python benchmarks/a5_demos.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

import hessianfree as hf
from hessianfree.demos.integrator import integrator
from hessianfree.demos.plant import NumpyBody, network

import arena

SEEDS = range(10)


def our_integrator(seed: int) -> float:
    """Error at the end of the demo."""
    rng = np.random.RandomState(seed)
    return integrator({"rng": rng}, {"print_period": None}, plots=False).test_errors[-1]


def our_plant(starts: Any, seed: int) -> tuple[float, float]:
    """Cost of a run with the plant with the last and with the best weights, from the peer's own starts."""
    body = NumpyBody(np.array(starts))
    net = network(body, np.random.RandomState(seed))
    optimizer = hf.opt.HessianFree(CG_iter=20, init_damping=10)
    net.run_epochs(body, None, optimizer, max_epochs=150, print_period=None)
    return net.error(net.W, body, None), net.error(net.best_W, body, None)


def process_seconds(demo: str) -> float:
    """Wall time of a demo as a whole process, with an empty compilation cache, figures included."""
    with tempfile.TemporaryDirectory() as folder:
        env = {"PATH": "/usr/bin:/bin", "HOME": folder, "XDG_CACHE_HOME": folder, "MPLBACKEND": "agg"}
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "hessianfree", "demo", demo], cwd=folder, env=env, check=True)
        return time.perf_counter() - start


def main() -> None:
    """Run every seed on both sides, and each demo three times as a process."""
    peer = arena.Worker("hessianfree-0.4.0", "hf040_recurrent.py")
    rows = []
    for seed in SEEDS:
        theirs = {name: peer.ask(f"{name} {seed}") for name in ("integrator", "plant")}
        last, best = our_plant(theirs["plant"]["starts"], seed)
        rows.append(
            {
                "seed": seed,
                "integrator": our_integrator(seed),
                "integrator, 0.4.0": theirs["integrator"]["error"],
                "plant, last": last,
                "plant, last, 0.4.0": theirs["plant"]["error"],
                "plant, best": best,
                "plant, best, 0.4.0": theirs["plant"]["best"],
            }
        )
    peer.close()
    medians = {name: arena.median(row[name] for row in rows) for name in rows[0] if name != "seed"}
    seconds = {demo: arena.median(process_seconds(demo) for _ in range(3)) for demo in ("integrator", "plant")}
    verdicts: dict[str, Any] = {f"median of {name}": f"{value:.3g}" for name, value in medians.items()}
    verdicts |= {f"{demo} as a process, s (bar 10)": round(value, 2) for demo, value in seconds.items()}
    arena.report("A5-demos", "integrator and plant demos, ten seeds", rows, verdicts)


if __name__ == "__main__":
    main()
