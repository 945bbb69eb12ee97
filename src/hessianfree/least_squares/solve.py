"""`hf.least_squares`: residuals made small, for physics-informed networks, inverse problems and curve fitting."""

from __future__ import annotations

import logging
import math
import reprlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import hessian_free, levenberg
from hessianfree.engine.linearization import has_forward_mode
from hessianfree.engine.normal_equations import Dense, Dual, Krylov, Method
from hessianfree.engine.orthogonal import rows_that_fit
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import PyTree
from hessianfree.least_squares.terms import Resampling, as_terms, check_term, loss_at
from hessianfree.objective import parameters
from hessianfree.support import checks, runtime

logger = logging.getLogger("hessianfree")

SOLVERS = ("auto", "cg", "dense", "dual")
#: Bytes that the Jacobian and the matrix made of it may take, and rows of that matrix, up to which "auto" stays dense;
#: bytes that "cg" takes for its vectors.
MEMORY, ROWS = 2**30, 6_000
#: Vectors that "cg" keeps, where they fit, and where they do not: with fewer it is not worth its name.
CG_ITERATIONS, FEWEST = 250, 10
#: Steps on resampled points without any progress, and steps with none to speak of, in a row, after which a run ends.
MAX_REJECTIONS, STANDSTILL = 5, 10


@dataclass(frozen=True)
class LeastSquaresResult:
    """What `least_squares` ended with.

    Attributes:
        params: the last parameters; without resampling, those with the lowest loss.
        value: the loss there (with resampled points: on those of the last step).
        reason: why it ended.
        solver: "cg", "dense" or "dual".
        history: arrays by name, one entry for each step: `value` before and `new_value` after it, `damping`,
            `gradient_norm`, `accepted`, `seconds` since the call, and what else the solver records.
    """

    params: PyTree
    value: float
    reason: str
    solver: str
    history: dict[str, NDArray[Any]]


def least_squares(
    residuals: Any,
    params: PyTree,
    *,
    solver: str = "auto",
    max_steps: int = 1000,
    max_seconds: float | None = None,
    target: float = 0.0,
    init_damping: float | None = None,
    cg_iterations: int | None = None,
    resample: Callable[[int], Sequence[Any]] | None = None,
    resample_every: int = 1,
    callback: Callable[[int, PyTree, Any], Any] | None = None,
    print_period: int | None = None,
) -> LeastSquaresResult:
    """Minimise f = sum_k c_k mean_i 1/2 |r_k(params, p_ki)|^2 by Levenberg-Marquardt steps.

    Each step solves (J'J + lambda I) d = -J'rho, J the Jacobian of all residuals, and is corrected by its acceleration,
    except for functions without forward mode (`jax.custom_vjp`).
    With "dense" and "dual" J is formed, row by row from gradients at single points, and the system solved by Cholesky;
    with "cg" only products with J are made, and nothing of size P x P or N x P exists, but up to `cg_iterations`
    vectors of P, against which new ones are orthogonalised.

    Args:
        residuals: a list of terms (r, points) or (r, points, weight): `r(params, point)`, a number or an array, is
            mapped over the first axis of `points`, any pytree of arrays; c is the weight, 1 by default. Or one function
            r(params) that returns the vector of all residuals, f = mean of 1/2 r_i^2: slower with "dense" and "dual",
            whose Jacobian then takes a pass through everything for each residual or parameter.
        params: where to start, any pytree of float32 or float64 arrays; float64 needs no global flag, and reaches
            lower. They are not changed.
        solver: "dense" for few parameters, "dual" for few residuals, "cg" for neither, "auto" to choose by size. With
            more residuals than parameters "dual" has the larger matrix, and loses digits where "dense" does not.
        max_steps: steps at most.
        max_seconds: after which the step at hand is the last, counted from the call, compilation included.
        target: loss below which to stop.
        init_damping: the first lambda; by default relative to the largest curvature, and held to where it matters: from
            eps to 1 / sqrt(eps) times that.
        cg_iterations: limit on CG iterations per step, each of which keeps a vector ("cg" only); by default 250, or as
            many as 1 GiB allows, but at least 10. More than there are parameters or residuals are never needed.
        resample: a function of the step's number that gives new points for every term, in the order of the terms and
            in the same shapes; full batch if None. Then no single step ends the run by failing.
        resample_every: steps between calls of it.
        callback: called as callback(step, params, record) after each step, numbered from 0; ends the run by returning
            True.
        print_period: steps between printed lines, the last saying why it ended; None to be silent.

    Returns:
        Parameters, history, and why it ended.

    Raises:
        TypeError: for residuals that are none, such as a loss: a function that returns one number.
        ValueError: for points, weights or parameters that cannot be used, for residuals that are not finite at the
            start, naming the term, and for a dense solver whose matrices do not fit in memory.

    Example:
        >>> x = np.linspace(0, 3, 20)
        >>> data = {"x": x, "y": 2 * np.exp(-1.5 * x)}
        >>> def decay(params, point):
        ...     return params["a"] * jax.numpy.exp(-params["k"] * point["x"]) - point["y"]
        >>> result = least_squares([(decay, data)], {"a": np.float64(1), "k": np.float64(1)})
        >>> round(float(result.params["a"]), 6), round(float(result.params["k"]), 6)
        (2.0, 1.5)

    Source: Levenberg 1944; Marquardt 1963; Transtrum and Sethna 2012; for "cg" Lanczos 1950 and Paige 1980.
    """
    began = time.perf_counter()
    if solver not in SOLVERS:
        raise ValueError(f"solver is {solver!r}; {', '.join(map(repr, SOLVERS))} are the choices.")
    checks.at_least("max_steps", max_steps, 0)
    checks.at_least("resample_every", resample_every, 1)
    if cg_iterations is not None:
        checks.at_least("cg_iterations", cg_iterations, 1)
    if print_period is not None:
        checks.at_least("print_period", print_period, 1)
    checks.threshold("target", target)
    checks.time_limit(max_seconds)
    for argument, given in {"callback": callback, "resample": resample}.items():
        if given is not None and not callable(given):
            raise TypeError(f"{argument} is {reprlib.repr(given)}; a function is expected, or None.")
    params = parameters.own(parameters.checked(params))
    parameters.check_finite(params)
    with parameters.computing(params), runtime.one_lapack_thread():
        terms = as_terms(residuals, parameters.precision(params))
        shapes = [check_term(number, term, params) for number, term in enumerate(terms)]
        functions = Residuals(tuple(term.function for term in terms))
        inputs = tuple(term.points for term in terms)
        start = loss_at(functions, params, inputs)
        count = sum(math.prod(shape) for shape in shapes)
        name = _chosen(solver, count, params)
        accelerated = has_forward_mode(lambda p: functions.outputs(p, inputs), params)
        if not accelerated:
            logger.warning("Residuals without forward mode (jax.custom_vjp): steps are not corrected.")
        form = levenberg.Form(_method(name, count, params, cg_iterations), accelerated)
        method = levenberg.Levenberg(form, functions, _checked_damping(init_damping))
        run = _Run(method, params, inputs, began, resample is not None)
        redraw = None if resample is None else Resampling(resample, terms)
        run.reason = f"all {max_steps} steps are done"
        try:
            for number in range(max_steps):
                if redraw is not None and number % resample_every == 0:
                    run.inputs = redraw.points(number)
                reason = run.step(number, target, max_seconds, callback, print_period)
                if reason:
                    run.reason = reason
                    break
        except KeyboardInterrupt:
            run.reason = "interrupted; these are the parameters so far"
        if print_period is not None:
            print(f"ended after {len(run.records)} steps, loss {run.value(start):.4g}: {run.reason}")
        return LeastSquaresResult(
            parameters.returned(run.params, params), run.value(start), run.reason, name, run.history()
        )


