"""Runs that are made to go wrong, and the data they share: few shapes, so that little is compiled."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax

import hessianfree as hf

Rule = hf.opt.LevenbergMarquardt
_RNG = np.random.RandomState(0)
X = _RNG.randn(200, 3).astype(np.float32)
Y = np.sin(X.sum(1, keepdims=True)).astype(np.float32)
SEQUENCES = _RNG.randn(20, 60, 1).astype(np.float32)
SUMS = (0.1 * np.cumsum(SEQUENCES, 1)).astype(np.float32)
SCALES = np.array([1e-3, 1, 1e3], np.float32)
RARE = (_RNG.rand(200, 1) < 0.04).astype(np.float32)
HIDDEN = ("Linear", "Tanh", "Linear")


def network(layers=HIDDEN, shape=(3, 10, 1), **arguments):
    return hf.FFNet(list(shape), layers=list(layers), **{"rng": 0, **arguments})


def recurrent(**arguments):
    return hf.RNNet([1, 20, 1], layers=list(arguments.pop("layers", HIDDEN)), rng=0, **arguments)


def train(net, optimizer, t=Y, x=X, **arguments):
    return net.run_epochs(x, t, optimizer, **{"print_period": None, "max_epochs": 20, **arguments})


def without_hindsight(**arguments):
    return hf.opt.HessianFree(damping_rule=Rule(hindsight=False), **arguments)


def linear(x, y, optimizer, objective=None, **arguments):
    """A linear model without bias."""
    start = {"W": np.zeros((x.shape[1], 1), np.float32)}
    return hf.fit(objective or LINE, start, (x, y), optimizer, **{"print_period": None, "max_epochs": 60, **arguments})


LINE = hf.Objective(lambda p, x: x @ p["W"])
NOTHING = hf.Objective(lambda p, x: 0 * (x @ p["W"]))
STEEP = np.array([0.05, 1, 10], np.float32)
AIM = X @ np.ones((3, 1), np.float32)


class WrongDerivative(hf.loss_funcs.LossFunction):
    """The squared error with the opposite gradient."""

    @hf.loss_funcs.output_loss
    def loss(self, o, t):
        return 0.5 * ((o - t) ** 2).sum(axis=-1)

    @hf.loss_funcs.output_loss
    def d_loss(self, o, t):
        return t - o

    @hf.loss_funcs.output_loss
    def d2_loss(self, o, t):
        return jnp.ones_like(o)


DEEP = (3, 10, 10, 10, 10, 1)
OF_DEEP = {"W_init_params": {"coeff": 0.1}}

#: A run with a fault -> what it is, and the run after its advice was followed, if that is to mend it.
FAULTS = {
    "first-order steps on minibatches that are too long": (
        "diverged",
        lambda: train(network(), hf.opt.SGD(5.0), minibatch_size=20),
        lambda: train(network(), hf.opt.SGD(0.1), minibatch_size=20),
    ),
    "first-order steps on all the data that are too long": (
        "diverged",
        lambda: train(network(), hf.opt.SGD(3.0)),
        lambda: train(network(), hf.opt.SGD(0.1)),
    ),
    "Hessian-free updates of five examples": (
        "diverged",
        lambda: train(network(), without_hindsight(), minibatch_size=5, max_epochs=10),
        lambda: train(
            network(),
            hf.opt.HessianFree(init_damping=10, damping_rule=Rule(minimum=0.1)),
            minibatch_size=5,
            max_epochs=10,
        ),
    ),
    "chaotic Tanh units": (
        "expansive recurrent weights",
        lambda: train(recurrent(), hf.opt.HessianFree(CG_iter=20), SUMS, SEQUENCES, max_epochs=14),
        lambda: train(
            recurrent(W_rec_params={"spectral_radius": 1.0}),
            hf.opt.HessianFree(CG_iter=20),
            SUMS,
            SEQUENCES,
            max_epochs=14,
        ),
    ),
    "expansive ReLU units": (
        "expansive recurrent weights",
        lambda: train(recurrent(layers=("Linear", "ReLU", "Linear")), hf.opt.SGD(1e-30), SUMS, SEQUENCES, max_epochs=8),
        None,
    ),
    "deep logistic units": (
        "plateau",
        lambda: train(network(["Logistic"] * 6, DEEP, **OF_DEEP), hf.opt.SGD(0.1), Y / 2 + 0.5),
        lambda: train(
            network(["Linear", *["Tanh"] * 4, "Logistic"], DEEP), hf.opt.HessianFree(CG_iter=30), Y / 2 + 0.5
        ),
    ),
    "targets beyond Tanh": (
        "targets out of range",
        lambda: train(network(("Linear", "Tanh", "Tanh")), hf.opt.HessianFree(), 5 * Y),
        lambda: train(network(), hf.opt.HessianFree(), 5 * Y),
    ),
    "targets below ReLU": (
        "targets out of range",
        lambda: train(network(("Linear", "Tanh", "ReLU")), hf.opt.HessianFree()),
        None,
    ),
    "targets of Auto beyond Tanh": (
        "targets out of range",
        lambda: train(network(("Linear", "Tanh", "Tanh")), hf.opt.Auto(), 5 * Y, max_epochs=8),
        None,
    ),
    "columns in other units": (
        "badly scaled inputs",
        lambda: train(network(), hf.opt.HessianFree(), x=X * SCALES),
        lambda: train(network(), hf.opt.HessianFree(), x=X * SCALES / (X * SCALES).std(0)),
    ),
    "columns in other units, by Adam": (
        "badly scaled inputs",
        lambda: train(network(), hf.opt.FirstOrder(optax.adam(5e-2)), x=X * SCALES, max_epochs=60),
        lambda: train(network(), hf.opt.FirstOrder(optax.adam(5e-2)), max_epochs=60),
    ),
    "dead ReLU units": (
        "units without slope",
        lambda: train(network(("Linear", "ReLU", "Linear"), W_init_params={"biases": [-50, 0]}), hf.opt.HessianFree()),
        lambda: train(network(("Linear", "ReLU", "Linear"), W_init_params={"biases": 0.1}), hf.opt.HessianFree()),
    ),
    "saturated Tanh units": (
        "units without slope",
        lambda: train(network(W_init_params={"coeff": 100}), hf.opt.FirstOrder(optax.adam(1e-2))),
        lambda: train(network(W_init_params={"coeff": 0.3}), hf.opt.FirstOrder(optax.adam(1e-2))),
    ),
    "changes that are not finite": (
        "numbers not finite",
        lambda: train(network(), hf.opt.FirstOrder(optax.scale(np.nan))),
        None,
    ),
    "derivatives of another loss": (
        "no usable step",
        lambda: train(network(loss_type=WrongDerivative()), hf.opt.HessianFree()),
        None,
    ),
    "outputs that depend on nothing": (
        "no usable step",
        lambda: linear(X, AIM, hf.opt.SGD(0.1), objective=NOTHING),
        None,
    ),
    "one iteration of CG": (
        "CG cut off",
        lambda: linear(X * STEEP, AIM, hf.opt.HessianFree(CG_iter=1)),
        lambda: linear(X * STEEP, AIM, hf.opt.HessianFree(CG_iter=5)),
    ),
    "a high minimum of the damping": (
        "damping at its bound",
        lambda: train(network(), hf.opt.HessianFree(init_damping=100, damping_rule=Rule(minimum=100))),
        lambda: train(network(), hf.opt.HessianFree(init_damping=100, damping_rule=Rule(minimum=1e-3))),
    ),
    "a low maximum of the damping": (
        "damping at its bound",
        lambda: train(
            network(), hf.opt.HessianFree(curvature_batch=2, init_damping=1e-3, damping_rule=Rule(maximum=1e-3))
        ),
        lambda: train(
            network(), hf.opt.HessianFree(curvature_batch=2, init_damping=1e-3, damping_rule=Rule(maximum=1e2))
        ),
    ),
    "curvature of two examples": (
        "model not to be trusted",
        lambda: train(
            network(),
            hf.opt.HessianFree(curvature_batch=2, init_damping=1e-3, damping_rule=Rule(raise_by=1.0001)),
        ),
        lambda: train(network(), hf.opt.HessianFree(init_damping=1)),
    ),
    "damping that starts high": (
        "model not to be trusted",
        lambda: train(network(), hf.opt.HessianFree(init_damping=1e5)),
        lambda: train(network(), hf.opt.HessianFree(init_damping=1)),
    ),
    "few epochs": (
        "still improving",
        lambda: train(network(), hf.opt.HessianFree(), max_epochs=12),
        None,
    ),
    "rare ones": (
        "one class dominates",
        lambda: train(
            network(("Linear", "Tanh", "Logistic"), loss_type=hf.loss_funcs.BinaryCrossEntropy()),
            hf.opt.SGD(1.0),
            RARE,
            0.01 * X,
            max_epochs=100,
        ),
        None,
    ),
}
