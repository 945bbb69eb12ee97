"""What a finished fit leaves open: parameters that the data do not determine."""

from __future__ import annotations

import jax
import numpy as np

from hessianfree.diagnosis.findings import Fault, Finding
from hessianfree.diagnosis.squares import DETERMINE
from hessianfree.squares.result import LeastSquaresResult

#: Parameters at most of a fit whose Jacobian is factored for this.
FEW = 200
#: Names that are listed.
LISTED = 5


def doubts(result: LeastSquaresResult) -> list[Finding]:
    """The parameters that the data do not determine, by name; nothing for fits with many."""
    names = result.undetermined if sum(map(np.size, jax.tree.leaves(result.params))) <= FEW else []
    if not names:
        return []
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    seen = f"The data do not determine {', '.join(names[:LISTED])}{more}."
    return [Finding(Fault.UNDETERMINED, seen, DETERMINE)]
