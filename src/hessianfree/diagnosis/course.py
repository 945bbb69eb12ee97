"""The course of a run, from its records: what rules look at, and what figures draw.

Symbols:
    n   updates            level   mean loss over a stretch, one of up to `STRETCHES` equal parts of the run
The loss of an update is that before it: on minibatches it is one that the parameters have not been fitted to yet.
Figures draw the loss that an update has reached.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hessianfree.diagnosis.facts import Facts

Floats = NDArray[np.float64]

#: Parts that a run is divided into: enough to see where the loss turned, few enough to average noise out.
STRETCHES = 20
#: How results begin to say that a run did what was asked of it.
DONE = ("converged", "the target error")
#: What results say of a run that could have gone on.
OUT_OF_TIME = (" are done", " seconds are over")
#: What is left of the loss at chance where a run did well, whatever its records look like.
WELL = 0.1
#: Share of a run at its end that rules look at: what happened early on tells of the start, not of what is wrong.
LATE = 0.5
#: A field that only the records of least squares have, where an epoch is a step.
_OF_STEPS = "scaled_gradient"


class EpochLike(Protocol):
    """What is needed of an epoch."""

    @property
    def test_error(self) -> float:
        """The error after it."""

    @property
    def updates(self) -> list[Any]:
        """The records of its updates."""


class TimedEpoch(EpochLike, Protocol):
    """What is needed of an epoch, where it is drawn, too."""

    @property
    def seconds(self) -> float:
        """When it was over."""


class Ended(Protocol):
    """What is needed of a result."""

    @property
    def epochs(self) -> Sequence[TimedEpoch]:
        """The epochs."""

    @property
    def reason(self) -> str:
        """Why the run ended."""

    @property
    def solver(self) -> str:
        """The optimizer's class."""

    @property
    def facts(self) -> Facts:
        """What the run knew besides."""


def loss_after(record: Any) -> float:
    """The loss after an update, or before it where that is all the record says; NaN where it says nothing."""
    return float(getattr(record, "new_value", getattr(record, "value", np.nan)))


def column(records: Sequence[Any], name: str) -> Floats:
    """A number of each record, NaN where it has none: an optimizer of the user's own may note anything."""
    return np.array([_number(getattr(record, name, np.nan)) for record in records], float)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return np.nan


