"""What a run of `hf.least_squares` is, in words: checkpoints belong to nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hessianfree.engine.trees import PyTree
from hessianfree.squares.forms import Prepared
from hessianfree.squares.options import Options
from hessianfree.training import identity


def said_of(
    prepared: Prepared, params: PyTree, options: Options, drawn: str, balanced: str
) -> dict[str, Callable[[], str]]:
    """What is fitted, and how.

    Args:
        prepared: the residuals.
        params: where to start.
        options: of the fit.
        drawn: when points are drawn again, and how; empty if they stay.
        balanced: when weights change; empty if they stay.
    """
    return {
        "parameters": lambda: identity.of_params(params),
        "residuals": lambda: identity.of_value([term.function for term in prepared.terms]),
        "points": lambda: drawn or identity.of_data(prepared.inputs),
        "solver": lambda: prepared.solver,
        # The size of chunks changes rounding, and nothing else.
        "options": lambda: identity.of_value(replace(options, chunk_size=None)) + balanced,
    }
