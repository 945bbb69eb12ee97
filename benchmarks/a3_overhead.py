"""Row A3: what K-FAC takes of an update: measuring the factors, inverting them, and applying them in CG.

Run: python benchmarks/a3_overhead.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

import a3_autoencoder as a3
import hessianfree as hf
from hessianfree.engine import preconditioning
from hessianfree.engine.linearization import value_and_gradient
from hessianfree.engine.system import Numbers, Plan, solve

import arena

ROUNDS = 9


def main() -> None:
    """Time the parts of an update in turn, several rounds over, and a whole update beside them."""
    x = a3.images(str(arena.MNIST))[0][: a3.RUN["minibatch_size"]]
    net = a3.autoencoder(a3.SHAPE, rng=0)
    net.optimizer = hf.opt.HessianFree(**a3.OURS)
    net.cache_minibatch(x, x)
    settings = net.optimizer.settings
    recipe = settings.preconditioner
    assert recipe is not None
    objective, batch = net.problem().localize(net.params(), net.batch())
    params = jax.device_put(net.params())
    zero = jax.tree.map(np.zeros_like, net.params())
    indices = settings.curvature_examples(np.ones(len(x), bool), 0)
    numbers = Numbers(np.float32(1), np.float32(0.95), np.float32(0))
    damping = np.float32(1)
    measured = preconditioning._measure(recipe, objective, params, batch, indices, np.uint32(0))
    prepared, _ = preconditioning._prepare(recipe, measured, damping)
    plan = partial(Plan, keep_start=True)

    def solved(plan: Plan, known: Any) -> Callable[[], Any]:
        return lambda: solve(plan, objective, params, batch, indices, zero, numbers, None, known)

    few, many = 2, 2 + settings.cg_iterations
    work: dict[str, Callable[[], Any]] = {
        "measure": lambda: preconditioning._measure(recipe, objective, params, batch, indices, np.uint32(0)),
        "invert": lambda: preconditioning._prepare(recipe, measured, damping),
        "CG, with": solved(plan(many, recipe), prepared),
        "few, with": solved(plan(few, recipe), prepared),
        "CG, without": solved(plan(many), None),
        "few, without": solved(plan(few), None),
        "gradient": lambda: value_and_gradient(objective, params, batch),
        "value": lambda: objective.value(params, batch),
        "update": net.optimizer.compute_update,
    }
    for run in work.values():
        jax.block_until_ready(run())
    rounds = arena.interleaved(ROUNDS, {name: partial(arena.seconds, run) for name, run in work.items()})
    t = {name: arena.median(r[name] for r in rounds) for name in work}
    iterations = arena.median((r["CG, with"] - r["few, with"]) - (r["CG, without"] - r["few, without"]) for r in rounds)
    share = {
        f"measuring, every {recipe.every} updates": t["measure"] / recipe.every,
        "inverting": t["invert"],
        f"applying, {settings.cg_iterations} CG iterations": iterations,
    }
    rows = [{"part": name, "ms per update": 1e3 * s, "share": s / t["update"]} for name, s in share.items()]
    rows += [{"part": f"one {name}", "ms per update": 1e3 * t[name], "share": t[name] / t["update"]} for name in work]
    total = sum(share.values()) / t["update"]
    arena.report(
        "A3-overhead",
        "what K-FAC takes of an update of row A3",
        rows,
        {"K-FAC's share of an update (bar 0.35)": round(total, 3)},
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
