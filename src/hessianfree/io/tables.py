"""Read tables from CSV files, and say in which line something is wrong."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hessianfree.io.files import FileFormatError, check_is_file
from hessianfree.support.names import nearest

EXPECTED = "a table in a CSV file"
#: Cells that hold no value.
MISSING = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"})
#: What may stand between cells, in the order of trying: commas last, since they may be in numbers.
DELIMITERS = ("\t", ";", "|", ",")

_SAMPLE = 20  # rows that the delimiter is found from
_DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Table:
    """A table of text: columns by name, and the line of the file that each row begins in.

    Attributes:
        path: the file.
        columns: name -> cells, without blanks around them; the number of the column, from 1, where there is no header.
        lines: of each row.
        delimiter: what stands between cells.
        has_header: whether the names are from the file.
    """

    path: str
    columns: dict[str, list[str]]
    lines: list[int]
    delimiter: str
    has_header: bool

    def __len__(self) -> int:
        return len(self.lines)

    def column(self, given: str) -> str:
        """The name of the column that a user means by its name or by its number, from 1.

        Raises:
            ValueError: if there is none, with the names that there are.
        """
        names = list(self.columns)
        if given in self.columns:
            return given
        if given.isdecimal() and 1 <= int(given) <= len(names):
            return names[int(given) - 1]
        close = nearest(given, names)
        meant = f" Did you mean {close!r}?" if close else ""
        named = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise ValueError(f"{self.path} has no column {given!r}.{meant} Its columns are: {named}.")

    def missing(self, names: Collection[str]) -> NDArray[np.bool_]:
        """Which rows lack a value in one of these columns, (rows,)."""
        found = np.zeros(len(self), bool)
        for name in names:
            found |= np.array([cell in MISSING for cell in self.columns[name]], bool)
        return found

    def first_missing(self, names: Collection[str]) -> str:
        """Where the first value is missing in these columns, in words; empty if none is."""
        rows = np.flatnonzero(self.missing(names))
        if not len(rows):
            return ""
        name = next(name for name in names if self.columns[name][rows[0]] in MISSING)
        cell = self.columns[name][rows[0]]
        return f"line {self.lines[rows[0]]}, column {name!r}{f' ({cell})' if cell else ''}"

    def rows(self, chosen: NDArray[np.bool_]) -> Table:
        """The table of these rows alone."""
        columns = {
            name: [c for c, keep in zip(cells, chosen, strict=True) if keep] for name, cells in self.columns.items()
        }
        lines = [line for line, keep in zip(self.lines, chosen, strict=True) if keep]
        return Table(self.path, columns, lines, self.delimiter, self.has_header)

    def first_text(self, name: str) -> int | None:
        """The row of the first cell of a column that is neither a number nor missing; None if there is none."""
        read = self._number
        return next((i for i, c in enumerate(self.columns[name]) if c not in MISSING and read(c) is None), None)

    def numbers(self, name: str) -> NDArray[np.float64]:
        """A column as numbers, (rows,), NaN where the value is missing.

        Raises:
            ValueError: naming line and column, if a cell is text or not finite, or decimal commas and decimal points
                are mixed.
        """
        cells = self.columns[name]
        values = [np.nan if cell in MISSING else self._number(cell) for cell in cells]
        where = f"of {self.path}, column {name!r}"
        for line, cell, value in zip(self.lines, cells, values, strict=True):
            if value is None:
                raise ValueError(f"line {line} {where}: {cell[:40]!r} is not a number.")
            if cell not in MISSING and not np.isfinite(value):
                raise ValueError(f"line {line} {where}: {cell[:40]!r} is not finite.")
        self._check_commas(name, where)
        return np.array(values, np.float64)

    def _number(self, cell: str) -> float | None:
        """A cell as a number, None if it is none."""
        if self.delimiter != "," and _DECIMAL_COMMA.fullmatch(cell):
            cell = cell.replace(",", ".")
        try:
            return float(cell)
        except ValueError:
            return None

    def _check_commas(self, name: str, where: str) -> None:
        """Refuse 1.234 beside 5,6: the point may then stand between thousands."""
        cells = list(zip(self.lines, self.columns[name], strict=True))
        comma = next((item for item in cells if "," in item[1]), None)
        point = next((item for item in cells if "." in item[1]), None)
        if comma and point:
            raise ValueError(
                f"line {point[0]} {where}: {point[1]!r} has a decimal point, and {comma[1]!r} in line {comma[0]} a "
                "decimal comma; write all numbers with points."
            )


def read_table(path: str | os.PathLike[str], delimiter: str | None = None, header: bool | None = None) -> Table:
    r"""Read a CSV file: UTF-8, quoted by double quotes where cells need it; blank lines are passed over.

    Args:
        path: the file.
        delimiter: what stands between cells; by default a tab, `;`, `|` or `,`, whichever cuts the first lines into
            equally many cells. In numbers of files without `,` between cells a comma is a decimal comma.
        header: whether the first row names the columns; by default it does if none of its cells is a number, or a
            word stands above a number.

    Returns:
        The table.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it is empty, is not UTF-8, or a row has more or fewer cells than the others, naming the
            line.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "irises.csv")
        >>> _ = path.write_text("petal;species\n1,4;setosa\n6;virginica\n")
        >>> table = read_table(path)
        >>> table.numbers("petal").tolist(), table.columns["species"], table.lines
        ([1.4, 6.0], ['setosa', 'virginica'], [2, 3])
    """
    check_is_file(path, EXPECTED)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise ValueError(f"the delimiter is {delimiter!r}; a single character is expected, such as , or ;.")
    found = _delimiter(path) if delimiter is None else delimiter
    rows = _rows(path, found)
    first_line, first = next(rows, (0, []))
    if not first:
        raise FileFormatError(path, "no rows", EXPECTED, "give a file with a header and a row for each example")
    second = next(rows, None)
    named = _is_header(first, second[1] if second else []) if header is None else header
    names = [cell or str(i) for i, cell in enumerate(first, 1)] if named else [str(i) for i in range(1, len(first) + 1)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        found_twice = f"two columns called {twice[0]!r}"
        raise FileFormatError(
            path, found_twice, "columns with names of their own", "rename one of them in the first line"
        )
    lines, cells = ([], []) if named else ([first_line], [first])
    for line, row in [*([second] if second else []), *rows]:
        if len(row) != len(names):
            counted = f"{len(row)} cells in line {line}"
            remedy = "complete or quote the cells of that line, or name another delimiter"
            raise FileFormatError(path, counted, f"{len(names)}, as in line {first_line}", remedy)
        lines.append(line)
        cells.append(row)
    if not cells:
        raise FileFormatError(path, "a header alone", EXPECTED, "add a row for each example")
    columns = {name: list(column) for name, column in zip(names, zip(*cells, strict=True), strict=True)}
    return Table(os.fspath(path), columns, lines, found, named)


def _is_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the first row names the columns: none of its cells is a number, or one is a word above a number."""
    numbers = [_is_number(cell) for cell in first]
    words = [not number and cell not in MISSING for number, cell in zip(numbers, first, strict=True)]
    return not any(numbers) or any(word and _is_number(below) for word, below in zip(words, second, strict=False))


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", "."))
    except ValueError:
        return False
    return True


