"""From data files to inputs and targets: which columns or arrays they are, and what their values mean."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessianfree.console.settings import TrainSettings
from hessianfree.console.shell import WrongUsageError
from hessianfree.io.arrays import read_arrays
from hessianfree.io.tables import MISSING, Table, read_table
from hessianfree.support.names import unknown_name

#: Whole numbers are classes if there are at most so many different ones; a heuristic, which --task replaces.
MOST_CLASSES = 20
#: What arrays of inputs and of targets are called, unless the user says it.
INPUT_NAMES, TARGET_NAMES = ("x", "inputs", "x_train"), ("y", "targets", "y_train")
TEST_NAMES = (("x_test", "y_test"), ("inputs_test", "targets_test"))

_WHOLE = re.compile(r"[+-]?\d+")


class FileExamples(NamedTuple):
    """Inputs and targets as they are in a file.

    Attributes:
        x: (N, n), over time (N, T, n).
        y: labels (N,) or (N, T), or numbers (N, k) or (N, T, k); None where they are not asked for.
        dropped: rows left out because a value was missing.
    """

    x: NDArray[Any]
    y: NDArray[Any] | None
    dropped: int = 0

    def rows(self, chosen: NDArray[Any]) -> FileExamples:
        """These rows alone."""
        return FileExamples(self.x[chosen], None if self.y is None else self.y[chosen])


@dataclass(frozen=True)
class FileLayout:
    """Where inputs and targets are in a file, and how they are to be understood.

    Attributes:
        table: whether the file is a table, else arrays.
        inputs: columns, or one array.
        targets: columns, or one array.
        one_hot: column -> the words that become inputs.
        task: "classes" or "numbers".
        whole: whether the classes are whole numbers.
        flat: whether arrays of inputs are made (N, n).
        delimiter: of tables; None to find it out.
        header: of tables; None to find it out.
        drop_missing: whether rows that lack a value are left out.
    """

    table: bool
    inputs: tuple[str, ...]
    targets: tuple[str, ...]
    one_hot: dict[str, tuple[str, ...]]
    task: str
    whole: bool
    flat: bool
    delimiter: str | None = None
    header: bool | None = None
    drop_missing: bool = False

    @property
    def input_names(self) -> list[str]:
        """What each input of a table is."""
        return [
            part for name in self.inputs for part in ([f"{name}={w}" for w in self.one_hot.get(name, ())] or [name])
        ]

    def read(self, path: Path, with_targets: bool = True) -> FileExamples:
        """Read a file of this layout.

        Raises:
            FileNotFoundError: if it does not exist.
            ValueError: if a column or an array is missing or holds something else, or values are missing.
        """
        if is_table(path) != self.table:
            kinds = ("a .csv file", "an .npz file") if self.table else ("an .npz file", "a .csv file")
            raise ValueError(
                f"The model was made from {kinds[0]}, and {path} is {kinds[1]}; give one of the same kind."
            )
        if not self.table:
            return self.of_arrays(path, read_arrays(path), with_targets)
        return self.of_table(read_table(path, self.delimiter, self.header), with_targets)

    def of_table(self, table: Table, with_targets: bool = True) -> FileExamples:
        """The examples of a table."""
        inputs = [table.column(name) for name in self.inputs]
        targets = [table.column(name) for name in self.targets] if with_targets else []
        before = len(table)
        if where := table.first_missing([*inputs, *targets]):
            if not self.drop_missing:
                rows = int(table.missing([*inputs, *targets]).sum())
                others = f", and {rows - 1} more rows lack one" if rows > 1 else ""
                raise ValueError(
                    f"{table.path}: a value is missing in {where}{others}; --drop-missing leaves such rows out."
                )
            table = table.rows(~table.missing([*inputs, *targets]))
            if not len(table):
                raise ValueError(f"{table.path}: every row lacks a value; --ignore COLUMN leaves a column out.")
        parts = [
            part for name, own in zip(self.inputs, inputs, strict=True) for part in self._inputs_of(table, name, own)
        ]
        y = self._targets_of(table, targets) if targets else None
        return FileExamples(np.stack(parts, axis=1), y, before - len(table))

    def _inputs_of(self, table: Table, name: str, own: str) -> list[NDArray[np.float64]]:
        """The inputs that a column makes; `own` is what the file calls it."""
        if name not in self.one_hot:
            return [table.numbers(own)]
        words, cells = self.one_hot[name], table.columns[own]
        for line, cell in zip(table.lines, cells, strict=True):
            if cell not in words:
                raise ValueError(f"line {line} of {table.path}, column {own!r}: {unknown_name('value', cell, words)}")
        return [np.array([cell == word for cell in cells], np.float64) for word in words]

    def _targets_of(self, table: Table, names: Sequence[str]) -> NDArray[Any]:
        if self.task == "numbers":
            for name in names:
                _check_numbers(table, name, "--task classes takes words.")
            return np.stack([table.numbers(name) for name in names], axis=1)
        cells = table.columns[names[0]]
        if not self.whole:
            return np.array(cells, str)
        for line, cell in zip(table.lines, cells, strict=True):
            if not _WHOLE.fullmatch(cell):
                raise ValueError(
                    f"line {line} of {table.path}, column {names[0]!r}: {cell[:40]!r} is not a whole number, as the "
                    "classes of the model are."
                )
        return np.array([int(cell) for cell in cells], np.int64)

    def of_arrays(self, path: Path, arrays: dict[str, NDArray[Any]], with_targets: bool = True) -> FileExamples:
        """The examples of named arrays."""
        x, y = _found(path, arrays, self.inputs[0]), None
        if x.dtype.kind not in "biuf":
            raise ValueError(f"{path}: the array {self.inputs[0]!r} is of type {x.dtype}; numbers are expected.")
        if x.ndim == 1 or (self.flat and x.ndim > 2):
            x = x.reshape(len(x), -1)
        if x.ndim not in (2, 3):
            raise ValueError(
                f"{path}: the array {self.inputs[0]!r} has shape {x.shape}; (examples, inputs) or, for sequences, "
                "(examples, timesteps, inputs) is expected. --network feedforward makes one row of each example."
            )
        if with_targets:
            y = self._target_array(path, _found(path, arrays, self.targets[0]), x)
        if not self.drop_missing or x.dtype.kind != "f":
            return FileExamples(x, y)
        whole = ~np.isnan(x).reshape(len(x), -1).any(axis=1)
        return FileExamples(x[whole], None if y is None else y[whole], int((~whole).sum()))

    def _target_array(self, path: Path, y: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
        """Labels as they are, and numbers with an axis for the outputs."""
        name, steps = self.targets[0], x.shape[1] if x.ndim == 3 else None
        if y.ndim == 0 or len(y) != len(x):
            raise ValueError(f"{path}: {name!r} has shape {y.shape} for {len(x)} examples; give one target to each.")
        if self.task == "classes":
            y = y[..., 0] if y.ndim > 1 and y.shape[-1] == 1 else y
            return y.astype(np.int64) if self.whole else y
        if y.dtype.kind not in "biuf":
            raise ValueError(
                f"{path}: {name!r} is of type {y.dtype}; numbers are expected. --task classes takes words."
            )
        y = y.astype(np.float64)
        if y.ndim == 1 or (steps is not None and y.ndim == 2 and y.shape[1] == steps):
            y = y[..., None]
        if steps is None or y.ndim == 3:
            return y
        last, y = y, np.full((len(y), steps, y.shape[1]), np.nan)  # one target for each sequence counts at its end
        y[:, -1] = last
        return y


# ---- finding a layout ------------------------------------------------------------------------------------------------


class FoundData(NamedTuple):
    """A file that was read: its layout, its examples, and the examples to test on that it holds besides, or None."""

    layout: FileLayout
    examples: FileExamples
    test: FileExamples | None


def is_table(path: Path) -> bool:
    """Whether a data file is a table: one that ends in .csv, .tsv or .txt; arrays end in .npz.

    Raises ValueError for other endings.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; a data file is expected, which ends in .csv, .tsv, .txt or .npz.")
    ending = path.suffix.lower()
    if ending not in (".csv", ".tsv", ".txt", ".npz"):
        raise ValueError(f"{path} ends in {ending or 'nothing'}; a data file ends in .csv, .tsv, .txt or .npz.")
    return ending != ".npz"


