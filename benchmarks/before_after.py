"""This checkout against another one, measured in turn: rows A1 and A2, the small demos (A7) and the import.

Run: python benchmarks/before_after.py OTHER_CHECKOUT
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import arena

HERE, ROUNDS = Path(__file__).resolve().parents[1], 9
DEMOS = ("xor", "crossentropy", "connections")

#: A worker imports a checkout's own scripts, and answers each line "a1" or "a2" with the seconds of one product.
WORKER = """
import sys
import numpy as np
import a1_product, a2_recurrent_product
make = {
    "a1": lambda: a1_product.cg_seconds(a1_product.network(np.random.RandomState(0))),
    "a2": lambda: a1_product.cg_seconds(a2_recurrent_product.network(np.random.RandomState(0))),
}
measure = {}
for line in sys.stdin:
    row = line.strip()
    if row not in measure:
        measure[row] = make[row]()
    print(measure[row](), flush=True)
"""


def environment(checkout: Path) -> dict[str, str]:
    """Variables with which Python imports the package and the scripts of a checkout."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout / "src"), str(checkout / "benchmarks")])}


class Products:
    """A process that times Gauss-Newton products of one checkout.

    Args:
        checkout: its folder.
    """

    def __init__(self, checkout: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env=environment(checkout),
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def seconds(self, row: str) -> float:
        """Of one product of this row."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{row}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def process_seconds(checkout: Path, statement: str) -> float:
    """Seconds of a whole process that executes one statement."""
    command = [sys.executable, "-c", statement]
    return arena.seconds(
        lambda: subprocess.run(command, check=True, capture_output=True, env=environment(checkout)) and None
    )


def main() -> None:
    """Measure everything in turn, several rounds over, and report medians of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    other = parser.parse_args().other.resolve()
    checkouts = {"this": HERE, "other": other}
    products = {name: Products(checkout) for name, checkout in checkouts.items()}
    tasks: dict[str, dict[str, Callable[[], float]]] = {
        row: {name: partial(worker.seconds, row) for name, worker in products.items()} for row in ("a1", "a2")
    }
    statements = {demo: f"import hessianfree as hf; hf.demos.{demo}()" for demo in DEMOS}
    for what, statement in {**statements, "import": "import hessianfree"}.items():
        tasks[what] = {name: partial(process_seconds, place, statement) for name, place in checkouts.items()}
    tasks["import"]["jax"] = partial(process_seconds, HERE, "import jax")

    rows, verdicts = [], {}
    for what, competitors in tasks.items():
        for measure in competitors.values():
            measure()  # compile, and fill the caches
        rounds = arena.interleaved(ROUNDS, competitors)
        medians = {name: arena.median(r[name] for r in rounds) for name in competitors}
        rows.append({"what": what, **{f"{name}, s": value for name, value in medians.items()}})
        verdicts[f"{what}: this / other"] = round(arena.median(r["this"] / r["other"] for r in rounds), 3)
        if "jax" in competitors:
            verdicts["import: this / jax (bar 1.25)"] = round(arena.median(r["this"] / r["jax"] for r in rounds), 3)
    for worker in products.values():
        worker.close()
    arena.report("before-after", "two checkouts in one run", rows, verdicts)


if __name__ == "__main__":
    main()
