"""From files to inputs and targets: columns, arrays, scaling, and which rows are tested on."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import zscore

from hessianfree.console import examples, preparation
from hessianfree.console.examples import FileExamples, FileLayout
from hessianfree.console.preparation import prepared
from hessianfree.console.scaling import fitted
from hessianfree.console.settings import TrainSettings
from hessianfree.console.shell import WrongUsageError
from hessianfree.console.splitting import split
from hessianfree.io.files import FileFormatError

TABLE = "id,size,colour,weight,kind\n1,1.5,red,10,a\n2,2.5,blue,20,b\n3,3.5,red,30,a\n"


@pytest.fixture
def found(tmp_path):
    """Find the examples of this text or of these arrays."""

    def find(content, **settings):
        path = tmp_path / ("data.csv" if isinstance(content, str) else "data.npz")
        if isinstance(content, str):
            path.write_text(content)
        else:
            np.savez(path, **content)
        return examples.find(TrainSettings(data=str(path), **settings))

    return find


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_the_last_column_is_the_target_and_words_are_classes(found):
    layout, given, test = found(TABLE, ignore=("id",), one_hot=("colour",))
    assert (layout.inputs, layout.targets, layout.task, layout.whole) == (
        ("size", "colour", "weight"),
        ("kind",),
        "classes",
        False,
    )
    assert layout.input_names == ["size", "colour=blue", "colour=red", "weight"]
    np.testing.assert_array_equal(given.x, [[1.5, 0, 1, 10], [2.5, 1, 0, 20], [3.5, 0, 1, 30]])
    assert given.y.tolist() == ["a", "b", "a"]
    assert (test, given.dropped) == (None, 0)


def test_columns_are_named_by_numbers_too(found):
    layout, given, _ = found(TABLE, inputs=("2", "weight"), target=("1",))
    assert (layout.inputs, layout.targets) == (("size", "weight"), ("id",))
    np.testing.assert_array_equal(given.x[:, 0], [1.5, 2.5, 3.5])


def test_several_targets_are_numbers(found):
    layout, given, _ = found(TABLE, target=("size", "weight"), inputs=("id",))
    assert layout.task == "numbers"
    np.testing.assert_array_equal(given.y, [[1.5, 10], [2.5, 20], [3.5, 30]])


@pytest.mark.parametrize(
    ("cells", "task", "kind"),
    [
        (["a", "b", "a"], "classes", "U"),
        (["1", "0", "1"], "classes", "i"),
        (["1", "0.5", "1"], "numbers", "f"),
        (["1.0", "0.0", "1.0"], "numbers", "f"),
        ([str(i) for i in range(20)], "classes", "i"),
        ([str(i) for i in range(21)], "numbers", "f"),
        (["true", "false", "true"], "classes", "U"),
    ],
)
def test_words_and_few_whole_numbers_are_classes(cells, task, kind, found):
    layout, given, _ = found("x,y\n" + "".join(f"{i},{cell}\n" for i, cell in enumerate(cells)))
    assert (layout.task, given.y.dtype.kind) == (task, kind)
    assert given.y.shape == ((len(cells),) if task == "classes" else (len(cells), 1))


def test_the_task_can_be_said(found):
    assert found("x,y\n1,1\n2,0\n", task="numbers").examples.y.tolist() == [[1.0], [0.0]]
    assert found("x,y\n1,1.5\n2,0\n", task="classes").examples.y.tolist() == ["1.5", "0"]


def test_missing_values_are_refused_or_left_out(found):
    text = "x,y,z\n1,2,a\n,4,b\n5,NA,a\n7,8,\n9,10,b\n"
    with pytest.raises(ValueError, match=r"missing in line 3, column 'x', and 2 more rows lack one; --drop-missing"):
        found(text)
    given = found(text, drop_missing=True).examples
    np.testing.assert_array_equal(given.x, [[1, 2], [9, 10]])
    assert (given.y.tolist(), given.dropped) == (["a", "b"], 3)
    assert found(text, inputs=("x",), target=("y",), drop_missing=True).examples.dropped == 2
    with pytest.raises(ValueError, match="every row lacks a value"):
        found("x,y,z\n,2,a\n,3,b\n", drop_missing=True)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"ignore": ("id",)}, ValueError, "line 2 of .*, column 'colour': 'red' is not a number. --one-hot 'colour'"),
        ({"target": ("knd",)}, ValueError, "has no column 'knd'. Did you mean 'kind'"),
        ({"inputs": ("kind",)}, ValueError, "'kind' is among the inputs and among the targets"),
        ({"one_hot": ("id",), "inputs": ("size",)}, ValueError, "--one-hot names 'id', which is no input"),
        ({"ignore": ("id", "size", "colour", "weight")}, ValueError, "has no column to predict from"),
        (
            {"inputs": ("size",), "target": ("kind", "id")},
            ValueError,
            "'a' is not a number. --task classes takes words",
        ),
        (
            {"inputs": ("size",), "target": ("kind", "id"), "task": "classes"},
            ValueError,
            "2 columns are to be predicted",
        ),
        ({"inputs": ("size",), "task": "numbers"}, ValueError, "'a' is not a number. --task classes"),
        ({"network": "recurrent"}, ValueError, "is a table; recurrent networks learn from sequences"),
    ],
)
def test_tables_that_do_not_fit(settings, kind, message, found):
    with pytest.raises(kind, match=message):
        found(TABLE, **settings)


def test_new_tables_are_read_alike(found, tmp_path):
    layout = found(TABLE, ignore=("id",), one_hot=("colour",)).layout
    path = tmp_path / "new.csv"
    path.write_text("weight;size;colour\n5;1,5;blue\n")  # another order and delimiter, no targets
    given = layout.read(path, with_targets=False)
    np.testing.assert_array_equal(given.x, [[1.5, 1, 0, 5]])
    assert given.y is None
    path.write_text("weight,size,colour\n5,1.5,green\n")
    with pytest.raises(
        ValueError, match=r"line 2 of .*column 'colour': There is no value 'green'. The names are 'blue', 'red'"
    ):
        layout.read(path, with_targets=False)
    path.write_text("weight,colour\n5,red\n")
    with pytest.raises(ValueError, match="has no column 'size'"):
        layout.read(path, with_targets=False)
    with pytest.raises(ValueError, match=r"made from a \.csv file, and .* is an \.npz file"):
        layout.read(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=r"ends in \.xlsx; a data file ends in"):
        layout.read(tmp_path / "x.xlsx")


def test_classes_that_are_whole_numbers_stay_so(found, tmp_path):
    layout = found("x,y\n1,1\n2,0\n").layout
    path = tmp_path / "new.csv"
    path.write_text("x,y\n1,0\n2,b\n")
    with pytest.raises(ValueError, match=r"line 3 of .*'b' is not a whole number"):
        layout.read(path)


# ---- arrays ----------------------------------------------------------------------------------------------------------

X2, X3 = np.arange(12.0).reshape(4, 3), np.arange(24.0).reshape(4, 3, 2)


@pytest.mark.parametrize(
    ("arrays", "settings", "task", "y"),
    [
        ({"x": X2, "y": np.array(list("abab"))}, {}, "classes", ["a", "b", "a", "b"]),
        ({"inputs": X2, "targets": np.arange(4)}, {}, "classes", [0, 1, 2, 3]),
        ({"x": X2, "y": np.arange(4)[:, None]}, {}, "classes", [0, 1, 2, 3]),
        ({"x": X2, "y": np.arange(4) > 1}, {}, "classes", [False, False, True, True]),
        ({"x": X2, "y": np.arange(4.0)}, {}, "numbers", [[0.0], [1.0], [2.0], [3.0]]),
        ({"x": X2, "y": np.arange(4.0)}, {"task": "classes"}, "classes", [0, 1, 2, 3]),
        ({"x": X2, "y": np.arange(4)}, {"task": "numbers"}, "numbers", [[0.0], [1.0], [2.0], [3.0]]),
        ({"a": X2, "b": np.arange(4.0)}, {"inputs": ("a",), "target": ("b",)}, "numbers", [[0.0], [1.0], [2.0], [3.0]]),
        ({"x": X3, "y": np.array(list("abab"))}, {}, "classes", ["a", "b", "a", "b"]),
        ({"x": X3, "y": np.arange(12).reshape(4, 3)}, {}, "classes", np.arange(12).reshape(4, 3).tolist()),
        ({"x": X3, "y": X3[..., 0]}, {}, "numbers", X3[..., :1].tolist()),
        ({"x": X3, "y": X3}, {}, "numbers", X3.tolist()),
    ],
)
def test_arrays_and_their_targets(arrays, settings, task, y, found):
    layout, given, _ = found(arrays, **settings)
    assert (layout.task, given.y.tolist()) == (task, y)
    np.testing.assert_array_equal(given.x, next(iter(arrays.values())))


def test_one_target_of_a_sequence_counts_at_its_end(found):
    y = found({"x": X3, "y": np.arange(4.0)}).examples.y
    assert y.shape == (4, 3, 1)
    assert np.isnan(y[:, :-1]).all()
    np.testing.assert_array_equal(y[:, -1, 0], np.arange(4))


def test_feedforward_networks_take_one_row_of_each_example(found):
    given = found({"x": X3, "y": np.arange(4)}, network="feedforward").examples
    np.testing.assert_array_equal(given.x, X3.reshape(4, 6))
    np.testing.assert_array_equal(found({"x": np.arange(4.0), "y": np.arange(4)}).examples.x, np.arange(4.0)[:, None])


def test_test_arrays_in_the_same_file(found):
    arrays = {"x_train": X2, "y_train": np.arange(4), "x_test": X2[:2] + 1, "y_test": np.arange(2)}
    _, given, test = found(arrays)
    np.testing.assert_array_equal(given.x, X2)
    np.testing.assert_array_equal(test.x, X2[:2] + 1)
    assert found(arrays, test_size=0.5).test is None


def test_rows_with_nan_are_left_out_of_arrays(found):
    x = X2.copy()
    x[1, 2] = np.nan
    given = found({"x": x, "y": np.arange(4)}, drop_missing=True).examples
    assert (given.y.tolist(), given.dropped) == ([0, 2, 3], 1)


@pytest.mark.parametrize(
    ("arrays", "settings", "kind", "message"),
    [
        ({"a": X2}, {}, ValueError, "no array called x or inputs or x_train; name one by --inputs. Its arrays are: a"),
        ({"x": X2, "label": X2}, {}, ValueError, "no array called y or targets or y_train; name one by --target"),
        ({"x": X2, "y": X2}, {"target": ("yy",)}, ValueError, "There is no array 'yy'. Did you mean 'y'"),
        ({"x": X2, "y": X2}, {"target": ("x", "y")}, WrongUsageError, "--target names 2 arrays"),
        ({"x": X2, "y": np.arange(3)}, {}, ValueError, "'y' has shape \\(3,\\) for 4 examples"),
        ({"x": np.array(list("abcd")), "y": np.arange(4)}, {}, ValueError, "of type <U1; numbers are expected"),
        (
            {"x": X2, "y": np.array(list("abcd"))},
            {"task": "numbers"},
            ValueError,
            "numbers are expected. --task classes",
        ),
        ({"x": X2, "y": np.arange(4) / 3}, {"task": "classes"}, ValueError, "not whole, so no classes"),
        ({"x": X3[..., None], "y": np.arange(4)}, {}, ValueError, "--network feedforward makes one row"),
        ({"x": X2, "y": np.arange(4)}, {"network": "recurrent"}, ValueError, "sequences are"),
        ({"x": X2, "y": np.arange(4)}, {"ignore": ("a",)}, WrongUsageError, "--ignore is for tables"),
        ({"x": X2, "y": np.arange(4)}, {"delimiter": ";"}, WrongUsageError, "--delimiter is for tables"),
    ],
)
def test_arrays_that_do_not_fit(arrays, settings, kind, message, found):
    with pytest.raises(kind, match=message):
        found(arrays, **settings)


# ---- scaling ---------------------------------------------------------------------------------------------------------

DATA = np.random.RandomState(0).randn(30, 4) * [1, 10, 0.1, 0] + [0, 5, -3, 7]


def test_scaling_to_standard_and_to_a_range():
    """Against scipy's z-scores; a constant, the last column, becomes 0."""
    standard, ranged = fitted("standard", DATA).apply(DATA), fitted("range", DATA).apply(DATA)
    np.testing.assert_allclose(standard[:, :3], zscore(DATA[:, :3]), rtol=1e-10)
    np.testing.assert_array_equal([ranged[:, :3].min(axis=0), ranged[:, :3].max(axis=0)], [[0] * 3, [1] * 3])
    np.testing.assert_allclose(np.corrcoef(ranged[:, 1], DATA[:, 1])[0, 1], 1)
    np.testing.assert_array_equal([standard[:, 3], ranged[:, 3]], np.zeros((2, 30)))
    np.testing.assert_array_equal(fitted("none", DATA).apply(DATA), DATA)


