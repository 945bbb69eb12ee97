"""What a checkpoint at every update costs on row A3, and how soon a run resumes after the import.

Run: python benchmarks/checkpoints.py [--rounds 9] [--updates 20] [--data mnist.npz]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import hessianfree as hf
from a3_autoencoder import IMAGES, MODEL, OURS, RUN, SHAPE, Images, autoencoder, images
from hessianfree.io import checkpoints

import arena

#: Bars: share of the run, and seconds from the import to the first resumed update.
SHARE, SECONDS = 0.03, 2.0


class Clock:
    """Notes when the run started and when each update was over, and ends it after some of them."""

    def __init__(self, updates: int) -> None:
        self.updates, self.ended = updates, list[float]()
        self.started = 0.0

    def on_start(self, run: Any) -> None:
        """The run is ready."""
        self.started = time.perf_counter()

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> bool:
        """An update is over."""
        self.ended.append(time.perf_counter())
        return len(self.ended) > self.updates


def run(x: Images, updates: int, **options: Any) -> Clock:
    """So many updates of row A3, after a first one that does not count."""
    clock = Clock(updates)
    net = autoencoder(SHAPE, rng=0, **MODEL)
    optimizer = hf.opt.HessianFree(plotting=False, **OURS)
    net.run_epochs(x, x, optimizer, 10_000, target_err=0, print_period=None, callbacks=[clock], **RUN, **options)
    return clock


def seconds(clock: Clock) -> float:
    """From the end of the first update to that of the last."""
    return clock.ended[-1] - clock.ended[0]


@contextmanager
def counted() -> Iterator[list[int]]:
    """The sizes of all checkpoints that are written, in bytes."""
    sizes, original = list[int](), checkpoints.write

    def write(path: Any, *contents: Any) -> None:
        original(path, *contents)
        sizes.append(Path(path).stat().st_size)

    with mock.patch.object(checkpoints, "write", write):
        yield sizes


def resume(data: str, path: str) -> None:
    """Print the seconds from the import to the resumed run, and to the end of its first update."""
    x = images(data)[0][:IMAGES]
    began = time.perf_counter()
    clock = run(x, 0, checkpoint=path, resume=True)
    print(clock.started - began, clock.ended[0] - began)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--updates", type=int, default=20, help="in a round")
    parser.add_argument("--data", default=str(arena.MNIST))
    parser.add_argument("--resume", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.resume:
        resume(options.data, options.resume)
        return
    x = images(options.data)[0][:IMAGES]
    run(x, 1)  # compiles
    rows = []
    with tempfile.TemporaryDirectory() as folder, counted() as sizes:
        for number in range(options.rounds):
            path = Path(folder, f"{number}.ckpt")
            before = len(sizes)
            kept = seconds(run(x, options.updates, checkpoint=path, checkpoint_every=1))
            plain = seconds(run(x, options.updates))
            # One at the start and one at the end do not count.
            written = len(sizes) - before - 2
            rows.append({"plain, s": plain, "with checkpoints, s": kept, "ratio": kept / plain, "written": written})
        found = {
            f"median ratio, checkpoints at every update (bar {1 + SHARE:g})": arena.median(
                row["ratio"] for row in rows
            ),
            "checkpoints written for each update": arena.median(row["written"] for row in rows) / options.updates,
            "bytes of a checkpoint": sizes[-1],
            **resumed(options, folder, x),
        }
    title = f"autoencoder {'-'.join(map(str, SHAPE))}: a checkpoint at every update, {options.updates} updates a round"
    arena.report("checkpoints", title, rows, found)


def resumed(options: argparse.Namespace, folder: str, x: Images) -> dict[str, float]:
    """Medians over five processes that resume a run."""
    starts, firsts = [], []
    for number in range(5):
        path = str(Path(folder, f"resumed{number}.ckpt"))
        run(x, 100, checkpoint=path, checkpoint_every=1, max_seconds=1e-9)  # one update
        command = [sys.executable, __file__, "--resume", path, "--data", options.data]
        start, first = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        starts.append(float(start))
        firsts.append(float(first))
    return {
        f"median seconds from the import until the run goes on (bar {SECONDS:g})": arena.median(starts),
        "median seconds until its first update is over, programs kept": arena.median(firsts),
    }


if __name__ == "__main__":
    main()
