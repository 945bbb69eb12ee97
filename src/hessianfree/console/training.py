"""A training run: read, split and scale the data, build the network, train it, and write the folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import hessianfree as hf
from hessianfree.console import building, examples, folder, report, scoring, wording
from hessianfree.console.examples import FileExamples, FoundData
from hessianfree.console.folder import RunFolder
from hessianfree.console.output import columns
from hessianfree.console.preparation import prepared
from hessianfree.console.report import FinishedRun
from hessianfree.console.settings import TrainSettings, as_toml
from hessianfree.console.shell import WrongUsageError
from hessianfree.console.splitting import split
from hessianfree.io.files import write_atomically
from hessianfree.networks.scores import r_squared
from hessianfree.networks.sources import source
from hessianfree.training.callbacks import FileWriter, Lines, Output, Places, write_plots
from hessianfree.training.progress import following
from hessianfree.training.results import Result

#: Where the weights are once everything is written.
_PLACES = Places(folder.MODEL, folder.MODEL, folder.RESULT, "weights")


class TrainingRun:
    """A run that is ready to begin: everything that can be wrong with settings and data has been found by now.

    Args:
        given: the settings.

    Raises:
        WrongUsageError: if settings do not go with each other.
        OSError, ValueError: if the data cannot be read, or are not what the settings say.
    """

    def __init__(self, given: TrainSettings) -> None:
        found = examples.find(given)
        self.given, self.settings = given, building.resolved(given, found)
        self.training, self.test = _parts(self.settings, found)
        scale, scale_targets = self.settings.scale or "none", self.settings.scale_targets or "none"
        self.preparation = prepared(found.layout, self.training, scale, scale_targets)
        self._x, self._y = self.preparation.x(self.training), self.preparation.y(self.training)
        self._tested = None if self.test is None else (self.preparation.x(self.test), self.preparation.y(self.test))
        # Of all rows of the file: a class may be in those to test on alone.
        self.net = building.network(self.settings, self._x.shape[-1], np.asarray(found.examples.y))
        for x, y in [(self._x, self._y), *([] if self._tested is None else [self._tested])]:
            source(self.net, x, y)  # raises if the network cannot learn from them
        self.optimizer = building.optimizer(self.settings)
        self.net.optimizer = self.optimizer
        self._result: Result | None = None

    def introduction(self) -> list[str]:
        """What is going to be trained on what."""
        rows = report.data_rows(self._course(Result([], [], 0.0, "", [], "")))
        return [columns(rows), "", self.net.summary(), ""]

    def run(self, place: RunFolder | None = None, resume: bool = False) -> Result:
        """Train, with checkpoints and the series for plots in the folder, if there is one."""
        settings = self.settings
        kept: dict[str, Any] = {"callbacks": []}
        if place is not None:
            place.begin(as_toml(settings, "The settings of a run of hessianfree train."), resume)
            self.preparation.save(place / folder.PREPARATION)
            write = partial(write_plots, self.optimizer.plots)
            kept["callbacks"] = [
                FileWriter(Output(place / folder.SERIES, write)),
                hf.callbacks.CSV(place / folder.HISTORY),
            ]
            if settings.checkpoint:
                kept |= {"checkpoint": place / folder.CHECKPOINT, "resume": resume}
                kept["checkpoint_seconds"] = settings.checkpoint_seconds
        with self._followed(_PLACES if place else Places()) as shown, wording.warnings_as_options():
            kept["callbacks"] += shown
            self._result = self.net.run_epochs(
                self._x,
                self._y,
                self.optimizer,
                max_epochs=settings.epochs,
                minibatch_size=settings.minibatch,
                test=self._tested,
                target_err=settings.target_error,
                print_period=None,  # the lines are among the callbacks
                max_seconds=settings.seconds,
                early_stopping=settings.early_stopping,
                metrics={} if settings.task == "classes" else {"R2": r_squared},
                **kept,
            )
        if self._tested is None and self.net.best_W is not None:
            self.net.W = self.net.best_W  # as run_epochs does where there are test data
        return self._result

    def _followed(self, places: Places) -> AbstractContextManager[list[object]]:
        """The callbacks that show the run, in the words of the command line."""
        settings = self.settings
        if not settings.print_every:
            return nullcontext([])
        lines = Lines(settings.print_every, places=places, words=wording.as_options)
        return following(lines, settings.epochs, settings.seconds)

    def write(self, place: RunFolder) -> Iterator[str]:
        """Write the files of a finished run; yields what there is to say."""
        assert self._result is not None
        course = self._course(self._result)
        measured = course.measures()
        self.net.save(place / folder.MODEL)
        course.result.save(place / folder.RESULT)
        figure = hf.plot(course.result)
        write_atomically(place / folder.FIGURE, lambda file: figure.savefig(file, format="png"))
        place.write(folder.REPORT, report.report(course, measured))
        if not self.settings.print_every:
            yield f"finished after {len(course.result.epochs)} epochs: {wording.as_options(course.result.reason)}"
        yield ""
        names = list(next(iter(measured.values())))
        yield columns([[part, *values.values()] for part, values in measured.items()], ["", *names])
        header, rows = scoring.confusion_rows(
            *scoring.confusion(self.net, self.preparation, self.training if self.test is None else self.test)
        )
        if rows:
            yield f"\n{columns(rows, header)}"
        yield f"\nwritten to {place.path}:"
        yield "\n".join(f"  {line}" for line in columns(place.written()).splitlines())

    def _course(self, result: Result) -> FinishedRun:
        given, settings = self.given, self.settings
        return FinishedRun(given, settings, self.preparation, self.training, self.test, self.net, result)


def _parts(settings: TrainSettings, found: FoundData) -> tuple[FileExamples, FileExamples | None]:
    """The examples to learn from, and those to test on."""
    whole = found.examples
    if settings.test is not None:
        if settings.test_size is not None:
            raise WrongUsageError("test names a file, and test-size a part of the data; give one of them")
        return whole, found.layout.read(Path(settings.test))
    if settings.test_size is None:
        return whole, found.test
    labels = np.asarray(whole.y) if found.layout.task == "classes" and np.asarray(whole.y).ndim == 1 else None
    rows, tested = split(len(whole.x), settings.test_size, settings.split, settings.seed, labels)
    return whole.rows(rows)._replace(dropped=whole.dropped), whole.rows(tested)
