"""`hessianfree train`, `evaluate` and `predict`: what a run leaves behind is what it did."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from typer.testing import CliRunner

import hessianfree as hf
from hessianfree.console import folder
from hessianfree.console.main import app
from hessianfree.io.plots import read_series

PNG = b"\x89PNG\r\n\x1a\n"
RNG = np.random.RandomState(0)
POINTS = RNG.randn(40, 2)
#: Two classes that a line separates, in columns of different scales.
TABLE = "wide,far,side\n" + "".join(f"{a},{1000 + 100 * b},{'left' if a < b else 'right'}\n" for a, b in POINTS)
NUMBERS = "a,b,sum,difference\n" + "".join(f"{a},{b},{50 * (a + b) + 7},{a - b}\n" for a, b in POINTS)
QUICK = ("--hidden", "3", "--epochs", "6", "--print-every", "3")


def invoke(*words: object):
    return CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)


def ok(*words: object) -> str:
    done = invoke(*words)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with data, and with a run on classes, one on numbers and one on sequences."""
    path = tmp_path_factory.mktemp("train")
    (path / "points.csv").write_text(TABLE)
    (path / "numbers.csv").write_text(NUMBERS)
    x = RNG.randn(20, 4, 2)
    np.savez(path / "sums.npz", x=x, y=x.sum(axis=(1, 2)))
    np.savez(path / "signs.npz", x=x, y=np.where(x.sum(axis=(1, 2)) > 0, "up", "down"))
    before = os.getcwd()
    os.chdir(path)
    try:
        shown = {"classes": ok("train", "points.csv", "--test-size", "0.25", "--output", "runs/classes", *QUICK)}
        both = ("--target", "sum", "--target", "difference")
        shown["numbers"] = ok("train", "numbers.csv", *both, "--output", "runs/numbers", *QUICK)
        shown["sums"] = ok("train", "sums.npz", "--output", "runs/sums", *QUICK)
        yield path, shown
    finally:
        os.chdir(before)


@pytest.fixture(autouse=True)
def in_place(place, monkeypatch):
    monkeypatch.chdir(place[0])
    return place[0]


# ---- what a run writes -----------------------------------------------------------------------------------------------


def test_everything_is_in_the_folder(in_place):
    run = in_place / "runs" / "classes"
    assert {path.name for path in run.iterdir()} - {"run.ckpt.previous"} == set(folder.FILES)
    net = hf.load(run / folder.MODEL)
    assert (net.shape, net.classes.tolist()) == ((2, 3, 2), ["left", "right"])
    result = hf.load(run / folder.RESULT)
    np.testing.assert_array_equal(net.W, result.best_params)
    assert len(result.epochs) == 6
    assert read_series(run / folder.SERIES)["test error (log)"].tolist() == pytest.approx(result.test_errors)
    assert (run / folder.FIGURE).read_bytes().startswith(PNG)


def test_history_is_that_of_the_result(in_place):
    run = in_place / "runs" / "classes"
    result = hf.load(run / folder.RESULT)
    rows = list(csv.DictReader((run / folder.HISTORY).read_text().splitlines()))
    for name in ("value", "damping", "cg_iterations", "test_error", "seconds"):
        np.testing.assert_array_equal([float(row[name]) for row in rows], result.history[name])


def test_the_model_was_trained_on_scaled_columns(in_place):
    """By hand: the same split, scaling, network and optimizer."""
    run = in_place / "runs" / "classes"
    kept = json.loads((run / folder.PREPARATION).read_text())
    raw = np.column_stack([POINTS[:, 0], 1000 + 100 * POINTS[:, 1]])
    x = (raw - kept["inputs"]["shift"]) / kept["inputs"]["factor"]
    assert np.abs(x.mean(axis=0)).max() < 0.5
    net = hf.load(run / folder.MODEL)
    found = json.loads(ok("evaluate", "runs/classes", "points.csv", "--json"))
    labels = np.where(POINTS[:, 0] < POINTS[:, 1], "left", "right")
    assert found["accuracy"] == pytest.approx(np.mean(net.predict(x) == labels))
    assert found["accuracy"] > 0.9
    assert found["loss"] == pytest.approx(net.error(net.W, x, labels), rel=1e-5)


