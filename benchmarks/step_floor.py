"""A step of least squares beside the parts that it cannot do without, each compiled alone.

The floor is the sum of: the residuals and the rows of J, or A after its scaling; A'A and its Cholesky factor, or the
triangles R of A and of [R; sqrt(lambda) I] where lambda is small; and, as often as the step made them, evaluations of
all residuals and solves with A' and the factor. All are medians of parts that take turns with whole steps.

Run: python benchmarks/step_floor.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve

from hessianfree.engine.compilation import precise
from hessianfree.engine.normal_equations import LOST, factored, with_damping
from hessianfree.engine.products import with_own_transpose
from hessianfree.objective import parameters
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options
from hessianfree.squares.steps import begun, made_step

import arena
from pde.problems import PROBLEMS

ROUNDS = 7
#: Problem, points of the equation, hidden units, and steps before those that are measured.
CASES = [
    ("burgers-shock", 4_000, (20, 20, 20), 40),
    ("burgers-shock", 1_300, (20, 20, 20), 40),
    ("poisson5d", 3_000, (32, 32), 40),
    ("reaction", 2_000, (20, 20), 150),
]


class Parts:
    """The parts of a step, compiled, and what they are applied to."""

    def __init__(self, prepared: Prepared, params: Any, damping: float) -> None:
        theta, unravel = ravel_pytree(params)
        inputs, functions = prepared.inputs, prepared.functions

        def rows(at: Any) -> Any:
            return functions.jacobian(unravel, at, inputs)

        made, scaled = precise(rows), precise(lambda J: J * (1 / largest))
        rho, J = made(theta)
        self.shape = J.shape
        largest = float(jnp.max(jnp.linalg.norm(J, axis=0)))
        A = scaled(J)
        product, triangle = precise(lambda A: with_own_transpose(A.T)), precise(lambda A: jnp.linalg.qr(A, mode="r"))
        factor, lower = precise(lambda M: factored(M, damping)[0]), precise(lambda R: with_damping(R, damping))
        M, R = product(A), triangle(A)
        L = lower(R)
        solve = precise(lambda L, b: cho_solve((L, True), b @ A))
        evaluate = precise(lambda at: functions.flat(unravel, inputs, at))
        self.works: dict[str, Callable[[], Any]] = {
            "rows": lambda: made(theta),
            "A": lambda: scaled(J),
            "A'A": lambda: product(A),
            "Cholesky": lambda: factor(M),
            "R": lambda: triangle(A),
            "R of lambda": lambda: lower(R),
            "evaluation": lambda: evaluate(theta),
            "solve": lambda: solve(L, rho),
        }


def case(name: str, points: int, hidden: tuple[int, ...], before: int) -> dict[str, Any]:
    """Measure a step of a problem after some others."""
    problem = PROBLEMS[name]
    settings = problem.settings.but({"hidden": hidden, "counts": {"equation": points}})
    params: Any = problem.start(settings, 0)
    terms = problem.terms(settings, 0)
    with parameters.computing(params):
        prepared = prepare(Options(), terms, params)
        with prepared.threads():
            state = begun(prepared, params)
            for _ in range(before):
                params, state, _ = made_step(prepared, params, prepared.inputs, state)
            _, _, record = made_step(prepared, params, prepared.inputs, state)
            parts = Parts(prepared, params, record.damping)
            works = parts.works | {"step": lambda: made_step(prepared, params, prepared.inputs, state)[0]}
            measures = {part: lambda work=work: arena.seconds(work) for part, work in works.items()}
            rounds = arena.interleaved(ROUNDS, measures)
    took = {part: arena.median(one[part] for one in rounds) for part in works}
    by_triangles = record.damping < LOST * np.finfo(float).eps
    used = ["rows", "A", "R", "R of lambda"] if by_triangles else ["rows", "A", "A'A", "Cholesky"]
    evaluations = record.attempts + record.corrections
    floor = sum(took[part] for part in used) + evaluations * took["evaluation"]
    floor += (2 if by_triangles else 1) * evaluations * took["solve"]
    made = {"attempts": record.attempts, "corrections": record.corrections, "by": "R" if by_triangles else "A'A"}
    rows, columns = parts.shape
    found = {"problem": name, "residuals": rows, "parameters": columns, **made}
    found |= {f"{part}, ms": 1e3 * value for part, value in took.items()}
    return found | {"floor, ms": 1e3 * floor, "step / floor": took["step"] / floor}


def main() -> None:
    """Measure all cases and write the page."""
    jax.config.update("jax_enable_x64", True)
    rows = [case(*one) for one in CASES]
    worst = max(row["step / floor"] for row in rows)
    title = "steps of least squares beside their parts"
    arena.report("step-floor", title, rows, {"largest step / floor (bar 1.3)": worst})


if __name__ == "__main__":
    main()
