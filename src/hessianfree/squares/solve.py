"""`hf.least_squares` minimises residuals: physics-informed networks, inverse problems, curve fitting."""

from __future__ import annotations

import reprlib
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from hessianfree.devices import meshes
from hessianfree.devices.placing import whole
from hessianfree.devices.processes import Processes
from hessianfree.diagnosis.facts import Facts
from hessianfree.engine.levenberg import CONVERGED, LeastSquaresState, Status
from hessianfree.engine.metrics import Metric
from hessianfree.engine.residuals import Points
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options, moved_inside
from hessianfree.squares.records import LeastSquaresRecord
from hessianfree.squares.result import LeastSquaresResult
from hessianfree.squares.split import check_splits, off_mesh_points, points_of, split, split_points
from hessianfree.squares.steps import begun, made_step
from hessianfree.squares.terms import Resampling, loss_at
from hessianfree.support import checks
from hessianfree.support.runtime import keep_compiled_programs
from hessianfree.training import identity
from hessianfree.training.checkpoints import CheckpointSettings, Kept, keeping
from hessianfree.training.judging import Evaluated, Judged
from hessianfree.training.loop import RunSettings, callbacks_of, run

#: Failed steps in a row that end a run on resampled points.
MAX_REJECTIONS = 5
#: Steps of the first run of a small problem before it begins again in another metric, and of the runs after that.
PATIENCE, NEXT_PATIENCE = 40, 250


