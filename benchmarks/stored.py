"""Memory and time of a fit over a memory map of 6 GB, each run in a fresh process, and its updates from memory.

Run: python benchmarks/stored.py [GB]
The memory map has uniform random inputs of 784 numbers, as images of MNIST have, and lies in a temporary folder.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import arena

WIDTH, CLASSES, PIECE = 784, 10, 20_000
#: Examples of an update, updates of a run, and updates left out of the time: they are compiled in.
SIZE, UPDATES, FIRST = 7_500, 24, 3
#: Rows of the runs that are compared with the same data in memory, and how often each is made.
ROWS, ROUNDS = 60_000, 3


def write(folder: Path, rows: int) -> None:
    """Write so many examples, piece by piece."""
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, WIDTH)}
    # Not through a map: its pages would count as memory of this process, and, in Linux, of those that it starts.
    with (folder / "x.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, PIECE):
            rng.random((min(PIECE, rows - start), WIDTH), np.float32).tofile(file)
    np.save(folder / "labels.npy", rng.integers(0, CLASSES, rows).astype(np.uint8))


def run(folder: Path, how: str, updates: int, rows: int) -> dict[str, float]:
    """Seconds of an update, and the peak of resident memory, of hf.fit on a network 784-100-10.

    Args:
        folder: of the files.
        how: "stored", or "memory" for the same data read before.
        updates: to make; where there are fewer in an epoch, several epochs.
        rows: of the file, the first ones, to train on.
    """
    import jax.numpy as jnp

    import hessianfree as hf

    x, labels = (np.load(folder / f"{name}.npy", mmap_mode="r")[:rows] for name in ("x", "labels"))
    if how == "memory":
        x, labels = np.array(x), np.array(labels)

    def model(params: Any, inputs: Any) -> Any:
        return jnp.tanh(inputs @ params["W"] + params["b"]) @ params["V"]

    rng = np.random.default_rng(1)
    start = {
        "W": (rng.standard_normal((WIDTH, 100)) / 28).astype(np.float32),
        "b": np.zeros(100, np.float32),
        "V": (rng.standard_normal((100, CLASSES)) / 10).astype(np.float32),
    }
    times: list[float] = []

    class Clock:
        def on_update(self, epoch_number: int, update: int, updates_in_all: int | None, record: Any) -> bool:
            times.append(time.perf_counter())
            return len(times) == updates

    hf.fit(
        hf.Objective(model, "softmax_cross_entropy"),
        start,
        (x, labels),
        hf.opt.HessianFree(CG_iter=10),
        minibatch_size=SIZE,
        callbacks=[Clock()],
        print_period=None,
    )
    return {"seconds": float(np.median(np.diff(times[FIRST:]))), "peak GB": arena.peak_memory_gb()}


def fresh(folder: Path, how: str, updates: int, rows: int) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, str(folder), how, str(updates), str(rows)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    return found


def main() -> None:
    """One epoch over the large file, and the first rows of it stored and in memory in turn."""
    if len(sys.argv) == 5:
        print(json.dumps(run(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
        return
    size = float(sys.argv[1]) if len(sys.argv) > 1 else 6.0
    rows = int(size * 1e9 / (4 * WIDTH))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, rows)
        updates = -(-rows // SIZE)
        large = fresh(folder, "stored", updates, rows)
        pairs = [
            (fresh(folder, "stored", UPDATES, ROWS), fresh(folder, "memory", UPDATES, ROWS)) for _ in range(ROUNDS)
        ]
    stored, memory = ([pair[side] for pair in pairs] for side in (0, 1))
    table = [{"data": f"memory map of {size:g} GB, an epoch", "rows": rows, "updates": updates, **large}]
    for what, found in (("memory map, its first rows", stored), ("the same rows in memory", memory)):
        medians = {key: arena.median(one[key] for one in found) for key in ("seconds", "peak GB")}
        table.append({"data": what, "rows": ROWS, "updates": UPDATES, **medians})
    ratio = arena.median(a["seconds"] / b["seconds"] for a, b in pairs)
    arena.report(
        "stored",
        "hf.fit over data on a disk, 784-100-10, minibatches of 7,500",
        table,
        {
            f"peak memory over {size:g} GB stays under 2 GB": f"{large['peak GB']:.2f} GB",
            "seconds of an update, stored / in memory, median of pairs": round(ratio, 3),
        },
    )


if __name__ == "__main__":
    main()
