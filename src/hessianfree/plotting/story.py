"""One figure that tells the story of a run: errors above, and below them how the updates were made."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessianfree.diagnosis.course import Floats, RunCourse
from hessianfree.plotting.course import used_iterations
from hessianfree.plotting.lines import drawable, set_scale, set_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH, ABOVE, BELOW, TITLE = 11.0, 3.3, 2.3, 0.7  # inches: of the figure, of both kinds of rows, and of the title
#: Panels in a row below, at most.
COLUMNS = 3
#: Characters in a line of the title, and lines of it.
TITLE_WIDTH, TITLE_LINES = 120, 3
#: Points up to which each has a marker.
MARKED = 60
#: A logarithmic axis is for numbers that differ by more than this factor: the labels of a shorter one are hard to read.
SEVERAL = 10
#: What a panel of ratios shows at most: one bad prediction may be a thousand times off.
WIDEST = -2.0, 4.0

BLUE, ORANGE, RED, GRAY = "tab:blue", "tab:orange", "tab:red", "0.45"
#: The phases that are shaded, and how the legend calls them.
SHADED = {"first": ("tab:green", "first-order steps"), "trial": ("tab:olive", "trial of Hessian-free updates")}


class Panel(NamedTuple):
    """One panel: its title, what draws it, whether it tells of errors, and whether against updates or seconds."""

    title: str
    draw: Callable[[Axes, RunCourse], object]
    above: bool = False
    by_updates: bool = True


def new_figure() -> Figure:
    """An empty figure for a course."""
    from hessianfree.plotting.inline import InlineFigure

    return InlineFigure(figsize=(WIDTH, ABOVE + 2 * BELOW + TITLE), layout="constrained")


def draw(figure: Figure, course: RunCourse) -> None:
    """Draw the course of a run onto a figure, or update what an earlier call drew.

    While the panels stay the same, so does what the user has zoomed.
    """
    panels = panels_of(course)
    if [axes.get_label() for axes in figure.axes] != [panel.title for panel in panels] or not panels:
        figure.clear()
        _add_panels(figure, panels, course)
    figure.suptitle(title_of(course), x=0.01, ha="left", fontsize="medium", parse_math=False)
    for axes, panel in zip(figure.axes, panels, strict=True):
        for artist in [*axes.lines, *axes.collections, *axes.patches]:
            artist.remove()
        if panel.by_updates:
            _shade(axes, course, explained=panel.above)
        panel.draw(axes, course)
        axes.relim()
        axes.autoscale_view()
        _explain(axes)


def title_of(course: RunCourse) -> str:
    """What was run, what came of it, and why it ended.

    Example:
        >>> print(title_of(RunCourse.of_epochs([], "SGD", "all 0 epochs are done")))
        SGD: 0 epochs, 0 updates
        all 0 epochs are done
    """
    epochs, best = len(course.counts), course.best
    said = [f"{epochs} {course.unit}{'s' * (epochs != 1)}"]
    if course.unit == "epoch":
        said.append(f"{course.updates} update{'s' * (course.updates != 1)}")
    if epochs:
        said.append(f"{course.seconds[-1]:.3g} s")
    if best is not None:
        said.append(f"lowest {error_of(course)} {course.errors[best]:.4g} after {course.unit} {best}")
    lines = textwrap.wrap(course.reason or "not over yet", TITLE_WIDTH, max_lines=TITLE_LINES, placeholder=" ...")
    by = f"least squares ({course.solver})" if course.unit == "step" else course.solver or "run"
    return "\n".join([f"{by}: {', '.join(said)}", *lines])


def error_of(course: RunCourse) -> str:
    """What the error after an epoch is called."""
    return "test error" if course.unit == "epoch" else "loss"


def _update_of(course: RunCourse) -> str:
    """What an update is called."""
    return "step" if course.unit == "step" else "update"


# ---- which panels ----------------------------------------------------------------------------------------------------


def panels_of(course: RunCourse) -> list[Panel]:
    """The panels that there are numbers for."""
    if not course.updates:
        return []
    panels = [Panel("errors by updates", _errors, above=True)]
    if len(course.counts) > 1:
        panels.append(Panel("errors by seconds", _errors_by_seconds, above=True, by_updates=False))
    panels += [Panel(name, partial(_metric, name)) for name in course.metrics]
    gradient = "scaled_gradient" if "scaled_gradient" in course.fields else "gradient_norm"
    below = {
        "damping": Panel("damping", partial(_field, "damping")),
        "cg_iterations": Panel("CG iterations", _iterations),
        "reduction_ratio": Panel("reduction ratio", _ratios),
        "step_length": Panel("step size", partial(_field, "step_length")),
        "update_norm": Panel("update norm", partial(_field, "update_norm")),
        gradient: Panel(gradient.replace("scaled_", "scale-free ").replace("_", " "), partial(_field, gradient)),
    }
    return panels + [panel for name, panel in below.items() if _varies(course, name)]


def _varies(course: RunCourse, name: str) -> bool:
    """Whether a field says anything: not one that is zero or unknown throughout."""
    values = course.fields.get(name, np.zeros(0))
    return bool((np.isfinite(values) & (values != 0)).any())


def _add_panels(figure: Figure, panels: list[Panel], course: RunCourse) -> None:
    from matplotlib.ticker import MaxNLocator

    if not panels:
        figure.set_size_inches(WIDTH, BELOW)
        figure.text(0.5, 0.5, "no updates", ha="center", va="center")
        return
    rows = _rows(panels)
    sizes = [ABOVE if row[0].above else BELOW for row in rows]
    figure.set_size_inches(WIDTH, sum(sizes) + TITLE)
    grid = figure.add_gridspec(len(rows), 6, height_ratios=sizes)
    for place, row in enumerate(rows):
        span = 6 // len(row)
        for number, panel in enumerate(row):
            axes = figure.add_subplot(grid[place, number * span : (number + 1) * span], label=panel.title)
            axes.set_title(panel.title, fontsize="medium", parse_math=False)
            axes.grid(alpha=0.3)
            axes.set_xlabel(_update_of(course) if panel.by_updates else "seconds")
            if panel.by_updates:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _rows(panels: list[Panel]) -> list[list[Panel]]:
    """The panels in rows: those of errors above, the others as evenly as can be."""
    above = [panel for panel in panels if panel.above]
    below = [panel for panel in panels if not panel.above]
    count = -(-len(below) // COLUMNS)
    parts = np.array_split(np.arange(len(below)), count) if count else []
    return [above, *([below[place] for place in part] for part in parts)]


# ---- what is in them -------------------------------------------------------------------------------------------------


def _errors(axes: Axes, course: RunCourse) -> None:
    """Loss of the updates and test error of the epochs against updates."""
    log = _log(np.concatenate([course.reached, course.errors]))
    at = np.arange(course.updates) + ("new_value" in course.fields)
    per_epoch = course.updates > len(course.counts) > 1
    _add(
        axes, at, course.reached, log, color=BLUE, label=f"loss of {_update_of(course)}s", alpha=0.4 if per_epoch else 1
    )
    if per_epoch:
        _add(axes, course.ends, _epoch_means(course), log, color=BLUE, label="mean of the epoch")
    _test_errors(axes, course, course.ends, log)
    _mark(axes, at, course.reached, ~course.accepted, log, f"rejected {_update_of(course)}", marker="x", color=RED)


def _errors_by_seconds(axes: Axes, course: RunCourse) -> None:
    """Mean loss and test error of the epochs against seconds."""
    log = _log(np.concatenate([course.reached, course.errors]))
    label = "mean loss of the epoch" if course.updates > len(course.counts) else "loss"
    _add(axes, course.seconds, _epoch_means(course), log, color=BLUE, label=label)
    _test_errors(axes, course, course.seconds, log)


def _test_errors(axes: Axes, course: RunCourse, at: NDArray[Any], log: bool) -> None:
    """The test errors, where they are not the losses, and the best of them."""
    if course.unit == "epoch":
        _add(axes, at, course.errors, log, color=ORANGE, label=error_of(course))
    if len(course.errors) > 1:
        best = np.arange(len(course.errors)) == course.best
        _mark(axes, at, course.errors, best, log, f"best {course.unit}: {course.best}", marker="*", color="black")
    set_scale(axes, log)


def _metric(name: str, axes: Axes, course: RunCourse) -> None:
    """Another number of the epochs."""
    _add(axes, course.ends, course.metrics[name], False, color=ORANGE)


def _field(name: str, axes: Axes, course: RunCourse) -> None:
    """A field of the records; steps of updates that were rejected are none."""
    values, at = course.fields[name], np.arange(1, course.updates + 1)
    made = course.accepted | (name not in ("step_length", "update_norm"))
    log = _log(values[made])
    set_scale(axes, log)
    _add(axes, at[made], values[made], log, color=BLUE)
    if name == "step_length" and not log:
        _from_zero(axes)


def _iterations(axes: Axes, course: RunCourse) -> None:
    """The iterations of CG, and the one that each update used."""
    at, used = np.arange(1, course.updates + 1), used_iterations(course)
    made = np.where(course.phases == "first", np.nan, course.fields["cg_iterations"])
    _add(axes, at, made, False, color=BLUE, label="made")
    if used is not None and (used < made).any():
        _add(axes, at, used, False, color=ORANGE, label="used, after backtracking")
    _from_zero(axes)


def _ratios(axes: Axes, course: RunCourse) -> None:
    """Reduction ratios, and those of an exact model; what is far off is at the edge."""
    ratios, at = course.fields["reduction_ratio"], np.arange(1, course.updates + 1)
    axes.axhline(1, color=GRAY, linewidth=0.8, linestyle="--", label="model exact")
    shown = np.clip(ratios, *WIDEST)
    _add(axes, at, shown, False, color=BLUE)
    _mark(axes, at, shown, np.isfinite(ratios) & (shown != ratios), False, "beyond", marker="x", color=RED)


def _from_zero(axes: Axes) -> None:
    """Let a linear axis show zero, too."""
    axes.axhline(0, linewidth=0)


def _add(axes: Axes, at: ArrayLike, values: Floats, log: bool, **style: Any) -> Line2D:
    """Add a line through these values, with markers where they are few."""
    (line,) = axes.plot([], [], marker=".", markersize=5, linewidth=1.2, **style)
    set_values(line, at, values, log)
    if len(values) <= MARKED:
        line.set_markevery(None)
    return line


def _mark(
    axes: Axes, at: NDArray[Any], values: Floats, chosen: NDArray[np.bool_], log: bool, label: str, **style: Any
) -> None:
    """Mark some of these values, as far as they can be drawn."""
    chosen = chosen & drawable(values, log)
    if chosen.any():
        size = {"*": 11, "x": 6}[style["marker"]]
        axes.plot(at[chosen], values[chosen], linestyle="none", markersize=size, zorder=3, label=label, **style)


def _log(values: Floats) -> bool:
    """Whether numbers call for a logarithmic axis: they have several orders of magnitude, and none is negative."""
    usable = values[drawable(values, log=True)]
    negative = bool((values < 0).any())  # as likelihoods may be
    return len(usable) > 0 and not negative and bool(usable.max() > SEVERAL * usable.min())


def _epoch_means(course: RunCourse) -> Floats:
    """The mean of the losses of each epoch's updates, of those that are finite."""
    parts = np.split(course.reached, course.ends)[: len(course.counts)]
    finite = [part[np.isfinite(part)] for part in parts]
    return np.array([part.mean() if len(part) else np.nan for part in finite])


def _shade(axes: Axes, course: RunCourse, explained: bool) -> None:
    """Shade the phases but the second one."""
    phases = course.phases
    if not phases.any():
        return
    starts = np.flatnonzero(np.concatenate([[True], phases[1:] != phases[:-1]]))
    for start, end in zip(starts, [*starts[1:], len(phases)], strict=True):
        if phases[start] in SHADED:
            colour, label = SHADED[phases[start]]
            span = axes.axvspan(start + 0.5, end + 0.5, color=colour, alpha=0.12, linewidth=0)
            span.set_label(label if explained else "_")


def _explain(axes: Axes) -> None:
    """A legend where there is more than one thing to see."""
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if len(unique) > 1:
        axes.legend(list(unique.values()), list(unique), fontsize="small", framealpha=0.7)