def least_squares(
    residuals: Any,
    params: PyTree,
    *,
    bounds: Any = None,
    fixed: PyTree | None = None,
    loss: str | Callable[..., Any] | None = None,
    scale: float = 1.0,
    sigma: Any = None,
    x_scale: Any = "auto",
    solver: str = "auto",
    max_steps: int = 1000,
    max_seconds: float | None = None,
    target_err: float = 0.0,
    gtol: float | None = None,
    ftol: float | None = None,
    xtol: float | None = None,
    init_damping: float | None = None,
    cg_iterations: int | None = None,
    resample: Callable[[int], Sequence[Any]] | None = None,
    resample_every: int = 1,
    callbacks: Sequence[object] = (),
    print_period: int | None = None,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = 60.0,
    resume: Any = False,
    devices: Any = None,
    chunk_size: int | None = None,
    subsample: float | None = None,
) -> LeastSquaresResult:
    """Minimise f = sum_k c_k mean_i 1/2 |r_k(params, p_ki) / sigma_ki|^2 by Levenberg-Marquardt steps.

    Each step solves (J'J + lambda D^2) d = -J'rho, J the Jacobian of all residuals and D a metric of the parameters,
    the largest norms so far of the columns of J, so that the units of parameters do not matter. It is then corrected
    for the bend of the residuals: with at most 32 parameters by its acceleration (not so with functions without forward
    mode, `jax.custom_vjp`), with more by chord iterations, which cost evaluations and no derivatives. "dense" and
    "dual" form J, row by row from gradients at single points, and factor it or its products; if it takes more than 1
    GiB they make it by parts, which is logged. Where lambda is lost in the rounding of J'J "dense" takes J = QR
    instead. "cg" makes only products with J: nothing of size P x P or N x P exists, but up to `cg_iterations`
    vectors of P. "schur" keeps small blocks of a sparse J.

    With at most 32 parameters a run that is stuck, still going after 40 steps, or ends where a direction has lost its
    effect, begins again from the start, with steps that are measured by the sizes of the parameters, and then by their
    given units. The best of the runs counts, and goes on if it has not ended. This is a heuristic; the history shows
    all of them.

    Args:
        residuals: a list of terms (r, points) or (r, points, weight). `r(params, point)`, a number or an array, is
            mapped over the first axis of `points`, any pytree of arrays; c is the weight, 1 by default. Or a
            `hf.SparseTerm`, whose residuals depend on a part of the parameters each. Or one function
            r(params) that returns the vector of all residuals, with f = mean of 1/2 r_i^2. That is slower with "dense"
            and "dual": the Jacobian then takes a pass through everything for each residual or parameter. Or
            `hf.Curve(model, x, y)`, whose result can predict.
        params: where to start, any pytree of float32 or float64 arrays. They are not changed. float64 reaches lower
            losses, and needs no global flag.
        bounds: (lower, upper), each a number, a pytree of numbers or arrays like `params`, or None. A start outside is
            moved inside, which is logged.
        fixed: booleans in a pytree like `params`; a parameter with True keeps its value.
        loss: "huber", "soft_l1", "cauchy", or a function rho(z) with rho(0) = 0 and rho'(0) = 1. In place of r^2 counts
            scale^2 rho((r / scale)^2), so that outliers count less. None for squares.
        scale: the size up to which residuals are no outliers, in their unit (in that of sigma where it is given).
        sigma: standard deviations of the residuals: a number, or an array for those of a single term; for several
            terms a list. 1 by default.
        x_scale: "jac" for the metric that follows the norms of J; a number, or a pytree of numbers or arrays like
            `params`, for units in which all parameters are about as large; "auto" takes "jac" for up to 32 parameters
            and where the norms at the start differ by more than a factor of 1e5, else units of 1. The weights of a
            network have a common unit, and there that is faster.
        solver: "dense" for few parameters, "dual" for few residuals, "cg" for neither, "schur" for sparse terms that
            allow it; "auto" chooses by size. With more residuals than parameters "dual" forms the matrix of "dense",
            which is then the smaller one.
        max_steps: limit on steps.
        max_seconds: seconds from the call, compilation included, after which the current step is the last.
        target_err: the run ends at a loss below this.
        gtol: the run has converged where max_j |J_j'rho| / (|J_j| |rho|) is at most this; 1e-13 by default in
            float64.
        ftol: with xtol: it has converged where a step lowers the loss by at most this, relatively; 8 eps by default.
        xtol: and changes the parameters by at most this, |D d| <= xtol |D params|; 6e-13 by default in float64.
        init_damping: the first lambda, 1e-3 by default. It has no unit: columns of J have a norm of 1 in the metric D.
        cg_iterations: limit on CG iterations per step, each of which keeps a vector ("cg" only); by default 250, or as
            many as 1 GiB allows, but at least 10. The number of parameters or residuals is always enough.
        resample: a function of the step's number that returns new points for every term, in the order of the terms and
            in the same shapes; None to keep the points. With it, a single failed step does not end the run.
        resample_every: steps between calls of `resample`.
        callbacks: objects with some of the methods on_start(run), on_update(epoch_number, update, updates, record),
            on_epoch(epoch) and on_end(result), where an epoch is one step; see `hessianfree.callbacks`. The
            run ends if on_update or on_epoch returns True. Look at the parameters through `run.params`.
        print_period: steps between printed lines, of which the last says why the run ended; None to be silent.
        checkpoint: path of a file for checkpoints, which are taken every `checkpoint_every` steps or
            `checkpoint_seconds` seconds, and at the end; see `hf.fit`. With `resample`, let the points depend on the
            number of the step alone.
        checkpoint_every: see there.
        checkpoint_seconds: see there.
        resume: True to go on from the checkpoint if there is one, or the path of another one; see there.
        devices: None for one device, "all", or a mesh, `jax.make_mesh((8,), ("points",))`: points are split over its
            first axis, and every device holds the parameters. "dense" and "cg" then add up what devices find; "dual"
            needs the rows of all. None with points that are split already uses their devices. Sparse terms run on one
            device. With several processes each calls with the same arguments. See docs/scale.md.
        chunk_size: points of a term that are worked on at once: residuals, J'J, A A' and products with J are made in
            pieces of so many, and memory is that of one piece and of the matrix or vectors of the solver. Steps are
            those of the same solver without pieces but for rounding; a product of "cg" takes a quarter more work. All
            by default. Not with "schur", nor for functions without points. With at most 32 parameters the singular
            values of J are not taken then, and J'J loses half of their digits. See docs/scale.md.
        subsample: share of the points of each term, in (0, 1], that a step is made from, other ones in each step; all
            by default. The loss on all points decides on the step, and a single failed one does not end the run. For
            large networks far from the solution. On one device, and not with sparse terms.

    Returns:
        Parameters, history, why the run ended, and what the fit says: `covariance()`, `stderr()`, `summary()` and more;
        see `hf.LeastSquaresResult`. The error is the loss; with `resample`, on the points of each step.

    Raises:
        TypeError: if the residuals are not residuals but, for example, a loss: a function that returns one number.
        ValueError: if points, weights, bounds or parameters cannot be used, residuals are not finite at the start (the
            message names the term), or the matrices of a dense solver do not fit in memory.

    Example:
        >>> import jax
        >>> import numpy as np
        >>> x = np.linspace(0, 3, 20)
        >>> data = {"x": x, "y": 2 * np.exp(-1.5 * x)}
        >>> def decay(params, point):
        ...     return params["a"] * jax.numpy.exp(-params["k"] * point["x"]) - point["y"]
        >>> result = least_squares([(decay, data)], {"a": np.float64(1), "k": np.float64(1)})
        >>> round(float(result.params["a"]), 6), round(float(result.params["k"]), 6)
        (2.0, 1.5)

    Source: Levenberg 1944; Marquardt 1963; More 1978; Transtrum and Sethna 2012; Fan 2012; for "cg" Lanczos 1950 and
    Paige 1980.
    """
    began = time.perf_counter()
    keep_compiled_programs()
    parts = meshes.several(meshes.chosen(devices, points_of(residuals)))
    processes = Processes(meshes.processes_of(parts))
    residuals = off_mesh_points(residuals)
    stated = solver, init_damping, cg_iterations, bounds, fixed, loss, scale, sigma, x_scale, gtol, ftol, xtol
    options = Options(*stated, chunk_size, subsample)
    _check_steps(max_steps, resample, resample_every)
    limits, shown = (max_steps, None, target_err), (False, None, print_period)
    ended_by = max_seconds, callbacks, False
    restores = resample is None  # unless the points changed from step to step
    settings = RunSettings(*limits, *shown, *ended_by, restores, unit="step", unfinished="not converged: ")
    keep = CheckpointSettings(checkpoint, checkpoint_every, checkpoint_seconds, resume)
    params = _start(params)
    every = None if resample is None else resample_every
    with parameters.computing(params):
        with processes.settling():
            prepared = prepare(options, residuals, params)
            redraw = None if resample is None else Resampling(resample, prepared.terms)
            given = _identity(prepared, params, options, every)
            if devices is not None:
                check_splits(prepared.terms)
        processes.check_same(lambda: {**settings.said(), **{name: said() for name, said in given.items()}})
        prepared, start = _on_devices(parts, prepared, moved_inside(params, prepared.box))
        trainee, settings = _Steps(prepared, start, redraw, resample_every, parts), settings.on(processes)
        kept_by = keeping(keep, trainee, given, processes=processes)
        with prepared.threads(), kept_by as kept, callbacks_of(settings) as chosen:
            ended = run(trainee, settings, chosen, began, kept, processes)
    return LeastSquaresResult.of(ended, residuals, options)


