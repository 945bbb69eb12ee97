"""`hf.fit`: training any objective, with the loop, the stopping and the observers of `run_epochs`."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.objective import data as data_checks
from hessianfree.objective import parameters
from hessianfree.objective.diagnosis import why_not_finite
from hessianfree.objective.objective import Objective
from hessianfree.optimizers.hessian_free import HessianFree
from hessianfree.support import checks
from hessianfree.training import callbacks as observers
from hessianfree.training import loop as training


@dataclass(frozen=True)
class FitResult:
    """What a fit ended with.

    Attributes:
        params: the last parameters.
        best_params: those with the lowest test error; a running average, where the optimizer keeps one.
        best_error: that error.
        reason: why the run ended.
        history: arrays by name: the fields of the updates' records, one entry each, with their `epoch`; and of the
            epochs `test_error` and `seconds` since the call.
        epochs: the same as records.
    """

    params: PyTree
    best_params: PyTree
    best_error: float
    reason: str
    history: dict[str, NDArray[Any]]
    epochs: list[training.Epoch]


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
    max_seconds: float | None = None,
    print_period: int | None = 10,
    callbacks: Sequence[Any] = (),
    early_stopping: bool = True,
    seed: int = 0,
) -> FitResult:
    """Minimise an objective over data; Ctrl-C ends the run cleanly, with everything found so far.

    Args:
        objective: model and loss.
        params: where to start, any pytree of float32 or float64 arrays; they are not changed.
        data: a tuple (inputs, targets) or (inputs, targets, weights) of pytrees of arrays; or an iterable of such
            tuples, one for each update (a list, a generator, a torch or grain loader), gone through once per epoch.
        optimizer: HessianFree(), SGD(), FirstOrder(...); HessianFree() by default.
        max_epochs: epochs at most.
        minibatch_size: examples per update where data are arrays, drawn without replacement; all by default.
        test: (inputs, targets) to evaluate on. By default all the data if they are arrays; for iterables the mean loss
            of the epoch's updates stands in, of those whose loss is finite.
        test_err: loss to evaluate with, as in Objective; the objective's own by default.
        target_err: test error below which to stop; by default 1e-6 for the named losses that cannot be negative, and
            never for others.
        max_seconds: after which the update at hand is the last, counted from the call, compilation included.
        print_period: epochs between printed lines, None to be silent.
        callbacks: objects that are told what happens, by any of on_update(epoch_number, update, updates, record),
            on_epoch(epoch), with `number`, `test_error`, `seconds` and `updates`, and on_end(result), with `reason` and
            `epochs`. The run ends where one of the first two returns True.
        early_stopping: whether a run with `test` ends where, from the twelfth epoch on, the test error is worse than
            nine epochs before. Noise, as of small minibatches, is enough for that.
        seed: of the minibatches' order.

    Returns:
        Parameters, history, and why it ended.

    Raises:
        TypeError, ValueError: for parameters or data that do not fit the model, saying what was expected; and for an
            iterable without any batch.

    Example:
        >>> x = np.linspace(0, 1, 20, dtype=np.float32)[:, None]
        >>> line = Objective(lambda params, x: x @ params["W"] + params["b"])
        >>> start = {"W": np.zeros((1, 1), np.float32), "b": np.zeros(1, np.float32)}
        >>> result = fit(line, start, (x, 2 * x + 1), print_period=None)
        >>> result.reason
        'the target error 1e-06 is reached'
    """
    began = time.perf_counter()
    if not isinstance(objective, Objective):
        raise TypeError(f"objective is {objective!r}; hf.Objective(model, loss) is expected.")
    optimizer = HessianFree() if optimizer is None else optimizer
    if isinstance(optimizer, type) or not (hasattr(optimizer, "init") and hasattr(optimizer, "step")):
        hint = " For one of optax there is hf.opt.FirstOrder." if hasattr(optimizer, "update") else ""
        raise TypeError(f"optimizer is {optimizer!r}; one with init and step is expected, such as HessianFree().{hint}")
    settings = training.RunSettings(
        max_epochs=max_epochs,
        minibatch_size=minibatch_size,
        test=test,
        target_err=_target(objective, test_err) if target_err is None else target_err,
        print_period=print_period,
        max_seconds=max_seconds,
        callbacks=callbacks,
        early_stopping=early_stopping,
    )
    trainee = _Fit(objective, params, data, optimizer, settings, test_err, checks.at_least("seed", seed, 0))
    with observers.standard(None, settings) as told:
        result = training.run(trainee, settings, told, began)
    if not result.epochs:
        trainee.evaluate()
    return FitResult(
        trainee.params, trainee.best_params, trainee.best_error, result.reason, history(result.epochs), result.epochs
    )


def _mean_of_finite(values: Sequence[float]) -> float:
    """Updates on a batch whose loss is not finite were rejected, and say so: the others make the epoch's mean."""
    finite = [value for value in values if math.isfinite(value)]
    return float(np.mean(finite)) if finite else math.nan


