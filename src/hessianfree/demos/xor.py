"""The xor demo: the smallest network that needs a hidden layer."""

from __future__ import annotations

import numpy as np

import hessianfree as hf
from hessianfree.demos.common import print_outputs
from hessianfree.training.results import Result

INPUTS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
TARGETS = np.array([[0], [1], [1], [0]], np.float32)


def xor(use_hf: bool = True) -> Result:
    """Train a 2-5-1 network on xor, and print its outputs.

    Args:
        use_hf: whether to use Hessian-free optimization; False runs gradient descent for comparison.

    Example:
        >>> result = xor()  # doctest: +ELLIPSIS
        epoch 0: ...
    """
    if not isinstance(use_hf, bool):
        raise TypeError(f"use_hf is {use_hf!r}; True or False is expected.")
    net = hf.FFNet([2, 5, 1])
    if use_hf:
        result = net.run_epochs(INPUTS, TARGETS, optimizer=hf.opt.HessianFree(CG_iter=2), max_epochs=40)
    else:
        sgd = hf.opt.SGD(l_rate=1)
        result = net.run_epochs(INPUTS, TARGETS, optimizer=sgd, max_epochs=10_000, print_period=1000, target_err=2e-3)
    print_outputs(INPUTS, TARGETS, net.forward(INPUTS)[-1])
    return result
