"""CSV files: what is read, and in which line something is wrong."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.io.arrays import read_arrays
from hessianfree.io.files import FileFormatError
from hessianfree.io.tables import read_table


@pytest.fixture
def table(tmp_path):
    """Read a table of this text."""

    def read(text: str | bytes, **arguments):
        path = tmp_path / "data.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_table(path, **arguments)

    return read


# ---- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_delimiters_line_ends_and_marks_are_found(delimiter, end, mark, table):
    rows = [["a", "b"], ["1.5", "x"], ["2", "y"]]
    found = table(mark + end.join(delimiter.join(row) for row in rows) + end)
    assert found.columns == {"a": ["1.5", "2"], "b": ["x", "y"]}
    assert (found.delimiter, found.has_header, found.lines) == (delimiter, True, [2, 3])


def test_quotes_blanks_and_blank_lines(table):
    found = table('name, note\n\n"a, b", "say ""no"""\n   \n c ,"two\nlines"\nd,\n')
    assert found.columns == {"name": ["a, b", "c", "d"], "note": ['say "no"', "two\nlines", ""]}
    assert found.lines == [3, 5, 7]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("5.1,3.5,setosa\n4.9,3,virginica\n", ["1", "2", "3"]),
        ("a,b,c\n1,2,3\n", ["a", "b", "c"]),
        ("a,,c\n1,2,3\n", ["a", "2", "c"]),
        ("word,other\nx,y\n", ["word", "other"]),
        ("town,1990,2000\nParis,1,2\n", ["1", "2", "3"]),
        ("price,1990\n1,2\n", ["price", "1990"]),
        ("NA,1990\n1,2\n", ["1", "2"]),
    ],
)
def test_a_header_has_no_numbers_or_stands_above_them(text, names, table):
    assert list(table(text).columns) == names


def test_the_header_can_be_said(table):
    assert table("1990,2000\n1,2\n", header=True).columns == {"1990": ["1"], "2000": ["2"]}
    assert table("a,b\nc,d\n", header=False).columns == {"1": ["a", "c"], "2": ["b", "d"]}


def test_a_single_column(table):
    assert table("x\n1\n2\n").columns == {"x": ["1", "2"]}


def test_semicolons_and_decimal_commas(table):
    found = table("a;b\n1,5;2\n-0,25e2;3,0\n")
    np.testing.assert_array_equal(found.numbers("a"), [1.5, -25])
    np.testing.assert_array_equal(found.numbers("b"), [2, 3])
    assert table("1,5;2,5\n3,5;4,5\n").columns == {"1": ["1,5", "3,5"], "2": ["2,5", "4,5"]}


def test_commas_and_points_in_numbers_are_refused_together(table):
    with pytest.raises(ValueError, match=r"line 3 of .*column 'a': '1\.234' has a decimal point, and '1,5' in line 2"):
        table("a;b\n1,5;2\n1.234;3\n").numbers("a")


@given(
    rows=st.lists(
        st.lists(st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8), min_size=3, max_size=3),
        min_size=2,
    ),
    delimiter=st.sampled_from(",;|\t"),
)
def test_what_the_csv_module_writes_is_read(rows, delimiter, tmp_path_factory):
    cells = [[f"c{i}" for i in range(3)], *[[f"x{cell.strip()}" for cell in row] for row in rows]]
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(cells)
    path = tmp_path_factory.mktemp("csv") / "data.csv"
    path.write_text(text.getvalue(), encoding="utf-8", newline="")
    found = read_table(path, delimiter)
    assert [list(row) for row in zip(*found.columns.values(), strict=True)] == cells[1:]


# ---- columns ---------------------------------------------------------------------------------------------------------


def test_columns_by_name_and_number(table):
    found = table("price,area,2\n1,2,3\n")
    assert [found.column(given) for given in ("area", "1", "3", "2")] == ["area", "price", "2", "2"]
    with pytest.raises(ValueError, match=r"no column 'aera'\. Did you mean 'area'\? Its columns are: price, area, 2"):
        found.column("aera")
    with pytest.raises(ValueError, match="no column '4'"):
        found.column("4")


@pytest.mark.parametrize("cell", ["", "NA", "N/A", "nan", "NaN", "null", "NULL", "?"])
def test_missing_values(cell, table):
    found = table(f"a,b\n1,2\n{cell},3\n4,{cell}\n")
    assert found.missing(["a", "b"]).tolist() == [False, True, True]
    assert found.missing(["b"]).tolist() == [False, False, True]
    assert found.first_missing(["b", "a"]).startswith("line 3, column 'a'")
    assert found.first_missing([]) == ""
    np.testing.assert_array_equal(found.numbers("a"), [1, np.nan, 4])
    rest = found.rows(~found.missing(["a", "b"]))
    assert (len(rest), rest.columns, rest.lines) == (1, {"a": ["1"], "b": ["2"]}, [2])


@pytest.mark.parametrize(("cell", "what"), [("red", "'red' is not a number"), ("inf", "'inf' is not finite")])
def test_cells_that_are_no_numbers(cell, what, table):
    with pytest.raises(ValueError, match=f"line 4 of .*data.csv, column 'a': {what}"):
        table(f"a,b\n1,2\n\n{cell},3\n").numbers("a")


def test_the_first_word_of_a_column(table):
    found = table("a,b\n1,2\nNA,x\n")
    assert (found.first_text("a"), found.first_text("b")) == (None, 1)


# ---- files that are wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows"),
        ("\n\n  \n", "no rows"),
        ("a,b\n", "a header alone"),
        ("a,b\n1,2\n3\n", r"1 cells in line 3; expected 2, as in line 1"),
        ("a,b\n1,2\n\n3,4,5\n", r"3 cells in line 4; expected 2"),
        ("a,a\n1,2\n", "two columns called 'a'"),
        ('a,b\n1,"2\n', r"a row from line 2 on that cannot be read"),
        ('a,b\n1,2\n"x"y,3\n', r"a row from line 3 on that cannot be read"),
        ("a,b\n1,2\nM\xfcller,3\n".encode("latin1"), r"bytes in line 3 that are not UTF-8 \(b'\\xfc'\)"),
        ("a,b\n1,2\n".encode("utf-16"), "bytes in line 1 that are not UTF-8"),
    ],
)
def test_files_that_are_wrong(text, message, table):
    with pytest.raises(FileFormatError, match=message):
        table(text)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.csv"):
        read_table(tmp_path / "x.csv")
    with pytest.raises(FileFormatError, match="a folder"):
        read_table(tmp_path)


@pytest.mark.parametrize("delimiter", ["", "::", '"', "\n"])
def test_delimiters_that_cannot_be(delimiter, table):
    with pytest.raises(ValueError, match="a single character is expected"):
        table("a,b\n1,2\n", delimiter=delimiter)


# ---- arrays ----------------------------------------------------------------------------------------------------------


def test_arrays_come_back(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.eye(2), label=np.array(["a", "b"]))
    found = read_arrays(path)
    assert list(found) == ["x", "label"]
    np.testing.assert_array_equal(found["x"], np.eye(2))
    assert found["label"].tolist() == ["a", "b"]


def test_arrays_of_objects_and_other_files_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.array([{}, 1], object))
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_arrays(path)
    path.write_bytes(b"x,y\n1,2\n")
    with pytest.raises(FileFormatError, match=r"no \.npz archive"):
        read_arrays(path)
    np.savez(path, x=np.arange(1000))
    content = bytearray(path.read_bytes())
    content[400:500] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_arrays(path)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "b.npz")
