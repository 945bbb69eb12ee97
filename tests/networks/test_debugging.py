from __future__ import annotations

import numpy as np
import pytest

import hessianfree as hf
from hessianfree.networks.debugging import DerivativeError, check_derivatives

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


# ---- right derivatives pass: every layer and loss, every scale, saturated or not -------------------------------------

LOSSES = {
    "SquaredError": hf.loss_funcs.SquaredError(),
    "CrossEntropy": hf.loss_funcs.CrossEntropy(),
    "BinaryCrossEntropy": hf.loss_funcs.BinaryCrossEntropy(),
    "SparseL1": [hf.loss_funcs.SquaredError(), hf.loss_funcs.SparseL1(0.1)],
    "SparseL2": [hf.loss_funcs.SquaredError(), hf.loss_funcs.SparseL2(0.1)],
    "StructuralDamping": [hf.loss_funcs.SquaredError(), hf.loss_funcs.StructuralDamping(0.1)],
}
FITTING = [
    (loss, output)
    for loss in LOSSES
    for output in hf.nl.BY_NAME
    if not (loss == "CrossEntropy" and output in ("Linear", "Tanh", "ReLU"))
    and not (loss == "BinaryCrossEntropy" and output in ("Linear", "Tanh", "ReLU", "SoftLIF"))
]
INPUTS = np.random.RandomState(3).randn(4, 2)
ONE_HOT = np.eye(2)[[0, 1, 1, 0]]


def checked(net, inputs, targets):
    net.cache_minibatch(inputs, targets)
    check_derivatives(net)


@pytest.mark.few(12)
@pytest.mark.filterwarnings("ignore:CrossEntropy with")
@pytest.mark.parametrize(("loss", "output"), FITTING)
def test_every_loss_behind_every_layer_saturated_or_not(loss, output):
    net = hf.FFNet([2, 3, 2], ["Linear", "Tanh", output], loss_type=LOSSES[loss], rng=0, debug=True)
    start = net.W.copy() + 0.1
    for factor in (1e-6, 1, 30, 1e3):
        net.W = factor * start
        checked(net, INPUTS, ONE_HOT)


@pytest.mark.parametrize("hidden", list(hf.nl.BY_NAME))
def test_every_hidden_layer_at_every_scale(hidden):
    net = hf.FFNet([2, 3, 2], ["Linear", hidden, "Linear"], rng=0, debug=True)
    start = net.W.copy() + 0.1
    for inputs in (1e-6, 1, 1e6):
        for weights, targets in ((1e-6, 1e-6), (1, 1e6), (1e3, 1e-6)):
            net.W = weights * start
            checked(net, inputs * INPUTS, targets * ONE_HOT)


@pytest.mark.few(2)
@pytest.mark.parametrize("truncation", [None, (2, 3)])
@pytest.mark.parametrize(
    ("hidden", "output", "loss"),
    [
        ("Tanh", "Logistic", "BinaryCrossEntropy"),
        ("ReLU", "Softmax", "CrossEntropy"),
        ("Logistic", "Linear", "SparseL2"),
    ],
)
def test_recurrent_networks_at_every_scale(hidden, output, loss, truncation):
    layers = ["Linear", hidden, output]
    net = hf.RNNet([2, 3, 2], layers=layers, loss_type=LOSSES[loss], truncation=truncation, rng=0, debug=True)
    start = net.W.copy() + 0.1
    inputs = np.random.RandomState(0).randn(3, 6, 2)
    for factor in (1e-6, 1, 10):
        net.W = factor * start
        checked(net, inputs, np.eye(2)[np.arange(18).reshape(3, 6) % 2])


@pytest.mark.long
def test_saturated_logits_of_a_fitted_network():
    loss = hf.loss_funcs.CrossEntropy()
    net = hf.FFNet([2, 10, 10, 2], ["Linear", "Tanh", "Tanh", "Softmax"], loss_type=loss, rng=0, debug=True)
    error = hf.loss_funcs.ClassificationError()
    optimizer = hf.opt.HessianFree(CG_iter=50)
    net.run_epochs(X, ONE_HOT, optimizer, max_epochs=15, test_err=error, target_err=-1, print_period=None)
    for factor in (3, 10):
        net.W = factor * net.W
        checked(net, X, ONE_HOT)


def test_examples_with_weights_some_of_them_without_meaning():
    net = hf.FFNet([2, 3, 2], ["Linear", "Tanh", "Linear"], rng=0, debug=True)
    net.cache_minibatch(INPUTS, ONE_HOT, weights=np.array([1.0, 0, 2.5, 0.3]))
    check_derivatives(net)