def test_the_report_says_what_was_done(in_place, place):
    text = (in_place / "runs" / "classes" / folder.REPORT).read_text()
    assert "The run ended after 6 epochs" in text
    assert "| file | points.csv |" in text
    assert "| target | side (2 classes: left, right) |" in text
    assert "| examples to learn from | 30 |" in text
    assert "![The course of the run](figure.png)" in text
    assert hf.load("runs/classes/model.safetensors").summary() in text
    (accuracy,) = re.findall(r"^\| test \| [\d.e-]+ \| ([\d.]+) \|$", text, re.MULTILINE)
    assert re.search(rf"^test +\S+ +{re.escape(accuracy)}$", place[1]["classes"], re.MULTILINE)
    settings = tomllib.loads(re.search(r"```toml\n(.*?)```", text, re.DOTALL)[1])
    assert settings == tomllib.loads((in_place / "runs" / "classes" / folder.SETTINGS).read_text())
    assert (settings["loss"], settings["scale"], settings["output-nonlinearity"]) == (
        "cross_entropy",
        "standard",
        "Softmax",
    )


def test_what_went_wrong_is_said_in_options(in_place):
    """At the end of the run and in the report: columns of very different sizes, and a test error that rises."""
    words = [
        "train",
        "points.csv",
        "--test-size",
        "10",
        "--scale",
        "none",
        "--hidden",
        "20",
        "--nonlinearity",
        "Logistic",
    ]
    shown = ok(*words, "--epochs", "12", "--damping", "1e7", "--output", "runs/wrong")
    assert re.search(
        r"^advice: badly scaled inputs; try inputs of mean 0 and deviation 1, --scale standard; report\.md", shown, re.M
    )
    assert re.search(r"^model\.safetensors holds the weights of epoch \d+ \(test error", shown, re.M)
    report = (in_place / "runs" / "wrong" / folder.REPORT).read_text()
    assert "## What to try\n\n- **badly scaled inputs**: " in report
    assert "--scale standard" in report
    for text in (shown, report):
        assert not re.search(
            r"hf\.diagnose|early_stopping=|W_init_params=\{'coeff|init_damping|net\.W|result\.last", text
        )


@pytest.mark.parametrize("way", ["command", "settings"])
def test_the_report_says_how_to_repeat_it(way, in_place):
    run = in_place / "runs" / "classes"
    text = (run / folder.REPORT).read_text()
    words = shlex.split(re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1])
    if way == "settings":
        words = ["hessianfree", "train", "--config", str(run / folder.SETTINGS), "--output=OTHER_FOLDER"]
    ok(*[word.replace("OTHER_FOLDER", f"runs/again-{way}") for word in words[1:]])
    again = hf.load(f"runs/again-{way}/model.safetensors")
    np.testing.assert_array_equal(again.W, hf.load(run / folder.MODEL).W)


def test_figures_of_a_run_can_be_plotted(in_place, backend):
    backend("agg")
    target = in_place / "x.png"
    assert ok("plot", "runs/classes", "--save", target) == f"saved {target}\n"
    assert target.read_bytes().startswith(PNG)


# ---- numbers, sequences, other optimizers ----------------------------------------------------------------------------


def test_numbers_are_shown_in_their_own_unit(in_place):
    found = json.loads(ok("evaluate", "runs/numbers", "numbers.csv", "--json"))
    rows = list(csv.DictReader(ok("predict", "runs/numbers", "numbers.csv").splitlines()))
    predicted = np.array([[float(row["sum"]), float(row["difference"])] for row in rows])
    actual = np.column_stack([50 * POINTS.sum(axis=1) + 7, POINTS[:, 0] - POINTS[:, 1]])
    errors = predicted - actual
    assert found["RMSE of sum"] == pytest.approx(np.sqrt((errors[:, 0] ** 2).mean()), rel=1e-4)
    assert found["MAE of difference"] == pytest.approx(np.abs(errors[:, 1]).mean(), rel=1e-4)
    r2 = 1 - (errors**2).sum(axis=0) / ((actual - actual.mean(axis=0)) ** 2).sum(axis=0)
    assert found["R2"] == pytest.approx(r2.mean(), rel=1e-4)
    assert found["R2"] > 0.5


