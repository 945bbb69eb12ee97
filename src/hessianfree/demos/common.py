"""Functions that the demos share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.damping import LevenbergMarquardt

#: Damping that falls by half, not by a third, after a good update. It reaches the small values at which the recurrent
#: demos end in fewer updates.
FALLING_FASTER = LevenbergMarquardt(lower_by=1 / 2)


def checkpointed(path: str | Path | None) -> dict[str, Any]:
    """Arguments of `run_epochs` by which a demo that is called again goes on from its checkpoint."""
    return {} if path is None else {"checkpoint": path, "resume": True}


def print_outputs(inputs: NDArray[Any], targets: NDArray[Any], outputs: NDArray[Any]) -> None:
    """Print input, target and network output of every example.

    Args:
        inputs: (N, n_0).
        targets: (N, n_out).
        outputs: (N, n_out).
    """
    with np.printoptions(precision=4, suppress=True):
        for x, t, o in zip(inputs, targets, outputs, strict=True):
            print(f"input {x}  target {t}  output {o}")


def line_figure(title: str, lines: NDArray[Any], ends: NDArray[Any] | None = None) -> Any:
    """A figure with one line per sequence.

    Args:
        title: of the figure.
        lines: (B, T).
        ends: heights of points to draw at the end of each line, (B,).
    """
    from matplotlib.figure import Figure

    figure = Figure()
    axes = figure.subplots()
    drawn = axes.plot(lines.T)
    if ends is not None:
        colours = [line.get_color() for line in drawn]
        axes.scatter(np.full(len(ends), lines.shape[1]), ends, c=colours, zorder=3)
    axes.set(title=title, xlabel="timestep")
    return figure