@dataclass(frozen=True, eq=False)
class RunCourse:
    """The course of a run of E epochs: its N records, or some of them, evenly spaced, and its epochs in arrays.

    Attributes:
        records: of updates, in order.
        places: the number of the epoch of each, (N,).
        updates: how many the run made.
        counts: updates of each epoch, (E,); their sum is below `updates` where an epoch is not complete.
        errors: the test error after each epoch, (E,).
        seconds: when that was, (E,).
        metrics: others by name, (E,).
        reason: why the run ended; empty if it did not.
        solver: the optimizer's class.
        facts: what the run knew besides.
    """

    records: Sequence[Any]
    places: NDArray[np.intp]
    updates: int
    counts: NDArray[np.int64]
    errors: Floats
    seconds: Floats
    metrics: Mapping[str, Floats]
    reason: str
    solver: str
    facts: Facts

    @classmethod
    def of(cls, result: Ended, facts: Facts | None = None, most: int | None = None) -> RunCourse:
        """The course of a result.

        Args:
            result: of a run.
            facts: in place of those in the result.
            most: records to look at; all by default.
        """
        known = result.facts if facts is None else facts
        return cls.of_epochs(result.epochs, result.solver, result.reason, facts=known, most=most)

    @classmethod
    def of_epochs(
        cls,
        epochs: Sequence[TimedEpoch],
        solver: str,
        reason: str,
        begun: Sequence[Any] = (),
        facts: Facts | None = None,
        most: int | None = None,
    ) -> RunCourse:
        """The course of a run that may not be over.

        Args:
            epochs: its complete epochs.
            solver: who made the updates.
            reason: why the run ended.
            begun: records of an epoch that is not complete.
            facts: what the run knew besides.
            most: records to look at; all by default.
        """
        parts = [*(epoch.updates for epoch in epochs), begun]
        ends = np.cumsum([len(part) for part in parts], dtype=np.intp)
        count = int(ends[-1])
        chosen = np.arange(count)
        if most is not None and count > most:
            chosen = np.unique(np.linspace(0, count - 1, most).astype(np.intp))
        places = np.searchsorted(ends, chosen, side="right")
        starts = ends - np.diff(ends, prepend=0)
        metrics = dict.fromkeys(name for epoch in epochs for name in getattr(epoch, "metrics", {}))
        return cls(
            records=[parts[place][at] for place, at in zip(places, chosen - starts[places], strict=True)],
            places=places,
            updates=count,
            counts=np.array([len(epoch.updates) for epoch in epochs], np.int64),
            errors=np.array([epoch.test_error for epoch in epochs], float),
            seconds=np.array([epoch.seconds for epoch in epochs], float),
            metrics={
                name: np.array([getattr(epoch, "metrics", {}).get(name, np.nan) for epoch in epochs], float)
                for name in metrics
            },
            reason=reason,
            solver=solver,
            facts=Facts() if facts is None else facts,
        )

    # ---- what figures draw ----

    @property
    def ends(self) -> NDArray[np.int64]:
        """Updates made when each epoch was complete, (E,)."""
        return np.cumsum(self.counts)

    @cached_property
    def unit(self) -> str:
        """What an epoch is called."""
        return "step" if any(hasattr(record, _OF_STEPS) for record in self.records) else "epoch"

    @cached_property
    def best(self) -> int | None:
        """The epoch with the lowest error; None if there is none."""
        finite = np.isfinite(self.errors)
        return int(np.argmin(np.where(finite, self.errors, np.inf))) if finite.any() else None

    @cached_property
    def fields(self) -> Mapping[str, Floats]:
        """The fields of the records that are numbers, by name, (N,), NaN where a record has none."""
        kinds = {getattr(record, "_fields", ()) for record in self.records}
        found = {}
        for name in dict.fromkeys(itertools.chain(*kinds)):
            values = [getattr(record, name, np.nan) for record in self.records]
            if all(isinstance(value, (Real, np.bool_)) for value in values):
                found[name] = np.array(values, float)
        return found

    @cached_property
    def reached(self) -> Floats:
        """The loss after each update, or before it where the records know no other, (N,)."""
        return np.array([loss_after(record) for record in self.records], float)

    @cached_property
    def phases(self) -> NDArray[np.str_]:
        """The phase of each update, (N,) text, empty where there are none."""
        return np.array([getattr(record, "phase", "") for record in self.records], str)

    # ---- what rules look at ----

    def column(self, name: str) -> Floats:
        """A number of each record, NaN where it has none."""
        return column(self.records, name)

    @cached_property
    def accepted(self) -> NDArray[np.bool_]:
        """Whether each update changed the parameters; those that do not say count as accepted."""
        return np.array([bool(getattr(record, "accepted", True)) for record in self.records], bool)

    @cached_property
    def losses(self) -> Floats:
        """The finite losses before updates."""
        values = self.column("value")
        if not np.isfinite(values).any() and self.facts.tested is False:
            values = self.errors  # of an optimizer without records: errors on the training data
        return values[np.isfinite(values)]

    @cached_property
    def levels(self) -> Floats:
        """The mean loss of each stretch."""
        return np.array([part.mean() for part in self._parts])

    @property
    def _parts(self) -> list[Floats]:
        count = len(self.losses)
        return np.array_split(self.losses, min(STRETCHES, count)) if count else []

    @cached_property
    def noise(self) -> float:
        """What the level of a stretch may be off by: its standard error, or half of the usual change of levels."""
        errors = [part.std() / np.sqrt(len(part)) for part in self._parts if len(part) > 1]
        steps = abs(np.diff(self.levels))
        return max(float(np.median(part)) for part in (errors or [0.0], steps / 2 if len(steps) else [0.0]))

    @cached_property
    def fall(self) -> float:
        """How much the loss fell from the third quarter of the run to the last, relative to the third; NaN if unknown.

        Negative where it rose; 0 where the change is within the noise.
        """
        count = len(self.losses)
        if count < 8:
            return np.nan
        third, last = self.losses[count // 2 : 3 * count // 4], self.losses[3 * count // 4 :]
        before, after = third.mean(), last.mean()
        error = np.hypot(third.std(), last.std()) / np.sqrt(min(len(third), len(last)))
        smooth = bool((np.diff(self.losses[count // 2 :]) <= 0).all())  # then the spread is the fall itself
        if not before > 0:
            return np.nan
        return 0.0 if not smooth and abs(before - after) < 3 * error else float(1 - after / before)

    @cached_property
    def gained(self) -> float:
        """The median share of the loss, on its own batch, that later updates gained; NaN where records do not say."""
        before, after = (column(self.late, name) for name in ("value", "new_value"))
        shares = 1 - after[before > 0] / before[before > 0]
        shares = shares[np.isfinite(shares)]
        return float(np.median(shares)) if len(shares) else np.nan

    @property
    def left(self) -> float:
        """The loss at the end relative to that at chance, or at the start where that is not known; NaN if unknown."""
        if not len(self.losses):
            return np.nan
        chance = self.facts.constant_loss or float(self.losses[0])
        return float(self.levels[-1] / chance) if chance > 0 else np.nan

    @cached_property
    def late(self) -> Sequence[Any]:
        """The records of the last part of the run."""
        return self.records[int(len(self.records) * (1 - LATE)) :]

    @property
    def done(self) -> bool:
        """Whether the run ended because it had reached what was asked of it."""
        return self.reason.startswith(DONE)

    @property
    def out_of_time(self) -> bool:
        """Whether the run ended because its epochs or its time were over."""
        return self.reason.endswith(OUT_OF_TIME)

    @cached_property
    def solved(self) -> list[Any]:
        """The records of Hessian-free updates."""
        numbers = [self.column(name) for name in ("cg_iterations", "value", "new_value", "damping")]
        usable = (numbers[0] > 0) & ~np.isnan(numbers).any(axis=0)
        return [record for record, known in zip(self.records, usable, strict=True) if known]

    @cached_property
    def lately_solved(self) -> list[Any]:
        """Those of the last part of the run."""
        late = set(map(id, self.late))
        return [record for record in self.solved if id(record) in late]

    @property
    def second_order(self) -> bool:
        """Whether Hessian-free updates were made."""
        return bool(self.solved)

    @property
    def minibatches(self) -> bool:
        """Whether updates saw a part of the data each."""
        facts = self.facts
        if facts.examples is not None and facts.batch is not None:
            return facts.batch < facts.examples
        return self.updates > len(self.errors)
