from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import defaultdict

import matplotlib.pyplot as plt
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.io.files import FileFormatError
from hessianfree.io.plots import UnfinishedFileError, read_series
from hessianfree.plotting import live as dataplotter
from hessianfree.plotting.series import draw, new_figure
from hessianfree.training.callbacks import write_plots

PNG = b"\x89PNG\r\n\x1a\n"
SERIES = {"training error (log)": [0.5, 0.1], "CG iterations": [3, 7], "test error (log)": [0.2]}


def dumped(content: object) -> bytes:
    return pickle.dumps(content, protocol=2)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A plots file, as the training loop writes it."""
    monkeypatch.chdir(tmp_path)
    with open("HF_plots.pkl", "wb") as file:
        write_plots(SERIES, file)
    return tmp_path / "HF_plots.pkl"


# Reading


def test_series_are_read_as_they_were_written(path):
    series = read_series(path)
    assert {name: values.tolist() for name, values in series.items()} == SERIES
    assert list(series) == list(SERIES)


def test_a_file_of_2016(path):
    plots = defaultdict(list)
    plots["training error (log)"] += [np.float32(0.5), np.float32(0.25), 1]
    plots["damping (log)"] += [np.array(2.0)]
    path.write_bytes(dumped(plots))
    series = read_series(path)
    np.testing.assert_array_equal(series["training error (log)"], [0.5, 0.25, 1])
    np.testing.assert_array_equal(series["damping (log)"], [2])
    assert "nosuch" not in series


@pytest.mark.parametrize("content", [SERIES, defaultdict(list, SERIES)])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_every_beginning_of_a_file_is_unfinished(content, protocol, path):
    whole = pickle.dumps(content, protocol=protocol)
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        with pytest.raises(UnfinishedFileError):
            read_series(path)
    path.write_bytes(whole + b"what was there before")
    with pytest.raises(UnfinishedFileError):
        read_series(path)
    path.write_bytes(whole)
    assert list(read_series(path)) == list(SERIES)


WRONG = {
    "a list": ([1, 2], "a pickled list"),
    "text": ({"loss": ["a", "b"]}, "series 'loss'"),
    "a number": ({"loss": 3.0}, "series 'loss'"),
    "nested": ({"loss": [[1.0], [2.0]]}, "series 'loss'"),
    "ragged": ({"loss": [[1.0], 2.0]}, "series 'loss'"),
    "None": ({"loss": [1.0, None]}, "series 'loss'"),
    "complex": ({"loss": [1j]}, "series 'loss'"),
    "name": ({3: [1.0]}, "name is a int"),
    "hostile": (Hostile(), "could run code"),
    "function": ({"loss": [print]}, "could run code"),
}


@pytest.mark.parametrize(("content", "found"), WRONG.values(), ids=WRONG)
def test_other_pickles_are_refused_for_good(content, found, path):
    path.write_bytes(dumped(content))
    with pytest.raises(FileFormatError, match=found) as told:
        read_series(path)
    assert not isinstance(told.value, UnfinishedFileError)
    assert "HF_plots.pkl" in str(told.value)
    assert "expected a plots file" in str(told.value)
    assert "plotting=True" in str(told.value)
    assert not (path.parent / "hostile").exists()


# Drawing


def drawn(**series):
    figure = new_figure(len(series))
    draw(figure, {name: np.asarray(values, float) for name, values in series.items()})
    figure.savefig(os.devnull, format="png", dpi=20)
    return figure


def test_one_panel_per_series(path):
    figure = drawn(**SERIES)
    assert [panel.get_title() for panel in figure.axes] == ["training error", "CG iterations", "test error"]
    assert [panel.get_xlabel() for panel in figure.axes] == ["update", "update", "epoch"]
    assert [panel.get_yscale() for panel in figure.axes] == ["log", "linear", "log"]
    (line,) = figure.axes[1].get_lines()
    assert line.get_xdata().tolist() == [0, 1]
    assert line.get_ydata().tolist() == [3, 7]
    assert all(tick == round(tick) for tick in figure.axes[1].get_xticks())
    low, high = figure.axes[1].get_ylim()
    assert 2 < low < 3 < 7 < high < 8


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("name", "values", "shown", "scale"),
    [
        ("a (log)", [0, -1, NAN, 2, 4, INF], [NAN, NAN, NAN, 2, 4, NAN], "log"),
        ("a (log)", [0, -1, NAN], [NAN] * 3, "linear"),
        ("a (log)", [], [], "linear"),
        ("a (log)", [1e-300, 1.7e308], [1e-300, NAN], "log"),
        ("a", [0, -1, NAN, -INF], [0, -1, NAN, NAN], "linear"),
        ("a", [1.7e308, -1.7e308], [NAN, NAN], "linear"),
        ("a", [1e307, -1e307], [NAN, NAN], "linear"),
        ("a", [1e100, -1e100], [1e100, -1e100], "linear"),
        ("a", [], [], "linear"),
    ],
)
def test_values_that_cannot_be_drawn_are_gaps(name, values, shown, scale):
    (panel,) = drawn(**{name: values}).axes
    np.testing.assert_array_equal(panel.get_lines()[0].get_ydata(), shown)
    assert panel.get_yscale() == scale


@pytest.mark.parametrize(
    ("values", "marked"), [([5], [0]), ([5, 6], []), ([1, NAN, 3, NAN, 5, 6, NAN, 8], [0, 2, 7]), ([], [])]
)
def test_points_without_neighbours_show_as_markers(values, marked):
    (panel,) = drawn(a=values).axes
    assert panel.get_lines()[0].get_markevery() == marked


def test_a_single_value_leaves_ink():
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def blue(values):
        figure = drawn(a=values)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba()).astype(int)
        return int(((pixels[..., 2] - pixels[..., 0]) > 80).sum())

    assert blue([]) == 0
    assert blue([5]) > 5


@pytest.mark.parametrize(
    ("name", "title"),
    [
        *[(name, name) for name in ("$", r"$\nosuch$", "_hidden", "", "x" * 40)],
        ("x" * 300, "x" * 37 + "..."),
        ("a\nb (log)", "a b"),
        ("(log) a", "(log) a"),
    ],
)
def test_any_name_can_be_drawn(name, title):
    (panel,) = drawn(**{name: [1, 2]}).axes
    assert panel.get_title() == title


def test_an_update_keeps_the_panels_and_what_was_zoomed():
    figure = drawn(a=[1, 2], b=[1])
    first, second = figure.axes
    first.set_xlim(0.25, 0.5)
    draw(figure, {"a": np.array([1.0, 2.0, 50.0]), "b": np.array([1.0, 70.0])})
    assert figure.axes == [first, second]
    assert first.get_xlim() == (0.25, 0.5)
    assert first.get_lines()[0].get_ydata().tolist() == [1, 2, 50]
    assert second.get_ylim()[1] > 70


def test_series_that_appear_later_get_a_panel():
    figure = drawn()
    assert [text.get_text() for text in figure.texts] == ["no series yet"]
    draw(figure, {"a": np.array([1.0])})
    assert (len(figure.axes), figure.texts) == (1, [])
    draw(figure, {"a": np.array([1.0]), "b (log)": np.array([0.0])})
    assert [panel.get_title() for panel in figure.axes] == ["a", "b"]
    assert figure.axes[1].get_yscale() == "linear"
    draw(figure, {"a": np.array([1.0]), "b (log)": np.array([0.0, 3.0])})
    assert figure.axes[1].get_yscale() == "log"


# Watching, with a scripted window in place of time


class FakeWindow:
    """Does one step of a script per pause; the user closes it after the last one."""

    def __init__(self, *steps):
        self.steps, self.shown, self.paused, self.closed = list(steps), [], [], False

    def show(self, series):
        self.shown.append({name: values.tolist() for name, values in series.items()})

    def pause(self, seconds):
        self.paused.append(seconds)
        if self.steps:
            self.steps.pop(0)()
        else:
            self.closed = True

    def is_closed(self):
        return self.closed

    def close(self):
        self.closed = True


def nothing():
    pass


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture
def watch(path, capsys):
    """Watch the file while a script goes on; returns what was shown, and what was printed."""

    def watch(*steps):
        window = FakeWindow(*steps)
        try:
            dataplotter.watch(path, 1.0, window)
        finally:
            assert window.closed
            watch.shown, watch.printed, watch.pauses = window.shown, capsys.readouterr().out, len(window.paused)
        return watch.shown, watch.printed

    return watch


def test_a_file_is_shown_again_only_when_it_has_changed(path, watch, monkeypatch):
    reads = []
    monkeypatch.setattr(dataplotter, "read", lambda path: reads.append(path) or read_series(path))
    shown, printed = watch(nothing, nothing, lambda: path.write_bytes(dumped({"a": [1, 2]})), nothing)
    assert shown == [SERIES, {"a": [1, 2]}]
    assert reads == [path, path]
    assert printed == ""


def test_a_file_of_the_same_size_and_time_is_told_by_its_number(path, watch):
    before = path.stat()

    def replace():
        new = path.with_suffix(".new")
        new.write_bytes(path.read_bytes().replace(b"CG iter", b"XY iter"))
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(new, path)

    shown, _ = watch(replace)
    assert [list(series)[1] for series in shown] == ["CG iterations", "XY iterations"]


def test_a_missing_file_is_waited_for_and_said_once(path, watch):
    whole = path.read_bytes()
    path.unlink()
    shown, printed = watch(nothing, nothing, lambda: path.write_bytes(whole), nothing)
    assert shown == [SERIES]
    assert printed == f"waiting for {path}, which does not exist yet (Ctrl-C ends)\n"


@pytest.mark.parametrize("part", [b"", b"\x80", b"garbled", b"\x00\xff" * 20, None])
def test_a_damaged_file_is_waited_for(part, path, watch):
    whole = path.read_bytes()
    path.write_bytes(whole[:40] if part is None else part)
    shown, printed = watch(nothing, lambda: path.write_bytes(whole[:50]), lambda: path.write_bytes(whole), nothing)
    assert shown == [SERIES]
    assert printed.count("\n") == 1
    assert "waiting until it is whole" in printed


def test_damage_keeps_the_last_good_data_for_ever(path, watch):
    whole = path.read_bytes()
    steps = [lambda: path.write_bytes(whole[:40]), *[nothing] * 500, lambda: path.write_bytes(dumped({"a": [1]}))]
    shown, _ = watch(*steps, path.unlink, nothing)
    assert shown == [SERIES, {"a": [1]}]


def test_damage_that_stays_is_an_error_in_the_end(path, watch):
    path.write_bytes(b"step,loss\n0,1.5\n")
    change = lambda: path.write_bytes(b"step,loss\n0,1.5\n1,0.5\n")
    with pytest.raises(FileFormatError, match="step,loss"):
        watch(*[nothing] * 50, change, *[nothing] * 500)
    assert watch.pauses == 51 + dataplotter.PATIENCE
    assert watch.shown == []


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("content", [["a"], {"loss": ["a"]}, Hostile()], ids=["list", "text", "hostile"])
def test_another_kind_of_file_is_an_error_at_once(content, is_first, path, watch):
    wrong = lambda: path.write_bytes(dumped(content))
    if is_first:
        wrong()
    with pytest.raises(FileFormatError, match="expected a plots file"):
        watch(wrong, nothing, nothing)
    assert len(watch.shown) == (0 if is_first else 1)
    assert not (path.parent / "hostile").exists()


def test_a_folder_is_an_error_at_once(path, watch):
    path.unlink()
    path.mkdir()
    with pytest.raises(FileFormatError, match="a folder"):
        watch(nothing)


@pytest.mark.parametrize("exists", [True, False])
def test_ctrl_c_ends_cleanly(exists, path, watch):
    if not exists:
        path.unlink()
    shown, _ = watch(nothing, interrupt, nothing)
    assert shown == ([SERIES] if exists else [])
    assert watch.pauses == 2


# Running, with windows in memory


def test_a_window_follows_the_file_until_it_is_closed(path, windows):
    panels = []

    def look():
        panels.append([panel.get_label() for panel in plt.gcf().axes])

    def change():
        path.write_bytes(dumped({**SERIES, "new": [1]}))

    windows.user += [look, change, look, nothing, lambda: plt.close("all")]
    assert dataplotter.run(path) is None
    assert panels == [list(SERIES), [*SERIES, "new"]]
    assert windows.shown == ["HF_plots.pkl"]
    assert windows.redraws == ["HF_plots.pkl"] * 2
    assert windows.user == []
    assert plt.get_fignums() == []


def test_no_window_is_opened_before_there_is_something_to_show(path, windows, monkeypatch):
    whole = path.read_bytes()
    path.unlink()
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        assert plt.get_fignums() == []
        path.write_bytes(whole)

    monkeypatch.setattr("time.sleep", sleep)
    windows.user += [interrupt]
    assert dataplotter.run(path, interval=0.25) is None
    assert slept == [0.25]
    assert windows.shown == ["HF_plots.pkl"]
    assert plt.get_fignums() == []


def test_an_error_closes_the_window(path, windows):
    windows.user += [lambda: path.write_bytes(dumped([1]))]
    with pytest.raises(FileFormatError):
        dataplotter.run(path)
    assert plt.get_fignums() == []


# Saving


def test_save_writes_a_picture_and_opens_no_window(path, windows, capsys):
    target = path.parent / "x.png"
    target.write_bytes(b"old")
    assert dataplotter.run("HF_plots.pkl", save="x.png").resolve() == target
    assert target.read_bytes().startswith(PNG)
    assert capsys.readouterr().out == "saved x.png\n"
    assert windows.shown == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["HF_plots.pkl", "x.png"]


@pytest.mark.parametrize("save", ["x.png", None])
def test_saving_waits_for_nothing(save, path, backend):
    backend("agg")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"no file .*HF_plots.pkl .*check the path"):
        dataplotter.run(path, save=save)
    path.write_bytes(b"")
    with pytest.raises(FileFormatError, match="a pickle cut short after 0 bytes"):
        dataplotter.run(path, save=save)
    assert list(path.parent.iterdir()) == [path]


def test_without_a_display_the_picture_lies_beside_the_file(path, backend, capsys):
    backend("agg")
    target = path.with_name("HF_plots.png")
    assert dataplotter.run(path) == target
    assert target.read_bytes().startswith(PNG)
    assert capsys.readouterr().out == f"saved {target}\n"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("HF_plots.pkl", {"save": "x.pdf"}, r"ending in \.png"),
        ("HF_plots.pkl", {"save": "HF_plots.pkl"}, "name another file"),
        ("plots.png", {}, "name another file"),
        ("HF_plots.pkl", {"save": "nosuch/x.png"}, "there is no folder"),
        ("HF_plots.pkl", {"interval": 0}, "interval is 0"),
        ("HF_plots.pkl", {"interval": NAN}, "interval is nan"),
    ],
)
def test_arguments_that_cannot_be_met(name, options, message, path, backend):
    backend("agg")
    if name != path.name:
        os.rename(path, name)
    with pytest.raises((ValueError, OSError), match=message):
        dataplotter.run(name, **options)
    assert os.listdir() == [name]
    assert list(read_series(name)) == list(SERIES)


def test_a_run_that_was_trained(path):
    net = hf.FFNet([2, 1], rng=0)
    optimizer = hf.opt.SGD(plotting=True)
    net.run_epochs([[0, 0], [1, 1]], [[0], [1]], optimizer=optimizer, max_epochs=3, minibatch_size=1, plotting=True)
    figure = drawn(**read_series(path))
    lengths = {panel.get_xlabel(): len(panel.get_lines()[0].get_xdata()) for panel in figure.axes}
    assert lengths == {"update": 6, "epoch": 3}


# The command line


def plot(*words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    command = [sys.executable, "-m", "hessianfree", "plot", *words]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux takes displays from the environment")
def test_the_command_without_a_display(path):
    done = plot("HF_plots.pkl")
    assert (done.returncode, done.stdout, done.stderr) == (0, "saved HF_plots.png\n", "")
    assert path.with_name("HF_plots.png").read_bytes().startswith(PNG)


def test_mistakes_on_the_command_line_are_one_line(path):
    done = plot("nosuch.pkl", "--save", "x.png")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no file nosuch.pkl (looked in ")
    assert done.stderr.count("\n") == 1


def test_the_plotter_is_reached_by_name():
    assert hf.dataplotter.run is dataplotter.run
