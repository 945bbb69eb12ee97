"""The crossentropy demo: choose layers and loss."""

from __future__ import annotations

import numpy as np

import hessianfree as hf
from hessianfree.demos.common import print_outputs
from hessianfree.demos.xor import INPUTS
from hessianfree.training.results import Result


def crossentropy() -> Result:
    """Train a network with tanh and softmax layers and a cross-entropy loss on a two-output version of xor."""
    targets = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    net = hf.FFNet(
        [2, 5, 2],
        layers=[hf.nl.Linear(), hf.nl.Tanh(), hf.nl.Softmax()],
        loss_type=hf.loss_funcs.CrossEntropy(),
    )
    result = net.run_epochs(INPUTS, targets, optimizer=hf.opt.HessianFree(CG_iter=2), max_epochs=40)
    print_outputs(INPUTS, targets, net.forward(INPUTS)[-1])
    return result