def test_sequences_with_one_number_at_their_end(in_place):
    net = hf.load("runs/sums/model.safetensors")
    assert isinstance(net, hf.RNNet)
    assert net.shape == (2, 3, 1)
    ok("predict", "runs/sums", "sums.npz", "--output", "sums-predicted.npz")
    predicted = np.load("sums-predicted.npz")["predicted"]
    x, y = np.load("sums.npz")["x"], np.load("sums.npz")["y"]
    np.testing.assert_allclose(predicted, net.predict(x), rtol=1e-6)
    found = json.loads(ok("evaluate", "runs/sums", "sums.npz", "--json"))
    assert found["RMSE"] == pytest.approx(np.sqrt(((predicted[:, -1, 0] - y) ** 2).mean()), rel=1e-5)
    lines = ok("predict", "runs/sums", "sums.npz").splitlines()
    assert (lines[0], lines[6].split(",")[:2], len(lines)) == ("sequence,timestep,y", ["1", "1"], 81)


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "momentum", "sgd", "auto"])
def test_every_optimizer_learns(name, in_place):
    size = () if name == "auto" else ("--minibatch", "10")
    rate = ("--learning-rate", "0.05")
    shown = ok(
        "train", "points.csv", "--optimizer", name, *size, *rate, *QUICK, "--output", f"runs/{name}", "--no-checkpoint"
    )
    errors = hf.load(f"runs/{name}/result.safetensors").test_errors
    assert errors[-1] < errors[0]
    assert re.search(rf"^optimizer +{name}, learning-rate 0.05", shown, re.MULTILINE)
    assert not (in_place / "runs" / name / folder.CHECKPOINT).exists()


def test_settings_reach_the_optimizer_and_the_network(in_place, monkeypatch):
    seen = {}
    given = hf.FFNet.run_epochs

    def run_epochs(self, *args, **kwargs):
        seen.update(kwargs, net=self, optimizer=args[2])
        return given(self, *args, **kwargs)

    monkeypatch.setattr(hf.FFNet, "run_epochs", run_epochs)
    words = (
        "--cg-iterations 5 --damping 2 --preconditioner kfac --curvature-batch 0.5 --averaging 0.5 --weight-decay 0.01"
    )
    more = "--nonlinearity relu,tanh --hidden 3,2 --output-nonlinearity logistic --loss binary_cross_entropy"
    rest = "--epochs 1 --seconds 100 --target-error 0.01 --no-early-stopping --minibatch 20 --dtype float64 --print-every 0"
    shown = ok("train", "points.csv", *f"{words} {more} {rest} --output runs/all".split())
    settings = seen["optimizer"].settings
    assert (settings.cg_iterations, settings.curvature_batch, settings.averaging, settings.weight_decay) == (
        5,
        0.5,
        0.5,
        0.01,
    )
    assert type(settings.preconditioner).__name__ == "KFAC"
    net = seen["net"]
    assert (net.shape, net.dtype) == ((2, 3, 2, 1), np.float64)
    assert [type(layer).__name__ for layer in net.layers] == ["Linear", "ReLU", "Tanh", "Logistic"]
    assert (seen["max_seconds"], seen["target_err"], seen["early_stopping"], seen["minibatch_size"]) == (
        100,
        0.01,
        False,
        20,
    )
    assert (seen["print_period"], seen["max_epochs"]) == (None, 1)
    assert "finished after 1 epochs: " in shown


