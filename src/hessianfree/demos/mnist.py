"""The mnist demo: a deep classifier of handwritten digits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import hessianfree as hf
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.io.datasets import load_digits
from hessianfree.training import RunResult


def mnist(
    model_args: Mapping[str, Any] | None = None,
    run_args: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    target_values: tuple[float, float] = (0.0, 1.0),
) -> RunResult:
    """Train a 784-1024-512-256-32-10 network to tell handwritten digits apart; stops below 2 % test error.

    The defaults are chosen for minutes on two cores: cross-entropy, weights drawn by the rule of He et al. (2015), few
    CG iterations, and a lower bound on the damping, without which an update fits its own minibatch too well. The
    settings of the 2016 demo (about an hour on a GPU then) are

        mnist(model_args={"loss_type": hf.loss_funcs.SquaredError(), "W_init_params": {}},
              run_args={"CG_iter": 250, "init_damping": 45, "minibatch_size": 7500, "max_epochs": 125,
                        "plotting": True},
              target_values=(0.01, 0.91))

    Args:
        model_args: arguments of FFNet in place of the defaults, `shape` among them.
        run_args: arguments of `run_epochs` in place of the defaults; may also hold CG_iter and init_damping.
        data: a file with MNIST, `.npz` or `.pkl(.gz)`; otherwise it is looked for in the working directory and the
            cache, downloaded, or replaced by the small digits in the package.
        target_values: network targets for a wrong and for the right class.

    Returns:
        Why the run ended, and its epochs.

    Raises:
        FileFormatError: for a data file that is not MNIST.
        FileNotFoundError: for a path that does not exist.
    """
    digits = load_digits(data)
    counts = f"{len(digits.train_images)} training and {len(digits.test_images)} test images"
    print(f"{digits.name}: {counts} ({digits.source})")
    wrong, right = target_values
    one_hot = np.full((10, 10), wrong, np.float32) + np.eye(10, dtype=np.float32) * (right - wrong)

    model = {
        "shape": [digits.train_images.shape[1], 1024, 512, 256, 32, 10],
        "layers": [hf.nl.Linear(), *[hf.nl.ReLU() for _ in range(4)], hf.nl.Softmax()],
        "loss_type": hf.loss_funcs.CrossEntropy(),
        "W_init_params": {"init_type": "uniform", "coeff": 6**0.5},
        "rng": 0,
        **(model_args or {}),
    }
    net = hf.FFNet(**model)
    run = {
        "max_epochs": 10,
        "minibatch_size": 7500,
        "test": (digits.test_images, one_hot[digits.test_labels]),
        "test_err": hf.loss_funcs.ClassificationError(),
        "target_err": 0.02,
        "print_period": 1,
        **(run_args or {}),
    }
    optimizer = hf.opt.HessianFree(
        CG_iter=run.pop("CG_iter", 12),
        init_damping=run.pop("init_damping", 0.1),
        damping_rule=LevenbergMarquardt(minimum=0.01),
    )
    result = net.run_epochs(digits.train_images, one_hot[digits.train_labels], optimizer, **run)

    outputs = net.forward(digits.test_images, net.best_W)[-1]
    mistakes = outputs.argmax(axis=1) != digits.test_labels
    print(f"test error: {mistakes.mean():.2%} ({mistakes.sum()} of {len(mistakes)} images)")
    return result
