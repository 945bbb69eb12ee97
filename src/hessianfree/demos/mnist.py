"""The mnist demo: a deep classifier of handwritten digits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import hessianfree as hf
from hessianfree.demos.common import checkpointed
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.kfac import KFAC
from hessianfree.io.datasets import load_digits
from hessianfree.training.judging import percent
from hessianfree.training.results import Result

#: Examples per update, and how the demo is trained, as arguments of HessianFree.
MINIBATCH = 6000
OPTIMIZER: dict[str, Any] = {
    "CG_iter": 8,
    "init_damping": 0.5,
    "preconditioner": KFAC(every=4, decay=0.8),
    "curvature_batch": 1 / 3,
    "warm_start": "conjugate",
    "averaging": 0.85,
    "damping_rule": LevenbergMarquardt(raise_by=5 / 3, lower_by=1 / 2, minimum=0.01),
}


def mnist(
    model_args: Mapping[str, Any] | None = None,
    run_args: Mapping[str, Any] | None = None,
    data: str | Path | None = None,
    target_values: tuple[float, float] = (0.0, 1.0),
    optimizer_args: Mapping[str, Any] | None = None,
    optimizer: Any = None,
    checkpoint: str | Path | None = None,
) -> Result:
    """Train a 784-1024-512-256-32-10 network to recognise handwritten digits; stops below 2 % test error.

    With the defaults this takes a minute or two on two cores. They are: cross-entropy; weights drawn by the rule of He
    et al. (2015); few CG iterations with K-FAC as preconditioner, and curvature from a third of each minibatch; a
    running average of the weights, whose test error is printed; and a lower bound on the damping, so that an update
    does not fit its own minibatch too well. The settings of the 2016 demo (about an hour on a GPU then) are

        mnist(model_args={"loss_type": hf.loss_funcs.SquaredError(), "W_init_params": {}},
              run_args={"minibatch_size": 7500, "max_epochs": 125, "plotting": True},
              target_values=(0.01, 0.91),
              optimizer_args={"CG_iter": 250, "init_damping": 45, "preconditioner": None, "curvature_batch": None,
                              "warm_start": "decayed", "averaging": 0, "damping_rule": LevenbergMarquardt()})

    Args:
        model_args: arguments of FFNet in place of the defaults, `shape` among them.
        run_args: arguments of `run_epochs` in place of the defaults; may also hold CG_iter and init_damping.
        data: a file with MNIST, `.npz` or `.pkl(.gz)`. Without one, the demo searches the working directory and the
            cache, downloads MNIST, or uses the small digits of the package.
        target_values: network targets for a wrong and for the right class.
        optimizer_args: arguments of HessianFree in place of the defaults.
        optimizer: an optimizer of another kind, such as `hf.opt.Auto()`; HessianFree by default.
        checkpoint: path of a file for checkpoints; the demo goes on from it when it is called again.

    Returns:
        Why the run ended, and its epochs.

    Raises:
        FileFormatError: if the data file is not MNIST.
        FileNotFoundError: if the path does not exist.
        ValueError: if `optimizer` is given together with arguments of HessianFree.
    """
    digits = load_digits(data)
    counts = f"{len(digits.train_images)} training and {len(digits.test_images)} test images"
    print(f"{digits.name}: {counts} ({digits.source})")
    wrong, right = target_values
    one_hot = np.full((10, 10), wrong, np.float32) + np.eye(10, dtype=np.float32) * (right - wrong)

    net = classifier(digits.train_images.shape[1], **(model_args or {}))
    run: dict[str, Any] = {
        "max_epochs": 12,
        "minibatch_size": MINIBATCH,
        "test": (digits.test_images, one_hot[digits.test_labels]),
        "test_err": hf.loss_funcs.ClassificationError(),
        "target_err": 0.02,
        "print_period": 1,
        **checkpointed(checkpoint),
        **(run_args or {}),
    }
    given: dict[str, Any] = {name: run.pop(name) for name in ("CG_iter", "init_damping") if name in run}
    given |= optimizer_args or {}
    if optimizer is None:
        optimizer = hf.opt.HessianFree(**{**OPTIMIZER, **given})
    elif given:
        raise ValueError(f"optimizer is given, and so are {sorted(given)}; set them in the optimizer.")
    result = net.run_epochs(digits.train_images, one_hot[digits.train_labels], optimizer, **run)

    outputs = net.forward(digits.test_images, net.best_W)[-1]
    mistakes = outputs.argmax(axis=1) != digits.test_labels
    print(f"test error: {percent(mistakes.mean())} ({mistakes.sum()} of {len(mistakes)} images)")
    return result


def classifier(pixels: int, **model_args: Any) -> hf.FFNet:
    """The demo's network for images of this many pixels; `model_args` replace its defaults."""
    model: dict[str, Any] = {
        "shape": [pixels, 1024, 512, 256, 32, 10],
        "layers": [hf.nl.Linear(), *[hf.nl.ReLU() for _ in range(4)], hf.nl.Softmax()],
        "loss_type": hf.loss_funcs.CrossEntropy(),
        "W_init_params": {"init_type": "uniform", "coeff": 6**0.5},
        "rng": 0,
        **model_args,
    }
    return hf.FFNet(**model)
