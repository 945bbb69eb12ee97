"""What a notebook shows of an object is a few lines at most, whatever the size of the arrays in it."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree import curvature
from hessianfree.engine.reprs import brief, fields
from hessianfree.training.results import Epoch, Result, Run

BIG = {"W": np.zeros((300, 40), np.float32), "layers": [np.ones(500, np.float32), np.ones(7, np.float32)]}
X = np.linspace(0, 1, 60, dtype=np.float32)[:, None]


def model(params, x):
    return jnp.tanh(x * params["W"].sum(0) + params["layers"][1][0])


def stepped(optimizer):
    objective = hf.Objective(model)
    state = optimizer.init(BIG)
    _, state, record = optimizer.step(objective, BIG, state, (X, np.tile(X, (1, 40))))
    return state, record


def decay(params, x):
    return params[0] * jnp.exp(-params[1] * x)


def fitted():
    x = np.linspace(0, 3, 400)
    return hf.least_squares(hf.Curve(decay, x, 2 * np.exp(-1.5 * x)), np.ones(2), print_period=None)


def of_many_fits():
    x = np.tile(np.linspace(0, 3, 20), (50, 1))
    return hf.least_squares_batch(hf.Curve(decay, x, 2 * np.exp(-1.5 * x)), np.ones((50, 2)))


def steps_of_least_squares():
    x = np.linspace(0, 3, 400)
    curve, optimizer = hf.Curve(decay, x, 2 * np.exp(-1.5 * x)), hf.LeastSquares()
    return optimizer.step(curve, np.ones(2), optimizer.init(curve, np.ones(2)))[1:]


def of_epochs(count=500):
    epochs = [Epoch(number, 0.5, 1.0, [stepped_once] * 100) for number in range(count)]
    return Result(BIG, BIG, 0.5, "a reason that is long " * 20, epochs, "HessianFree")


stepped_once = hf.opt.HessianFree().init({"a": np.ones(3)})
SHOWN = {
    "a result": lambda: [of_epochs(), of_epochs().epochs[0]],
    "a fit": lambda: [fitted(), fitted().given, fitted().predict(np.linspace(0, 1, 1000)), fitted().options],
    "many fits": lambda: [of_many_fits()],
    "steps of least squares": lambda: [hf.LeastSquares(solver="dense"), *steps_of_least_squares()],
    "Hessian-free steps": lambda: stepped(hf.opt.HessianFree(CG_iter=3, preconditioner="diagonal", averaging=0.9)),
    "first-order steps": lambda: stepped(hf.opt.FirstOrder(optax.adam(0.1))),
    "auto": lambda: stepped(hf.opt.Auto()),
    "an objective": lambda: [hf.Objective(model), hf.Objective(model).linearize(BIG, (X, np.tile(X, (1, 40))))],
    "spectra": lambda: [curvature.Eigenpairs(np.ones(900), np.ones((900, 900))), curvature.SpectralDensity(*[np.ones(900)] * 3, 0.1)],
    "a sparse term": lambda: [hf.SparseTerm(decay, {"x": np.ones(900)}, np.arange(900))],
    "a run": lambda: [Run(of_epochs(), of_epochs().epochs, [])],
    "a network": lambda: [hf.FFNet([500, 20, 10])],
}  # fmt: skip


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_short(name):
    for shown in SHOWN[name]():
        text = repr(shown)
        assert type(shown).__name__ in text
        assert len(text) <= 600, text
        assert "\n" not in text


def test_a_result_is_a_line():
    text = repr(Result(BIG, BIG, 0.0123456, "all 100 epochs are done", [Epoch(0, 0.5, 1.0, [])], "SGD"))
    assert text == "Result(1 epoch by SGD, best error 0.01235: all 100 epochs are done)"
    assert len(repr(of_epochs())) < 160


@pytest.mark.parametrize(
    ("optimizer", "text"),
    [
        (hf.opt.HessianFree(), "HessianFree()"),
        (hf.opt.HessianFree(50, 10, preconditioner="kfac"), "HessianFree(CG_iter=50, init_damping=10.0, preconditioner=KFAC())"),
        (hf.opt.HessianFree(damping_rule=hf.opt.LevenbergMarquardt(lower_by=0.5)), "HessianFree(damping_rule=LevenbergMarquardt(lower_by=0.5))"),
        (hf.opt.HessianFree(preconditioner=hf.opt.Nystrom(rank=5)), "HessianFree(preconditioner=Nystrom(rank=5))"),
        (hf.opt.SGD(), "SGD()"),
        (hf.opt.SGD(0.1, plotting=True), "SGD(l_rate=0.1, plotting=True)"),
        (hf.opt.FirstOrder(optax.adam(1e-3)), "FirstOrder(transformation=GradientTransformationExtraArgs(...))"),
        (hf.opt.Auto(), "Auto()"),
        (hf.opt.Auto(second=hf.opt.HessianFree(7), seed=3), "Auto(second=HessianFree(CG_iter=7), seed=3)"),
    ],
)  # fmt: skip
def test_optimizers_show_what_is_not_the_default(optimizer, text):
    assert repr(optimizer) == text


def test_init_damping_is_shown_as_it_was_given():
    net, optimizer = hf.FFNet([2, 5, 1], rng=0), hf.opt.HessianFree(CG_iter=3, init_damping=2)
    net.run_epochs(np.eye(2), np.ones((2, 1)), optimizer, max_epochs=2, print_period=None)
    assert optimizer.damping != 2
    assert repr(optimizer) == "HessianFree(CG_iter=3, init_damping=2.0)"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 / 3, "0.333333"),
        (np.float32(0.1), "0.1"),
        (np.int64(3), "3"),
        (np.zeros(3), "[0.0, 0.0, 0.0]"),
        (np.zeros((0, 2)), "float64 (0, 2)"),
        (BIG, "3 arrays of 12,507 numbers"),
        ((), "()"),
        ((1,), "(1,)"),
        ({"a": 1}, "{'a': 1}"),
        (list(range(100)), "[0, 1, 2, ...]"),
        (["x" * 50, "y" * 50], f"['{'x' * 50}', ...]"),
        ("x" * 100, f"'{'x' * 57}...'"),
        (object(), "object(...)"),
        (np.linalg.norm, "norm"),
        (None, "None"),
    ],
)
def test_values_in_a_few_characters(value, text):
    assert brief(value) == text


def test_traced_values_have_a_type_and_a_shape():
    import jax

    seen = []
    jax.make_jaxpr(lambda x: seen.append(brief(x)) or x)(np.float32(1))
    assert seen == ["float32 ()"]


def test_fields_of_a_dataclass():
    assert fields(hf.SparseTerm(decay, np.ones(9), True)) == (
        "SparseTerm(residual=decay, points=float64 (9,), sees=True, weight=1.0)"
    )
