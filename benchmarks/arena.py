"""What the benchmark scripts share: peers in their own environments, tables, and JSON with machine and versions."""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import arena_index

HERE = Path(__file__).parent
PEERS = HERE / ".peers"
#: Where pages are written; benchmarks/gpu.py has them written elsewhere.
RESULTS = Path(os.environ.get("ARENA_RESULTS", HERE.parent / "docs" / "arena"))
MNIST = HERE.parent.parent / "shared" / "data" / "mnist.npz"

#: How a peer's script runs: without this environment's variables and packages, beside the other scripts of peers.
ISOLATED = ("-E", "-s")
#: What each peer's environment is made of.
REQUIREMENTS = {
    "hessianfree-0.4.0": ["numpy<2", "hessianfree==0.4.0", "matplotlib", "scipy"],
    "optax": ["jax", "optax", "numpy"],
    "kfac-jax": ["kfac-jax==0.0.8", "jax==0.7.2", "jaxlib==0.7.2", "numpy"],
    "torch": ["torch==2.13.0", "numpy"],
}
#: What is installed in the environments that this run has used: peer -> package -> version.
VERSIONS: dict[str, dict[str, str]] = {}

#: Adam's sweep.
RATES, BATCHES = (1e-3, 3e-3, 1e-2), (200, 1_000)

#: Points of a run in order: seconds, updates and test error so far, often the training error too.
Curve = list[dict[str, float]]


class Run(NamedTuple):
    """One competitor's run from one seed."""

    competitor: str
    seed: int
    curve: Curve


def peer_python(name: str) -> Path:
    """The interpreter of a peer's environment, which is made on first use; its packages are added to VERSIONS."""
    home = PEERS / name
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"installing {name} into {home} ...", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *REQUIREMENTS[name]], check=True)
        (home / "ready").touch()
    if name not in VERSIONS:
        packages = [re.split("[<>=]", requirement)[0] for requirement in REQUIREMENTS[name]]
        question = f"import json, importlib.metadata as m; print(json.dumps({{n: m.version(n) for n in {packages}}}))"
        VERSIONS[name] = json.loads(subprocess.check_output([python, "-I", "-c", question], text=True))
    return python


