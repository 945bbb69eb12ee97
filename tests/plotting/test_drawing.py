from __future__ import annotations

import itertools
import math
import os
import pickle
from types import SimpleNamespace

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import hessianfree as hf
from hessianfree.diagnosis.course import RunCourse
from hessianfree.engine import cg
from hessianfree.engine.hessian_free import Record
from hessianfree.io.files import FileFormatError
from hessianfree.io.plots import UnfinishedFileError
from hessianfree.optimizers.auto import AutoRecord
from hessianfree.optimizers.first_order import GradientRecord
from hessianfree.plotting import live, sources, story
from hessianfree.plotting.course import read_course, used_iteration

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
T = np.array([[0], [1], [1], [0]], np.float32)


def train(optimizer=None, **arguments):
    net = hf.FFNet([2, 5, 1], rng=0)
    given = {"max_epochs": 4, "minibatch_size": 2, "print_period": None, **arguments}
    return net.run_epochs(X, T, optimizer or hf.opt.HessianFree(CG_iter=2), **given)


def decay(p, x):
    return p[0] * jnp.exp(-p[1] * x)


AT = np.linspace(0, 3, 20)
CURVE = hf.Curve(decay, AT, 2 * np.exp(-1.5 * AT) + 0.01 * np.cos(30 * AT))


def fit():
    return hf.least_squares(CURVE, np.ones(2), print_period=None)


def panels(figure):
    return {axes.get_title(): axes for axes in figure.axes}


def lines(axes):
    """Label -> x and y of the points that show."""
    shown = {}
    for line in axes.get_lines():
        x, y = np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
        shown[line.get_label()] = x[np.isfinite(y)].tolist(), y[np.isfinite(y)].tolist()
    return shown


def record(value=1.0, new_value=0.5, accepted=True, **fields):
    """A record of HessianFree, with some fields of one's own."""
    usual = Record(value, new_value, 1.0, 1.0, 2, cg.Stop.PROGRESS, 0, math.nan, 1.0, 1.0, 0.1, False, True, False, "")
    return usual._replace(accepted=accepted, **fields)


def epoch(number, updates, test_error=0.5, **more):
    return SimpleNamespace(number=number, test_error=test_error, seconds=number + 0.5, updates=updates, **more)


# ---- the course of a run ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("limit", "size"), [(3, 8), (12, 30), (40, 60)])
def test_the_iterate_that_was_used(limit, size):
    draw = np.random.RandomState(0)
    A = draw.randn(size, size)
    A = (A @ A.T + 0.1 * np.eye(size)).astype(np.float32)
    solution = cg.conjugate_gradient(lambda v: A @ v, jnp.ones(size), jnp.zeros(size), None, limit, 1e-7)
    made, labels = int(solution.iterations), cg.iteration_labels(solution)
    assert made > 2
    for passed in range(len(labels)):
        assert used_iteration(made, passed) == labels[len(labels) - 1 - passed] + 1


@pytest.mark.parametrize("make", [lambda: None, lambda: hf.opt.SGD(0.1), hf.opt.Auto], ids=["HF", "SGD", "Auto"])
def test_a_course_is_the_history(make):
    result = train(make())
    course, history = RunCourse.of(result), result.history
    assert course.updates == 8
    assert course.counts.tolist() == [2, 2, 2, 2]
    assert course.ends.tolist() == [2, 4, 6, 8]
    np.testing.assert_array_equal(course.errors, history["test_error"])
    np.testing.assert_array_equal(course.seconds, history["seconds"])
    np.testing.assert_array_equal(course.reached, history["new_value" if "new_value" in history else "value"])
    assert set(course.fields) == {
        name for name, values in history.items() if len(values) == 8 and values.dtype.kind != "U"
    } - {"epoch"}
    for name, values in course.fields.items():
        np.testing.assert_array_equal(values, history[name].astype(float))
    assert (course.unit, course.reason, course.solver) == ("epoch", result.reason, result.solver)
    assert result.test_errors[course.best] == result.best_error