@pytest.mark.long
def test_a_large_gradient_through_time():
    layers, loss = ["Linear", "Tanh", "Logistic"], hf.loss_funcs.BinaryCrossEntropy()
    net = hf.RNNet([4, 10, 1], layers=layers, loss_type=loss, rng=1, debug=True)
    net.W = 3 * net.W
    rng = np.random.RandomState(0)
    checked(net, rng.randn(5, 20, 4), (rng.rand(5, 20, 1) > 0.5).astype(float))
    assert abs(net.calc_grad()).max() > 10


# ---- wrong derivatives are found, at every scale ---------------------------------------------------------------------


class OffInOneUnit(hf.nl.Nonlinearity):
    def __init__(self, factor=1.01, scale=1.0):
        super().__init__()
        self.factor, self.scale = factor, scale

    def activation(self, x):
        return self.scale * np.tanh(np.asarray(x))

    def d_activation(self, x, a):
        slope = self.scale * (1 - (np.asarray(a) / self.scale) ** 2)
        slope[..., 1] *= self.factor
        return slope


@pytest.mark.parametrize(
    ("inputs", "layer", "factor"),
    [*((inputs, layer, 1.01) for inputs in (1e-6, 1, 1e6) for layer in (1e-6, 1, 1e6)), (1, 1, 0.99), (1, 1, -1)],
)
def test_a_wrong_slope_of_one_unit_is_found_at_every_scale(inputs, layer, factor):
    for given in (1, factor):
        net = hf.FFNet([2, 3, 2], ["Linear", OffInOneUnit(given, layer), "Linear"], rng=0, debug=True)
        net.W[: 3 * 3] = 0.3 / inputs * np.random.RandomState(1).randn(9)
        net.W[6:9] = 0
        if given == 1:
            checked(net, inputs * INPUTS, layer * ONE_HOT)
        else:
            with pytest.raises(DerivativeError, match=r"connection 0 -> 1.*Check the d_activation of layer 1 \(OffIn"):
                checked(net, inputs * INPUTS, layer * ONE_HOT)


class OffLoss(hf.loss_funcs.SquaredError):
    def __init__(self, first=1.0, second=1.0):
        self.first, self.second = first, second

    @hf.loss_funcs.output_loss
    def loss(self, output, targets):
        return 0.5 * ((output - targets) ** 2).sum(axis=-1)

    @hf.loss_funcs.output_loss
    def d_loss(self, output, targets):
        return self.first * (output - targets)

    @hf.loss_funcs.output_loss
    def d2_loss(self, output, targets):
        return self.second * np.ones(output.shape)


@pytest.mark.parametrize("scale", [1e-6, 1, 1e6])
@pytest.mark.parametrize(
    ("first", "second", "what"), [(1.01, 1, "gradient"), (-1, 1, "gradient"), (1, 1.01, "Gauss"), (1, -1, "Gauss")]
)
def test_wrong_derivatives_of_a_loss_are_found_at_every_scale(first, second, what, scale):
    net = hf.FFNet([2, 3, 2], ["Linear", "Tanh", "Linear"], loss_type=OffLoss(first, second), rng=0, debug=True)
    net.W[9:] *= scale
    with pytest.raises(DerivativeError, match=f"The {what}.*Check the d_loss and d2_loss of OffLoss"):
        checked(net, INPUTS, scale * ONE_HOT)
    net.loss = OffLoss()
    checked(net, INPUTS, scale * ONE_HOT)


class Step(hf.nl.Nonlinearity):
    def activation(self, x):
        return (np.asarray(x) > 0).astype(float)

    def d_activation(self, x, a):
        return 1 / (1 + np.asarray(x) ** 2)


class Noisy(hf.nl.Nonlinearity):
    def activation(self, x):
        return np.tanh(np.asarray(x)) + 0.1 * np.random.RandomState(None).randn(*x.shape)

    def d_activation(self, x, a):
        return 1 - np.tanh(np.asarray(x)) ** 2


@pytest.mark.parametrize(("layer", "message"), [(Step(), "gradient disagrees"), (Noisy(), "different activations")])
def test_surrogate_slopes_and_random_layers_are_refused(layer, message):
    net = hf.FFNet([2, 3, 2], ["Linear", layer, "Linear"], rng=0, debug=True)
    with pytest.raises(DerivativeError, match=message):
        checked(net, INPUTS, ONE_HOT)


def test_a_fault_of_the_package_is_not_blamed_on_the_user(monkeypatch):
    net = hf.FFNet([2, 3, 2], "Tanh", rng=0, debug=True)
    right = net.flat
    monkeypatch.setattr(net, "flat", lambda params: 1.001 * right(params))
    with pytest.raises(DerivativeError, match="hessianfree is at fault: report it") as caught:
        checked(net, INPUTS, ONE_HOT)
    assert "d_activation" not in str(caught.value)
