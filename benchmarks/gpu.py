"""Rows of the arena on one GPU, as one command: A1 to A6, A8, and A9 at T = 100, without peers.

Each row runs in a process of its own and writes its page into a temporary folder; docs/arena/gpu.md has all of them.

Run: python benchmarks/gpu.py [--rows A1 A2 ...] [--any-device]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

import arena

HERE = Path(__file__).resolve().parent
#: Script and arguments of each row.
ROWS: dict[str, list[str]] = {
    "A1": ["a1_product.py", "--alone"],
    "A2": ["a2_recurrent_product.py", "--alone"],
    "A3": ["a3_autoencoder.py", "--only", "ours", "--seeds", "0", "--seconds", "120"],
    "A4": ["a4_mnist.py", "--seeds", "0", "1", "2", "--adam-seconds", "0"],
    "A5-50": ["a5_adding.py", "--steps", "50", "--seeds", "0"],
    "A5-200": ["a5_adding.py", "--steps", "200", "--seeds", "0"],
    "A6": ["a6_poisson.py", "--only", "auto", "cg", "defaults", "wide", "--seeds", "0"],
    "A8": ["a8_autoencoder.py", "--gpu"],
    "A9-100": ["a9_tasks.py", "--steps", "100"],
}


def measured(row: str, seconds: float) -> dict[str, Any]:
    """What a row says: its verdicts, or how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "ARENA_RESULTS": folder}
        command = [sys.executable, str(HERE / ROWS[row][0]), *ROWS[row][1:]]
        began = time.perf_counter()
        try:
            done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"row": row, "says": f"not done after {seconds:g} s", "s": seconds}
        took = time.perf_counter() - began
        pages = [json.loads(path.read_text()) for path in Path(folder).glob("*.json")]
        if not pages:
            lines = done.stderr.strip().splitlines()
            return {"row": row, "says": f"failed: {lines[-1] if lines else done.returncode}", "s": took}
        says = "; ".join(f"{bar}: {verdict}" for bar, verdict in pages[0]["verdicts"].items())
        return {"row": row, "says": says, "s": took}


def main() -> None:
    """Measure the rows that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seconds", type=float, default=1800, help="for each row at most")
    parser.add_argument("--any-device", action="store_true", help="try the command where there is no GPU")
    options = parser.parse_args()
    device = jax.devices()[0]
    if device.platform != "gpu" and not options.any_device:
        sys.exit(f"JAX sees no GPU, only {device}; run it where there is one, with the extra `cuda` installed.")
    found = []
    for row in options.rows:
        found.append(measured(row, options.seconds))
        print(found[-1], flush=True)
    on = "GPU" if device.platform == "gpu" else device.platform
    arena.report(on, f"rows of the arena on one {device.device_kind}", found, {"device": device.device_kind})


if __name__ == "__main__":
    main()
