"""Networks, layers and losses in words: a table, and a line."""

from __future__ import annotations

import numpy as np
import pytest

import hessianfree as hf
from hessianfree.loss_funcs import LossFunction, LossSet, SparseL1, SquaredError, StructuralDamping
from hessianfree.nonlinearities import Continuous, Nonlinearity, ReLU, SoftLIF, Tanh


def test_the_summary_lists_layers_weights_and_classes():
    layers = ["Linear", Continuous(Tanh()), SoftLIF(sigma=0.5, amp=1.0), "Softmax"]
    conns = {0: [1, 2], 1: [2, 3], 2: [3]}
    net = hf.RNNet([2, 5, 4, 1000], layers=layers, conns=conns, rec_layers=[1], loss_type=["cross_entropy", SparseL1(0.1)], truncation=(3, 2))  # fmt: skip
    net.mask = slice(7)
    net.classes = range(1000)
    rows = net.summary().splitlines()
    assert rows[0].split() == ["layer", "units", "nonlinearity", "from", "weights"]
    assert rows[2].split() == ["1", "5", "Continuous(base=Tanh())", "0,", "itself", "45"]
    assert rows[3].split() == ["2", "4", "SoftLIF(sigma=0.5,", "amp=1.0)", "0,", "1", "36"]
    assert rows[4].split() == ["3", "1,000", "Softmax()", "1,", "2", "11,000"]
    assert rows[5] == (
        f"{net.W.size:,} weights (7 of them held by the mask), float32; loss CrossEntropy() + SparseL1(weight=0.1)"
    )
    assert rows[6] == "truncation: a window every 3 timesteps, 2 long"
    assert rows[7].startswith("1000 classes: 0, 1, 2, ")
    assert sum(int(row.split()[-1].replace(",", "")) for row in rows[2:5]) == net.W.size
    assert max(map(len, rows)) <= 125


class Own(Nonlinearity):
    def __init__(self, slope, shift=0.0, **others):
        super().__init__()
        self.slope, self.hidden = slope, shift


class Loop(LossFunction):
    def __init__(self, parts):
        self.parts = [*parts, self]


@pytest.mark.parametrize(
    ("part", "text"),
    [
        (Tanh(), "Tanh()"),
        (ReLU(), "ReLU()"),
        (ReLU(6.0), "ReLU(max=6.0)"),
        (Continuous(Tanh(), tau=20.0), "Continuous(base=Tanh(), tau=20.0)"),
        (Continuous(ReLU(1), np.arange(1, 40), 0.5), "Continuous(base=ReLU(max=1), tau=float64 (39,), dt=0.5)"),
        (Own(2.5, 3.0), "Own(slope=2.5)"),
        (SquaredError(), "SquaredError()"),
        (SparseL1(0.1, [1, -1]), "SparseL1(weight=0.1, layers=(1, -1))"),
        (StructuralDamping(0.1, optimizer=hf.opt.HessianFree(5)), "StructuralDamping(weight=0.1, optimizer=HessianFree(CG_iter=5))"),
        (LossSet(["squared_error", SparseL1(0.5)]), "LossSet(set=[SquaredError(), SparseL1(weight=0.5)])"),
        (Loop([1, 2]), "Loop(parts=[1, 2, ...])"),
    ],
)  # fmt: skip
def test_parts_are_shown_as_the_call_that_makes_them(part, text):
    assert repr(part) == text


def test_a_network_is_shown_in_a_line():
    assert repr(hf.FFNet([2, 5, 1])) == "FFNet([2, 5, 1], Linear-Logistic-Logistic, SquaredError, 21 weights)"
    assert repr(hf.RNNet([1, 3, 1], layers="Tanh")) == "RNNet([1, 3, 1], Linear-Tanh-Tanh, SquaredError, 22 weights)"
    assert len(repr(hf.FFNet([3] * 200, layers="ReLU"))) < 180
