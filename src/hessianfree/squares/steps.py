"""Least-squares steps for your own loop."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from hessianfree.engine import levenberg, reprs
from hessianfree.engine.levenberg import LeastSquaresState
from hessianfree.engine.metrics import Metric
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options, moved_inside
from hessianfree.squares.records import LeastSquaresRecord, record_of
from hessianfree.squares.terms import loss_at


class LeastSquares:
    """Accelerated Levenberg-Marquardt steps for your own loop; `hf.least_squares` runs the loop for you.

    Each step solves (J'J + lambda D^2) d = -J'rho, J the Jacobian of all residuals rho and D their metric, and adapts
    lambda.

    Args:
        solver: "dense" for few parameters, "dual" for few residuals, "cg" for neither; "auto" chooses by size.
        init_damping: the first lambda, 1e-3 by default.
        cg_iterations: limit on CG iterations per step ("cg" only); see `hf.least_squares`.
        options: `bounds`, `fixed`, `loss`, `scale`, `sigma`, `x_scale`, `gtol`, `ftol`, `xtol`, `chunk_size`
            and `subsample`, as in `hf.least_squares`. With `subsample` a step is made from the first points of each
            term: give them in a new random order at each step.

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

    Source: Levenberg 1944; Marquardt 1963; More 1978; Transtrum and Sethna 2012.
    """

    def __init__(
        self,
        solver: str = "auto",
        init_damping: float | None = None,
        cg_iterations: int | None = None,
        **options: Any,
    ) -> None:
        self.options = Options(solver, init_damping, cg_iterations, **options)

    def __repr__(self) -> str:
        return type(self).__name__ + reprs.call(self.options).removeprefix(Options.__name__)

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
            prepared = prepare(self.options, residuals, params)
            loss_at(prepared.functions, moved_inside(params, prepared.box), prepared.inputs)
            return begun(prepared, params)

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
            New parameters, with a finite loss that is no higher but for rounding, or the given ones if no step was
            found; the new state; and a record of what happened, whose `reason` says why the run is over, if it is.

        Raises:
            TypeError: if the state is not from `init` or `step`, or another argument is of the wrong kind.
            ValueError: if points, weights or parameters cannot be used, or the state belongs to other parameters.
        """
        if not isinstance(state, LeastSquaresState):
            raise TypeError(
                f"The state is a {type(state).__name__}; pass the state that init(residuals, params) or the last step "
                "returned."
            )
        params = parameters.checked(params)
        size = sum(np.size(leaf) for leaf in jax.tree.leaves(params))
        if np.shape(state.norms) != (size,):
            raise ValueError(
                f"The state belongs to {np.size(state.norms)} parameters, and {size} are given; start with "
                "init(residuals, params)."
            )
        with parameters.computing(params):
            prepared = prepare(self.options, residuals, params)
            with prepared.threads():
                moved, state, record = made_step(prepared, moved_inside(params, prepared.box), prepared.inputs, state)
            return parameters.returned(jax.block_until_ready(moved), params), state, record


def begun(prepared: Prepared, params: PyTree, metric: Metric | None = None) -> LeastSquaresState:
    """The state before the first step, in numpy."""
    theta = parameters.raveled(params)
    return levenberg.init(theta, prepared.init_damping, prepared.metric if metric is None else metric, prepared.units)


def made_step(
    prepared: Prepared, params: PyTree, inputs: Any, state: LeastSquaresState
) -> tuple[PyTree, LeastSquaresState, LeastSquaresRecord]:
    """One compiled step, its record on the host; inside `parameters.computing`."""
    form, functions, box, tolerances = prepared.form, prepared.functions, prepared.box, prepared.tolerances
    moved, after, outcome = levenberg.compiled_step(form, functions, params, inputs, box, state, tolerances)
    return moved, after, record_of(outcome, params, tolerances, box)
