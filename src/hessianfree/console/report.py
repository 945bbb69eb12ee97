"""The report of a training run, in Markdown: data, network, settings, result, figure, and how to repeat it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hessianfree import __version__
from hessianfree.console import folder, scoring
from hessianfree.console.examples import FileExamples
from hessianfree.console.output import cell_text
from hessianfree.console.preparation import Preparation
from hessianfree.console.settings import TrainSettings, as_toml, options_of, settings_by_name
from hessianfree.console.wording import as_options
from hessianfree.networks.diagnosing import diagnose
from hessianfree.networks.ffnet import FFNet
from hessianfree.training.results import Result


@dataclass(frozen=True)
class FinishedRun:
    """All of a finished run.

    Attributes:
        given: the settings as they were given.
        settings: the settings in use.
        preparation: of the data.
        training: the examples learnt from.
        test: the examples tested on, or None.
        net: the network.
        result: of the run.
    """

    given: TrainSettings
    settings: TrainSettings
    preparation: Preparation
    training: FileExamples
    test: FileExamples | None
    net: FFNet
    result: Result

    def parts(self) -> dict[str, FileExamples]:
        """The examples by what they are for."""
        return {"training": self.training} | ({} if self.test is None else {"test": self.test})

    def measures(self) -> dict[str, dict[str, float]]:
        """What `scoring.measures` says of each part."""
        return {name: scoring.measures(self.net, self.preparation, part) for name, part in self.parts().items()}


def report(course: FinishedRun, measured: Mapping[str, Mapping[str, float]]) -> str:
    """The report as Markdown; the figure is the file beside it."""
    settings, result = course.settings, course.result
    name, part = list(course.parts().items())[-1]
    header, rows = scoring.confusion_rows(*scoring.confusion(course.net, course.preparation, part))
    seconds = result.epochs[-1].seconds if result.epochs else 0.0
    ended = f"The run ended after {len(result.epochs)} epochs and {seconds:.1f} s: {as_options(result.reason)}."
    found = [f"- **{fault.kind}**: {fault.seen} Try: {as_options(fault.remedy)}" for fault in diagnose(result)]
    blocks = [
        f"# Training run on {Path(settings.data).name}",
        "## Result",
        ended,
        _table(["", *next(iter(measured.values()))], [[part, *values.values()] for part, values in measured.items()]),
        *([f"Classes of the {name} data:", _table(header, rows)] if rows else []),
        f"![The course of the run]({folder.FIGURE})",
        *(["## What to try", "\n".join(found)] if found else []),
        "## Data and method",
        _table(["", ""], data_rows(course)),
        "## Network",
        _code(course.net.summary()),
        "## Repeat it",
        _code(repeating(course.given), "bash"),
        f"With the settings below in a file: `hessianfree train --config {folder.SETTINGS} --output OTHER_FOLDER`.",
        "## Settings",
        _code(as_toml(settings), "toml"),
        f"hessianfree {__version__}.",
    ]
    return "\n\n".join(blocks) + "\n"


def data_rows(course: FinishedRun) -> list[list[object]]:
    """What the data are, in words."""
    layout, x = course.preparation.layout, course.training.x
    inputs = f"{x.shape[-1]}" + (f" over {x.shape[1]} timesteps" if x.ndim == 3 else "")
    if layout.table:
        inputs += f": {_listed(layout.input_names)}"
    classes = course.net.classes
    kind = "numbers" if classes is None else f"{len(classes)} classes: {_listed(list(map(str, classes)))}"
    rows: list[list[object]] = [
        ["file", course.settings.data],
        ["inputs", inputs],
        ["target", f"{', '.join(layout.targets)} ({kind})"],
        ["examples to learn from", f"{len(x):,}"],
        ["examples to test on", f"{len(course.test.x):,}" if course.test else "none: errors are those of training"],
        ["scaling of inputs", course.settings.scale],
        ["optimizer", optimizer_words(course.settings)],
    ]
    if dropped := sum(part.dropped for part in course.parts().values()):
        rows.append(["rows left out, because a value was missing", f"{dropped:,}"])
    return rows


def optimizer_words(settings: TrainSettings) -> str:
    """The optimizer with all that is set of it, and the size of its minibatches.

    Example:
        >>> optimizer_words(TrainSettings(optimizer="adam", learning_rate=1e-3, minibatch=32))
        'adam, learning-rate 0.001, minibatch 32'
    """
    names = [setting for setting in settings_by_name().values() if setting.group == "Optimizer"]
    names = [*names[1:], settings_by_name()["minibatch"]]
    values = [(setting.name, getattr(settings, setting.attribute)) for setting in names]
    return ", ".join([settings.optimizer, *(f"{name} {value}" for name, value in values if value is not None)])


def repeating(given: TrainSettings) -> str:
    """The command that repeats a run, in another folder."""
    other = replace(given, output="OTHER_FOLDER")
    return shlex.join(["hessianfree", "train", given.data, *options_of(other)])


def _listed(names: Sequence[str], most: int = 10) -> str:
    return ", ".join(names) if len(names) <= most else f"{', '.join(names[:most])}, ..."


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [header, ["---"] * len(header), *[[cell_text(cell) for cell in row] for row in rows]]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _code(text: str, language: str = "") -> str:
    return f"```{language}\n{text.rstrip()}\n```"
