"""Hessian-free updates of small problems: milliseconds outside of compiled code.

Every compiled call is timed until its results are ready; what is left of an update is Python, dispatch excluded.

Run: python benchmarks/outside.py [--updates 200]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

import hessianfree as hf

import arena

#: Milliseconds that an update may take outside of compiled code.
BAR = 1.0


class Compiled:
    """Adds up the seconds within functions that `jax.jit` made."""

    def __init__(self) -> None:
        self.seconds, self.jit = 0.0, jax.jit

    def timed(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """In place of `jax.jit`."""
        inner = self.jit(function, **options)

        @wraps(inner)
        def call(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            result = inner(*args, **kwargs)
            if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(result)):
                jax.block_until_ready(result)
                self.seconds += time.perf_counter() - began
            return result

        return call


class Watch:
    """Notes the time and the seconds in compiled code after each update."""

    def __init__(self, compiled: Compiled) -> None:
        self.compiled, self.seen = compiled, list[tuple[float, float]]()

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """One more."""
        self.seen.append((time.perf_counter(), self.compiled.seconds))


def problems() -> dict[str, Callable[[Any, int], Any]]:
    """Runs by name, of targets that are never fitted, so that every update searches."""
    rng = np.random.RandomState(0)
    x, t = rng.rand(300, 10).astype(np.float32), rng.randn(300, 2).astype(np.float32)
    sequences, noise = rng.rand(30, 10, 3).astype(np.float32), rng.randn(30, 10, 2).astype(np.float32)
    options: dict[str, Any] = {"target_err": 0, "print_period": None}

    def optimizer() -> Any:
        return hf.opt.HessianFree(CG_iter=10)

    def ffnet(watch: Any, updates: int) -> None:
        net = hf.FFNet([10, 32, 32, 2], layers=["Linear", "Tanh", "Tanh", "Linear"], rng=0)
        net.run_epochs(x, t, optimizer(), updates, callbacks=[watch], **options)

    def rnnet(watch: Any, updates: int) -> None:
        net = hf.RNNet([3, 20, 2], layers=["Linear", "Tanh", "Linear"], rng=0, W_rec_params={"coeff": 0.3})
        net.run_epochs(sequences, noise, optimizer(), updates, callbacks=[watch], **options)

    def fit(watch: Any, updates: int) -> None:
        model = hf.Objective(lambda p, x: jnp.tanh(x @ p["W"]) @ p["V"])
        start = {"W": 0.3 * rng.randn(10, 32).astype(np.float32), "V": 0.3 * rng.randn(32, 2).astype(np.float32)}
        hf.fit(model, start, (x, t), optimizer(), max_epochs=updates, callbacks=[watch], **options)

    return {"FFNet 10-32-32-2": ffnet, "RNNet 3-20-2, T = 10": rnnet, "fit, 10-32-2": fit}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--updates", type=int, default=200)
    options = parser.parse_args()
    compiled, rows = Compiled(), list[dict[str, Any]]()
    with mock.patch.object(jax, "jit", compiled.timed):
        for name, run in problems().items():
            watch = Watch(compiled)
            run(watch, options.updates)
            totals, inside = np.diff(np.array(watch.seen)[len(watch.seen) // 10 :], axis=0).T
            whole, outside = (1e3 * float(np.median(seconds)) for seconds in (totals, totals - inside))
            rows.append({"problem": name, "updates": len(watch.seen), "ms per update": whole, "outside, ms": outside})
    worst = max(float(row["outside, ms"]) for row in rows)
    found = {f"most outside of compiled code, ms per update (bar {BAR:g})": round(worst, 3)}
    arena.report("outside", "Hessian-free updates of small problems: time outside of compiled code", rows, found)


if __name__ == "__main__":
    main()