def _check_steps(max_steps: Any, resample: Any, resample_every: Any) -> None:
    checks.at_least("max_steps", max_steps, 0)
    checks.at_least("resample_every", resample_every, 1)
    if resample is not None and not callable(resample):
        raise TypeError(f"resample is {reprlib.repr(resample)}; pass a function of the step's number, or None.")


def _start(params: PyTree) -> PyTree:
    """Checked parameters, of which the run has copies of its own."""
    found = parameters.own(parameters.checked(params))
    parameters.check_finite(found)
    return found


def _on_devices(parts: Parts | None, prepared: Prepared, params: PyTree) -> tuple[Prepared, PyTree]:
    """Points over the devices, and parameters on every one, if there are several."""
    if parts is None:
        return prepared, params
    if prepared.subsampled:
        raise ValueError("subsample takes points of one device; leave out devices, or subsample.")
    terms = split(parts, prepared.terms, prepared.shapes)
    return prepared.with_products._replace(terms=terms), whole(parts, params)


def _identity(prepared: Prepared, params: PyTree, options: Options, every: int | None) -> dict[str, Callable[[], str]]:
    """What is fitted, and how; checkpoints belong to nothing else."""
    return {
        "parameters": lambda: identity.of_params(params),
        "residuals": lambda: identity.of_value([term.function for term in prepared.terms]),
        "points": lambda: f"drawn again every {every} steps" if every else identity.of_data(prepared.inputs),
        "solver": lambda: prepared.solver,
        "options": lambda: identity.of_value(replace(options, chunk_size=None)),  # rounding, and nothing else
    }


#: What `_Steps` counts and compares.
_NUMBERS = ("_loss", "_start_loss", "best_error", "_rejections", "_steps", "_run", "_best_run")


class _Ended(NamedTuple):
    """A run in one metric, set aside."""

    params: PyTree
    loss: float
    state: LeastSquaresState
    reason: str  # empty if it might go on


