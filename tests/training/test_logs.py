from __future__ import annotations

import csv
import logging
import re
import shutil
import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine.hessian_free import Record
from hessianfree.optimizers.auto import AutoRecord
from hessianfree.optimizers.first_order import GradientRecord
from hessianfree.squares.records import LeastSquaresRecord
from hessianfree.training import logs
from hessianfree.training.results import Run

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
T = np.array([[0], [1], [1], [0]], np.float32)

OPTIMIZERS = {
    "HessianFree": lambda: hf.opt.HessianFree(CG_iter=2),
    "SGD": lambda: hf.opt.SGD(0.1),
    "Auto": hf.opt.Auto,
}
RECORDS = {"`HessianFree`": Record, "`Auto`": AutoRecord, "`hf.least_squares`": LeastSquaresRecord}


def train(callback, optimizer=None, **arguments):
    net = hf.FFNet([2, 5, 1], rng=0)
    chosen = hf.opt.HessianFree(CG_iter=2) if optimizer is None else optimizer
    given = {"max_epochs": 3, "minibatch_size": 2, "print_period": None, "callbacks": [callback], **arguments}
    return net.run_epochs(X, T, chosen, **given)


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return list(reader), reader.fieldnames


def table_of(result):
    """The rows that a result should give."""
    rows = []
    for epoch in result.epochs:
        for update, record in enumerate(epoch.updates):
            row = {"epoch": epoch.number, "update": update} | {name: getattr(record, name) for name in record._fields}
            last = update == len(epoch.updates) - 1
            row |= {"test_error": epoch.test_error, "seconds": epoch.seconds} if last else {}
            rows.append({name: str(value) for name, value in row.items()})
    return rows


def known(rows):
    return [{name: value for name, value in row.items() if value or name in ("reason", "line")} for row in rows]


class Note(NamedTuple):
    value: float
    reason: str = ""


class OtherNote(NamedTuple):
    value: float
    extra: int


# ---- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period", [0, 1e9])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_rows_are_the_records(name, period, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "PERIOD", period)
    path = tmp_path / "run.csv"
    path.write_text("what was there before")
    result = train(hf.callbacks.CSV(path), OPTIMIZERS[name]())
    rows, columns = read(path)
    assert known(rows) == table_of(result)
    fields = result.epochs[0].updates[0]._fields
    assert columns == ["epoch", "update", *fields, "test_error", "seconds"]
    np.testing.assert_array_equal([float(row["value"]) for row in rows], result.history["value"])


def test_rows_of_least_squares(tmp_path):
    path = tmp_path / "run.csv"
    curve = lambda p: p**2 - np.arange(1, 4.0)
    result = hf.least_squares(curve, np.ones(3), print_period=None, callbacks=[hf.callbacks.CSV(path)])
    rows, _ = read(path)
    assert known(rows) == [
        {**row, "status": str(int(step.updates[0].status))}
        for row, step in zip(table_of(result), result.epochs, strict=True)
    ]
    assert rows[-1]["reason"] == result.reason


class CrashError(RuntimeError):
    pass


class Crashes:
    """Breaks off a run at one of its updates."""

    def __init__(self, at):
        self.left = at

    def on_update(self, epoch_number, update, updates, record):
        self.left -= 1
        if self.left < 0:
            raise CrashError


@pytest.mark.parametrize(("at", "every"), [(3, 2), (4, 1), (5, 3), (2, 100)])
@pytest.mark.parametrize("damage", [None, "6,1,0.5,", ""])
def test_a_run_that_is_resumed_has_each_row_once(at, every, damage, tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "PERIOD", 0)  # rows are written beyond the checkpoint
    keep = {"checkpoint": tmp_path / "run.ckpt", "checkpoint_every": every, "checkpoint_seconds": None}
    whole = train(hf.callbacks.CSV(tmp_path / "whole.csv"))
    path = tmp_path / "run.csv"
    with pytest.raises(CrashError):
        train(hf.callbacks.CSV(path), callbacks=[hf.callbacks.CSV(path), Crashes(at)], **keep)
    if damage is not None:
        path.write_text(path.read_text() + damage if damage else "")
    train(hf.callbacks.CSV(path), resume=True, **keep)
    free_of_time = lambda rows: [{**row, "seconds": ""} for row in rows]
    assert free_of_time(read(path)[0]) == free_of_time(read(tmp_path / "whole.csv")[0])
    assert len(read(path)[0]) == 2 * len(whole.epochs)
    train(hf.callbacks.CSV(path), resume=True, **keep)  # one that is over
    assert len(read(path)[0]) == 2 * len(whole.epochs)


def test_an_epoch_that_is_interrupted_has_its_rows(tmp_path):
    class Ends:
        def on_update(self, epoch_number, update, updates, record):
            return epoch_number == 1

    path = tmp_path / "run.csv"
    result = train(None, callbacks=[hf.callbacks.CSV(path), Ends()])
    assert [len(epoch.updates) for epoch in result.epochs] == [2, 1]
    assert known(read(path)[0]) == table_of(result)


