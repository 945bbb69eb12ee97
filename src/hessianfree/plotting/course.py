"""The course of a run as arrays, from its result or from a file: all that a figure of it needs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.cg import storage_schedule
from hessianfree.io.archives import open_archive
from hessianfree.io.checkpoints import CHECKPOINT
from hessianfree.io.files import FileFormatError
from hessianfree.training.records import unpack_epochs
from hessianfree.training.results import SAVED, Epoch, Result, loss_after

Floats = NDArray[np.float64]
#: A field that only the records of least squares have, where an epoch is a step.
_OF_STEPS = "scaled_gradient"


@dataclass(frozen=True)
class RunCurves:
    """The course of a run, of E epochs and N updates.

    Attributes:
        solver: who made the updates, where that is known.
        reason: why the run ended; empty if it did not.
        counts: updates of each epoch, (E,); their sum is below N where an epoch is not complete.
        errors: the test error after each, (E,).
        seconds: when that was, (E,).
        metrics: others by name, (E,).
        fields: numbers of the records by name, (N,), NaN where a record has none.
        losses: the loss after each update, or before it where the records know no other, (N,).
        phases: the phase of each update, (N,) text, empty where there are none.
    """

    solver: str
    reason: str
    counts: NDArray[np.int64]
    errors: Floats
    seconds: Floats
    metrics: Mapping[str, Floats]
    fields: Mapping[str, Floats]
    losses: Floats
    phases: NDArray[np.str_]

    @property
    def updates(self) -> int:
        """How many there are, N."""
        return len(self.losses)

    @property
    def ends(self) -> NDArray[np.int64]:
        """Updates made when each epoch was complete, (E,)."""
        return np.cumsum(self.counts)

    @property
    def unit(self) -> str:
        """What an epoch is called."""
        return "step" if _OF_STEPS in self.fields else "epoch"

    @property
    def best(self) -> int | None:
        """The epoch with the lowest error; None if there is none."""
        finite = np.isfinite(self.errors)
        return int(np.argmin(np.where(finite, self.errors, np.inf))) if finite.any() else None

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Which updates changed nothing, (N,)."""
        return self.fields["accepted"] == 0 if "accepted" in self.fields else np.zeros(self.updates, bool)

    @property
    def used(self) -> Floats | None:
        """The iteration of CG whose solution each update used, (N,); None where CG stored none on its way."""
        if not {"cg_iterations", "backtracked"} <= set(self.fields):
            return None
        counts = zip(self.fields["cg_iterations"], self.fields["backtracked"], strict=True)
        return np.array([used_iteration(made, passed) for made, passed in counts], float)


def used_iteration(made: float, passed: float) -> float:
    """The iteration of CG whose solution an update used, by the iterations made and the stored iterates passed over.

    Example:
        >>> used_iteration(12, 0), used_iteration(12, 1), used_iteration(12, 4)
        (12.0, 10.0, 6.0)
    """
    if not np.isfinite(made + passed):
        return np.nan
    stored = storage_schedule(int(made))
    return float(stored[max(len(stored) - 1 - int(passed), 0)] + 1)


def course_of(epochs: Sequence[Any], solver: str, reason: str, begun: Sequence[Any] = ()) -> RunCurves:
    """The course of a run.

    Args:
        epochs: its complete epochs.
        solver: who made the updates.
        reason: why the run ended.
        begun: records of an epoch that is not complete.
    """
    records = [record for epoch in epochs for record in epoch.updates] + list(begun)
    kinds = {getattr(record, "_fields", ()) for record in records}
    columns = {name: _column(records, name) for name in dict.fromkeys(itertools.chain(*kinds))}
    metrics = dict.fromkeys(name for epoch in epochs for name in getattr(epoch, "metrics", {}))
    return RunCurves(
        solver=solver,
        reason=reason,
        counts=np.array([len(epoch.updates) for epoch in epochs], np.int64),
        errors=np.array([epoch.test_error for epoch in epochs], float),
        seconds=np.array([epoch.seconds for epoch in epochs], float),
        metrics={
            name: np.array([getattr(epoch, "metrics", {}).get(name, np.nan) for epoch in epochs], float)
            for name in metrics
        },
        fields={name: column for name, column in columns.items() if column is not None},
        losses=np.array([loss_after(record) for record in records], float),
        phases=np.array([getattr(record, "phase", "") for record in records], str),
    )


def _column(records: Sequence[Any], name: str) -> Floats | None:
    """The numbers of a field; None if it holds none."""
    values = [getattr(record, name, np.nan) for record in records]
    return np.array(values, float) if all(isinstance(value, (Real, np.bool_)) for value in values) else None


def read_course(path: str | os.PathLike[str]) -> RunCurves:
    """The course of a run from a file that `result.save` or a checkpoint wrote.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it is of another kind, of a newer version or damaged.
    """
    archive = open_archive(path, SAVED, CHECKPOINT)
    description = archive.description
    expected = "a saved result or a checkpoint"
    if description.get("holds", "result") != "result":
        found = "a saved network, which knows nothing of its training"
        raise FileFormatError(path, found, expected, "save what run_epochs returned, by result.save(path)")
    try:
        epochs = [Epoch(*row) for row in unpack_epochs(description["records"], archive.arrays())]
        reason = str(description["reason"])
        if archive.kind == SAVED.name:
            return course_of(epochs, str(description["solver"]), reason)
        *epochs, unfinished = epochs
        identity = description["identity"]
        solver = str(identity.get("solver") or identity.get("optimizer", "")).partition("(")[0]
        return course_of(epochs, solver, reason, unfinished.updates)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        found = f"contents that do not fit together ({type(error).__name__}: {error})"
        raise FileFormatError(path, found[:300], expected, "give another file") from error


def course_of_result(result: Result) -> RunCurves:
    """The course of the run that gave this result."""
    return course_of(result.epochs, result.solver, result.reason)
