"""`hf.least_squares` minimises residuals: physics-informed networks, inverse problems, curve fitting."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from hessianfree.engine import levenberg
from hessianfree.engine.levenberg import LeastSquaresRecord, LeastSquaresState
from hessianfree.engine.trees import PyTree
from hessianfree.least_squares.steps import LeastSquares, Prepared
from hessianfree.least_squares.terms import Resampling, loss_at
from hessianfree.objective import parameters
from hessianfree.support import checks, runtime
from hessianfree.training.loop import RunSettings, callbacks_of, run
from hessianfree.training.results import Result

#: Failed steps in a row that end a run on resampled points, and steps in a row that lower the loss by rounding at most.
MAX_REJECTIONS, STANDSTILL = 5, 10


def least_squares(
    residuals: Any,
    params: PyTree,
    *,
    solver: str = "auto",
    max_steps: int = 1000,
    max_seconds: float | None = None,
    target_err: float = 0.0,
    init_damping: float | None = None,
    cg_iterations: int | None = None,
    resample: Callable[[int], Sequence[Any]] | None = None,
    resample_every: int = 1,
    callbacks: Sequence[object] = (),
    print_period: int | None = None,
) -> Result:
    """Minimise f = sum_k c_k mean_i 1/2 |r_k(params, p_ki)|^2 by Levenberg-Marquardt steps.

    Each step solves (J'J + lambda I) d = -J'rho, J the Jacobian of all residuals, and is corrected by its acceleration;
    not so with functions without forward mode (`jax.custom_vjp`). "dense" and "dual" form J, row by row from gradients
    at single points, and solve the equations by Cholesky. "cg" makes only products with J: nothing of size P x P or
    N x P exists, but up to `cg_iterations` vectors of P.

    Args:
        residuals: a list of terms (r, points) or (r, points, weight). `r(params, point)`, a number or an array, is
            mapped over the first axis of `points`, any pytree of arrays; c is the weight, 1 by default. Or one function
            r(params) that returns the vector of all residuals, with f = mean of 1/2 r_i^2. That is slower with "dense"
            and "dual": the Jacobian then takes a pass through everything for each residual or parameter.
        params: where to start, any pytree of float32 or float64 arrays. They are not changed. float64 reaches lower
            losses, and needs no global flag.
        solver: "dense" for few parameters, "dual" for few residuals, "cg" for neither; "auto" chooses by size. With
            more residuals than parameters "dual" has the larger matrix, and loses digits where "dense" does not.
        max_steps: limit on steps.
        max_seconds: seconds from the call, compilation included, after which the current step is the last.
        target_err: the run ends at a loss below this.
        init_damping: the first lambda, 1e-3 times the largest curvature by default. It is held between eps and
            1 / sqrt(eps) times that curvature.
        cg_iterations: limit on CG iterations per step, each of which keeps a vector ("cg" only); by default 250, or as
            many as 1 GiB allows, but at least 10. The number of parameters or residuals is always enough.
        resample: a function of the step's number that returns new points for every term, in the order of the terms and
            in the same shapes; None to keep the points. With it, a single failed step does not end the run.
        resample_every: steps between calls of `resample`.
        callbacks: objects with some of the methods on_start(run), on_update(epoch_number, update, updates, record),
            on_epoch(epoch) and on_end(result), where an epoch is one step; see `hessianfree.training.callbacks`. The
            run ends if on_update or on_epoch returns True. Look at the parameters through `run.params`.
        print_period: steps between printed lines, of which the last says why the run ended; None to be silent.

    Returns:
        Parameters, history, and why the run ended. The error is the loss; with `resample`, on the points of each step.

    Raises:
        TypeError: if the residuals are not residuals but, for example, a loss: a function that returns one number.
        ValueError: if points, weights or parameters cannot be used, residuals are not finite at the start (the message
            names the term), or the matrices of a dense solver do not fit in memory.

    Example:
        >>> import jax
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
    optimizer = LeastSquares(solver, init_damping, cg_iterations)
    checks.at_least("max_steps", max_steps, 0)
    checks.at_least("resample_every", resample_every, 1)
    if resample is not None and not callable(resample):
        raise TypeError(f"resample is {reprlib.repr(resample)}; pass a function of the step's number, or None.")
    settings = RunSettings(
        max_epochs=max_steps,
        target_err=target_err,
        print_period=print_period,
        max_seconds=max_seconds,
        callbacks=callbacks,
        early_stopping=False,
        unit="step",
    )
    params = parameters.own(parameters.checked(params))
    parameters.check_finite(params)
    with parameters.computing(params), runtime.one_lapack_thread():
        prepared = optimizer.prepared(residuals, params)
        redraw = None if resample is None else Resampling(resample, prepared.terms)
        trainee = _Steps(prepared, params, levenberg.init(init_damping), redraw, resample_every)
        with callbacks_of(settings) as callbacks_in_use:
            return run(trainee, settings, callbacks_in_use, began)


class _Steps:
    """What the loop trains: an epoch is one step.

    Args:
        prepared: the residuals.
        params: where to start.
        state: the state before the first step.
        redraw: gives new points; None to keep those there are.
        every: steps between new points.
    """

    tested = False
    fields: tuple[str, ...] = LeastSquaresRecord._fields

    def __init__(
        self, prepared: Prepared, params: PyTree, state: LeastSquaresState, redraw: Resampling | None, every: int
    ) -> None:
        self._prepared, self._state, self._redraw, self._every = prepared, state, redraw, every
        self._params = self._best = params
        self._inputs = prepared.inputs
        self._eps = float(np.finfo(parameters.precision(params)).eps)
        self._loss = self.best_error = loss_at(prepared.functions, params, self._inputs)
        self._rejections = self._standstill = 0
        self.stationary = redraw is None

    @property
    def params(self) -> PyTree:
        """The current parameters."""
        return parameters.returned(self._params, self._params)

    @property
    def best_params(self) -> PyTree:
        """The parameters with the lowest loss so far."""
        return parameters.returned(self._best, self._best)

    @property
    def solver(self) -> str:
        """The name of the solver in use."""
        return self._prepared.solver

    def updates(self, epoch: int, printing: bool) -> Generator[tuple[int, int, LeastSquaresRecord]]:
        """Make one step."""
        if self._redraw is not None and epoch % self._every == 0:
            self._inputs = self._redraw.points(epoch)
        made = levenberg.step(self._prepared.form, self._prepared.functions, self._params, self._inputs, self._state)
        self._params, self._state, record = made
        self._loss = record.new_value
        self._rejections = 0 if record.accepted else self._rejections + 1
        moved = record.new_value < record.value * (1 - 4 * self._eps)
        self._standstill = 0 if moved else self._standstill + 1
        yield 0, 1, record

    def evaluate(self) -> float:
        """The loss on the points of the last step."""
        if self._loss <= self.best_error:
            self.best_error, self._best = self._loss, self._params
        return self._loss

    def why_finished(self, record: LeastSquaresRecord) -> str:
        """Why the step with this record is the last; empty if it is not."""
        if self._rejections == (1 if self._redraw is None else MAX_REJECTIONS):
            return record.reason
        return "the loss no longer falls: the limit of precision is reached" if self._standstill == STANDSTILL else ""