def _rows(path: str | os.PathLike[str], delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line that it begins in."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True, skipinitialspace=True)
        begun = 1
        try:
            for row in reader:
                cells = [cell.strip() for cell in row]
                if cells not in ([], [""]):
                    yield begun, cells
                begun = reader.line_num + 1
        except csv.Error as error:
            remedy = "close the quotation marks of that line; double those within a cell"
            raise FileFormatError(
                path, f"a row from line {begun} on that cannot be read ({error})", EXPECTED, remedy
            ) from None
        except UnicodeDecodeError:
            raise FileFormatError(path, _not_utf8(path), f"{EXPECTED}, in UTF-8", "save it as CSV in UTF-8") from None


def _not_utf8(path: str | os.PathLike[str]) -> str:
    """Where the first bytes are that are not UTF-8, in words."""
    content = Path(path).read_bytes()
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return f"bytes in line {line} that are not UTF-8 ({content[error.start : error.end]!r})"
    return "bytes that are not UTF-8"  # the file has changed


def _delimiter(path: str | os.PathLike[str]) -> str:
    """What stands between the cells, from the first rows."""
    for candidate in DELIMITERS:
        try:
            counts = {len(row) for _, row in islice(_rows(path, candidate), _SAMPLE)}
        except FileFormatError:  # quotation marks that only another delimiter explains, or a damaged row
            continue
        if len(counts) == 1 and counts != {1}:
            return candidate
    # Unequal everywhere: what is most often in the first line, so that the error names the row that differs.
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    return max(DELIMITERS, key=lambda candidate: (first.count(candidate), candidate == ","))
