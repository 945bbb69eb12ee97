"""Row A7: the small demos as whole processes, against hessianfree 0.4.0.

Run: python benchmarks/a7_demos.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import arena

DEMOS, ROUNDS = ("xor", "crossentropy", "connections"), 5


def process_seconds(command: list[str | Path], cache: str) -> float:
    """Seconds of one process from start to end."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    return arena.seconds(lambda: subprocess.run(command, check=True, capture_output=True, env=environment) and None)


def main() -> None:
    """Each demo in turn: cold, warm, and the peer, several rounds over."""
    peer = arena.peer_python("hessianfree-0.4.0")
    rows, verdicts = [], {}
    for demo in DEMOS:
        ours: list[str | Path] = [sys.executable, "-m", "hessianfree.demos", demo]
        theirs: list[str | Path] = [peer, "-I", "-c", f"import hessianfree as hf; hf.demos.{demo}()"]
        times: dict[str, list[float]] = {"cold": [], "warm": [], "0.4.0": []}
        for _ in range(ROUNDS):
            cache = tempfile.mkdtemp()
            times["cold"].append(process_seconds(ours, cache))
            times["warm"].append(process_seconds(ours, cache))
            times["0.4.0"].append(process_seconds(theirs, cache))
            shutil.rmtree(cache)
        medians = {name: arena.median(values) for name, values in times.items()}
        rows.append({"demo": demo, **{f"{name}, s": value for name, value in medians.items()}})
        verdicts[f"{demo}, cold (bar 3.0)"] = round(medians["cold"], 2)
        verdicts[f"{demo}, warm compilation cache (bar 1.5)"] = round(medians["warm"], 2)
    arena.report("A7", "the small demos as a whole process", rows, verdicts)


if __name__ == "__main__":
    main()
