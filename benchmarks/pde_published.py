r"""Row pde-published: DSGNAR on Burgers' equation and SPRING on Poisson's, by the code of their authors on a CPU.

Both hold records of accuracy on problems of pde/problems.py, on large GPUs. Compare with ours in the rows pde-burgers
and pde-poisson5d of pde_rows.py. One run of each has all of the published settings; others have fewer points, so that
more steps fit into the time.

- DSGNAR, doubly sketched Gauss-Newton steps with an adaptive ratio (Webb, Jerad and Cartis 2026, arXiv:2607.02194):
  wephy/physics-informed-neural-networks on GitHub, here at commit 8b30ec3. Its notebook reports 1.9e-12 after 144
  seconds on an H100, without compilation.
- SPRING, energy natural gradients with momentum (Guzman-Cordero, Dangel, Goldshlager and Zeinhofer 2025,
  arXiv:2505.12149): jefferyren/rla-pinns on GitHub, here at commit bba463c. Its sweeps draw a damping from 1e-10 to
  1e-3 and a momentum from 0.8 to 0.999, and take the best run. Nothing in the repository names that run.

Their code runs unchanged, from a checkout, in an environment of its own; peers/dsgnar.py and peers/spring.py say how.
Every run has a process of its own. Both errors are those that ours has: the relative L2 error on a grid of 256 x 101,
and the RMSE at 30,000 points of the unit cube. (What SPRING prints as its L2 error is an RMSE too, at other points.)

Seconds are of the processor: they include compilation, and leave out starting Python and computing errors. Give the run
one core. Seconds on the wall, which the rows of pde_rows.py have, are the same as those of the processor if that core
has nothing else to do; both are in the table. DSGNAR compiles its step four times, at the first two steps in each of
two precisions.

To set up:

    git clone https://github.com/wephy/physics-informed-neural-networks dsgnar
    git clone https://github.com/jefferyren/rla-pinns spring
    python3.12 -m venv dsgnar-env && dsgnar-env/bin/pip install jax==0.9.1 equinox==0.13.4 jaxtyping==0.3.9 \
        numpy==2.4.4 scipy==1.17.1 matplotlib==3.11.0
    python3.11 -m venv spring-env && spring-env/bin/pip install torch==2.2.0 numpy==1.26.2 einops==0.7.0 \
        scipy==1.12.0 backpack-for-pytorch==1.7.1 matplotlib==3.8.2 tueplots==0.0.14

What each run finds is kept in benchmarks/.peers/published, and the page has all that is there.

Run: taskset -c 0 python benchmarks/pde_published.py --dsgnar dsgnar dsgnar-env/bin/python
     --spring spring spring-env/bin/python [--seconds 300] [--only spring-3500]
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import arena
from pde.problems import PROBLEMS, Problem, rms

ROW = "pde-published"
TITLE = "the code of others on one core, in float64: relative L2 error for Burgers' equation, RMSE for Poisson's"
KEPT = arena.PEERS / "published"
#: Hidden layers of SPRING's network, of 10,065 parameters.
LARGE = "mlp-tanh-64-64-48-48"


class Published(NamedTuple):
    """A run of somebody else's code."""

    title: str
    script: str  # in peers/, without .py; also which checkout and environment
    problem: str  # of pde/problems.py
    options: tuple[str, ...]  # of the script


def dsgnar(title: str, **changes: int) -> Published:
    """With changes of the settings in the notebook."""
    return Published(f"DSGNAR, {title}", "dsgnar", "burgers", ("--settings", json.dumps(changes)))


def spring(title: str, inside: int, edge: int, damping: float, model: str = LARGE) -> Published:
    """With options of their train.py, as their sweeps have them, and a momentum of 0.9."""
    options = {
        "optimizer": "RNGD",
        "batch_frequency": 1,
        "boundary_condition": "cos_sum",
        "model": model,
        "dim_Omega": 5,
        "N_Omega": inside,
        "N_dOmega": edge,
        "RNGD_approximation": "exact",
        "RNGD_damping": damping,
        "RNGD_momentum": 0.9,
    }
    return Published(f"SPRING, {title}", "spring", "poisson5d", tuple(f"--{k}={v}" for k, v in options.items()))