def _target(objective: Objective, test_err: Any) -> float:
    """The test error to stop at, where errors start from zero."""
    loss = objective.loss if test_err is None else test_err
    return 1e-6 if isinstance(loss, str) and loss != "poisson" else -math.inf


def history(epochs: Sequence[training.Epoch]) -> dict[str, NDArray[Any]]:
    """Records as arrays by name.

    Args:
        epochs: of a run.

    Returns:
        Every field of the updates' records, the `epoch` of each, and `test_error` and `seconds` of the epochs.
    """
    records = [record._asdict() for epoch in epochs for record in epoch.updates]
    names = list(records[0]) if records else []
    found = {name: np.array([record[name] for record in records]) for name in names}
    found["epoch"] = np.array([epoch.number for epoch in epochs for _ in epoch.updates], int)
    found["test_error"] = np.array([epoch.test_error for epoch in epochs])
    found["seconds"] = np.array([epoch.seconds for epoch in epochs])
    return found


class _Fit:
    """Parameters in training, as the loop sees them."""

    def __init__(
        self,
        objective: Objective,
        params: PyTree,
        data: Any,
        optimizer: Any,
        settings: training.RunSettings,
        test_err: Any,
        seed: int,
    ) -> None:
        self.objective, self.optimizer = objective, optimizer
        self.params = self.best_params = parameters.own(parameters.checked(params))
        self.state = optimizer.init(self.params)
        self.best_error = math.inf
        self.tested = settings.test is not None
        self.batches = _batches(data, objective, self.params, settings.minibatch_size, np.random.default_rng(seed))
        self.evaluated_by = (
            objective if test_err is None else Objective(objective.model, test_err, stochastic=objective.stochastic)
        )
        self.test: Batch | None = getattr(self.batches, "whole", None)
        self._last_values: list[float] = []
        if self.tested:
            self.test = _as_batch(settings.test, self.params)
            data_checks.check_some_known("test data", self.evaluated_by.loss, self.test)
        if self.test is not None:
            error = self._test_error(self.params)  # tells of data that do not fit before the work starts
            if self.tested and math.isnan(error) and isinstance(self.evaluated_by.loss, str):
                raise ValueError(f"The test error is {error} at the start; {self._why_not_finite(self.test)}.")

    def updates(self, epoch: int, printing: bool) -> Generator[tuple[int, int | None, Any]]:
        """One for each batch."""
        self._last_values = []
        count = self.batches.count()
        training.tell_batches(self.optimizer, count)
        try:
            for number, batch in enumerate(self.batches.of_epoch(epoch)):
                self.params, self.state, record = self.optimizer.step(self.objective, self.params, self.state, batch)
                self._last_values.append(getattr(record, "new_value", record.value))
                yield number, count, record
        finally:
            training.tell_batches(self.optimizer, 1)  # as it was: what comes next may be a loop of the user's own

    def evaluate(self) -> float:
        """The error on the test data, or that of the last epoch's updates."""
        params = self.optimizer.to_evaluate(self.params, self.state)
        error = _mean_of_finite(self._last_values) if self.test is None else self._test_error(params)
        if error < self.best_error:
            self.best_error, self.best_params = error, params
        return error

    def _why_not_finite(self, batch: Batch) -> str:
        with parameters.computing(self.params):
            problem = self.evaluated_by.traced(self.params, batch, curved=False)
            return why_not_finite(problem, self.params, batch)

    def _test_error(self, params: PyTree) -> float:
        return self.evaluated_by.value(params, self.test)