def test_records_of_several_kinds():
    mixed = [record(new_value=0.5), SimpleNamespace(_fields=("accepted", "reason"), accepted=False, reason="no")]
    course = RunCourse.of_epochs([epoch(0, mixed)], "HessianFree", "")
    np.testing.assert_array_equal(course.fields["new_value"], [0.5, math.nan])
    np.testing.assert_array_equal(course.accepted, [True, False])
    assert "reason" not in course.fields
    assert RunCourse.of_epochs([epoch(0, [None])], "", "").fields == {}


# ---- files -----------------------------------------------------------------------------------------------------------


def assert_same(one, other):
    assert (one.solver, one.reason, one.unit) == (other.solver, other.reason, other.unit)
    for name in ("counts", "errors", "seconds", "reached", "phases"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert list(one.fields) == list(other.fields)
    for name, values in one.fields.items():
        np.testing.assert_array_equal(values, other.fields[name])


@pytest.mark.parametrize("make", [lambda: train(), lambda: train(hf.opt.Auto()), fit], ids=["HF", "Auto", "fit"])
def test_a_saved_result_has_the_course_of_the_result(make, tmp_path):
    result = make()
    result.save(tmp_path / "result.safetensors")
    assert_same(read_course(tmp_path / "result.safetensors"), RunCourse.of(result))
    titles = list(panels(hf.plot(result, view="run")))
    assert list(panels(hf.plot(str(tmp_path / "result.safetensors")))) == titles


@pytest.mark.parametrize("make", [lambda: hf.opt.HessianFree(CG_iter=2), lambda: hf.opt.SGD(0.1)])
def test_a_checkpoint_has_the_course_so_far(make, tmp_path):
    class BreaksOff:
        def on_update(self, epoch_number, update, updates, record):
            if (epoch_number, update) == (2, 1):
                raise RuntimeError("broken off")

    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="broken off"):
        train(make(), checkpoint=path, checkpoint_every=1, callbacks=[BreaksOff()])
    course, whole = read_course(path), RunCourse.of(train(make()))
    assert course.counts.tolist() == [2, 2]  # the epoch under way is not complete
    np.testing.assert_array_equal(course.reached, whole.reached[:5])
    np.testing.assert_array_equal(course.errors, whole.errors[:2])
    assert (course.solver, course.reason) == (type(make()).__name__, "")
    assert "not over yet" in hf.plot(path)._suptitle.get_text()


def test_a_checkpoint_of_least_squares(tmp_path):
    result = hf.least_squares(CURVE, np.ones(2), print_period=None, checkpoint=tmp_path / "fit.ckpt")
    assert_same(read_course(tmp_path / "fit.ckpt"), RunCourse.of(result))