def test_recurrent_settings_reach_the_network(in_place, monkeypatch):
    seen = []
    monkeypatch.setattr(
        hf.RNNet, "run_epochs", lambda self, *args, **kwargs: seen.append(self) or pytest.skip.Exception
    )
    words = "--hidden 4,3 --recurrent-layers 2 --spectral-radius 0.5 --truncation 2,2 --init sparse --init-scale 0.1 --force"
    invoke("train", "sums.npz", "--target", "x", *words.split(), "--output", "runs/recurrent")
    (net,) = seen
    assert (net.rec_layers, net.truncation) == ((2,), (2, 2))
    W, _ = net.get_weights(net.W, (2, 2))
    assert np.abs(np.linalg.eigvals(W)).max() == pytest.approx(0.5, rel=1e-5)


def test_a_second_file_is_tested_on(in_place):
    (in_place / "new.csv").write_text("\n".join(TABLE.splitlines()[:11]))
    shown = ok("train", "points.csv", "--test", "new.csv", *QUICK, "--output", "runs/tested")
    assert re.search(r"^examples to test on +10$", shown, re.MULTILINE)
    found = json.loads(ok("evaluate", "runs/tested", "new.csv", "--json"))
    best = min(hf.load("runs/tested/result.safetensors").test_errors)
    assert found["loss"] == pytest.approx(best, rel=1e-4)


# ---- using a model ---------------------------------------------------------------------------------------------------


def test_evaluate_shows_the_confusion_of_classes(in_place):
    shown = ok("evaluate", "runs/classes", "points.csv")
    found = json.loads(ok("evaluate", "runs/classes", "points.csv", "--json"))
    counts = np.array(found["confusion"])
    labels = np.where(POINTS[:, 0] < POINTS[:, 1], "left", "right")
    predicted = np.array([row[0] for row in csv.reader(ok("predict", "runs/classes", "points.csv").splitlines())][1:])
    for i, actual in enumerate(found["classes"]):
        for j, taken in enumerate(found["classes"]):
            assert counts[i, j] == ((labels == actual) & (predicted == taken)).sum()
    assert counts.trace() / 40 == found["accuracy"]
    assert re.search(rf"^left +{counts[0, 0]} +{counts[0, 1]} ", shown, re.MULTILINE)


def test_predictions_with_probabilities(in_place):
    text = ok("predict", "runs/classes", "points.csv", "--probabilities")
    rows = list(csv.DictReader(text.splitlines()))
    chances = np.array([[float(row["side=left"]), float(row["side=right"])] for row in rows])
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-5)
    assert [row["side"] for row in rows] == np.where(chances[:, 0] > chances[:, 1], "left", "right").tolist()
    ok("predict", "runs/classes", "points.csv", "--probabilities", "--output", "p.csv")
    assert (in_place / "p.csv").read_text() == text
    ok("predict", "runs/classes", "points.csv", "--probabilities", "--output", "p.npz")
    with np.load("p.npz", allow_pickle=False) as found:
        np.testing.assert_allclose(found["probabilities"], chances, atol=1e-5)
        assert found["classes"].tolist() == ["left", "right"]
        assert found["predicted"].tolist() == [row["side"] for row in rows]


