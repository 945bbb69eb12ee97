"""What a diagnosis returns: findings, each with what was seen and what to try."""

from __future__ import annotations

import textwrap
from enum import StrEnum
from typing import NamedTuple

#: Width of the printed text.
WIDTH = 100


class Fault(StrEnum):
    """What may be wrong, causes before what they cause: findings are listed in this order."""

    TARGETS = "targets out of range"
    INPUTS = "badly scaled inputs"
    RECURRENCE = "expansive recurrent weights"
    EXPLODED = "exploded"
    DIVERGED = "diverged"
    UNITS = "units without slope"
    NOT_FINITE = "numbers not finite"
    STUCK = "no usable step"
    IMBALANCE = "one class dominates"
    WORSE = "worse than chance"
    PLATEAU = "plateau"
    MINIBATCH = "minibatches fitted too well"
    UNDETERMINED = "undetermined parameters"
    DAMPING = "damping at its bound"
    MODEL = "model not to be trusted"
    BACKTRACKING = "much backtracking"
    CG_LIMIT = "CG cut off"
    OVERFITTING = "overfitting"
    UNFINISHED = "still improving"


class Finding(NamedTuple):
    """Something that may be wrong with a run.

    Attributes:
        kind: what it is; a `Fault` compares equal to its text, such as "diverged".
        seen: what was seen, with the numbers.
        remedy: what to try, with the arguments to write.
        strong: whether the run went wrong, and this is enough to explain it. The rest are hints.
    """

    kind: Fault
    seen: str
    remedy: str
    strong: bool = False

    def __str__(self) -> str:
        return f"{self.kind}: {self.seen}\nTry: {self.remedy}"


class Findings(list[Finding]):
    """A list of findings, the most likely cause first, that prints as text.

    Example:
        >>> Findings([Finding(Fault.PLATEAU, "The loss stays at 0.25.", "Scale the inputs.")])
        1 finding:
        1. plateau: The loss stays at 0.25.
           Try: Scale the inputs.
        >>> Findings()
        No findings: nothing in the records points to a fault.
    """

    def __repr__(self) -> str:
        if not self:
            return "No findings: nothing in the records points to a fault."
        count = "1 finding:" if len(self) == 1 else f"{len(self)} findings, the most likely cause first:"
        return "\n".join([count, *(_numbered(number, finding) for number, finding in enumerate(self, 1))])

    __str__ = __repr__


def _numbered(number: int, finding: Finding) -> str:
    """A finding under its number, in lines of limited width."""
    first, rest = f"{number}. ", " " * len(f"{number}. ")
    lines = []
    for paragraph, before in zip(str(finding).split("\n"), (first, rest), strict=True):
        lines.append(textwrap.fill(paragraph, WIDTH, initial_indent=before, subsequent_indent=rest))
    return "\n".join(lines)