def test_a_plots_file(tmp_path):
    series = {"damping (log)": [1.0, 0.5], "W norm": [1.0, 2.0]}
    (tmp_path / "HF_plots.pkl").write_bytes(pickle.dumps(series))
    figure = hf.plot(tmp_path / "HF_plots.pkl")
    assert list(panels(figure)) == ["damping", "W norm"]


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nosuch\.ckpt"):
        hf.plot(tmp_path / "nosuch.ckpt")
    net = tmp_path / "net.safetensors"
    hf.FFNet([2, 5, 1], rng=0).save(net)
    with pytest.raises(FileFormatError, match=r"a saved network.*result\.save\(path\)"):
        hf.plot(net)
    from safetensors.numpy import save_file

    save_file({"x": np.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(FileFormatError, match="expected a saved network or result or a checkpoint"):
        hf.plot(tmp_path / "other.safetensors")
    train().save(tmp_path / "result.safetensors")
    data = bytearray((tmp_path / "result.safetensors").read_bytes())
    data[-3] ^= 1
    (tmp_path / "result.safetensors").write_bytes(data)
    with pytest.raises(FileFormatError, match="checksum"):
        hf.plot(tmp_path / "result.safetensors")


def test_a_file_that_is_replaced_while_it_is_read_is_waited_for(tmp_path, monkeypatch):
    path, other = tmp_path / "run.ckpt", tmp_path / "other.ckpt"
    train(checkpoint=path)
    train(checkpoint=other, max_epochs=3)
    from hessianfree.io.archives import Archive

    arrays = Archive.arrays

    def replaced(self):
        if other.exists():
            os.replace(other, path)
        return arrays(self)

    monkeypatch.setattr(Archive, "arrays", replaced)
    with pytest.raises(UnfinishedFileError):
        sources.read(path)
    assert len(sources.read(path).counts) == 3


def test_a_window_follows_a_checkpoint(tmp_path, windows):
    path, seen = tmp_path / "run.ckpt", []
    train(checkpoint=path, max_epochs=2)

    def look():
        axes = panels(plt.gcf())["damping"]
        seen.append((axes, len(axes.get_lines()[0].get_xdata()), axes.get_xlim()))

    def zoom():
        panels(plt.gcf())["damping"].set_xlim(1, 2)

    resume = lambda: train(checkpoint=path, resume=True, max_epochs=3)
    windows.user += [look, resume, look, zoom, resume, look, lambda: plt.close("all")]
    assert live.run(path) is None
    assert [count for _, count, _ in seen] == [4, 6, 6]
    assert len({id(axes) for axes, _, _ in seen}) == 1
    assert seen[0][2][1] < seen[1][2][1]
    assert seen[2][2] == (1, 2)


# ---- the story -------------------------------------------------------------------------------------------------------

BELOW = ["damping", "CG iterations", "reduction ratio", "step size", "update norm", "gradient norm"]


def test_panels_are_those_of_the_records():
    errors = ["errors by updates", "errors by seconds"]
    assert list(panels(hf.plot(train()))) == errors + BELOW
    assert list(panels(hf.plot(train(hf.opt.SGD(0.1))))) == errors + BELOW[4:]
    first = train(hf.opt.Auto())
    assert list(panels(hf.plot(first))) == [*errors, "damping", *BELOW[4:]]  # no CG before the hand-over
    by_steps = list(panels(hf.plot(fit(), view="run")))
    assert by_steps == [*errors, "damping", "reduction ratio", "update norm", "scale-free gradient"]


def test_lines_are_the_numbers_of_the_run():
    result = train(max_epochs=5, test=(X, T))
    history, figure = result.history, hf.plot(result)
    drawn = {title: lines(axes) for title, axes in panels(figure).items()}
    updates, ends = list(range(1, 11)), [2, 4, 6, 8, 10]
    means = history["new_value"].reshape(5, 2).mean(axis=1).tolist()
    best = int(np.argmin(result.test_errors))
    assert drawn["errors by updates"]["loss of updates"] == (updates, history["new_value"].tolist())
    assert drawn["errors by updates"]["mean of the epoch"] == (ends, pytest.approx(means))
    assert drawn["errors by updates"]["test error"] == (ends, result.test_errors)
    assert drawn["errors by updates"][f"best epoch: {best}"] == ([ends[best]], [result.best_error])
    assert drawn["errors by seconds"]["test error"] == (history["seconds"].tolist(), result.test_errors)
    for title, name in {"damping": "damping", "update norm": "update_norm", "gradient norm": "gradient_norm"}.items():
        (values,) = drawn[title].values()
        assert values == (updates, history[name].tolist())
    assert drawn["CG iterations"]["made"] == (updates, history["cg_iterations"].tolist())
    assert figure._suptitle.get_text().startswith("HessianFree: 5 epochs, 10 updates, ")
    assert f"lowest test error {result.best_error:.4g} after epoch {best}\n" in figure._suptitle.get_text()
    assert figure._suptitle.get_text().endswith(result.reason)


def test_losses_of_first_order_updates_are_those_before():
    result = train(hf.opt.SGD(0.1))
    drawn = lines(panels(hf.plot(result))["errors by updates"])
    assert drawn["loss of updates"] == (list(range(8)), result.history["value"].tolist())


def test_rejected_updates_and_backtracking_are_marked():
    updates = [
        record(new_value=0.5, cg_iterations=12),
        record(new_value=0.5, accepted=False, cg_iterations=12, backtracked=2, step_length=0.0, update_norm=0.0),
        record(new_value=0.25, cg_iterations=20, backtracked=1),
    ]
    figure = story.new_figure()
    story.draw(figure, RunCourse.of_epochs([epoch(0, updates), epoch(1, [record()])], "HessianFree", ""))
    drawn = {title: lines(axes) for title, axes in panels(figure).items()}
    assert drawn["errors by updates"]["rejected update"] == ([2], [0.5])
    assert drawn["CG iterations"]["made"][1] == [12, 12, 20, 2]
    assert drawn["CG iterations"]["used, after backtracking"][1] == [12, 8, 19, 2]  # 5, 6, 7, 9, 11, 14, 18 from 0
    for title in ("step size", "update norm"):
        x, _ = next(iter(drawn[title].values()))
        assert x == [1, 3, 4]


def test_axes_are_logarithmic_where_numbers_have_several_orders():
    def scale(*losses):
        epochs = [epoch(n, [record(new_value=loss)], test_error=loss) for n, loss in enumerate(losses)]
        figure = story.new_figure()
        story.draw(figure, RunCourse.of_epochs(epochs, "HessianFree", ""))
        return panels(figure)["errors by updates"].get_yscale()

    assert scale(1.0, 0.05) == "log"
    assert scale(1.0, 0.5) == "linear"
    assert scale(1.0, 0.05, -0.1) == "linear"
    assert scale(0.0, 0.0) == "linear"
    assert scale(math.nan, 1.0, 1e-3) == "log"


def test_ratios_far_off_are_at_the_edge():
    updates = [record(reduction_ratio=ratio) for ratio in (1.0, 50.0, -1e6, math.nan, 0.5)]
    figure = story.new_figure()
    story.draw(figure, RunCourse.of_epochs([epoch(0, updates)], "HessianFree", ""))
    drawn = lines(panels(figure)["reduction ratio"])
    assert drawn["beyond"] == ([2, 3], [4, -2])
    low, high = panels(figure)["reduction ratio"].get_ylim()
    assert -3 < low < high < 5


def test_phases_are_shaded():
    usual = AutoRecord("first", 1.0, 0.5, 1.0, 1.0, 1.0, 1.0, True, "")
    phases = ["first", "first", "trial", "second", "second", "first"]
    epochs = [epoch(n, [usual._replace(phase=phase, cg_iterations=n)]) for n, phase in enumerate(phases)]
    figure = story.new_figure()
    story.draw(figure, RunCourse.of_epochs(epochs, "Auto", ""))
    for title, axes in panels(figure).items():
        spans = [(patch.get_x(), patch.get_x() + patch.get_width()) for patch in axes.patches]
        assert spans == ([] if title == "errors by seconds" else [(0.5, 2.5), (2.5, 3.5), (5.5, 6.5)])
    legend = panels(figure)["errors by updates"].get_legend()
    assert "first-order steps" in [text.get_text() for text in legend.get_texts()]
    assert lines(panels(figure)["CG iterations"])["made"][0] == [3, 4, 5]


def test_metrics_have_panels():
    epochs = [epoch(n, [record()], metrics={"accuracy": n / 4}) for n in range(3)]
    figure = story.new_figure()
    story.draw(figure, RunCourse.of_epochs(epochs, "HessianFree", ""))
    assert list(lines(panels(figure)["accuracy"]).values()) == [([1, 2, 3], [0, 0.25, 0.5])]


def test_an_update_keeps_the_panels_and_what_was_zoomed():
    epochs = [epoch(n, [record(damping=2.0**-n)]) for n in range(6)]
    figure = story.new_figure()
    story.draw(figure, RunCourse.of_epochs(epochs[:3], "HessianFree", ""))
    before = figure.axes
    panels(figure)["damping"].set_xlim(1, 2)
    story.draw(figure, RunCourse.of_epochs(epochs, "HessianFree", "done"))
    assert figure.axes == before
    assert panels(figure)["damping"].get_xlim() == (1, 2)
    assert panels(figure)["gradient norm"].get_xlim()[1] > 6
    assert [len(x) for x, _ in lines(panels(figure)["damping"]).values()] == [6]
    story.draw(figure, RunCourse.of_epochs([epoch(0, [GradientRecord(1.0, 1.0, 1.0, True, "")])], "SGD", ""))
    assert list(panels(figure)) == ["errors by updates", "update norm", "gradient norm"]


def test_nothing_to_draw_is_said():
    figure = hf.plot(train(max_epochs=0))
    title = "HessianFree: 0 epochs, 0 updates\nall 0 epochs are done"
    assert [text.get_text() for text in figure.texts] == ["no updates", title]


def boxes(figure):
    """What takes place in a figure, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    found = {axes.get_title(): axes.get_tightbbox(renderer) for axes in figure.axes}
    return {**found, "title": figure._suptitle.get_window_extent(renderer), "figure": figure.bbox}


@pytest.mark.few(3)
@pytest.mark.parametrize("count", [1, 2, 40])
@pytest.mark.parametrize("metrics", [{}, {"accuracy": 0.5}, {"accuracy": 0.5, "x" * 30: 1e-7}])
def test_nothing_overlaps(count, metrics):
    draw = np.random.RandomState(0)
    epochs = [
        epoch(n, [record(*10.0 ** draw.uniform(-9, 9, 2), damping=10.0 ** draw.uniform(-9, 9))] * 3, metrics=metrics)
        for n in range(count)
    ]
    figure = story.new_figure()
    story.draw(
        figure, RunCourse.of_epochs(epochs, "HessianFree", "$x_2$ a long reason, with \\mathbb{and} _ more " * 20)
    )
    found = boxes(figure)
    whole = found.pop("figure")
    for name, box in found.items():
        assert whole.padded(1).containsx(box.x0), name
        assert whole.padded(1).containsx(box.x1), name
        assert whole.padded(1).containsy(box.y0), name
        assert whole.padded(1).containsy(box.y1), name
    for (name, one), (other_name, other) in itertools.combinations(found.items(), 2):
        assert not one.padded(-1).overlaps(other.padded(-1)), (name, other_name)


# ---- hf.plot ---------------------------------------------------------------------------------------------------------


def test_a_fit_is_drawn_with_its_data_unless_the_run_is_asked_for():
    result = fit()
    assert [axes.get_ylabel() for axes in hf.plot(result).axes] == ["y", "y - fit"]
    assert [axes.get_ylabel() for axes in hf.plot(result, view="fit").axes] == ["y", "y - fit"]
    assert "damping" in panels(hf.plot(result, view="run"))
    without_curve = hf.least_squares(lambda p: p - np.arange(3.0), np.zeros(3), print_period=None)
    assert "damping" in panels(hf.plot(without_curve))
    with pytest.raises(TypeError, match="view='run' draws any run"):
        hf.plot(without_curve, view="fit")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "draws a result of hf.fit, run_epochs or hf.least_squares, or a file of one; given 3"),
        ((hf.FFNet([2, 1]),), TypeError, "draws a result"),
        (("run.ckpt", 0.95, "fit"), TypeError, "draws the fit of a hf.Curve"),
        (("run.ckpt", 0.95, "all"), ValueError, "view is 'all'; 'run' or 'fit' is expected"),
    ],
)
def test_what_cannot_be_drawn(arguments, error, message):
    with pytest.raises(error, match=message):
        hf.plot(*arguments)


def test_notebooks_show_a_figure_once():
    pytest.importorskip("IPython")
    from IPython.core.formatters import DisplayFormatter
    from IPython.core.pylabtools import select_figure_formats

    figure = hf.plot(fit())
    shell = SimpleNamespace(display_formatter=DisplayFormatter())
    plain, _ = shell.display_formatter.format(figure)
    assert plain["image/png"].startswith(b"\x89PNG")
    assert set(plain) == {"text/plain", "image/png"}
    select_figure_formats(shell, {"png"})  # as %matplotlib inline does
    inline, _ = shell.display_formatter.format(figure)
    assert set(inline) == {"text/plain", "image/png"}
    assert plt.get_fignums() == []