class _Steps:
    """What the loop trains: an epoch is one step.

    Args:
        prepared: the residuals.
        params: where to start.
        redraw: gives new points; None to keep those there are.
        every: steps between new points.
        parts: devices that points are split over, None for one.
    """

    judged = Judged("training")
    stationary = made_ahead = False
    fields: tuple[str, ...] = LeastSquaresRecord._fields

    def __init__(
        self, prepared: Prepared, params: PyTree, redraw: Resampling | None, every: int, parts: Parts | None = None
    ) -> None:
        self._prepared, self._redraw, self._every, self._parts = prepared, redraw, every, parts
        self.on_many = parts is not None
        self._state = begun(prepared, params)
        self._params = self._best = self._start = params
        self._inputs = prepared.inputs
        self._loss: float | None = None
        self.best_error = float("inf")
        self._rejections = self._steps = self._run = 0
        self._best_run = -1
        self._start_loss = float("nan")
        self._ended: list[_Ended] = []
        again = redraw is None and prepared.may_begin_again
        #: The metrics of the runs that may follow, and None for going on with the best.
        self._restarts: list[Metric | None] = [Metric.SIZES, Metric.UNITS, None] if again else []

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

    def _placed(self, inputs: tuple[Points, ...]) -> tuple[Points, ...]:
        """New points, on the devices if there are several."""
        if self._parts is None:
            return inputs
        pairs = zip(inputs, self._prepared.shapes, strict=True)
        return tuple(split_points(self._parts, points, shape) for points, shape in pairs)

    def kept(self) -> Kept:
        """All that the steps to come depend on."""
        trees = {"params": self._params, "best": self._best, "start": self._start, "state": self._state}
        if self._redraw is not None:
            trees["points"] = self._inputs
        notes = {name: getattr(self, name) for name in _NUMBERS}
        ended = [[parameters.raveled(run.params), run.loss, list(run.state), run.reason] for run in self._ended]
        restarts = [None if metric is None else int(metric) for metric in self._restarts]
        return Kept(trees, {**notes, "ended": ended, "restarts": restarts})

    def restore(self, kept: Kept, begun: bool) -> None:
        """Go on from there."""
        trees, notes = kept
        self._params, self._best, self._start, self._state = (
            trees[name] for name in ("params", "best", "start", "state")
        )
        self._inputs = trees.get("points", self._inputs)
        for name in _NUMBERS:
            setattr(self, name, notes[name])
        self._restarts = [None if metric is None else Metric(metric) for metric in notes["restarts"]]
        self._ended = [
            _Ended(parameters.unraveled(flat, self._start), loss, LeastSquaresState(*state), reason)
            for flat, loss, state, reason in notes["ended"]
        ]

    def updates(
        self, epoch: int, printing: bool, watched: bool, done: Sequence[Any] = ()
    ) -> Generator[tuple[int, int, LeastSquaresRecord]]:
        """Make one step, unless it is done."""
        if done:
            return
        if self._redraw is not None and epoch % self._every == 0:
            self._inputs = self._placed(self._redraw.points(epoch))
        before = self._params
        inputs = self._prepared.points(epoch, self._inputs)
        self._params, self._state, record = made_step(self._prepared, before, inputs, self._state)
        if epoch == 0 and record.status == Status.UNUSABLE:
            loss_at(self._prepared.functions, before, self._inputs)  # raises, and names the term
        if epoch == 0:
            self._start_loss = record.value
        self._loss, self._steps = record.new_value, self._steps + 1
        self._rejections = 0 if record.accepted else self._rejections + 1
        yield 0, 1, record

    def evaluate(self) -> Evaluated:
        """The loss on the points of the last step."""
        if self._loss is None:
            self._loss = loss_at(self._prepared.functions, self._params, self._inputs)
        # In one run over fixed points the loss rises by rounding at most, and later parameters are closer to the end.
        onward = self._redraw is None and self._best_run == self._run
        if self._loss <= self.best_error or onward:
            self.best_error, self._best, self._best_run = self._loss, self._params, self._run
        return Evaluated(self._loss, {})

    def restore_best(self) -> bool:
        """Go back to the parameters with the lowest loss."""
        self._params = self._best
        return True

    @staticmethod
    def facts() -> Facts:
        """Nothing but that there are no test data: residuals say all that is known."""
        return Facts(tested=False)

    def why_finished(self, record: LeastSquaresRecord) -> str:
        """Why the step with this record is the last; empty if it is not."""
        if self._redraw is not None or self._prepared.subsampled:
            return record.reason if self._rejections == MAX_REJECTIONS else ""
        if not self._restarts:
            return record.reason
        return self._after_run(record)

    def _after_run(self, record: LeastSquaresRecord) -> str:
        """What to do with the run of a small problem in one metric: go on, end, or begin again in the next one."""
        better = all(record.new_value < ended.loss for ended in self._ended)
        if record.status in CONVERGED and not record.degenerate and better:
            return record.reason
        if not record.reason and self._steps < (NEXT_PATIENCE if self._ended else PATIENCE):
            return ""
        self.evaluate()
        self._ended.append(_Ended(self._params, record.new_value, self._state, record.reason))
        metric = self._restarts.pop(0)
        if metric is not None:
            self._run += 1
            self._params, self._loss, self._steps = self._start, self._start_loss, 0
            self._state = begun(self._prepared, self._start, metric)
            return ""
        self._run = min(range(len(self._ended)), key=lambda run: self._ended[run].loss)
        best = self._ended[self._run]
        self._params, self._state, self._loss = best.params, best.state, best.loss
        return best.reason