def test_a_network_without_a_preparation_takes_data_as_they_are(in_place):
    net = hf.load("runs/classes/model.safetensors")
    net.save("net.safetensors")
    raw = np.column_stack([POINTS[:, 0], 1000 + 100 * POINTS[:, 1]])
    found = json.loads(ok("evaluate", "net.safetensors", "points.csv", "--json"))
    labels = np.where(POINTS[:, 0] < POINTS[:, 1], "left", "right")
    assert found["accuracy"] == pytest.approx(net.score(raw, labels))
    words = ("predict", "net.safetensors", "points.csv", "--inputs", "wide", "--inputs", "far")
    assert ok(*words).splitlines()[1:] == net.predict(raw).tolist()
    sums = hf.load("runs/sums/model.safetensors")
    sums.save("sums.safetensors")
    with np.load("sums.npz") as arrays:
        x = arrays["x"]
        np.savez("other.npz", inputs=x, targets=sums.predict(x))
    assert json.loads(ok("evaluate", "sums.safetensors", "other.npz", "--json"))["loss"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["evaluate", "runs/nosuch", "points.csv"], 1, "no file runs/nosuch"),
        (["evaluate", "runs", "points.csv"], 1, "runs has no model.safetensors"),
        (["evaluate", "runs/classes/result.safetensors", "points.csv"], 1, "holds the result of a run"),
        (["evaluate", "runs/classes", "sums.npz"], 1, "made from a .csv file"),
        (["evaluate", "runs/classes", "numbers.csv"], 1, "has no column 'wide'"),
        (["predict", "runs/classes", "nosuch.csv"], 1, "no file nosuch.csv"),
        (["predict", "runs/classes", "points.csv", "--output", "x.txt"], 2, "ends in .csv or .npz"),
        (["predict", "runs/classes", "points.csv", "--output", "./points.csv"], 2, "would be replaced"),
        (["predict", "runs/numbers", "numbers.csv", "--probabilities"], 2, "predicts numbers"),
        (["predict", "runs/classes", "points.csv", "--inputs", "wide"], 1, "The data have 1 inputs"),
        (["predict", "runs/classes", "points.csv", "--output", "nosuch/x.csv"], 1, "there is no folder"),
    ],
)
def test_models_and_data_that_do_not_fit(words, code, message):
    done = invoke(*words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--output", "runs/classes"], 1, "the folder runs/classes is there already; name another one by --output"),
        (["--output", "points.csv"], 1, "points.csv is a file"),
        (["--output", ".", "--resume"], 1, ". is no folder of a run: it lacks config.toml"),
        (["--output", "new", "--optimizer", "adam", "--damping", "1"], 2, "damping belongs to hf, auto"),
        (["--output", "new", "--learning-rate", "1"], 2, "learning-rate belongs to sgd, momentum, adam"),
        (["--output", "new", "--truncation", "1,2"], 2, "truncation is for recurrent networks"),
        (["--output", "new", "--hidden", "3,0"], 2, "a layer of 0 units"),
        (["--output", "new", "--nonlinearity", "tanh,relu"], 2, "nonlinearity names 2 for 1 hidden layers"),
        (["--output", "new", "--test-size", "0.5", "--test", "points.csv"], 2, "test names a file, and test-size"),
        (["--output", "new", "--test-size", "50"], 1, "test-size is 50, and there are 40 rows"),
        (["--output", "new", "--target", "far", "--ignore", "side", "--loss", "cross_entropy"], 1, "of a single unit"),
        (["--output", "new", "--loss", "cross_entropy", "--output-nonlinearity", "tanh"], 1, "Softmax"),
        (["--output", "new", "--gpu"], 1, "JAX sees no GPU"),
        (["--output", "points.csv/new"], 1, ""),
    ],
)
def test_what_is_refused_leaves_no_folder(words, code, message, in_place):
    before = sorted(in_place.rglob("*"))
    done = invoke("train", "points.csv", *words)
    assert done.exit_code == code
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert sorted(in_place.rglob("*")) == before


def test_data_that_no_network_learns_from_leave_no_folder(in_place):
    (in_place / "one.csv").write_text("x,y\n1,a\n2,a\n")
    assert "The targets are all" in invoke("train", "one.csv").stderr
    np.savez("nan.npz", x=np.array([[1.0], [np.nan]]), y=np.array([0.5, 1]))
    assert "NaN or infinite" in invoke("train", "nan.npz").stderr
    (in_place / "third.csv").write_text("wide,far,side\n1,2,middle\n")
    assert "'middle'" in invoke("train", "points.csv", "--test", "third.csv", "--output", "runs/third").stderr
    assert not {"one", "nan", "third"} & {path.name for path in (in_place / "runs").iterdir()}


def test_force_replaces_a_run_and_nothing_else(in_place):
    run = in_place / "runs" / "forced"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    (run / folder.MODEL).write_text("old")
    (run / "run.ckpt.previous").write_text("old")
    assert invoke("train", "points.csv", *QUICK, "--output", run).exit_code == 1
    ok("train", "points.csv", *QUICK, "--output", run, "--force", "--seed", "1")
    assert (run / "notes.txt").read_text() == "mine"
    assert hf.load(run / folder.MODEL).shape == (2, 3, 2)


