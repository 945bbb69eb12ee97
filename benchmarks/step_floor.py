"""A step of least squares beside the parts that it cannot do without, each compiled alone.

The floor is the sum of: the residuals and the rows of J, and A after its scaling; A'A and its Cholesky factor S'S, and
where lambda is small X = A S^-1, X'X and another factor; and, as often as the step made them, evaluations of all
residuals and solves with A' and the factors. All are medians of parts that take turns with whole steps.

Run: python benchmarks/step_floor.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve, solve_triangular

from hessianfree.engine.compilation import precise
from hessianfree.engine.normal_equations import LOST, SHIFT, factored
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
        shift = SHIFT * float(jnp.finfo(A.dtype).eps * jnp.sum(A**2))
        product, factor = precise(lambda A: with_own_transpose(A.T)), precise(lambda M: factored(M, shift)[0])
        M = product(A)
        L = factor(M)
        S = L.T
        quotient = precise(lambda A: lax.linalg.triangular_solve(S, A))
        X = quotient(A)
        solve = precise(lambda L, b: cho_solve((L, True), b @ A))

        def through(b: Any) -> Any:
            return solve_triangular(S, cho_solve((L, True), solve_triangular(S, b @ A, trans=1)))

        mend = precise(lambda b: b - A @ through(b))
        evaluate = precise(lambda at: functions.flat(unravel, inputs, at))
        self.works: dict[str, Callable[[], Any]] = {
            "rows": lambda: made(theta),
            "A": lambda: scaled(J),
            "A'A": lambda: product(A),
            "Cholesky": lambda: factor(M),
            "A S^-1": lambda: quotient(A),
            "X'X": lambda: product(X),
            "evaluation": lambda: evaluate(theta),
            "solve": lambda: solve(L, rho),
            "solve with S, and A": lambda: mend(rho),
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
    small = record.damping < LOST * np.finfo(float).eps
    used = ["rows", "A", "A'A", "Cholesky", *(["A S^-1", "X'X", "Cholesky"] if small else [])]
    evaluations = record.attempts + record.corrections
    floor = sum(took[part] for part in used) + evaluations * took["evaluation"]
    floor += evaluations * (2 * took["solve with S, and A"] if small else took["solve"])
    made = {"attempts": record.attempts, "corrections": record.corrections, "by": "X'X" if small else "A'A"}
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