def find(settings: TrainSettings) -> FoundData:
    """Read the data of a training run, and find out what they are as far as the settings do not say it."""
    path = Path(settings.data)
    return _found_table(path, settings) if is_table(path) else _found_arrays(path, settings)


def _found_table(path: Path, settings: TrainSettings) -> FoundData:
    if settings.network == "recurrent":
        raise ValueError(f"{path} is a table; recurrent networks learn from sequences, an array (N, T, n) in .npz.")
    table = read_table(path, settings.delimiter, settings.header)
    targets = [table.column(name) for name in settings.target] or [list(table.columns)[-1]]
    ignored, one_hot = ([table.column(name) for name in names] for names in (settings.ignore, settings.one_hot))
    others = [name for name in table.columns if name not in targets and name not in ignored]
    inputs = [table.column(name) for name in settings.inputs] or others
    if not inputs:
        raise ValueError(f"{path} has no column to predict from; its columns are {', '.join(table.columns)}.")
    for name in targets:
        if name in inputs:
            raise ValueError(f"The column {name!r} is among the inputs and among the targets; leave it out of one.")
    for name in one_hot:
        if name not in inputs:
            raise ValueError(f"--one-hot names {name!r}, which is no input; the inputs are {', '.join(inputs)}.")
    for name in inputs:
        if name not in one_hot:
            ways = f"--one-hot {name!r} makes ones and zeros of words, and --ignore {name!r} leaves the column out."
            _check_numbers(table, name, ways)
    cells = [cell for cell in table.columns[targets[0]] if cell not in MISSING]
    whole = all(_WHOLE.fullmatch(cell) for cell in cells)
    text = table.first_text(targets[0]) is not None
    task = settings.task or ("classes" if len(targets) == 1 and (text or (whole and _few(cells))) else "numbers")
    if task == "classes" and len(targets) > 1:
        raise ValueError(f"{len(targets)} columns are to be predicted, and classes are one column; --task numbers?")
    words = {name: tuple(sorted(set(table.columns[name]) - MISSING)) for name in one_hot}
    reading = {"delimiter": settings.delimiter, "header": settings.header, "drop_missing": settings.drop_missing}
    layout = FileLayout(True, tuple(inputs), tuple(targets), words, task, whole, False, **reading)  # type: ignore[arg-type]
    return FoundData(layout, layout.of_table(table), None)


