"""The adding demo: remembering two numbers over a long time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import hessianfree as hf
from hessianfree import tasks
from hessianfree.demos.common import FALLING_FASTER, checkpointed, line_figure
from hessianfree.plotting.figures import show_or_save
from hessianfree.training.results import Result

SEQUENCES, TRAINED_ON = 10_000, 9_000
#: How the demo is trained, as arguments of HessianFree, and examples per update.
OPTIMIZER: dict[str, Any] = {
    "CG_iter": 30,
    "init_damping": 5,
    "warm_start": "conjugate",
    "curvature_batch": 1 / 8,
    "damping_rule": FALLING_FASTER,
}
MINIBATCH = 1024


def adding(
    T: int = 50,
    plots: bool = True,
    model_args: Mapping[str, Any] | None = None,
    run_args: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
) -> Result:
    """Train a deep recurrent network on the adding problem: the sum of the two marked numbers, at the last timestep.

    The network, 2-32-64-1, mixes a feedforward layer with a recurrent one of leaky units, whose recurrent weights are
    scaled to spectral radius one. Structural damping keeps its activity from changing much in one update. Curvature is
    computed on an eighth of each minibatch.

    Args:
        T: number of timesteps, at least 10; 50 takes a quarter of a minute on two cores, hundreds take minutes.
        plots: whether to write the series of the run, and to show outputs and targets at the end (as PNG files where
            there is no display).
        model_args: arguments of RNNet in place of the defaults.
        run_args: arguments of `run_epochs` in place of the defaults; may also hold CG_iter and init_damping.
        checkpoint: path of a file for checkpoints; the demo goes on from it when it is called again.

    Returns:
        Why the run ended, and its epochs.
    """
    task = tasks.ALL["addition"]
    inputs, targets = task.generate(SEQUENCES, T, np.random.RandomState(0))
    test = inputs[TRAINED_ON:], targets[TRAINED_ON:]
    run = {
        "max_epochs": 5,
        "minibatch_size": MINIBATCH,
        "test": test,
        "test_err": hf.loss_funcs.SquaredError(),
        "plotting": plots,
        "print_period": 1,
        **checkpointed(checkpoint),
        **(run_args or {}),
    }
    given: dict[str, Any] = {name: run.pop(name) for name in ("CG_iter", "init_damping") if name in run}
    optimizer = hf.opt.HessianFree(**{**OPTIMIZER, **given})
    net = network(optimizer, **(model_args or {}))
    result = net.run_epochs(inputs[:TRAINED_ON], targets[:TRAINED_ON], optimizer, **run)

    outputs = net.forward(test[0])[-1]
    wrong = int(task.wrong(outputs, test[1]).sum())
    print(f"{wrong} of {len(outputs)} test sequences are off by more than 0.04")
    if plots:
        figure = line_figure("outputs, with the targets at the end", outputs[:20, :, 0], ends=test[1][:20, -1, 0])
        show_or_save({"adding_outputs": figure}, Path(run.get("file_output") or "").parent)
    return result


def network(optimizer: Any, **model_args: Any) -> hf.RNNet:
    """The demo's network."""
    damping = hf.loss_funcs.StructuralDamping(1e-4, layers=[2], optimizer=optimizer)
    leaky = hf.nl.Continuous(hf.nl.ReLU(), tau=20)
    return hf.RNNet(
        **{
            "shape": [2, 32, 64, 1],
            "layers": [hf.nl.Linear(), hf.nl.ReLU(), leaky, hf.nl.ReLU()],
            "W_init_params": {"coeff": 0.25},
            "W_rec_params": {"spectral_radius": 1.0},
            "loss_type": [hf.loss_funcs.SquaredError(), damping],
            "rec_layers": [2],
            "rng": np.random.RandomState(0),
            **model_args,
        }
    )
