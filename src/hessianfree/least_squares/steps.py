"""Least-squares steps for your own loop, and the choice of their solver."""

from __future__ import annotations

import logging
import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import jax

from hessianfree.engine import levenberg
from hessianfree.engine.levenberg import Form, LeastSquaresRecord, LeastSquaresState
from hessianfree.engine.linearization import has_forward_mode
from hessianfree.engine.normal_equations import Dense, Dual, Krylov, Method
from hessianfree.engine.numbers import is_positive
from hessianfree.engine.orthogonal import rows_that_fit
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.trees import PyTree
from hessianfree.least_squares.terms import ResidualTerm, as_terms, check_term, loss_at
from hessianfree.objective import parameters
from hessianfree.support import checks, runtime

logger = logging.getLogger("hessianfree")

SOLVERS = ("auto", "cg", "dense", "dual")
#: Bytes for the Jacobian and the matrix made of it, and rows of that matrix, up to which "auto" forms them. The vectors
#: of "cg" take as many bytes.
MEMORY, ROWS = 2**30, 6_000
#: Vectors that "cg" keeps if they fit, and in any case.
CG_ITERATIONS, FEWEST = 250, 10


class Prepared(NamedTuple):
    """Checked residuals in the form of the engine, with the solver for their number."""

    solver: str
    form: Form
    functions: Residuals
    terms: list[ResidualTerm]

    @property
    def inputs(self) -> tuple[Points, ...]:
        """Points and weight of each term."""
        return tuple(term.points for term in self.terms)


class LeastSquares:
    """Accelerated Levenberg-Marquardt steps for your own loop; `hf.least_squares` runs the loop for you.

    Each step solves (J'J + lambda I) d = -J'rho, J the Jacobian of all residuals rho, and adapts lambda.

    Args:
        solver: "dense" for few parameters, "dual" for few residuals, "cg" for neither; "auto" chooses by size.
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
            raise ValueError(f"solver is {solver!r}; choose one of {', '.join(map(repr, SOLVERS))}.")
        if cg_iterations is not None:
            checks.at_least("cg_iterations", cg_iterations, 1)
        if init_damping is not None and not is_positive(init_damping):
            raise ValueError(
                f"init_damping is {init_damping!r}; a positive number is expected, or None to choose it by the problem."
            )
        self.solver, self.init_damping, self.cg_iterations = solver, init_damping, cg_iterations
        self._forms: dict[Hashable, tuple[str, Form]] = {}  # by functions and shapes

    def init(self, residuals: Any, params: PyTree) -> LeastSquaresState:
        """Check everything, and return the state before the first step.

        Args:
            residuals: terms, or one function, as in `hf.least_squares`.
            params: where to start, any pytree of float32 or float64 arrays.

        Returns:
            The state. All states have the same structure: arrays of fixed shapes.

        Raises:
            TypeError: if the residuals are not residuals, or the parameters are not arrays of floats.
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
        """Make one step. The result depends on the arguments only.

        Args:
            residuals: terms, or one function, as in `hf.least_squares`. Steps with the same functions and shapes are
                compiled once, so define the functions outside of your loop.
            params: where to start.
            state: from `init` or the last step.

        Returns:
            New parameters, with a lower and finite loss, or the given ones if no step was found; the new state; and a
            record of what happened, whose `reason` says why there was no step.

        Raises:
            TypeError: if the state is not from `init` or `step`, or another argument is of the wrong kind.
            ValueError: if points, weights or parameters cannot be used.
        """
        if not isinstance(state, LeastSquaresState):
            raise TypeError(
                f"The state is a {type(state).__name__}; pass the state that init(residuals, params) or the last step "
                "returned."
            )
        params = parameters.checked(params)
        with parameters.computing(params), runtime.one_lapack_thread():
            prepared = self.prepared(residuals, params)
            moved, state, record = levenberg.step(prepared.form, prepared.functions, params, prepared.inputs, state)
            return parameters.returned(jax.block_until_ready(moved), params), state, record

    def prepared(self, residuals: Any, params: PyTree) -> Prepared:
        """Check the residuals and choose the solver; call it inside `parameters.computing`.

        Args:
            residuals: from the user.
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
        """The solver's name, and how to compute steps with it."""
        shapes = [check_term(number, term, params) for number, term in enumerate(terms)]
        inputs = tuple(term.points for term in terms)
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        count = sum(math.prod(shape) for shape in shapes)
        itemsize = parameters.precision(params).itemsize
        name = chosen(self.solver, size, count, itemsize)
        accelerated = has_forward_mode(lambda p: functions.outputs(p, inputs), params)
        if not accelerated:
            logger.warning("Residuals without forward mode (jax.custom_vjp): steps are not corrected.")
        return name, Form(self._method(name, size, count, itemsize), accelerated)

    def _method(self, name: str, size: int, count: int, itemsize: int) -> Method:
        """How to solve the normal equations."""
        if name != "cg":
            return Dual() if name == "dual" else Dense()
        fitting = min(max(rows_that_fit(MEMORY, size * itemsize), FEWEST), CG_ITERATIONS)
        return Krylov(min(fitting if self.cg_iterations is None else self.cg_iterations, size, count))


def chosen(solver: str, size: int, count: int, itemsize: int) -> str:
    """The solver by size: the one with the smaller matrix if it and the Jacobian fit in memory, else "cg".

    Args:
        solver: what the user asked for.
        size: number of parameters.
        count: number of residuals.
        itemsize: bytes of a number.

    Raises:
        ValueError: if the matrices that the user asked for do not fit in memory.

    Example:
        >>> chosen("auto", 200, 1_000, 8), chosen("auto", 1_000, 200, 8), chosen("auto", 10_000, 10_000, 8)
        ('dense', 'dual', 'cg')
    """
    rows = {"auto": min(size, count), "dense": size, "dual": count, "cg": 0}[solver]
    needed = itemsize * (2 * size * count + 3 * rows**2) if rows else 0
    if solver == "auto":
        smaller = "dual" if count < size else "dense"
        return smaller if needed <= MEMORY and rows <= ROWS else "cg"
    if needed > 16 * MEMORY:
        raise ValueError(
            f"solver={solver!r} with {size} parameters and {count} residuals needs about {needed / 2**30:.0f} GiB for "
            "the Jacobian and the matrix made of it; choose solver='cg', which needs neither."
        )
    return solver