def _batches(
    data: Any, objective: Objective, params: PyTree, size: int | None, rng: np.random.Generator
) -> _Arrays | _Iterable:
    if isinstance(data, list) and any(hasattr(item, "shape") for item in data):
        raise TypeError("data is a list of arrays, and a list is taken as batches; give a tuple (inputs, targets).")
    if isinstance(data, tuple):
        return _Arrays(_as_batch(data, params), size, objective, rng)
    if not isinstance(data, Iterable) or isinstance(data, (str, dict)) or hasattr(data, "shape"):
        raise TypeError(
            f"data is a {type(data).__name__}; a tuple (inputs, targets) of arrays, or an iterable of such batches, is "
            "expected."
        )
    if size is not None:
        raise ValueError("minibatch_size goes with arrays; an iterable gives the batches as they come.")
    return _Iterable(data, objective, params)


def _as_batch(given: Any, params: PyTree) -> Batch:
    """Data in the precision of the parameters."""
    with parameters.computing(params):
        return parameters.as_batch(given, parameters.precision(params))


class _Arrays:
    """Minibatches of arrays, in the order of a permutation."""

    def __init__(self, data: Batch, size: int | None, objective: Objective, rng: np.random.Generator) -> None:
        data_checks.check_some_known("data", objective.loss, data)
        self.whole, self.objective, self.rng = data, objective, rng
        self.size = min(size or len(data.weights), len(data.weights))

    def count(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.whole.weights) // self.size)

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """All of them; the last is filled up by examples that weigh nothing."""
        count = len(self.whole.weights)
        if self.size == count:
            yield self.whole
            return
        order = self.rng.permutation(count)
        for start in range(0, count, self.size):
            yield padded(_chosen(self.whole, order[start : start + self.size]), self.size, self.objective)


class _Iterable:
    """Batches as the user's iterable gives them."""

    def __init__(self, data: Iterable[Any], objective: Objective, params: PyTree) -> None:
        self.data, self.objective, self.params = data, objective, params
        self.size: int | None = None

    def count(self) -> int | None:
        """Batches in an epoch, if the iterable knows."""
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:
            return None

    def of_epoch(self, epoch: int) -> Iterator[Batch]:
        """All of them; one smaller than the first is filled up by examples that weigh nothing.

        Raises:
            ValueError: if there is none in the first epoch.
        """
        for given in self.data:
            batch = _as_batch(given, self.params)
            self.size = self.size or len(batch.weights)
            yield padded(batch, self.size, self.objective)
        if self.size is None:
            raise ValueError(
                "The data gave no batch at all: the iterable is empty, or a generator that was used up before."
            )


def _chosen(batch: Batch, indices: NDArray[np.intp]) -> Batch:
    return jax.tree.map(lambda leaf: leaf[indices], batch)


def padded(batch: Batch, size: int, objective: Objective) -> Batch:
    """Fill a batch up to a common size, so that nothing is compiled for the remainder.

    Args:
        batch: the batch.
        size: the common size; a larger batch stays as it is.
        objective: if its loss is one number for the batch, which knows no weights, the batch stays as it is too.
    """
    count = len(batch.weights)
    if count >= size or objective.reduction == "mean":
        return batch
    filled = _chosen(batch, np.concatenate([np.arange(count), np.zeros(size - count, int)]))
    weights = np.array(filled.weights)
    weights[count:] = 0
    return filled._replace(weights=weights)
