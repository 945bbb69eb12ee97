"""The course of a run from a file, and what a figure computes of it."""

from __future__ import annotations

import os

import numpy as np

from hessianfree.diagnosis.course import Floats, RunCourse
from hessianfree.engine.cg import storage_schedule
from hessianfree.io.archives import open_archive
from hessianfree.io.checkpoints import CHECKPOINT
from hessianfree.io.files import FileFormatError
from hessianfree.training.records import unpack_epochs
from hessianfree.training.results import SAVED, Epoch


def used_iterations(course: RunCourse) -> Floats | None:
    """The iteration of CG whose solution each update used, (N,); None where CG stored none on its way."""
    if not {"cg_iterations", "backtracked"} <= set(course.fields):
        return None
    counts = zip(course.fields["cg_iterations"], course.fields["backtracked"], strict=True)
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


def read_course(path: str | os.PathLike[str]) -> RunCourse:
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
            return RunCourse.of_epochs(epochs, str(description["solver"]), reason)
        *epochs, unfinished = epochs
        identity = description["identity"]
        solver = str(identity.get("solver") or identity.get("optimizer", "")).partition("(")[0]
        return RunCourse.of_epochs(epochs, solver, reason, unfinished.updates)
    except (LookupError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, FileFormatError):
            raise
        found = f"contents that do not fit together ({type(error).__name__}: {error})"
        raise FileFormatError(path, found[:300], expected, "give another file") from error
