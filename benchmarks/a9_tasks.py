"""Row A9: long-memory tasks of Martens and Sutskever 2011, 100 tanh units, until under 1 % of test sequences are wrong.

Run: python benchmarks/a9_tasks.py                      (two tasks at 30 steps, on a CPU)
     python benchmarks/a9_tasks.py --steps 100 --tasks all --gpu --sequences 20000 --minibatch 10000 --limit 1800
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import hessianfree as hf
from hessianfree import tasks

import arena

UNITS, TESTED = 100, 10_000


def network(task: tasks.Task, optimizer: Any, gpu: bool) -> hf.RNNet:
    """100 tanh units, recurrent weights of spectral radius 1.1, small output weights, structural damping."""
    loss = getattr(hf.loss_funcs, task.loss)()
    return hf.RNNet(
        [task.n_inputs, UNITS, task.n_outputs],
        layers=["Linear", "Tanh", task.output_layer],
        loss_type=[loss, hf.loss_funcs.StructuralDamping(0.1, layers=[1], optimizer=optimizer)],
        W_init_params={"coeff": [1.0, 0.1]},
        W_rec_params={"spectral_radius": 1.1},
        use_GPU=gpu or None,
        rng=0,
    )


def solve(task: tasks.Task, options: argparse.Namespace) -> dict[str, Any]:
    """Train until the task is solved or the time is over; seconds include compilation, not the tests."""
    x, t = task.generate(options.sequences, options.steps, 0)
    test_x, test_t = task.generate(TESTED, options.steps, 1)
    optimizer = hf.opt.HessianFree(CG_iter=60, init_damping=0.1)
    net = network(task, optimizer, options.gpu)
    seconds, updates, wrong, path = 0.0, 0, 1.0, []
    while wrong >= 0.01 and seconds < options.limit:
        start = time.perf_counter()
        result = net.run_epochs(x, t, optimizer, max_epochs=1, minibatch_size=options.minibatch, print_period=None)
        seconds += time.perf_counter() - start
        updates += sum(len(epoch.updates) for epoch in result.epochs)
        wrong = task.error_rate(net.forward(test_x)[-1], test_t)
        path.append((seconds, wrong))
        print(f"{task.name}: {updates} updates, {seconds:.0f} s, {wrong:.2%} wrong", flush=True)
        if not result.epochs or not any(record.accepted for record in result.epochs[0].updates):
            break
    return {
        "task": task.name,
        "solved": wrong < 0.01,
        "wrong": wrong,
        "seconds": seconds,
        "updates": updates,
        "path": path,
    }


def main() -> None:
    """Run the chosen tasks and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tasks", nargs="+", default=["addition", "temporal_order_3bit"])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--sequences", type=int, default=4000)
    parser.add_argument("--minibatch", type=int, default=2000)
    parser.add_argument("--limit", type=float, default=600, help="seconds per task")
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    names = list(tasks.ALL) if options.tasks == ["all"] else options.tasks
    rows = [solve(tasks.ALL[name], options) for name in names]
    paths = {row["task"]: row.pop("path") for row in rows}
    arena.report(
        f"A9-{options.steps}",
        f"long-memory tasks at {options.steps} timesteps, 100 tanh units, {TESTED} test sequences",
        rows,
        {"solved": f"{sum(row['solved'] for row in rows)} of {len(rows)}"},
        paths=paths,
    )


if __name__ == "__main__":
    main()
