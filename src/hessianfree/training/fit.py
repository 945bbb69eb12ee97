"""`hf.fit`: trains any objective, with the loop, the stopping rules and the files of `run_epochs`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path

from hessianfree.devices import meshes, placing
from hessianfree.devices.placing import Placer, on_mesh
from hessianfree.devices.processes import Processes
from hessianfree.engine.descent import IndexedBatches
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.objective.pieces import check_cuts, checked_size, in_pieces
from hessianfree.optimizers.base import Optimizer, norm
from hessianfree.optimizers.hessian_free import HessianFree
from hessianfree.support import checks
from hessianfree.support.runtime import keep_compiled_programs
from hessianfree.training import identity
from hessianfree.training.callbacks import ErrorSeries, Output, plots_file
from hessianfree.training.checkpoints import CheckpointSettings, Kept, keeping
from hessianfree.training.evaluation import judge_of
from hessianfree.training.facts import facts_of, facts_of_stored
from hessianfree.training.given import check_ready, checked_data, said
from hessianfree.training.leaves import copied
from hessianfree.training.loop import RunSettings, callbacks_of, run
from hessianfree.training.memory import check_fits
from hessianfree.training.results import Result, Run
from hessianfree.training.stored import StoredArrays
from hessianfree.training.trainee import Training


def fit(
    objective: Objective,
    params: PyTree,
    data: Any,
    optimizer: Any = None,
    *,
    max_epochs: int = 100,
    minibatch_size: int | None = None,
    test: Any = None,
    test_err: Any = None,
    target_err: float | None = None,
    mask: PyTree | None = None,
    plotting: bool = False,
    file_output: str | None = None,
    print_period: int | None = 10,
    max_seconds: float | None = None,
    callbacks: Sequence[object] = (),
    early_stopping: bool = True,
    seed: int = 0,
    checkpoint: Any = None,
    checkpoint_every: int | None = None,
    checkpoint_seconds: float | None = 60.0,
    resume: Any = False,
    metrics: Mapping[str, Any] | None = None,
    restore_best: bool = True,
    devices: Any = None,
    chunk_size: int | None = None,
) -> Result:
    """Minimise an objective over data; Ctrl-C ends the run cleanly, and everything found so far is returned.

    Args:
        objective: model and loss.
        params: where to start, any pytree of float32 or float64 arrays; they are not changed.
        data: a tuple (inputs, targets) or (inputs, targets, weights) of pytrees of arrays; or an iterable of such
            tuples, one for each update (a list, a generator, a torch or grain loader), gone through once per epoch.
            Arrays on a disk (np.memmap, HDF5, zarr) are read minibatch by minibatch, see docs/scale.md.
        optimizer: HessianFree(), SGD(), FirstOrder(...); HessianFree() by default.
        max_epochs: epochs at most.
        minibatch_size: examples per update where data are arrays, drawn without replacement; all by default.
        test: (inputs, targets) to evaluate on. By default all the data if they are arrays; for iterables, and
            minibatches from a disk, the mean loss of the epoch's updates is used, of those whose loss is finite.
        test_err: loss to evaluate with, as in Objective; the objective's own by default.
        target_err: test error below which to stop; by default 1e-6 for the named losses that cannot be negative, and
            never for others.
        mask: booleans in a pytree shaped like `params`; no update changes a parameter where it is True. None by
            default: all parameters are trained.
        plotting: whether to write `{file_output or "HF"}_plots.pkl` after each epoch, for `hf.dataplotter`.
        file_output: prefix of the files. If given, the parameters are written after each epoch to
            `{file_output}_params.safetensors`, each leaf under its key path, as `jax.tree_util.keystr` writes it.
        print_period: epochs between printed lines, None to be silent.
        max_seconds: seconds after which the present update is the last, counted from the call, compilation included.
        callbacks: objects with some of the methods on_start(run), on_update(epoch_number, update, updates, record),
            on_epoch(epoch) and on_end(result); see `hessianfree.callbacks`. The run ends if on_update or
            on_epoch returns True.
        early_stopping: whether a run with `test` ends if, from the twelfth epoch on, the test error is worse than nine
            epochs before. The noise of small minibatches is enough for that.
        seed: of the order of the examples.
        checkpoint: path of a file for checkpoints, which the run writes as it goes on and at its end; the one before
            stays beside it, with ".previous" added to its name. None for no checkpoints. See docs/runs.md.
        checkpoint_every: updates from one checkpoint to the next; None to count seconds alone.
        checkpoint_seconds: seconds from one checkpoint to the next, if there are not as many updates before; None to
            count updates alone.
        resume: True to go on from the checkpoint if there is one, so that the rest is bit for bit the run that was
            never interrupted; one that had ended returns at once. Or the path of another checkpoint.
        metrics: what else to compute after each epoch, name -> function (outputs, targets) -> number, or the name of a
            loss of Objective. It is computed on `test`, else on all the data if they are arrays, for one more pass over
            them, and once before the run. Functions are given numpy arrays, and do not know the weights of examples.
            Where targets are the labels of "softmax_cross_entropy", "accuracy" is always among the metrics: the share
            of labels that the largest output is at.
        restore_best: whether the parameters that a run with `test` returns, and writes to its files at the end, are
            those with the lowest test error; `last_params` are the last ones. A checkpoint holds the last ones, and a
            run that is resumed goes on with them.
        devices: None for one device, "all", or a mesh, `jax.make_mesh((8,), ("examples",))`: examples are split over
            its first axis, and parameters are held by every device, or split as they are given. The model must then
            treat every example by itself. None with arrays that are split already uses their devices. With several
            processes each calls `fit` with the same arguments; data that are not split already are the same arrays in
            each, or for each an iterable of its own, whose batches are parts of the batches of the run. See
            docs/scale.md.
        chunk_size: examples that are worked on at once: batches are gone through in pieces of at most so many, and
            memory is that of one piece. Results are the same but for rounding; a curvature product takes a quarter more
            work, as each piece is linearised again. All by default. See docs/scale.md.

    Returns:
        Parameters, history, and why the run ended.

    Raises:
        TypeError: if parameters, data, mask or optimizer are not of a kind that can be used.
        ValueError: if parameters or data do not fit the model, an iterable has no batches, or `chunk_size` is given
            and the loss of an example depends on the others.
        MemoryError: if the first update cannot fit into memory, with the estimate by parts and what lowers it.
        FileNotFoundError: if the folder of `file_output` does not exist.
        FileExistsError: if there is a checkpoint, and `resume` is False.
        OSError: if the checkpoint cannot be written, or another run uses its path.

    Example:
        >>> x = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
        >>> line = Objective(lambda params, x: x @ params["W"] + params["b"])
        >>> start = {"W": np.zeros((1, 1), np.float32), "b": np.zeros(1, np.float32)}
        >>> result = fit(line, start, (x, 2 * x + 1), print_period=None)
        >>> result.reason
        'the target error 1e-06 is reached'
    """
    began = time.perf_counter()
    keep_compiled_programs()
    optimizer = HessianFree() if optimizer is None else optimizer
    placer, params, data, test = _on_devices(devices, params, data, test)
    parts, processes = placer.parts, placer.processes
    processes.check_same(lambda: said(params, data, minibatch_size, optimizer, max_epochs, seed, test))
    with processes.settling():
        check_ready(objective, optimizer)
        target = _target(objective, test_err) if target_err is None else target_err
        shown, ended_by = (plotting, file_output, print_period), (max_seconds, callbacks, early_stopping)
        restores = restore_best if test is not None else False
        settings = RunSettings(max_epochs, minibatch_size, target, *shown, *ended_by, restores)
        keep = CheckpointSettings(checkpoint, checkpoint_every, checkpoint_seconds, resume)
        params = parameters.own(parameters.checked(params))
        source = checked_data(data, objective, params, settings.minibatch_size, checks.at_least("seed", seed, 0))
        free, size = _free(mask, params, optimizer), _chunk_size(chunk_size, optimizer)
    given = _identity(objective, params, optimizer, mask)
    given |= _identity_of_data(data if source.arrays is None else source.arrays, minibatch_size, test, test_err)
    processes.check_same(lambda: {**settings.said(), **{name: words() for name, words in given.items()}})
    with parameters.computing(params):
        started = params if parts is None else placing.whole(parts, params)
        batches = source.batches(placer)
        judge = judge_of(objective, started, source.whole, test, test_err, metrics, size, placer, minibatch_size)
    learner = _Learner(objective, started, optimizer, free, source.whole, size)
    look = partial(facts_of, objective, source.whole, minibatch_size)
    look = partial(facts_of_stored, objective, batches) if isinstance(batches, StoredArrays) else look
    trainee = Training(learner, batches, judge.evaluate, judge.judged, look=look, on_many=parts is not None)
    settings, series = settings.on(processes), _Series(optimizer)
    extra = [series, ErrorSeries(series.plots)] if settings.plotting else []
    kept_by = keeping(keep, trainee, given, series.plots, processes)
    with kept_by as kept, callbacks_of(settings, _files(settings, series, learner)) as chosen:
        return run(trainee, settings, [*extra, *chosen], began, kept, processes)


# ---- arguments -------------------------------------------------------------------------------------------------------


def _on_devices(devices: Any, params: PyTree, data: Any, test: Any) -> tuple[Placer, PyTree, Any, Any]:
    """The devices of the run, and what lies on them already in a form that fits."""
    arrays = data if isinstance(data, tuple) else ()
    parts = meshes.several(meshes.chosen(devices, arrays, test, params))
    params, arrays, test = on_mesh(parts, (params, arrays, test))
    placer = Placer(parts, Processes(meshes.processes_of(parts)))
    return placer, params, arrays if isinstance(data, tuple) else data, test


def _files(settings: RunSettings, series: _Series, learner: _Learner) -> list[Output]:
    """The files that the run writes after each epoch."""
    files = [plots_file(settings.file_output, series.plots)] if settings.plotting else []
    if settings.file_output is not None:
        files.append(Output(Path(f"{settings.file_output}_params.safetensors"), partial(_write_params, learner)))
    return files


def _chunk_size(chunk_size: Any, optimizer: object) -> int | None:
    """The size of pieces, checked."""
    if chunk_size is not None and not _makes_updates(optimizer):
        raise TypeError(
            f"chunk_size is given, but {type(optimizer).__name__} defines a step of its own, which is given the whole "
            "objective; use HessianFree, SGD or FirstOrder, or leave chunk_size out."
        )
    return checked_size(chunk_size)


def _target(objective: Objective, test_err: Any) -> float:
    """The test error to stop at, where errors start from zero."""
    loss = objective.loss if test_err is None else test_err
    return 1e-6 if isinstance(loss, str) and loss != "poisson" else -math.inf


def _free(mask: PyTree | None, params: PyTree, optimizer: object) -> PyTree | None:
    """1 where a parameter may change and 0 where the mask holds it; None without a mask."""
    if mask is None:
        return None
    if not _makes_updates(optimizer):
        raise TypeError(
            f"mask is given, but {type(optimizer).__name__} defines a step of its own, which knows no mask; use "
            "HessianFree, SGD or FirstOrder, or leave the mask out."
        )
    arrays = jax.tree.map(np.asarray, mask)
    if not parameters.same_shapes(arrays, params):
        raise ValueError(
            f"mask is {parameters.shapes(arrays)}, and the parameters are {parameters.shapes(params)}; the same "
            "structure and shapes are expected."
        )
    if any(leaf.dtype != np.bool_ for leaf in jax.tree.leaves(arrays)):
        raise TypeError(f"mask is {parameters.shapes(arrays)}; booleans are expected, True where nothing may change.")
    return jax.tree.map(lambda held: np.asarray(~held, parameters.precision(params)), arrays)


def _identity(
    objective: Objective, params: PyTree, optimizer: object, mask: PyTree | None
) -> dict[str, Callable[[], str]]:
    """What is trained, and by what; checkpoints belong to nothing else."""
    return {
        "parameters": lambda: identity.of_params(params),
        "model": lambda: identity.of_value(objective.model),
        "loss": lambda: identity.of_value(objective.loss),
        "random keys": lambda: f"from seed {objective.seed}" if objective.stochastic else "none",
        "optimizer": lambda: identity.of_value(optimizer),
        "mask": lambda: identity.of_data(mask),
    }


def _identity_of_data(data: Any, size: int | None, test: Any, test_err: Any) -> dict[str, Callable[[], str]]:
    """What it is trained and tested on."""
    return {
        "data": lambda: identity.of_data(data) if isinstance(data, Batch) else type(data).__name__,
        "minibatch size": lambda: str(size),
        "test data": lambda: identity.of_data(test),
        "test loss": lambda: identity.of_value(test_err),
    }


def _makes_updates(optimizer: object) -> bool:
    """Whether the loop may call `update`: not for an optimizer that defines `step` itself."""
    return isinstance(optimizer, Optimizer) and type(optimizer).step is Optimizer.step


# ---- what is trained -------------------------------------------------------------------------------------------------


class _Learner:
    """Parameters of an objective and the optimizer's state.

    Args:
        objective: what is minimised.
        params: checked.
        optimizer: makes the updates.
        free: where they may change, or None.
        whole: the data of all batches, which were looked at; None where each batch is new.
        size: of the pieces of a batch, None for whole batches.
    """

    def __init__(
        self,
        objective: Objective,
        params: PyTree,
        optimizer: Any,
        free: PyTree | None,
        whole: Batch | None,
        size: int | None,
    ) -> None:
        self.objective, self.params, self.optimizer = objective, params, optimizer
        self.state = optimizer.init(params)
        self._free, self._new_data, self._makes_updates = free, whole is None, _makes_updates(optimizer)
        self._size, self._cuts = size, size is None  # whether it is known that batches can be cut
        self._fits = False  # whether it is known that updates fit into memory
        if whole is not None:
            self._check_cuts(whole)

    def _check_cuts(self, batch: Batch) -> None:
        """Refuse pieces where examples depend on each other, found on the first batch."""
        if not self._cuts:
            with parameters.computing(self.params):
                traced = self.objective.traced(self.params, batch, curved=False, new_data=self._new_data)
                check_cuts(traced, self.params, batch, self._size, built_in=False)
            self._cuts = True

    def update(self, batch: Batch, printing: bool) -> Any:
        """One update."""
        if not self._makes_updates:
            self.params, self.state, record = self.optimizer.step(self.objective, self.params, self.state, batch)
            return record
        optimizer, params, state = self.optimizer, self.params, self.state
        with parameters.computing(params):
            self._check_cuts(batch)
            traced = self.objective.traced(params, batch, state.updates, optimizer.curved, self._new_data)
            problem = in_pieces(traced, self._size, batch)
            self._fits = self._fits or check_fits(problem, params, batch, optimizer)
            made = optimizer.observed_update(self.objective, problem, params, batch, state, self._free)
            self.params, self.state = parameters.returned(made.params, params), made.state
        return made.record

    @property
    def makes_several(self) -> bool:
        """Whether nothing looks at single updates, or decides them."""
        optimizer = self.optimizer
        return self._makes_updates and optimizer.several and not optimizer.plotting and not self.objective.stochastic

    def update_several(self, last: Batch, minibatches: IndexedBatches, start: int, count: int) -> Sequence[Any]:
        """Make so many updates in one compiled call."""
        optimizer, params, state = self.optimizer, self.params, self.state
        with parameters.computing(params):
            traced = self.objective.traced(params, last, state.updates, optimizer.curved, self._new_data)
            problem = in_pieces(traced, self._size)
            made, after, records = optimizer.update_several(
                problem, params, minibatches, start, count, state, self._free
            )
            if all(record.accepted for record in records):
                self.params, self.state = parameters.returned(made, params), after
        return records

    def kept(self) -> Kept:
        """The parameters and the optimizer's state."""
        if isinstance(self.optimizer, Optimizer):
            return Kept({"params": self.params, "state": self.optimizer.to_keep(self.state)}, {})
        return Kept(copied({"params": self.params, "state": self.state}), {})  # its step may change or donate them

    def restore(self, kept: Kept) -> None:
        """Go on from there."""
        self.params, self.state = kept.trees["params"], kept.trees["state"]

    def move_to(self, params: PyTree) -> None:
        """Take these parameters."""
        self.params = params

    def evaluated(self) -> PyTree:
        """The parameters to judge the run by."""
        judged = getattr(self.optimizer, "to_evaluate", None)
        return self.params if judged is None else judged(self.params, self.state)


def _write_params(learner: _Learner, file: BinaryIO) -> None:
    """Write the parameters as they are now, each leaf under its key path."""
    from safetensors.numpy import save

    leaves = tree_leaves_with_path(learner.params)
    file.write(save({keystr(path) or "params": np.array(leaf, order="C") for path, leaf in leaves}))


class _Series:
    """A callback that collects the series of the plots from the records.

    Args:
        optimizer: says which.
    """

    def __init__(self, optimizer: object) -> None:
        self.optimizer, self.plots = optimizer, dict[str, list[float]]()
        self.run: Run | None = None
        self.norm = math.nan

    def on_start(self, run: Run) -> None:
        """Keep the view of the run."""
        self.run, self.norm = run, _norm(run.params)

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Add to each series."""
        if self.run is None or not isinstance(self.optimizer, Optimizer) or not self.optimizer.plotting:
            return
        for name, value in self.optimizer.series(record, self.norm).items():  # the norm is that before the update
            self.plots.setdefault(name, []).append(value)
        self.norm = _norm(self.run.params)


def _norm(params: PyTree) -> float:
    return math.hypot(*map(norm, jax.tree.leaves(params)))
