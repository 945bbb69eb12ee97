"""The integrator demo: the smallest recurrent network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hessianfree as hf
from hessianfree.demos.common import FALLING_FASTER, line_figure
from hessianfree.plotting.figures import show_or_save
from hessianfree.support import checks
from hessianfree.training.results import Result


def integrator(
    model_args: Mapping[str, Any] | None = None,
    run_args: Mapping[str, Any] | None = None,
    n_inputs: int = 15,
    sig_len: int = 10,
    plots: bool = True,
) -> Result:
    """Train a 1-10-1 recurrent network to integrate a constant input: the output is a line with that slope.

    Args:
        model_args: arguments of RNNet in place of the defaults, `shape` among them.
        run_args: arguments of `run_epochs` in place of the defaults; may also hold CG_iter and init_damping.
        n_inputs: number of sequences.
        sig_len: number of timesteps.
        plots: whether to write the series of the run, and to show inputs, targets and outputs at the end (as PNG files
            where there is no display).

    Returns:
        Why the run ended, and its epochs.

    Example:
        >>> result = integrator(plots=False, run_args={"max_epochs": 2, "print_period": None})
        final error ...
    """
    inputs, targets = signals(checks.at_least("n_inputs", n_inputs, 1), checks.at_least("sig_len", sig_len, 1))
    net = hf.RNNet(**{"shape": [1, 10, 1], "layers": hf.nl.Logistic(), **(model_args or {})})
    run = {"max_epochs": 30, "test": (inputs, targets), "plotting": plots, **(run_args or {})}
    optimizer = hf.opt.HessianFree(
        CG_iter=run.pop("CG_iter", 100), init_damping=run.pop("init_damping", 1), damping_rule=FALLING_FASTER
    )
    result = net.run_epochs(inputs, targets, optimizer, **run)
    print(f"final error {net.error(net.W, inputs, targets):.3g}: half the squared distance, summed over time")
    if plots:
        shown = {"inputs": inputs, "targets": targets, "outputs": net.forward(inputs)[-1]}
        figures = {f"integrator_{name}": line_figure(name, data[..., 0]) for name, data in shown.items()}
        show_or_save(figures, Path(run.get("file_output") or "").parent)
    return result


def signals(n_inputs: int, sig_len: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Constant inputs from 0.1 to 0.9, and targets that grow from zero to the input, (n_inputs, sig_len, 1)."""
    levels = np.linspace(0.1, 0.9, n_inputs, dtype=np.float32)[:, None, None]
    inputs = np.broadcast_to(levels, (n_inputs, sig_len, 1)).copy()
    return inputs, levels * np.linspace(0, 1, sig_len, dtype=np.float32)[None, :, None]
