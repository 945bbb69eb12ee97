from __future__ import annotations

import numpy as np
import pytest

import hessianfree as hf
from hessianfree.networks.debugging import DerivativeError

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], float)
T = np.array([[0], [1], [1], [0]], float)


def run(net, targets=T):
    net.run_epochs(X, targets, hf.opt.HessianFree(CG_iter=3), max_epochs=2, print_period=None)


@pytest.mark.parametrize(
    "arguments",
    [
        {"layers": "Tanh"},
        {"layers": "ReLU"},  # zero inputs and biases: right on the kink
        {"layers": "Logistic", "loss_type": hf.loss_funcs.BinaryCrossEntropy()},
        {"conns": {0: [1, 2], 1: [2]}, "loss_type": [hf.loss_funcs.SquaredError(), hf.loss_funcs.SparseL2(0.1)]},
        {"loss_type": [hf.loss_funcs.SquaredError(), hf.loss_funcs.StructuralDamping(0.1)]},
    ],
)
def test_right_derivatives_pass(arguments):
    net = hf.FFNet([2, 3, 1], rng=0, debug=True, **arguments)
    assert net.dtype == np.float64
    run(net)


def test_softmax_with_cross_entropy_is_checked_at_the_logits():
    net = hf.FFNet([2, 3, 2], ["Linear", "Tanh", "Softmax"], loss_type=hf.loss_funcs.CrossEntropy(), rng=0, debug=True)
    run(net, np.eye(2)[[0, 1, 1, 0]])


class WrongTanh(hf.nl.Nonlinearity):
    def activation(self, x):
        return np.tanh(np.asarray(x))

    def d_activation(self, x, a):
        return 1 - np.asarray(a)


class WrongLoss(hf.loss_funcs.SquaredError):
    @hf.loss_funcs.output_loss
    def d2_loss(self, output, targets):
        return 3 * np.ones_like(output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [hf.nl.Linear(), WrongTanh(), hf.nl.Linear()]}, "gradient .* connection 0 -> 1"),
        ({"loss_type": WrongLoss()}, "Gauss-Newton matrix .* connection"),
    ],
)
def test_wrong_derivatives_are_found_and_placed(arguments, message):
    net = hf.FFNet([2, 3, 1], rng=0, debug=True, **arguments)
    before = net.W.copy()
    with pytest.raises(DerivativeError, match=message):
        run(net)
    np.testing.assert_array_equal(net.W, before)