def scripted(path):
    """A log with a run whose epochs and updates the test makes."""
    epochs, begun = [], []
    log = hf.callbacks.CSV(path)
    log.on_start(Run(None, epochs, begun))

    def update(record):
        begun.append(record)
        log.on_update(len(epochs), len(begun) - 1, None, record)

    def epoch(**more):
        epochs.append(SimpleNamespace(number=len(epochs), test_error=0.5, seconds=1.5, updates=list(begun), **more))
        begun.clear()
        log.on_epoch(epochs[-1])

    return log, update, epoch


def test_columns_that_appear_later(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "PERIOD", 0)
    path = tmp_path / "run.csv"
    log, update, epoch = scripted(path)
    assert path.read_text() == "epoch,update,test_error,seconds\n"
    update(Note(1.0))
    update(Note(2.0))
    assert path.read_text().splitlines() == ["epoch,update,value,reason,test_error,seconds", "0,0,1.0,,,"]
    epoch()
    update(OtherNote(3.0, 7))
    update(None)
    epoch(metrics={"accuracy": 0.25})
    log.on_end(None)
    assert path.read_text().splitlines() == [
        "epoch,update,value,reason,extra,test_error,seconds,accuracy",
        "0,0,1.0,,,,,",
        "0,1,2.0,,,0.5,1.5,",
        "1,0,3.0,,7,,,",
        "1,1,,,,0.5,1.5,0.25",
    ]


def test_text_of_any_kind_is_kept(tmp_path):
    path = tmp_path / "run.csv"
    log, update, epoch = scripted(path)
    texts = ['a, "b"', "two\nlines", "é", ""]
    for text in texts:
        update(Note(1.0, text))
    epoch()
    log.on_end(None)
    assert [row["reason"] for row in read(path)[0]] == texts


def test_rows_are_not_written_one_by_one(tmp_path):
    path = tmp_path / "run.csv"
    log, update, epoch = scripted(path)
    for _ in range(50):
        for _ in range(20):
            update(Note(1.0))
        epoch()
    assert len(read(path)[0]) < 1000  # less than a second has passed
    log.on_end(None)
    assert len(read(path)[0]) == 1000


