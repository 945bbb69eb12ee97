"""Tasks that others publish: seconds to each error, beside the optimizer that they were published with.

- integrator: white noise summed up by 100 tanh units over 25 steps (the tutorial of computation-thru-dynamics).
- context, 256 units: context-dependent integration (Mante et al. 2013), until 95 % of the trials are right.
- Lorenz: 50 steps of the Lorenz system from a start, by 400 rectified units (Yu et al. 2024), beside their SOFO.
- reach: a point mass reaches under feedback control by 50 gated units, 99 moves (in the manner of feedbax, no noise).

All competitors start from the same weights. Peers draw new examples for each update, ours go through a fixed set from
the same source. Seconds include compilation in every run; the clock stands still during evaluations.

Run: python benchmarks/published.py [--rows integrator ...] [--only ours peers] [--seeds 0 1 2] [--seconds 60]
Rows that are left out keep what was measured before.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import hessianfree as hf
from published_peers import Adam, Sofo
from published_tasks import ROWS, Row, drawn
from recurrent import Ours, Watch

import arena

#: Evaluations of a peer come this many seconds apart, at least.
BETWEEN = 0.3


class Competitors(NamedTuple):
    """Who runs on a row: our optimizers, and those of others."""

    ours: dict[str, Ours]
    peers: dict[str, Any]


#: By row.
COMPETITORS = {
    "integrator": Competitors(
        {"ours, defaults": Ours(lambda: hf.opt.HessianFree(plotting=False), None)},
        {
            "Adam, as published": Adam(
                optax.chain(
                    optax.clip_by_global_norm(10),
                    optax.adam(optax.exponential_decay(0.025, 1, 0.99975), eps=0.1),
                ),
                128,
            ),
            "Adam 0.001, no penalty": Adam(optax.adam(1e-3), 128, penalised=False),
        },
    ),
    "context, 256 units": Competitors(
        {"ours, 10 CG iterations": Ours(lambda: hf.opt.HessianFree(CG_iter=10, plotting=False), None)},
        {"Adam 0.001": Adam(optax.adam(1e-3), 256)},
    ),
    "Lorenz": Competitors(
        {
            "ours, 30 CG iterations, conjugate": Ours(
                lambda: hf.opt.HessianFree(CG_iter=30, warm_start="conjugate", plotting=False), None
            )
        },
        {"SOFO, as published": Sofo(1.0, 256)},
    ),
    "reach": Competitors(
        {"ours, 30 CG iterations": Ours(lambda: hf.opt.HessianFree(CG_iter=30, plotting=False), None)},
        {"Adam, as published": Adam(optax.adam(1e-2), 250)},
    ),
}


def train_ours(row: Row, ours: Ours, seed: int, seconds: float) -> arena.Curve:
    """One run of one of our optimizers, from a cold start."""
    (x, t), test, params = drawn(row.sample, seed, row.examples), row.test(seed), row.initial(seed)
    options: dict[str, Any] = {"minibatch_size": ours.minibatch, "max_epochs": 100_000, "target_err": 0}
    options |= {"print_period": None, "early_stopping": False}
    arena.cold()
    if row.network is None:
        assert row.objective is not None, "a row has either"
        outputs = jax.jit(row.outputs)
        seen = RunWatch(row, lambda: outputs(seen.run.params, test[0]), test, seconds)
        hf.fit(row.objective, params, (x, t), ours.make(), callbacks=[seen], **options)
        return seen.curve
    net = row.network(seed)
    for key, parts in params.items():
        views: Any = net.get_weights(net.W, key)
        for view, values in zip(views, parts, strict=True):
            view[...] = values
    watch = Watch(row, lambda: net.forward(test[0])[-1], test, seconds)
    net.run_epochs(x, t, ours.make(), callbacks=[watch], **options)
    return watch.curve


class RunWatch(Watch):
    """A watch that sees the parameters of a run of hf.fit."""

    def on_start(self, run: Any) -> None:
        """Keep the view of the run."""
        self.run = run


def train_peer(row: Row, peer: Any, seed: int, seconds: float) -> arena.Curve:
    """One run of a peer in a plain loop around one jitted step, from a cold start."""
    test, params = row.test(seed), row.initial(seed)
    arena.cold()
    outputs, key = jax.jit(row.outputs), jax.random.key(seed)
    watch = Watch(row, lambda: outputs(params, test[0]), test, seconds)
    step, state, ended, evaluated = peer.compiled(row), peer.initial(params), False, 0.0
    while not ended:
        params, state = jax.block_until_ready(step(params, state, jax.random.fold_in(key, watch.updates)))
        watch.updates += 1
        if time.perf_counter() - watch.start - evaluated > BETWEEN:
            ended = watch.add()
            evaluated = watch.curve[-1]["seconds"]
    return watch.curve


def measure(name: str, options: argparse.Namespace) -> list[arena.Run]:
    """Every competitor and seed on a row, in turn."""
    row, runs = ROWS[name], []
    for seed in options.seeds:
        for kind, train in (("ours", train_ours), ("peers", train_peer)):
            for label, one in getattr(COMPETITORS[name], kind).items() if kind in options.only else ():
                used, began = time.process_time(), time.perf_counter()
                curve = train(row, one, seed, options.seconds)
                # A run that was stopped, or shared its cores, is told by this.
                curve[-1]["cores in use"] = (time.process_time() - used) / (time.perf_counter() - began)
                runs.append(arena.told(arena.Run(label, seed, curve)))
    return runs


def summaries(name: str, runs: list[arena.Run]) -> list[dict[str, Any]]:
    """A row of the table for each competitor: to the levels median seconds, and how many seeds reached the last."""
    found = []
    for competitor in dict.fromkeys(run.competitor for run in runs):
        curves = [run.curve for run in runs if run.competitor == competitor]
        line: dict[str, Any] = {"task": name, "competitor": competitor}
        line["lowest error"] = arena.median(min(point["test error"] for point in curve) for curve in curves)
        for number, level in enumerate(ROWS[name].levels, 1):
            seconds = [arena.seconds_to(curve, level) for curve in curves]
            middle = arena.median(seconds)
            line[f"level {number}"] = f"{level:g}: {middle:.1f} s" if math.isfinite(middle) else f"{level:g}: -"
        line["seeds"] = f"{np.isfinite(seconds).sum()} of {len(curves)} reach the last"
        line["cores in use, least"] = min(curve[-1]["cores in use"] for curve in curves)
        line["slowest to the last"] = arena.in_words(max(seconds))
        found.append(line)
    return found


def verdict(name: str, runs: list[arena.Run]) -> dict[str, str]:
    """Who was faster to the last level."""
    row, peers = ROWS[name], COMPETITORS[name].peers
    theirs = arena.fastest((run for run in runs if run.competitor in peers), row.levels[-1])
    ours = arena.fastest((run for run in runs if run.competitor not in peers), row.levels[-1])
    goal = "" if row.goal is None else f" (aim {row.goal:g})"
    words = f"{arena.in_words(theirs)} / {arena.in_words(ours)}"
    return {f"seconds to {row.levels[-1]:g}, fastest of peers / of ours{goal}": words}


def before() -> dict[str, Any]:
    """What was measured of each row before."""
    file = arena.RESULTS / "published.json"
    return json.loads(file.read_text())["by_row"] if file.exists() else {}


def report(found: dict[str, Any]) -> None:
    """Write all that is known of the rows, in their order."""
    found = {name: found[name] for name in ROWS if name in found}
    arena.report(
        "published",
        "tasks that others publish, median seconds to each error, compilation included",
        [line for part in found.values() for line in part["rows"]],
        {text: value for part in found.values() for text, value in part["verdicts"].items()},
        by_row=found,
    )


def main() -> None:
    """Run the chosen rows, and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--only", nargs="+", choices=("ours", "peers"), default=["ours", "peers"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=60, help="for each run")
    options = parser.parse_args()
    # Programs kept on disk by earlier runs would hide what compilation costs.
    for name in options.rows:
        runs = measure(name, options)
        verdicts = {f"{name}, {text}": value for text, value in verdict(name, runs).items()}
        report(before() | {name: {"rows": summaries(name, runs), "verdicts": verdicts, "curves": arena.as_json(runs)}})


if __name__ == "__main__":
    main()
