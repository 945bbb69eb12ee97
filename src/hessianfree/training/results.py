"""What a run records: its epochs, the result, and a live view of a run that goes on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.diagnosis.course import loss_after
from hessianfree.diagnosis.facts import Facts, from_plain, plain
from hessianfree.engine import reprs
from hessianfree.engine.trees import PyTree
from hessianfree.io.archives import Kind, write_archive
from hessianfree.io.files import write_atomically
from hessianfree.io.trees import Arrays, pack, unpack
from hessianfree.training import records
from hessianfree.training.judging import Judged, read_only

#: The files that `hf.load` reads: their description says whether they hold a network or a result.
SAVED = Kind("saved network or result", 1)


#: Why a run ended that Ctrl-C or SIGTERM ended.
INTERRUPTED = "interrupted; the best parameters so far are kept"


class Epoch(NamedTuple):
    """One epoch.

    Attributes:
        number: from 0.
        test_error: the error after it, on test data where there are any, see `Result.judged`.
        seconds: since the start of the run.
        updates: the optimizer's records of its updates.
        metrics: what else was computed on the data of the error, name -> value: "accuracy" where targets are class
            labels, and the metrics that were asked for.
    """

    number: int
    test_error: float
    seconds: float
    updates: list[Any]
    metrics: Mapping[str, float] = {}

    def __repr__(self) -> str:
        return reprs.fields(self, updates=f"<{len(self.updates)} records>")


class Standing(Protocol):
    """Where a run stands: parameters, and the best of them so far."""

    #: How the errors come about.
    judged: Judged

    @property
    def params(self) -> PyTree:
        """The parameters as they are now."""

    @property
    def best_params(self) -> PyTree:
        """The parameters with the lowest test error so far."""

    @property
    def best_error(self) -> float:
        """That error; infinite before the first evaluation."""


class Run:
    """A live, read-only view of a run, for callbacks: each attribute shows the run as it is now.

    Copy arrays that you want to keep: those of a network change with its weights.

    Args:
        standing: gives parameters and the best of them.
        epochs: the list that the run adds its epochs to.
        begun: the list that it adds the records of the epoch under way to.
    """

    def __init__(self, standing: Standing, epochs: list[Epoch], begun: list[Any]) -> None:
        self._standing, self._epochs, self._begun = standing, epochs, begun

    @property
    def params(self) -> PyTree:
        """The parameters as they are now; for a network its flat weights."""
        return jax.tree.map(_read_only, self._standing.params)

    @property
    def best_params(self) -> PyTree:
        """The parameters with the lowest test error so far."""
        return jax.tree.map(_read_only, self._standing.best_params)

    @property
    def best_error(self) -> float:
        """That error; infinite before the first evaluation."""
        return self._standing.best_error

    @property
    def epochs(self) -> tuple[Epoch, ...]:
        """The epochs that are complete."""
        return tuple(self._epochs)

    @property
    def judged(self) -> Judged:
        """What the errors are of, and which numbers are shares of the examples."""
        return self._standing.judged

    def __repr__(self) -> str:
        return f"Run({_counted(self._epochs, 'epoch')}, best {self.judged.error(self.best_error)})"

    @property
    def begun(self) -> tuple[Any, ...]:
        """The records of the updates in the epoch that is not complete."""
        return tuple(self._begun)


def _read_only(leaf: Any) -> Any:
    return read_only(leaf) if isinstance(leaf, np.ndarray) else leaf


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a run ended with; `fit`, `run_epochs` and `least_squares` all return one.

    Attributes:
        params: the parameters to use, for a network its flat weights, (P,): the best ones where the run had test data
            and `restore_best`, else the last ones.
        best_params: the parameters with the lowest test error; a running average, where the optimizer keeps one.
        best_error: that error.
        reason: why the run ended.
        epochs: a record of each epoch, with those of its updates.
        solver: the class name of the optimizer; for least squares "dense", "dual" or "cg".
        fields: names of the records' fields, as far as they are known without a record.
        judged: what the errors are of: `judged.on` is "test", "training" or "updates".
        last_params: the parameters after the last update.
        facts: what the run knew of its data and its model, for `hf.diagnose`.
    """

    params: PyTree
    best_params: PyTree
    best_error: float
    reason: str
    epochs: list[Epoch]
    solver: str
    fields: tuple[str, ...] = ()
    judged: Judged = Judged()  # noqa: RUF009  # it holds nothing that changes
    last_params: PyTree = None
    facts: Facts = Facts()  # noqa: RUF009  # it holds nothing that changes

    def __post_init__(self) -> None:
        if self.last_params is None:
            object.__setattr__(self, "last_params", self.params)

    @property
    def history(self) -> dict[str, NDArray[Any]]:
        """Everything recorded, as arrays by name.

        One entry for each update: every field that all records share, and `epoch`. One entry for each epoch:
        `test_error` and `seconds`, counted from the call.
        """
        updates = [record for epoch in self.epochs for record in epoch.updates]
        names = shared_fields(updates) if updates else self.fields
        found = {name: np.array([getattr(record, name) for record in updates]) for name in names}
        found["epoch"] = np.array([epoch.number for epoch in self.epochs for _ in epoch.updates], int)
        found["test_error"] = np.array(self.test_errors)
        found["seconds"] = np.array([epoch.seconds for epoch in self.epochs])
        return found

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM ended the run."""
        return self.reason.startswith(INTERRUPTED)

    @property
    def test_errors(self) -> list[float]:
        """The test error after each epoch."""
        return [epoch.test_error for epoch in self.epochs]

    @property
    def best_epoch(self) -> Epoch | None:
        """The epoch with the lowest test error; None before the first, or if no error was a number."""
        return next((epoch for epoch in self.epochs if epoch.test_error == self.best_error), None)

    @property
    def metrics(self) -> dict[str, NDArray[np.float64]]:
        """The metrics of all epochs, name -> (epochs,); NaN where an epoch has none of that name."""
        names = dict.fromkeys(name for epoch in self.epochs for name in epoch.metrics)
        return {name: np.array([epoch.metrics.get(name, np.nan) for epoch in self.epochs]) for name in names}

    @property
    def value(self) -> float:
        """The loss after the last update, on the update's own batch; without updates the error at the start."""
        last = self.epochs[-1].updates[-1:] if self.epochs else []
        return loss_after(last[0]) if last else self.best_error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the result to one file; `hf.load` reads it.

        The file holds parameters, best and last parameters, errors, metrics, reason and all records. Parameters in
        dicts (of text or whole numbers), lists and tuples come back as they are, with numpy arrays as leaves. For other
        structures, such as Equinox modules, pass parameters like them: `hf.load(path, like=params)`. Records come back
        as `SavedRecord`, with the same fields. Of a least-squares fit the residuals are not saved, and with them
        `covariance`, `predict` and the like: `hf.least_squares(residuals, result.params, max_steps=0)` has them again.

        Args:
            path: the file, a safetensors file with metadata.

        Raises:
            TypeError: if the parameters are not arrays of floats.
            FileNotFoundError: if the folder does not exist.
            OSError: if the folder or the disk rejects the file.

        Example:
            >>> import os, tempfile
            >>> result = Result(np.ones(2), np.ones(2), 0.5, "done", [], "SGD")
            >>> result.save(os.path.join(tempfile.mkdtemp(), "result.safetensors"))
        """
        arrays: Arrays = {}
        description = {
            "holds": "result",
            "params": records.pack_tree(self.params, arrays, "params"),
            "best_params": records.pack_tree(self.best_params, arrays, "best_params"),
            "last_params": self._packed_last(arrays),
            "best_error": repr(float(self.best_error)),
            "reason": self.reason,
            "solver": self.solver,
            "fields": list(self.fields),
            "judged": {"on": self.judged.on, "shares": list(self.judged.shares)},
            "records": records.pack_epochs(self.epochs, arrays),
            "facts": pack(plain(self.facts), arrays, "facts"),
        }
        write_atomically(path, lambda file: write_archive(file, SAVED, arrays, description))

    def _packed_last(self, arrays: Arrays) -> dict[str, Any] | None:
        """The last parameters; None where they are `params`."""
        return None if self.last_params is self.params else records.pack_tree(self.last_params, arrays, "last_params")

    def __repr__(self) -> str:
        return self._line("epoch", f"best {self.judged.error(self.best_error)}")

    def _line(self, unit: str, error: str) -> str:
        done = _counted(self.epochs, unit)
        return f"{type(self).__name__}({done} by {self.solver}, {error}: {reprs.cut(self.reason)})"


def _counted(epochs: Sequence[Epoch], unit: str) -> str:
    return f"{len(epochs)} {unit}{'s' * (len(epochs) != 1)}"


def unpacked_result(description: dict[str, Any], arrays: Arrays, like: PyTree | None) -> Result:
    """The result that was saved; see `hf.load`.

    Raises:
        NeedsMoreError: if the parameters are of classes of the user's own, and `like` is None or does not fit.
        ValueError: if the description is not one of a result.
    """
    params, best = (records.unpack_tree(description[name], arrays, like) for name in ("params", "best_params"))
    last = description.get("last_params")
    epochs = [Epoch(*row) for row in records.unpack_epochs(description["records"], arrays)]
    names = (str(description[name]) for name in ("reason", "solver"))
    reason, solver = names
    fields = tuple(map(str, description["fields"]))
    judged = description.get("judged", {"on": "", "shares": []})
    if judged["on"] not in ("test", "training", "updates", ""):
        raise ValueError("its errors are of no known kind")
    return Result(
        params,
        best,
        float(description["best_error"]),
        reason,
        epochs,
        solver,
        fields,
        Judged(judged["on"], tuple(map(str, judged["shares"]))),
        None if last is None else records.unpack_tree(last, arrays, like),
        from_plain(unpack(description["facts"], arrays)),
    )


def shared_fields(updates: Sequence[Any]) -> list[str]:
    """The fields that all records have, in the order of the first record."""
    if not updates:
        return []
    kinds = {getattr(record, "_fields", ()) for record in updates}
    return [name for name in getattr(updates[0], "_fields", ()) if all(name in fields for fields in kinds)]