def _found_arrays(path: Path, settings: TrainSettings) -> FoundData:
    for name in ("ignore", "one_hot", "delimiter", "header"):
        if getattr(settings, name) not in (None, ()):
            raise WrongUsageError(f"--{name.replace('_', '-')} is for tables, and {path} holds arrays.")
    arrays = read_arrays(path)
    inputs = array_name(path, arrays, settings.inputs, INPUT_NAMES, "inputs")
    target = array_name(path, arrays, settings.target, TARGET_NAMES, "target")
    y = arrays[target]
    whole = y.dtype.kind in "iu" or (y.dtype.kind == "f" and settings.task == "classes")
    labels = y.dtype.kind in "Ub" or (y.dtype.kind in "iu" and _few(y))
    task = settings.task or ("classes" if labels else "numbers")
    if task == "classes" and y.dtype.kind == "f" and not (y % 1 == 0).all():
        raise ValueError(f"{path}: {target!r} holds numbers that are not whole, so no classes; --task numbers?")
    flat = settings.network == "feedforward"
    layout = FileLayout(False, (inputs,), (target,), {}, task, whole, flat, drop_missing=settings.drop_missing)
    examples = layout.of_arrays(path, arrays)
    if settings.network == "recurrent" and examples.x.ndim != 3:
        raise ValueError(
            f"{path}: {inputs!r} has shape {examples.x.shape}; sequences are (examples, timesteps, inputs)."
        )
    pair = next((pair for pair in TEST_NAMES if pair[0] in arrays and pair[1] in arrays and inputs not in pair), None)
    if pair is None or settings.test is not None or settings.test_size is not None:
        return FoundData(layout, examples, None)
    return FoundData(layout, examples, replace(layout, inputs=pair[:1], targets=pair[1:]).of_arrays(path, arrays))


def _few(values: Any) -> bool:
    """Whether these are few enough different ones for classes."""
    return len(set(np.ravel(values).tolist())) <= MOST_CLASSES


def array_name(
    path: Path, arrays: dict[str, NDArray[Any]], given: Sequence[str], usual: Sequence[str], option: str
) -> str:
    """The array that is meant: the one given, or the first of the usual names."""
    if len(given) > 1:
        raise WrongUsageError(f"--{option} names {len(given)} arrays, and {path} takes one; join them in the file.")
    if given:
        _found(path, arrays, given[0])
        return given[0]
    name = next((name for name in usual if name in arrays), None)
    if name is None:
        there = f"Its arrays are: {', '.join(arrays)}."
        raise ValueError(f"{path} has no array called {' or '.join(usual)}; name one by --{option}. {there}")
    return name


def _found(path: Path, arrays: dict[str, NDArray[Any]], name: str) -> NDArray[Any]:
    if name not in arrays:
        raise ValueError(f"{path}: {unknown_name('array', name, arrays)}")
    return arrays[name]


def _check_numbers(table: Table, name: str, advice: str) -> None:
    """Refuse a column of words, with what to do about it."""
    row = table.first_text(name)
    if row is not None:
        where = f"line {table.lines[row]} of {table.path}, column {name!r}"
        raise ValueError(f"{where}: {table.columns[name][row][:40]!r} is not a number. {advice}")