# ---- methods ---------------------------------------------------------------------------------------------------------


def _chosen(solver: str, count: int, params: PyTree) -> str:
    """The solver by size: the smaller matrix, if it and the Jacobian fit, products only otherwise."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    dense = "dual" if count < size else "dense"
    rows = {"auto": min(size, count), "dense": size, "dual": count, "cg": 0}[solver]
    needed = parameters.precision(params).itemsize * (2 * size * count + 3 * rows**2) if rows else 0
    if solver == "auto":
        return dense if needed <= MEMORY and rows <= ROWS else "cg"
    if needed > 16 * MEMORY:
        raise ValueError(
            f"solver={solver!r} with {size} parameters and {count} residuals needs about {needed / 2**30:.0f} GiB for "
            "the Jacobian and the matrix made of it; take solver='cg', which needs neither."
        )
    return solver


def _method(name: str, count: int, params: PyTree, iterations: int | None) -> Method:
    """How the normal equations are solved."""
    if name != "cg":
        return Dual() if name == "dual" else Dense()
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if iterations is None:
        fitting = rows_that_fit(MEMORY, size * parameters.precision(params).itemsize)
        iterations = min(max(fitting, FEWEST), CG_ITERATIONS)
    return Krylov(min(iterations, size, count))


def _checked_damping(damping: float | None) -> float | None:
    return None if damping is None else hessian_free.initial_state(damping).damping


class _Run:
    """What is known in the course of a run."""

    def __init__(
        self, method: levenberg.Levenberg, params: PyTree, inputs: tuple[Points, ...], began: float, resampled: bool
    ) -> None:
        self.resampled = resampled
        self.method, self.params, self.inputs, self.began = method, params, inputs, began
        self.reason = ""
        self.records: list[dict[str, Any]] = []
        self.rejections = self.standstill = 0

    def step(
        self,
        number: int,
        target: float,
        max_seconds: float | None,
        callback: Callable[[int, PyTree, Any], Any] | None,
        print_period: int | None,
    ) -> str:
        """One step; says why it is the last, if it is."""
        given = self.params
        self.params, record = self.method.step(self.params, self.inputs)
        seconds = time.perf_counter() - self.began
        self.records.append({**record._asdict(), "seconds": seconds})
        if print_period is not None and number % print_period == 0:
            print(f"step {number}: loss {record.new_value:.4g}, damping {record.damping:.3g} ({seconds:.1f} s)")
        self.rejections = 0 if record.accepted else self.rejections + 1
        eps = float(np.finfo(parameters.precision(given)).eps)
        self.standstill = 0 if record.new_value < record.value * (1 - 4 * eps) else self.standstill + 1
        if callback is not None:
            with parameters.users_own():
                if checks.is_true(callback(number, parameters.returned(self.params, given), record)):
                    return "the callback ended the run"
        if record.gradient_norm == 0 and not self.resampled:
            return "the gradient is zero: nothing is left to improve"
        if self.rejections == (MAX_REJECTIONS if self.resampled else 1):
            return str(record.reason)
        if self.standstill == STANDSTILL:
            return "the loss stands still: at the limit of precision"
        if record.new_value < target:
            return f"the target {target:g} is reached"
        return f"{max_seconds:g} seconds are over" if max_seconds is not None and seconds > max_seconds else ""

    def value(self, start: float) -> float:
        """The loss now, `start` without a step."""
        return float(self.records[-1]["new_value"]) if self.records else start

    def history(self) -> dict[str, NDArray[Any]]:
        """The records as arrays by name."""
        names = [*levenberg.Step._fields, "seconds"]
        return {name: np.array([record[name] for record in self.records]) for name in names if name != "reason"}