@pytest.mark.parametrize("kind", ["standard", "range", "none"])
def test_scaling_is_undone(kind):
    scaling, new = fitted(kind, DATA), DATA[:5] + 1
    np.testing.assert_allclose(scaling.undo(scaling.apply(new)), new, rtol=1e-12)
    np.testing.assert_allclose(fitted(kind, DATA.reshape(5, 6, 4)).shift, scaling.shift)


def test_missing_targets_do_not_count():
    gaps = DATA.copy()
    gaps[3, 1] = np.nan
    np.testing.assert_allclose(fitted("standard", gaps).shift[1], np.delete(DATA[:, 1], 3).mean())
    empty = fitted("standard", np.full((3, 2), np.nan))
    np.testing.assert_array_equal(empty.factor, 1)


LAYOUT = FileLayout(True, ("a", "b"), ("y",), {"b": ("u", "v")}, "numbers", False, False, ";", True, True)


def test_a_preparation_comes_back_from_its_file(tmp_path):
    made = prepared(LAYOUT, FileExamples(DATA, DATA[:, :1]), "standard", "range")
    made.save(tmp_path / "p.json")
    found = preparation.load(tmp_path / "p.json")
    assert found.layout == LAYOUT
    new = FileExamples(DATA[:3], DATA[:3, :1])
    np.testing.assert_array_equal(found.x(new), made.x(new))
    np.testing.assert_array_equal(found.y(new), made.y(new))
    np.testing.assert_allclose(found.numbers(found.y(new)), new.y)
    with pytest.raises(ValueError, match="The data have 2 inputs, and the model was made for 4"):
        found.x(FileExamples(DATA[:, :2], None))
    with pytest.raises(ValueError, match="without their targets"):
        found.y(FileExamples(DATA, None))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "layout": {"inputs": 3}}'])