def test_a_disk_that_rejects_rows_ends_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logs, "PERIOD", 0)
    folder = tmp_path / "folder"
    folder.mkdir()
    log, update, epoch = scripted(folder / "run.csv")
    update(Note(1.0))
    epoch()
    shutil.rmtree(folder)
    with caplog.at_level(logging.WARNING, "hessianfree"):
        update(Note(2.0))
        epoch()
    assert "run.csv" in caplog.text
    folder.mkdir()
    update(Note(3.0))
    epoch()
    log.on_end(None)
    assert [row["value"] for row in read(folder / "run.csv")[0]] == ["1.0", "2.0", "3.0"]


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (3, TypeError, r"path is 3; the path of a file is expected, such as 'run\.csv'"),
        (".", IsADirectoryError, "a folder"),
        ("nosuch/run.csv", FileNotFoundError, "there is no folder 'nosuch'"),
    ],
)
def test_paths_that_cannot_be(path, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        hf.callbacks.CSV(path)


def test_logs_leave_first_order_updates_together(tmp_path, monkeypatch):
    counts = []
    several = hf.opt.SGD.compute_several

    def counted(self, minibatches, start, count):
        counts.append(count)
        return several(self, minibatches, start, count)

    monkeypatch.setattr(hf.opt.SGD, "compute_several", counted)
    result = train(hf.callbacks.CSV(tmp_path / "run.csv"), hf.opt.SGD(0.1), minibatch_size=1, max_epochs=6)
    assert max(counts) == 4
    assert known(read(tmp_path / "run.csv")[0]) == table_of(result)


def test_a_callback_of_records_alone_still_ends_the_run():
    class Ends:
        records_only = True

        def on_update(self, epoch_number, update, updates, record):
            return (epoch_number, update) == (4, 0)

    result = train(Ends(), hf.opt.SGD(0.1), minibatch_size=1, max_epochs=10)
    assert (result.reason, len(result.epochs)) == ("a callback ended the run", 5)


# ---- TensorBoard -----------------------------------------------------------------------------------------------------


def events(folder):
    """What TensorBoard reads: events of all files in order, without those that a restart replaces."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    found = []
    for path in sorted(folder.iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("session_log") and event.session_log.status == 1:
                found = [earlier for earlier in found if earlier.step < event.step]
            found.append(event)
    return found


def scalars(folder):
    """Tag -> [(step, value), ...]."""
    found = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


@pytest.fixture
def tensorboard():
    return pytest.importorskip("tensorboardX")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_scalars_are_the_records(name, tensorboard, tmp_path):
    folder = tmp_path / "runs" / "first"
    result = train(hf.callbacks.TensorBoard(folder), OPTIMIZERS[name]())
    found = scalars(folder)
    history = result.history
    numbers = [n for n in result.epochs[0].updates[0]._fields if history[n].dtype.kind in "bif"]
    finite = [n for n in numbers if np.isfinite(history[n].astype(float)).any()]
    assert sorted(found) == sorted([*(f"update/{n}" for n in finite), "epoch/test_error", "epoch/seconds"])
    for field in finite:
        values = history[field].astype(float)
        steps = np.flatnonzero(np.isfinite(values))
        assert [step for step, _ in found[f"update/{field}"]] == steps.tolist()
        np.testing.assert_allclose([value for _, value in found[f"update/{field}"]], values[steps], rtol=1e-6)
    assert [step for step, _ in found["epoch/test_error"]] == [2, 4, 6]
    np.testing.assert_allclose([value for _, value in found["epoch/test_error"]], result.test_errors, rtol=1e-6)
    texts = [v for e in events(folder) for v in e.summary.value if v.tag.startswith("reason")]
    assert [v.tensor.string_val[0].decode() for v in texts] == [result.reason]


@pytest.mark.parametrize(("at", "every"), [(3, 2), (5, 3)])
def test_scalars_of_a_run_that_is_resumed_are_there_once(at, every, tensorboard, tmp_path):
    keep = {"checkpoint": tmp_path / "run.ckpt", "checkpoint_every": every, "checkpoint_seconds": None}
    log = hf.callbacks.TensorBoard(tmp_path / "run")
    with pytest.raises(CrashError):
        train(None, callbacks=[log, Crashes(at)], **keep)
    log._writer.close()
    train(hf.callbacks.TensorBoard(tmp_path / "run"), resume=True, max_epochs=2, **keep)
    train(hf.callbacks.TensorBoard(tmp_path / "run"), resume=True, **keep)
    train(hf.callbacks.TensorBoard(tmp_path / "whole"))
    found, whole = scalars(tmp_path / "run"), scalars(tmp_path / "whole")
    del found["epoch/seconds"], whole["epoch/seconds"]
    assert found == whole


def test_fewer_points_and_histograms(tensorboard, tmp_path):
    train(hf.callbacks.TensorBoard(tmp_path, every=4, histograms=True))
    assert [step for step, _ in scalars(tmp_path)["update/value"]] == [0, 4]
    counts = [
        (value.tag, event.step, sum(value.histo.bucket))
        for event in events(tmp_path)
        for value in event.summary.value
        if value.HasField("histo")
    ]
    size = hf.FFNet([2, 5, 1]).W.size
    assert counts == [("params", step, size) for step in (2, 4, 6)]


def test_metrics_and_epochs_that_were_interrupted(tensorboard, tmp_path):
    log = hf.callbacks.TensorBoard(tmp_path)
    log.on_start(Run(None, [], []))
    log.on_update(0, 0, None, Note(1.0))
    epoch = SimpleNamespace(number=0, test_error=0.5, seconds=1.0, updates=[Note(1.0)], metrics={"accuracy": 0.25})
    log.on_end(SimpleNamespace(epochs=[epoch], reason="interrupted"))
    assert scalars(tmp_path)["epoch/accuracy"] == [(1, 0.25)]


def test_without_tensorboard_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'hessianfree-jax\[tensorboard\]'"):
        hf.callbacks.TensorBoard(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [((3,), TypeError, "folder is 3"), (("runs", 0), ValueError, "every is 0")],
)
def test_arguments_that_cannot_be(arguments, error, message, tensorboard):
    with pytest.raises(error, match=message):
        hf.callbacks.TensorBoard(*arguments)


# ---- what is documented ----------------------------------------------------------------------------------------------


def test_the_fields_of_all_records_are_documented():
    sections = re.split(r"\n(?=\S.*:\n)", hf.callbacks.__doc__)[2:]
    everywhere, curved, *alone = (set(re.findall(r"^    ([a-z_]+)  ?", part, re.MULTILINE)) for part in sections)
    owners = [re.match(r"Of (\S+) alone", part)[1] for part in sections[2:]]
    assert owners == ["`HessianFree`", "`Auto`", "`hf.least_squares`"]
    assert everywhere == set(GradientRecord._fields)
    for name, fields in zip(owners, alone, strict=True):
        assert everywhere | curved | fields == set(RECORDS[name]._fields)


def test_the_table_of_the_documentation_has_the_same_fields():
    page = (Path(__file__).parents[2] / "docs" / "watching.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| .+ \| (.+) \|$", page.split("## Callbacks and logs")[1], re.MULTILINE)
    kinds = {"HessianFree": Record, "Auto": AutoRecord, "least squares": LeastSquaresRecord, "all": GradientRecord}
    for name, kind in kinds.items():
        listed = {field for field, owners in rows if name in owners.split(", ") or owners == "all"}
        assert listed == set(kind._fields), name
