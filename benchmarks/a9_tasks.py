"""Row A9: long-memory tasks of Martens and Sutskever 2011, until under 1 % of 10,000 test sequences are wrong.

Settings are those of `hf.tasks.solve`. Rows of tasks that are left out stay on the page.

Run: python benchmarks/a9_tasks.py                      (all tasks at 50 steps, on a CPU)
     python benchmarks/a9_tasks.py --steps 100 --tasks addition xor --limit 1800
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from hessianfree import tasks

import arena

UNITS = 100


def solve(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One task from a cold start: seconds include compilation and tests."""
    arena.cold()
    attempt = tasks.solve(tasks.ALL[name], options.steps, units=UNITS, rng=options.seed, max_seconds=options.limit)
    end = attempt.checks[-1]
    return {
        "task": name,
        "solved": attempt.solved,
        "wrong": end.wrong,
        "seconds": end.seconds,
        "updates": end.updates,
        "path": [(check.seconds, check.wrong) for check in attempt.checks],
    }


def measured_before(row: str) -> dict[str, dict[str, Any]]:
    """What the page holds already, by task."""
    page = arena.RESULTS / f"{row.lower()}.json"
    if not page.exists():
        return {}
    known = json.loads(page.read_text())
    return {entry["task"]: {**entry, "path": known["paths"][entry["task"]]} for entry in known["rows"]}


def main() -> None:
    """Run the chosen tasks and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", choices=list(tasks.ALL), default=list(tasks.ALL))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--limit", type=float, default=600, help="seconds per task")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    row = f"A9-{options.steps}"
    found = measured_before(row) | {name: solve(name, options) for name in options.tasks}
    rows = [found[name] for name in tasks.ALL if name in found]
    paths = {entry["task"]: entry.pop("path") for entry in rows}
    verdicts: dict[str, Any] = {"solved": f"{sum(entry['solved'] for entry in rows)} of {len(rows)}"}
    verdicts["seconds, the longest (bar 600)"] = round(max(entry["seconds"] for entry in rows), 1)
    title = f"long-memory tasks at {options.steps} timesteps, {UNITS} tanh units, {tasks.TESTED} test sequences"
    arena.report(row, title, rows, verdicts, paths=paths)


if __name__ == "__main__":
    main()
