"""`hf.least_squares` minimises residuals: physics-informed networks, inverse problems, curve fitting."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hessianfree.devices import meshes
from hessianfree.devices.placing import whole
from hessianfree.devices.processes import Processes
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.balancing import balancing, how_balanced
from hessianfree.squares.by_residual import ByResidual, how_drawn, redrawing
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options, moved_inside
from hessianfree.squares.parting import part_for
from hessianfree.squares.result import LeastSquaresResult
from hessianfree.squares.runs import Steps
from hessianfree.squares.same_run import said_of
from hessianfree.squares.split import check_splits, off_mesh_points, points_of, split
from hessianfree.support import checks
from hessianfree.support.runtime import keep_compiled_programs
from hessianfree.training.checkpoints import CheckpointSettings, keeping
from hessianfree.training.loop import RunSettings, callbacks_of, run


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
    resample: Callable[[int], Sequence[Any]] | ByResidual | None = None,
    resample_every: int = 1,
    balance_every: int | None = None,
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
    GiB they make it by parts, which is logged. Where lambda is lost in the rounding of J'J "dense" divides J by
    a triangle first. "cg" makes only products with J: nothing of size P x P or N x P exists, but up to `cg_iterations`
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
            network have a common unit, and there that is faster. Beside them a few parameters in other units, at most
            a tenth of all, such as unknown coefficients, have their norms.
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
            in the same shapes, with None for a term that keeps its points; or a `hf.ByResidual`, which draws them where
            the residuals are large; None to keep all points. With it, a single failed step does not end the run.
        resample_every: steps between calls of `resample`.
        balance_every: steps between changes of the weights, None to keep them. They are multiplied by factors that
            make the traces of the terms' J'J alike, which may help where conditions and equations compete. The loss
            of results and `target_err` is that of the given weights, and the last parameters are returned.
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
        subsample: share of the points of each term, in (0, 1], that a step is made from, other ones in each step. The
            loss on all points decides on the step, and a single failed one does not end the run. For large networks
            far from the solution. On one device, and not with sparse terms. By default all points; where a step from
            all of them takes more than 1e11 operations, and solver is "auto", a quarter until that gains too little,
            which is a heuristic. 1 for all points from the start.

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
    processes, residuals = Processes(meshes.processes_of(parts)), off_mesh_points(residuals)
    stated = solver, init_damping, cg_iterations, bounds, fixed, loss, scale, sigma, x_scale, gtol, ftol, xtol
    options = Options(*stated, chunk_size, subsample)
    checks.at_least("max_steps", max_steps, 0)
    restores = resample is None and balance_every is None  # else the loss means another thing from step to step
    limits = max_steps, None, target_err, False, None, print_period, max_seconds, callbacks, False, restores
    settings = RunSettings(*limits, unit="step", unfinished="not converged: ")
    keep = CheckpointSettings(checkpoint, checkpoint_every, checkpoint_seconds, resume)
    with parameters.computing(params := _start(params)):
        with processes.settling():
            prepared = prepare(options, residuals, params)
            redraw = redrawing(resample, prepared.terms, chunk_size, parts)
            balance = balancing(balance_every, prepared.functions, prepared.terms, parts)
            part = part_for(options, prepared, residuals, params) if parts is None else None
            given = said_of(prepared, params, options, how_drawn(resample, resample_every), how_balanced(balance_every))
            if devices is not None:
                check_splits(prepared.terms)
        processes.check_same(lambda: {**settings.said(), **{name: said() for name, said in given.items()}})
        prepared, start = _on_devices(parts, prepared, moved_inside(params, prepared.box))
        trainee, settings = Steps(prepared, start, redraw, resample_every, balance, parts, part), settings.on(processes)
        kept_by = keeping(keep, trainee, given, processes=processes)
        with prepared.threads(), kept_by as kept, callbacks_of(settings) as chosen:
            ended = run(trainee, settings, chosen, began, kept, processes)
    return LeastSquaresResult.of(ended, residuals, options)


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