@pytest.mark.long
def test_a_run_goes_on_where_it_was(in_place):
    straight = (
        "train",
        "points.csv",
        "--hidden",
        "3",
        "--print-every",
        "0",
        "--minibatch",
        "20",
        "--test-size",
        "0.25",
    )
    ok(*straight, "--epochs", "5", "--output", "runs/straight")
    ok(*straight, "--epochs", "2", "--output", "runs/parts", "--resume")  # there is none yet: it begins
    ok("train", "--resume", "--output", "runs/parts", "--epochs", "5")
    first, second = (in_place / "runs" / name for name in ("straight", "parts"))
    np.testing.assert_array_equal(hf.load(first / folder.MODEL).W, hf.load(second / folder.MODEL).W)
    series = [read_series(run / folder.SERIES)["test error (log)"].tolist() for run in (first, second)]
    assert series[0] == series[1]
    assert len(series[0]) == 5
    texts = [(run / folder.SETTINGS).read_text().replace("straight", "parts") for run in (first, second)]
    assert texts[0] == texts[1]
    done = invoke("train", "--resume", "--output", "runs/parts", "--hidden", "4")
    assert done.exit_code == 1
    assert "checkpoint" in done.stderr


def test_without_a_checkpoint_a_run_cannot_go_on(in_place):
    ok("train", "points.csv", *QUICK, "--no-checkpoint", "--output", "runs/without")
    done = invoke("train", "--resume", "--output", "runs/without")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "kept no run.ckpt" in done.stderr


def test_an_interrupted_run_keeps_its_best_and_ends_with_130(in_place, monkeypatch):
    from hessianfree.training.loop import _Course

    given = _Course._complete

    def complete(self):
        epoch = given(self)
        if epoch.number == 2:
            raise KeyboardInterrupt
        return epoch

    monkeypatch.setattr(_Course, "_complete", complete)
    done = invoke("train", "points.csv", *QUICK, "--no-checkpoint", "--output", "runs/interrupted")
    assert done.exit_code == 130
    assert "interrupted" in done.stdout
    assert "interrupted" in (in_place / "runs" / "interrupted" / folder.REPORT).read_text()


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_a_run_that_can_go_on(number, code, in_place):
    run = in_place / "runs" / f"signal-{code}"
    words = ["train", "points.csv", "--hidden", "3", "--no-early-stopping", "--target-error=-inf", "--print-every", "1"]
    endless = [*words, "--epochs", "1000000", "--output", str(run)]
    command = [sys.executable, "-m", "hessianfree", *endless]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 3"):
                process.send_signal(number)
                break
        process.stdout.read()
        assert process.wait(300) == code
        assert process.stderr.read() == ""
    assert (run / folder.MODEL).exists() == (code == 130)
    assert (run / folder.CHECKPOINT).exists()
    assert (run / folder.SETTINGS).exists()
    before = hf.load(run / folder.RESULT).epochs if code == 130 else range(3)
    ok("train", "--resume", "--output", run, "--epochs", len(before) + 2)
    assert len(hf.load(run / folder.RESULT).epochs) >= len(before)


# ---- profile of a configuration --------------------------------------------------------------------------------------


def test_profile_trains_without_writing(in_place):
    (in_place / "run.toml").write_text('data = "points.csv"\nhidden = 3\nepochs = 2\noutput = "runs/profiled"\n')
    shown = ok("profile", "run.toml", "--top", "0")
    assert "finished after 2 epochs" in shown
    assert "where the time went" in shown
    assert not (in_place / "runs" / "profiled").exists()
    done = invoke("profile", "run.toml", "x=1")
    assert (done.exit_code, done.stdout) == (2, "")
    (in_place / "empty.toml").write_text("")
    assert "names no data" in invoke("profile", "empty.toml").stderr
