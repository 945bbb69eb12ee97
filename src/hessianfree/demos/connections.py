"""The connections demo: choose which layer projects to which."""

from __future__ import annotations

import hessianfree as hf
from hessianfree.demos.common import print_outputs
from hessianfree.demos.xor import INPUTS, TARGETS
from hessianfree.training.results import Result


def connections() -> Result:
    """Train a network whose layers skip over each other, on xor."""
    net = hf.FFNet([2, 5, 5, 1], layers=hf.nl.Tanh(), conns={0: [1, 2], 1: [2, 3], 2: [3]})
    result = net.run_epochs(INPUTS, TARGETS, optimizer=hf.opt.HessianFree(CG_iter=2), max_epochs=40)
    print_outputs(INPUTS, TARGETS, net.forward(INPUTS)[-1])
    return result
