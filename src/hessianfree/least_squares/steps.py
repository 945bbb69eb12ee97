"""Least-squares steps for a loop of one's own, and how they are computed."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import jax

from hessianfree.engine import hessian_free, levenberg
from hessianfree.engine.levenberg import Form, LeastSquaresRecord, LeastSquaresState
from hessianfree.engine.linearization import has_forward_mode
from hessianfree.engine.normal_equations import Dense, Krylov, Method
from hessianfree.engine.orthogonal import rows_that_fit
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import PyTree
from hessianfree.least_squares.terms import ResidualTerm, as_terms, check_term, loss_at
from hessianfree.objective import parameters
from hessianfree.support import checks, runtime

logger = logging.getLogger("hessianfree")

SOLVERS = ("auto", "cg", "dense", "dual")
#: Bytes that the Jacobian and the matrix made of it may take, and rows of that matrix, up to which "auto" stays dense;
#: bytes that "cg" takes for its vectors.
MEMORY, ROWS = 2**30, 6_000
#: Vectors that "cg" keeps, where they fit, and where they do not: with fewer it is not worth its name.
CG_ITERATIONS, FEWEST = 250, 10


class Prepared(NamedTuple):
    """Residuals in the form of the engine, and the solver for their number."""

    solver: str
    form: Form
    functions: Residuals
    terms: list[ResidualTerm]

    @property
    def inputs(self) -> tuple[Points, ...]:
        """Where residuals are taken."""
        return tuple(term.points for term in self.terms)


class LeastSquares:
    """Accelerated Levenberg-Marquardt steps, for a loop of your own; `hf.least_squares` is the loop for most uses.

    Each step solves (J'J + lambda I) d = -J'rho, J the Jacobian of all residuals rho, and adapts lambda.

    Args:
        solver: "dense" for few parameters, "dual" for few residuals, "cg" for neither, "auto" to choose by size.
        init_damping: the first lambda; by default it is chosen relative to the largest curvature.
        cg_iterations: limit on CG iterations per step ("cg" only); see `hf.least_squares`.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> x = np.linspace(0, 3, 20)
        >>> def decay(params, point):
        ...     return params["a"] * jnp.exp(-params["k"] * point["x"]) - point["y"]
        >>> terms = [(decay, {"x": x, "y": 2 * np.exp(-1.5 * x)})]
        >>> optimizer, params = LeastSquares(), {"a": np.float64(1), "k": np.float64(1)}
        >>> state = optimizer.init(terms, params)
        >>> for _ in range(10):
        ...     params, state, record = optimizer.step(terms, params, state)
        >>> round(float(params["a"]), 6), round(float(params["k"]), 6)
        (2.0, 1.5)

    Source: Levenberg 1944; Marquardt 1963; Transtrum and Sethna 2012.
    """

    def __init__(
        self, solver: str = "auto", init_damping: float | None = None, cg_iterations: int | None = None
    ) -> None:
        if solver not in SOLVERS:
            raise ValueError(f"solver is {solver!r}; {', '.join(map(repr, SOLVERS))} are the choices.")
        if cg_iterations is not None:
            checks.at_least("cg_iterations", cg_iterations, 1)
        if init_damping is not None:
            hessian_free.initial_state(init_damping)
        self.solver, self.init_damping, self.cg_iterations = solver, init_damping, cg_iterations
        self._forms: dict[Any, tuple[str, Form]] = {}  # by functions and shapes

    def init(self, residuals: Any, params: PyTree) -> LeastSquaresState:
        """Check everything, and return the state before the first step.

        Args:
            residuals: terms, or one function, as in `hf.least_squares`.
            params: where to start, any pytree of float32 or float64 arrays.

        Returns:
            The state: arrays of one structure from here on.

        Raises:
            TypeError: if the residuals are not residuals, or the parameters not arrays of floats.
            ValueError: if something is not finite at the start, or the matrices do not fit in memory.
        """
        params = parameters.checked(params)
        parameters.check_finite(params)
        with parameters.computing(params):
            prepared = self.prepared(residuals, params)
            loss_at(prepared.functions, params, prepared.inputs)
        return levenberg.init(self.init_damping)

    def step(
        self, residuals: Any, params: PyTree, state: LeastSquaresState
    ) -> tuple[PyTree, LeastSquaresState, LeastSquaresRecord]:
        """Make one step; nothing but the arguments decides what comes out.

        Args:
            residuals: terms, or one function, as in `hf.least_squares`.
            params: where to start.
            state: from `init` or the last step.

        Returns:
            New parameters, whose loss is lower and finite (the given ones without such a step), the new state, and a
            record of what happened, whose `reason` says why there was no step.

        Raises:
            TypeError: if the state is not one of `init` or `step`, or an argument is of the wrong kind.
        """
        if not isinstance(state, LeastSquaresState):
            raise TypeError(
                f"The state is a {type(state).__name__}; pass the one that init(residuals, params) or the last step "
                "returned."
            )
        params = parameters.checked(params)
        with parameters.computing(params), runtime.one_lapack_thread():
            prepared = self.prepared(residuals, params)
            moved, state, record = levenberg.step(prepared.form, prepared.functions, params, prepared.inputs, state)
            return parameters.returned(jax.block_until_ready(moved), params), state, record

    def prepared(self, residuals: Any, params: PyTree) -> Prepared:
        """Check the residuals and choose the solver; to be called inside `parameters.computing`.

        Args:
            residuals: as given.
            params: checked.
        """
        terms = as_terms(residuals, parameters.precision(params))
        functions = Residuals(tuple(term.function for term in terms))
        points = [term.points.at for term in terms]
        signature = functions, parameters.layout(params), parameters.layout(points)
        if signature not in self._forms:
            self._forms[signature] = self._form(functions, terms, params)
        return Prepared(*self._forms[signature], functions, terms)

    def _form(self, functions: Residuals, terms: list[ResidualTerm], params: PyTree) -> tuple[str, Form]:
        shapes = [check_term(number, term, params) for number, term in enumerate(terms)]
        inputs = tuple(term.points for term in terms)
        count = sum(math.prod(shape) for shape in shapes)
        name = chosen(self.solver, count, params)
        accelerated = has_forward_mode(lambda p: functions.outputs(p, inputs), params)
        if not accelerated:
            logger.warning("Residuals without forward mode (jax.custom_vjp): steps are not corrected.")
        return name, Form(_method(name, count, params, self.cg_iterations), accelerated)


def chosen(solver: str, count: int, params: PyTree) -> str:
    """The solver by size: the smaller matrix, if it and the Jacobian fit, products only otherwise.

    Args:
        solver: what was asked for.
        count: number of residuals.
        params: checked.

    Raises:
        ValueError: if the matrices asked for do not fit in memory.
    """
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
        return Dense(dual=name == "dual")
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if iterations is None:
        fitting = rows_that_fit(MEMORY, size * parameters.precision(params).itemsize)
        iterations = min(max(fitting, FEWEST), CG_ITERATIONS)
    return Krylov(min(iterations, size, count))
