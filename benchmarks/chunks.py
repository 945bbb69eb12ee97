"""What pieces cost: an update of the network of row A1 with and without chunk_size, in turn, and the memory of both.

Run: python benchmarks/chunks.py
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

import a1_product
from hessianfree.engine.joining import joinable
from hessianfree.engine.linearization import value_and_gradient
from hessianfree.engine.system import Numbers, Plan, solve
from hessianfree.objective.pieces import in_pieces

import arena

SIZES, ROUNDS, CG_ITERATIONS = (None, 1000), 5, 10


def main() -> None:
    """Measure every size in turn, several rounds over, and report medians of the ratios."""
    net = a1_product.network(np.random.RandomState(0))
    params, direction = jax.device_put((net.params(), net.params(np.random.RandomState(1).randn(net.W.size))))
    numbers, plan = Numbers(*np.array([1, 0.95, 0], np.float32)), Plan(CG_ITERATIONS, joined=joinable(net.params()))
    solves, values, memory = {}, {}, {}
    for size in SIZES:
        args: tuple[Any, ...] = in_pieces(net.problem(), size, net.batch()), params, net.batch()
        args += None, direction, numbers
        program = solve.jitted().lower(plan, *args).compile()  # type: ignore[attr-defined]
        solves[str(size)], values[str(size)] = partial(program, *args), partial(value_and_gradient, *args[:3])
        memory[str(size)] = program.memory_analysis().temp_size_in_bytes / 1e6
    for work in (*solves.values(), *values.values()):
        jax.block_until_ready(work())
    measures = {f"solve {size}": partial(arena.seconds, work) for size, work in solves.items()}
    measures |= {f"gradient {size}": partial(arena.seconds, work) for size, work in values.items()}
    rounds = arena.interleaved(ROUNDS, measures)
    rows = [
        {
            "chunk_size": size,
            "solve, s": arena.median(r[f"solve {size}"] for r in rounds),
            "of the whole": round(arena.median(r[f"solve {size}"] / r["solve None"] for r in rounds), 3),
            "gradient of the whole": round(arena.median(r[f"gradient {size}"] / r["gradient None"] for r in rounds), 3),
            "memory of the solve, MB": memory[size],
        }
        for size in solves
    ]
    arena.report(
        "chunks",
        f"gradient and {CG_ITERATIONS} CG iterations, 784-1024-512-256-32-10, batch 7500, float32",
        rows,
        {f"chunk_size={row['chunk_size']} / whole (bar 1.35)": row["of the whole"] for row in rows[1:]},
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