RUNS = {
    "dsgnar": dsgnar("49,152 points, sketches of 2,000 (published)"),
    "dsgnar-small": dsgnar(
        "12,288 points, sketches of 1,000",
        n_pde=2**13,
        n_ic=2**12,
        residual_sketch=1000,
        parameter_sketch=1000,
        batch_size=2**12,
    ),
    "spring": spring("10,000 points (published)", 8000, 2000, 1e-8),
    "spring-3500": spring("3,500 points", 3000, 500, 1e-8),
    "spring-small": spring("1,000 points, a smaller network", 800, 200, 1e-6, "mlp-tanh-64-48-32-16"),
}


def known(problem: Problem, path: Path) -> None:
    """Write the solution for the script."""
    points, values = problem.known()
    np.savez(path, points=points, values=values, scale=1.0 if problem.measure == "RMSE" else rms(values))


def run(name: str, checkout: Path, python: Path, seconds: float) -> None:
    """Keep what the script prints at last."""
    published = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "known.npz"
        known(PROBLEMS[published.problem], path)
        script = arena.PEERS.parent / "peers" / f"{published.script}.py"
        command: list[str | Path] = [python.absolute(), *arena.ISOLATED, script, checkout.resolve(), path]
        command += ["--seconds", str(seconds), *published.options]
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.json").write_text(answer.splitlines()[-1])


def shortest(curve: arena.Curve) -> float | str:
    """Seconds of the step that took least, from points that are a step or more apart; without any, no number."""
    pairs = [(a, b) for a, b in itertools.pairwise(curve) if b["updates"] > a["updates"]]
    spans = [(b["seconds"] - a["seconds"]) / (b["updates"] - a["updates"]) for a, b in pairs]
    return round(min(spans), 2) if spans else ""


def row(published: Published, found: dict[str, Any]) -> dict[str, Any]:
    """A line of the table."""
    curve = found["curve"]
    level = max(PROBLEMS[published.problem].bars)
    line = {"competitor": published.title, "problem": published.problem, "parameters": found["parameters"]}
    line |= arena.summary(arena.Run(published.title, 0, curve), level)
    line["wall seconds"] = round(curve[-1]["wall seconds"], 1)
    line["seconds of the shortest step"] = shortest(curve)
    return line


def write() -> None:
    """The page of all runs that are kept."""
    found = {name: json.loads(path.read_text()) for name in RUNS if (path := KEPT / f"{name}.json").exists()}
    arena.VERSIONS.update({RUNS[name].script: one["versions"] for name, one in found.items()})
    rows = [row(RUNS[name], one) for name, one in found.items()]
    verdicts = {
        f"{line['competitor']}, lowest error": f"{line['lowest error']:.2e} in {line['updates']} steps and "
        f"{line['seconds']:.0f} seconds"
        for line in rows
    }
    runs = [arena.Run(RUNS[name].title, 0, one["curve"]) for name, one in found.items()]
    options = {RUNS[name].title: RUNS[name].options for name in found}
    arena.report(ROW, TITLE, rows, verdicts, options=options, curves=arena.as_json(runs))


def main() -> None:
    """Run what is chosen, and write the page after each run."""
    parser = argparse.ArgumentParser()
    for script in ("dsgnar", "spring"):
        parser.add_argument(f"--{script}", type=Path, nargs=2, metavar=("CHECKOUT", "PYTHON"))
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--seconds", type=float, default=300, help="for each run")
    options = parser.parse_args()
    homes = {"dsgnar": options.dsgnar, "spring": options.spring}
    missing = {RUNS[name].script for name in options.only if homes[RUNS[name].script] is None}
    if missing:
        parser.error(f"--only asks for runs of {', '.join(sorted(missing))}; give --{min(missing)} CHECKOUT PYTHON.")
    for name in options.only:
        checkout, python = homes[RUNS[name].script]
        run(name, checkout, python, options.seconds)
        write()


if __name__ == "__main__":
    main()
