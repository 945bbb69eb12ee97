"""What the benchmark scripts share: peers in their own environments, tables, and JSON with machine and versions."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PEERS = HERE / ".peers"
RESULTS = HERE.parent / "docs" / "arena"
MNIST = HERE.parent.parent / "shared" / "data" / "mnist.npz"

#: What each peer's environment is made of.
REQUIREMENTS = {"hessianfree-0.4.0": ["numpy<2", "hessianfree==0.4.0", "matplotlib", "scipy"]}


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment, which is made on first use."""
    home = PEERS / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"installing {name} into {home} ...", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS[name]], check=True)
        (home / "ready").touch()
    return python


class Worker:
    """A peer script that answers each line on its standard input with one line of JSON."""

    def __init__(self, peer: str, script: str) -> None:
        self.process = subprocess.Popen(
            [peer_python(peer), "-I", HERE / "peers" / script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> Any:
        """Send a line and return the answer."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        for answer in self.process.stdout:  # the peer may print lines of its own
            if answer.startswith("{"):
                return json.loads(answer)
        raise RuntimeError("the peer ended without an answer")

    def close(self) -> None:
        """End the peer."""
        self.process.communicate()


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call, until the arrays it returns are there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def interleaved(rounds: int, measures: dict[str, Callable[[], float]]) -> list[dict[str, float]]:
    """Every measure in turn, this many rounds over: what drifts meets all of them alike."""
    return [{name: measure() for name, measure in measures.items()} for _ in range(rounds)]


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def peak_memory_gb() -> float:
    """Largest resident size of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    versions = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy")}
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **versions,
    }


def report(row: str, title: str, rows: list[dict[str, Any]], verdicts: dict[str, Any], **extra: Any) -> None:
    """Print one table and the verdicts, and write docs/arena/{row}.json and .md."""
    columns = list(dict.fromkeys(key for entry in rows for key in entry))
    cells = [columns, *[[_cell(entry.get(column, "")) for column in columns] for entry in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    print(f"\n{row}: {title}")
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    for bar, verdict in verdicts.items():
        print(f"{bar}: {verdict}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    table = [f"# {row}: {title}", "", "| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    table += ["| " + " | ".join(line) + " |" for line in cells[1:]]
    table += ["", *[f"- {bar}: **{verdict}**" for bar, verdict in verdicts.items()]]
    table += [
        "",
        ", ".join(f"{key} {value}" for key, value in machine().items())
        + f"; written by benchmarks/{Path(sys.argv[0]).name}",
        "",
    ]
    (RESULTS / f"{row.lower()}.md").write_text("\n".join(table))
    document = {"row": row, "title": title, "machine": machine(), "rows": rows, "verdicts": verdicts, **extra}
    (RESULTS / f"{row.lower()}.json").write_text(json.dumps(document, indent=2) + "\n")


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
