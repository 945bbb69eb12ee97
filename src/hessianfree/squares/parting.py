"""Runs that begin with steps from a part of the points, where steps from all of them take long.

Symbols: N residuals, P parameters. The matrix of a step and its factors take about N P min(N, P) operations. With few
enough residuals those of a quarter of the points take a sixteenth of that, so that sixteen such steps, other points in
each, cost as much as one from all points. The run goes on with all points once they gain less than that. A heuristic;
docs/arena/large-networks.md has what else was tried.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from hessianfree.engine.blocks import Seeing
from hessianfree.engine.levenberg import CONVERGED
from hessianfree.engine.trees import PyTree
from hessianfree.squares.forms import Prepared, prepare
from hessianfree.squares.options import Options
from hessianfree.squares.records import LeastSquaresRecord

logger = logging.getLogger("hessianfree")

#: The part of the points, and the operations of a step above which a run begins with it.
SHARE, OPERATIONS = 0.25, 10**11
#: The run goes on with all points where the loss has not fallen to this part in so many steps, or after failed steps.
FALL, STEPS, FAILED = 0.7, 16, 3


@dataclass
class Beginning:
    """What a run begins with.

    Attributes:
        prepared: the residuals, for a part of the points.
        recent: losses of the last steps.
        failed: failed steps in a row.
        over: whether the next step is made from all points.
    """

    prepared: Prepared
    recent: list[float] = field(default_factory=list)
    failed: int = 0
    over: bool = False

    def note(self, record: LeastSquaresRecord) -> None:
        """Take in what a step from a part of the points came to."""
        self.recent = [*self.recent, record.new_value][-STEPS - 1 :]
        self.failed = 0 if record.accepted else self.failed + 1
        slow = len(self.recent) > STEPS and not self.recent[-1] < FALL * self.recent[0]
        self.over = slow or self.failed >= FAILED or record.status in CONVERGED


def part_for(options: Options, prepared: Prepared, residuals: Any, params: PyTree) -> Beginning | None:
    """What a run begins with; None where it begins with all points.

    Args:
        options: of the fit; with a solver or a part of the user's choice nothing is chosen here.
        prepared: the residuals, for all points.
        residuals: from the user.
        params: where to start.
    """
    size, count = prepared.sizes.parameters, prepared.sizes.residuals
    small = count * size * min(count, size) <= OPERATIONS
    if small or options.solver != "auto" or options.subsample is not None:
        return None
    if any(term.points.at is None or isinstance(term.function, Seeing) for term in prepared.terms):
        return None
    found = prepare(replace(options, subsample=SHARE), residuals, params)
    logger.info("Steps from all points take long: the run begins with a quarter of them, other ones in each step.")
    return Beginning(prepared._replace(solver=found.solver, form=found.form))
