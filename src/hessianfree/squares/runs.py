"""A run of `hf.least_squares` as the training loop sees it: an epoch is one step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hessianfree.diagnosis.facts import Facts
from hessianfree.engine.levenberg import CONVERGED, LeastSquaresState, Status
from hessianfree.engine.metrics import Metric
from hessianfree.engine.residuals import Points
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.balancing import Balancing
from hessianfree.squares.by_residual import Redrawing
from hessianfree.squares.forms import Prepared
from hessianfree.squares.parting import Beginning
from hessianfree.squares.records import LeastSquaresRecord
from hessianfree.squares.split import split_points
from hessianfree.squares.steps import begun, made_step
from hessianfree.squares.terms import loss_at
from hessianfree.training.checkpoints import Kept
from hessianfree.training.judging import Evaluated, Judged

#: Failed steps in a row that end a run on resampled points.
MAX_REJECTIONS = 5
#: Steps of the first run of a small problem before it begins again in another metric, and of the runs after that.
PATIENCE, NEXT_PATIENCE = 40, 250

#: What `Steps` counts and compares.
_NUMBERS = ("_loss", "_start_loss", "best_error", "_rejections", "_steps", "_run", "_best_run")


class _Ended(NamedTuple):
    """A run in one metric, set aside."""

    params: PyTree
    loss: float
    state: LeastSquaresState
    reason: str  # empty if it might go on


class Steps:
    """What the loop trains: an epoch is one step.

    Args:
        prepared: the residuals.
        params: where to start.
        redraw: gives new points; None to keep those there are.
        every: steps between new points.
        balance: changes the weights; None to keep them.
        parts: devices that points are split over, None for one.
        part: what to begin with, None for all points.
    """

    judged = Judged("training")
    stationary = made_ahead = False
    fields: tuple[str, ...] = LeastSquaresRecord._fields

    def __init__(
        self,
        prepared: Prepared,
        params: PyTree,
        redraw: Redrawing | None,
        every: int,
        balance: Balancing | None,
        parts: Parts | None,
        part: Beginning | None = None,
    ) -> None:
        self._whole, self._part = prepared, part
        self._redraw, self._every, self._parts = redraw, every, parts
        self._balance = balance
        self.on_many = parts is not None
        self._state = begun(prepared, params)
        self._params = self._best = self._start = params
        self._inputs = prepared.inputs
        self._loss: float | None = None
        self.best_error = float("inf")
        self._rejections = self._steps = self._run = 0
        self._best_run = -1
        self._start_loss = float("nan")
        self._ended: list[_Ended] = []
        again = redraw is None and balance is None and prepared.may_begin_again
        #: The metrics of the runs that may follow, and None for going on with the best.
        self._restarts: list[Metric | None] = [Metric.SIZES, Metric.UNITS, None] if again else []

    @property
    def _prepared(self) -> Prepared:
        """The residuals as the next step takes them."""
        return self._whole if self._part is None or self._part.over else self._part.prepared

    @property
    def params(self) -> PyTree:
        """The current parameters."""
        return parameters.returned(self._params, self._params)

    @property
    def best_params(self) -> PyTree:
        """The parameters with the lowest loss so far."""
        return parameters.returned(self._best, self._best)

    @property
    def solver(self) -> str:
        """The name of the solver in use."""
        return self._prepared.solver

    def _placed(self, inputs: tuple[Points, ...]) -> tuple[Points, ...]:
        """New points, on the devices if there are several."""
        if self._parts is None:
            return inputs
        pairs = zip(inputs, self._prepared.shapes, strict=True)
        return tuple(split_points(self._parts, points, shape) for points, shape in pairs)

    def kept(self) -> Kept:
        """All that the steps to come depend on."""
        trees = {"params": self._params, "best": self._best, "start": self._start, "state": self._state}
        if self._redraw is not None:
            trees["points"] = self._inputs
        notes = {name: getattr(self, name) for name in _NUMBERS}
        ended = [[parameters.raveled(run.params), run.loss, list(run.state), run.reason] for run in self._ended]
        restarts = [None if metric is None else int(metric) for metric in self._restarts]
        factors = {} if self._balance is None else {"factors": self._balance.factors.tolist()}
        part = None if self._part is None else [self._part.recent, self._part.failed, self._part.over]
        return Kept(trees, {**notes, **factors, "ended": ended, "restarts": restarts, "part": part})

    def restore(self, kept: Kept, begun: bool) -> None:
        """Go on from there."""
        trees, notes = kept
        self._params, self._best, self._start, self._state = (
            trees[name] for name in ("params", "best", "start", "state")
        )
        self._inputs = trees.get("points", self._inputs)
        for name in _NUMBERS:
            setattr(self, name, notes[name])
        if self._balance is not None:
            self._balance.factors = np.array(notes["factors"])
        if self._part is not None:
            self._part = None if notes["part"] is None else Beginning(self._part.prepared, *notes["part"])
        self._restarts = [None if metric is None else Metric(metric) for metric in notes["restarts"]]
        self._ended = [
            _Ended(parameters.unraveled(flat, self._start), loss, LeastSquaresState(*state), reason)
            for flat, loss, state, reason in notes["ended"]
        ]

    def updates(
        self, epoch: int, printing: bool, watched: bool, done: Sequence[Any] = ()
    ) -> Generator[tuple[int, int, LeastSquaresRecord]]:
        """Make one step, unless it is done."""
        if done:
            return
        if self._redraw is not None and epoch % self._every == 0:
            self._inputs = self._placed(self._redraw.points(epoch, self._params, self._inputs))
        if self._part is not None and self._part.over:
            self._part = None
        before = self._params
        inputs = self._prepared.points(epoch, self._inputs)
        if self._balance is not None:
            inputs = self._balance.inputs(epoch, before, inputs)
        self._params, self._state, record = made_step(self._prepared, before, inputs, self._state)
        if epoch == 0 and record.status == Status.UNUSABLE:
            loss_at(self._prepared.functions, before, self._inputs)  # raises, and names the term
        if epoch == 0:
            self._start_loss = record.value
        self._loss, self._steps = record.new_value if self._balance is None else None, self._steps + 1
        if self._part is not None:
            self._part.note(record)
        else:
            self._rejections = 0 if record.accepted else self._rejections + 1
        yield 0, 1, record

    def evaluate(self) -> Evaluated:
        """The loss on the points of the last step."""
        if self._loss is None:
            self._loss = loss_at(self._prepared.functions, self._params, self._inputs)
        # In one run over fixed points the loss rises by rounding at most, and later parameters are closer to the end.
        onward = self._redraw is None and self._balance is None and self._best_run == self._run
        if self._loss <= self.best_error or onward:
            self.best_error, self._best, self._best_run = self._loss, self._params, self._run
        return Evaluated(self._loss, {})

    def restore_best(self) -> bool:
        """Go back to the parameters with the lowest loss."""
        self._params = self._best
        return True

    @staticmethod
    def facts() -> Facts:
        """Nothing but that there are no test data: residuals say all that is known."""
        return Facts(tested=False)

    def why_finished(self, record: LeastSquaresRecord) -> str:
        """Why the step with this record is the last; empty if it is not."""
        if self._part is not None:
            return ""
        if self._redraw is not None or self._prepared.subsampled:
            return record.reason if self._rejections == MAX_REJECTIONS else ""
        if self._balance is not None and self._balance.changed:
            return ""
        if not self._restarts:
            return record.reason
        return self._after_run(record)

    def _after_run(self, record: LeastSquaresRecord) -> str:
        """What to do with the run of a small problem in one metric: go on, end, or begin again in the next one."""
        better = all(record.new_value < ended.loss for ended in self._ended)
        if record.status in CONVERGED and not record.degenerate and better:
            return record.reason
        if not record.reason and self._steps < (NEXT_PATIENCE if self._ended else PATIENCE):
            return ""
        self.evaluate()
        self._ended.append(_Ended(self._params, record.new_value, self._state, record.reason))
        metric = self._restarts.pop(0)
        if metric is not None:
            self._run += 1
            self._params, self._loss, self._steps = self._start, self._start_loss, 0
            self._state = begun(self._prepared, self._start, metric)
            return ""
        self._run = min(range(len(self._ended)), key=lambda run: self._ended[run].loss)
        best = self._ended[self._run]
        self._params, self._state, self._loss = best.params, best.state, best.loss
        return best.reason
