from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from hessianfree.plotting import figures

PNG = b"\x89PNG\r\n\x1a\n"


def line_figure() -> Figure:
    figure = Figure()
    figure.subplots().plot([3, 1, 2])
    return figure


@pytest.mark.parametrize("name", ["agg", "svg"])
def test_a_backend_without_windows_is_no_display(backend, name):
    backend(name)
    assert not figures.has_display()
    assert matplotlib.get_backend().lower() == name


def test_a_backend_with_windows_is_a_display(windows):
    assert figures.has_display()
    assert matplotlib.get_backend() == "module://stand_in_windows"


@pytest.mark.parametrize("chosen", ["TkAgg", "module://nosuch"])
def test_a_backend_that_cannot_be_had_is_no_display(chosen, backend, monkeypatch):
    monkeypatch.setattr("matplotlib.cbook._get_running_interactive_framework", lambda: "headless")
    matplotlib.rcParams["backend"] = chosen  # as MPLBACKEND chooses: nothing is loaded yet
    assert not figures.has_display()


def test_figures_are_saved_without_a_display(backend, tmp_path, capsys):
    backend("agg")
    written = figures.show_or_save({"spikes": line_figure(), "angle": plt.figure()}, tmp_path)
    assert written == [tmp_path / "spikes.png", tmp_path / "angle.png"]
    assert all(path.read_bytes().startswith(PNG) for path in written)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["angle.png", "spikes.png"]
    assert capsys.readouterr().out == f"saved {written[0]}\nsaved {written[1]}\n"


def test_figures_are_shown_on_a_display(windows, tmp_path, capsys):
    made_elsewhere, made_by_pyplot = line_figure(), plt.figure()
    windows.user.append(lambda: plt.close("all"))
    assert figures.show_or_save({"spikes": made_elsewhere, "angle": made_by_pyplot}, tmp_path) == []
    assert sorted(windows.shown) == ["angle", "spikes"]
    assert windows.user == []
    assert len(made_elsewhere.axes) == 1
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_ctrl_c_closes_the_windows(windows, tmp_path):
    def interrupt():
        raise KeyboardInterrupt

    windows.user.append(interrupt)
    mine = plt.figure()
    assert figures.show_or_save({"spikes": line_figure()}, tmp_path) == []
    assert plt.get_fignums() == [mine.number]


@pytest.mark.parametrize("name", ["", "../escape", "a/b"])
def test_names_that_cannot_be_files(backend, name, tmp_path):
    backend("agg")
    with pytest.raises(ValueError, match="cannot be a file name"):
        figures.show_or_save({"good": line_figure(), name: line_figure()}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist(backend, tmp_path):
    backend("agg")
    with pytest.raises(FileNotFoundError, match="create it first"):
        figures.show_or_save({"spikes": line_figure()}, tmp_path / "nosuch")


def test_no_figures_open_nothing(windows):
    assert figures.show_or_save({}) == []
    assert windows.shown == []