def peer_curve(peer: str, script: str, *arguments: object) -> Curve:
    """Run a peer's script to its end, and take the curve from the last line that it prints."""
    command: list[str | Path] = [peer_python(peer), *ISOLATED, HERE / "peers" / script, *map(str, arguments)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    curve: Curve = json.loads(answer.splitlines()[-1])["curve"]
    return curve


def adam(task: str, seeds: Sequence[int], rank: Callable[[Curve], Any], *arguments: object) -> tuple[list[Run], str]:
    """Adam's sweep from the first seed, and its best setting from the other seeds.

    Args:
        task: what peers/adam.py calls it.
        seeds: at least one.
        rank: the best setting's curve has the lowest.
        arguments: further ones of peers/adam.py.

    Returns:
        All runs, and which competitor is the best setting.
    """
    settings = {f"Adam {rate:g}, batch {batch}": (rate, batch) for rate, batch in itertools.product(RATES, BATCHES)}

    def run(competitor: str, seed: int) -> Run:
        rate, batch = settings[competitor]
        options = "--rate", rate, "--batch", batch, "--seed", seed
        return told(Run(competitor, seed, peer_curve("optax", "adam.py", task, *arguments, *options)))

    runs = [run(competitor, seeds[0]) for competitor in settings]
    best = min(runs, key=lambda run: rank(run.curve)).competitor
    return runs + [run(best, seed) for seed in seeds[1:]], best


def told(run: Run) -> Run:
    """Print a finished run's end, so that long measurements can be followed."""
    last = run.curve[-1] if run.curve else {}
    end = ", ".join(f"{name} {_cell(value)}" for name, value in last.items())
    print(f"{run.competitor}, seed {run.seed}: {end}", file=sys.stderr, flush=True)
    return run


def last_error(curve: Curve) -> float:
    """Test error at the end, infinite if it is not a number."""
    error = curve[-1]["test error"] if curve else math.nan
    return math.inf if math.isnan(error) else error


def seconds_to(curve: Curve, error: float) -> float:
    """Seconds to the first point with this test error or less, infinite without one."""
    return next((point["seconds"] for point in curve if point["test error"] <= error), math.inf)


def fastest(runs: Iterable[Run], error: float) -> float:
    """Of the competitors' median seconds to a test error, the least; infinite without any run."""
    by_name: dict[str, list[float]] = {}
    for run in runs:
        by_name.setdefault(run.competitor, []).append(seconds_to(run.curve, error))
    return min(map(median, by_name.values()), default=math.inf)


def in_words(seconds: float) -> float | str:
    """Seconds rounded, or that they never came."""
    return round(seconds, 1) if math.isfinite(seconds) else "not reached"


def summary(run: Run, error: float) -> dict[str, Any]:
    """The row of a table for one run."""
    return {
        "competitor": run.competitor,
        "seed": run.seed,
        "seconds": run.curve[-1]["seconds"] if run.curve else "",
        "updates": run.curve[-1]["updates"] if run.curve else "",
        "error at the end": last_error(run.curve),
        "lowest error": min((point["test error"] for point in run.curve), default=math.inf),
        f"seconds to {error:g}": in_words(seconds_to(run.curve, error)),
    }


def curve_of(epochs: Iterable[Any], scale: float = 1) -> Curve:
    """The curve of a result's epochs, errors multiplied by `scale`.

    Their seconds include compilation and, unlike the peers', the evaluations.
    """
    curve: Curve = []
    updates = 0
    for epoch in epochs:
        updates += len(epoch.updates)
        curve.append({"seconds": epoch.seconds, "updates": updates, "test error": scale * epoch.test_error})
    return curve


def draw(row: str, title: str, runs: Sequence[Run], goal: float, what: str = "test error") -> None:
    """Draw error against seconds and against updates into docs/arena/{row}.png, one colour for each competitor.

    Args:
        row: the row's name.
        title: of the figure.
        runs: any number of seeds for each competitor.
        goal: error that is marked.
        what: the error is; it labels the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5), layout="constrained")
    names = list(dict.fromkeys(run.competitor for run in runs))
    for axes, unit in zip(figure.subplots(1, 2, sharey=True), ("seconds", "updates"), strict=True):
        for run in runs:
            points = [[point[key] for point in run.curve] for key in (unit, "test error")]
            label = run.competitor if run is next(r for r in runs if r.competitor == run.competitor) else None
            axes.plot(
                *points, color=f"C{names.index(run.competitor)}", label=label, linewidth=1, marker=".", markersize=3
            )
        axes.axhline(goal, color="grey", linestyle=":", linewidth=1)
        axes.set(xscale="log", yscale="log", xlabel=unit, ylabel=what if unit == "seconds" else None)
        axes.grid(visible=True, which="both", alpha=0.2)
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(f"{row}: {title}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(RESULTS / f"{row.lower()}.png", dpi=100)


def as_json(runs: Iterable[Run]) -> dict[str, dict[int, Curve]]:
    """Curves by competitor and seed, long ones by points of which there are ever fewer."""
    curves: dict[str, dict[int, Curve]] = {}
    for run in runs:
        chosen = np.unique(np.geomspace(1, max(len(run.curve), 1), 150).astype(int)) - 1
        curves.setdefault(run.competitor, {})[run.seed] = [run.curve[i] for i in chosen if i < len(run.curve)]
    return curves


class Worker:
    """A peer script that answers each line on its standard input with one line of JSON."""

    def __init__(self, peer: str, script: str) -> None:
        self.process = subprocess.Popen(
            [peer_python(peer), *ISOLATED, HERE / "peers" / script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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


def cold() -> None:
    """Forget compiled programs, those on the disk too, so that what follows compiles as it does for the first time."""
    import jax

    jax.config.update("jax_enable_compilation_cache", False)
    jax.clear_caches()


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call, until the arrays it returns are there."""
    import jax

    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def interleaved(rounds: int, measures: Mapping[str, Callable[[], float]]) -> list[dict[str, float]]:
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


def report(
    row: str,
    title: str,
    rows: list[dict[str, Any]],
    verdicts: dict[str, Any],
    details: list[dict[str, Any]] | None = None,
    **extra: Any,
) -> None:
    """Print one table and the verdicts, and write docs/arena/{row}.json and .md; the files have the details too."""
    cells = _table(rows)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    print(f"\n{row}: {title}")
    for line in cells:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    for bar, verdict in verdicts.items():
        print(f"{bar}: {verdict}")
    RESULTS.mkdir(parents=True, exist_ok=True)
    document = [f"# {row}: {title}", "", *_markdown(cells)]
    document += ["", *[f"- {bar}: **{verdict}**" for bar, verdict in verdicts.items()]]
    if details:
        document += ["", *_markdown(_table(details))]
        extra["details"] = details
    document += [
        "",
        ", ".join(f"{key} {value}" for key, value in machine().items())
        + f"; written by benchmarks/{Path(sys.argv[0]).name}",
        "",
    ]
    (RESULTS / f"{row.lower()}.md").write_text("\n".join(document))
    data = {"row": row, "title": title, "machine": machine(), "peers": VERSIONS, "rows": rows}
    data |= {"verdicts": verdicts, **extra}
    (RESULTS / f"{row.lower()}.json").write_text(json.dumps(data, indent=2) + "\n")
    arena_index.write(RESULTS)


def _table(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The names of all columns, and a line of cells for each row."""
    columns = list(dict.fromkeys(key for entry in rows for key in entry))
    return [columns, *[[_cell(entry.get(column, "")) for column in columns] for entry in rows]]


def _markdown(cells: list[list[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    header, *lines = ["| " + " | ".join(line) + " |" for line in cells]
    return [header, "|" + "---|" * len(cells[0]), *lines]


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