def test_a_damaged_preparation_is_refused(content, tmp_path):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(FileFormatError):
        preparation.load(path)


# ---- splitting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["random", "last"])
@pytest.mark.parametrize(("size", "tested"), [(0.25, 25), (10, 10), (0.994, 99)])
def test_a_split_is_one(how, size, tested):
    train, test = split(100, size, how, 0)
    assert len(test) == tested
    assert sorted([*train, *test]) == list(range(100))
    assert (how == "last") == (test.tolist() == list(range(100 - tested, 100)))


def test_a_random_split_depends_on_the_seed_alone():
    first, again, other = (split(50, 0.2, "random", seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("size", [0.2, 0.5, 10])
def test_each_class_gives_its_share(size):
    labels = np.repeat(["a", "b", "c"], [50, 30, 20])
    np.random.RandomState(0).shuffle(labels)
    _, test = split(100, size, "random", 3, labels)
    share = size if size < 1 else size / 100
    for name, count in (("a", 50), ("b", 30), ("c", 20)):
        assert abs((labels[test] == name).sum() - share * count) <= 1


@pytest.mark.parametrize("size", [0.001, 100, 120, 2.5, 0.999])
def test_splits_that_leave_nothing(size):
    with pytest.raises(ValueError, match=r"test-size is .*a number of rows from 1 to 99"):
        split(100, size, "random", 0)
