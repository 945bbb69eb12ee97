"""Callbacks that log a run: a CSV file, and the event files of TensorBoard."""

from __future__ import annotations

import csv
import io
import itertools
import logging
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from hessianfree.io.checkpoints import check_place
from hessianfree.io.files import write_atomically
from hessianfree.objective import parameters
from hessianfree.support import checks
from hessianfree.training.results import Epoch, Result, Run

logger = logging.getLogger("hessianfree")
#: Seconds between two writes at least, so that fast runs do not wait for the disk.
PERIOD = 1.0

Row = dict[str, Any]


class CSV:
    """Writes one row per update to a CSV file, as the run goes on.

    The columns are `epoch`, `update` and the fields of the records, as `hessianfree.callbacks` lists them. Then follow
    `test_error`, `seconds` and the metrics of the epoch; the row of its last update has them, and they are empty in the
    others. Rows are added once a second at most, and the last ones at the end.

    The file always holds one run, whole: a new run replaces what was there, and a run that is resumed first writes the
    rows that its checkpoint knows. If the disk rejects rows, that is logged, and they are written with the next ones.

    Args:
        path: the file.

    Raises:
        TypeError: if it is not a path.
        OSError: if a folder is there, or there is no folder around it.

    Example:
        >>> import os, tempfile
        >>> import hessianfree as hf
        >>> path = os.path.join(tempfile.mkdtemp(), "run.csv")
        >>> x = np.linspace(-1, 1, 20, dtype=np.float32)[:, None]
        >>> net = hf.FFNet([1, 3, 1], layers="Tanh", rng=0)
        >>> log = CSV(path)
        >>> result = net.run_epochs(x, x**2, hf.opt.SGD(0.1), max_epochs=2, print_period=None, callbacks=[log])
        >>> Path(path).read_text().splitlines()[0]
        'epoch,update,value,gradient_norm,update_norm,accepted,reason,test_error,seconds'
    """

    #: Where several processes share a run, the others leave it out.
    first_process_only = True

    records_only = True

    def __init__(self, path: str | os.PathLike[str]) -> None:
        check_place(path, "path", "run.csv")
        self.path = Path(path).absolute()  # wherever a callback changes the folder to
        self._run: Run | None = None
        self._columns: list[str] = []
        self._next = 0, 0  # epoch and update of the next row
        self._written = -math.inf

    def on_start(self, run: Run) -> None:
        """Write the rows that there are, in place of what was in the file."""
        self._run = run
        self._write_all()

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Write what is new, if it is time."""
        if time.perf_counter() - self._written >= PERIOD:
            self._write()

    def on_epoch(self, epoch: Epoch) -> None:
        """Write what is new, if it is time."""
        self.on_update(epoch.number, 0, None, None)

    def on_end(self, result: Result) -> None:
        """Write the rest."""
        self._write()

    def _write(self) -> None:
        """Add what is new, or write the whole file where the new rows have other columns or rows were rejected."""
        try:
            rows = list(self._rows(*self._next))
            if {*itertools.chain(*rows)} <= {*self._columns} and self.path.exists():
                with open(self.path, "a", encoding="utf-8", newline="") as file:
                    file.write(_text(self._columns, rows))
                self._went_on(rows)
            else:
                self._write_all()
        except OSError as error:  # what was found must not be lost for it
            logger.warning("Rows could not be written to %s: %s", self.path, error)
            self._columns = []  # the last row may be there in part
            self._written = time.perf_counter()

    def _write_all(self) -> None:
        rows = list(self._rows(0, 0))
        columns = _columns(rows)
        text = _text(columns, [{name: name for name in columns}, *rows])
        write_atomically(self.path, lambda file: file.write(text.encode()))
        self._columns = columns
        self._went_on(rows)

    def _went_on(self, rows: Sequence[Row]) -> None:
        if rows:
            last = rows[-1]
            self._next = (last["epoch"] + 1, 0) if "seconds" in last else (last["epoch"], last["update"] + 1)
        self._written = time.perf_counter()

    def _rows(self, epoch_number: int, update: int) -> Iterator[Row]:
        """The rows from an update on; the last one of an epoch only when the epoch is complete."""
        assert self._run is not None
        epochs, begun = self._run.epochs, self._run.begun
        for epoch in epochs[epoch_number:]:
            start = update if epoch.number == epoch_number else 0
            *rows, last = itertools.islice(_rows_of(epoch.number, epoch.updates), start, None)
            yield from rows
            yield {**last, **_of_epoch(epoch)}
        start = update if epoch_number == len(epochs) else 0
        yield from itertools.islice(_rows_of(len(epochs), begun[:-1]), start, None)


def _rows_of(epoch: int, records: Sequence[Any]) -> Iterator[Row]:
    for update, record in enumerate(records):
        yield {"epoch": epoch, "update": update, **_fields(record)}


def _fields(record: Any) -> Row:
    return {name: getattr(record, name) for name in getattr(record, "_fields", ())}


def _of_epoch(epoch: Epoch) -> Row:
    return {"test_error": epoch.test_error, "seconds": epoch.seconds, **getattr(epoch, "metrics", {})}


def _columns(rows: Iterable[Row]) -> list[str]:
    """All columns of these rows: what is said of epochs comes last."""
    names = ["epoch", "update"]
    of_epochs = ["test_error", "seconds"]
    for row in rows:
        keys = list(row)
        place = keys.index("test_error") if "test_error" in row else len(keys)
        names += [key for key in keys[:place] if key not in names]
        of_epochs += [key for key in keys[place:] if key not in of_epochs]
    return names + of_epochs


def _text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    file = io.StringIO()
    csv.DictWriter(file, columns, lineterminator="\n").writerows(rows)
    return file.getvalue()


class TensorBoard:
    """Writes the scalars of a run for TensorBoard: those of each update, and those of each epoch.

    The tags are `update/value` and the like for the fields of the records, as `hessianfree.callbacks` lists them, and
    `epoch/test_error`, `epoch/seconds` and `epoch/accuracy` or another metric. Numbers that are not finite are left
    out. The step of an update is its number in the run, from 0, and that of an epoch the number of updates so far.

    A run that is resumed goes on in the same folder; TensorBoard then leaves out what was written after the checkpoint.
    Another run in the folder replaces the first one on the screen. To compare runs, give each a folder of its own.

    Args:
        folder: made if it does not exist.
        every: updates from one point to the next. A point takes longer than a fast first-order update.
        histograms: whether to add a histogram of each array of parameters after each epoch.

    Raises:
        ImportError: if tensorboardX is not installed.
        TypeError: if the folder is not a path.
        ValueError: if `every` is not a whole number above 0.

    Example:
        >>> log = TensorBoard("runs/first")  # doctest: +SKIP
        >>> result = net.run_epochs(x, t, optimizer, callbacks=[log])  # doctest: +SKIP
    """

    #: Where several processes share a run, the others leave it out.
    first_process_only = True

    records_only = True

    def __init__(self, folder: str | os.PathLike[str], every: int = 1, histograms: bool = False) -> None:
        try:
            import tensorboardX
        except ImportError as error:
            raise ImportError(
                "hf.callbacks.TensorBoard needs tensorboardX, which is not installed; install it by "
                "pip install 'hessianfree-jax[tensorboard]'."
            ) from error
        if not isinstance(folder, (str, os.PathLike)):
            raise TypeError(f"folder is {folder!r}; the path of a folder is expected, such as 'runs/first'.")
        self._open = tensorboardX.SummaryWriter
        self.folder = Path(folder).absolute()
        self.every, self.histograms = checks.at_least("every", every, 1), histograms
        self._writer: Any = None
        self._run: Run | None = None
        self._step = self._epochs = 0

    def on_start(self, run: Run) -> None:
        """Open the folder."""
        self._run, self._epochs = run, len(run.epochs)
        self._step = sum(len(epoch.updates) for epoch in run.epochs) + len(run.begun)
        # Files are named by the second, and one that is named like an earlier one would replace it.
        suffix = f".{time.time_ns()}"
        self._writer = self._open(str(self.folder), purge_step=self._step, flush_secs=10, filename_suffix=suffix)
        if run.epochs and not run.begun:
            self._of_epoch(run.epochs[-1])  # it has the step from which on TensorBoard leaves out what was there

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> None:
        """Write the fields of the record, if it is time."""
        if self._step % self.every == 0:
            self._write("update", _fields(record), self._step)
        self._step += 1

    def on_epoch(self, epoch: Epoch) -> None:
        """Write error, seconds and metrics, and the histograms."""
        self._epochs += 1
        self._of_epoch(epoch)

    def on_end(self, result: Result) -> None:
        """Write the reason, and an epoch that was interrupted."""
        for epoch in result.epochs[self._epochs :]:
            self.on_epoch(epoch)
        self._writer.add_text("reason", result.reason, self._step)
        self._writer.close()

    def _of_epoch(self, epoch: Epoch) -> None:
        self._write("epoch", _of_epoch(epoch), self._step)
        if self.histograms and self._run is not None:
            for name, leaf in parameters.named_leaves(self._run.params):
                values = np.ravel(np.asarray(leaf, np.float64))
                if values.size and np.isfinite(values).all():
                    tag = "params" if name == parameters.ONLY_LEAF else f"params/{_as_tag(name)}"
                    self._writer.add_histogram(tag, values, self._step)

    def _write(self, group: str, values: Row, step: int) -> None:
        for name, value in values.items():
            if isinstance(value, (Real, np.bool_)) and math.isfinite(value):
                self._writer.add_scalar(f"{group}/{name}", float(value), step)


def _as_tag(name: str) -> str:
    """A key path in the characters that tags may have.

    Example:
        >>> _as_tag("['layers'][0].W")
        'layers_0_W'
    """
    return re.sub(r"\W+", "_", name).strip("_")
