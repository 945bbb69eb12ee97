"""Compiled optimizers behind the estimators."""

import numpy as np
import optax
import pytest

import hessianfree as hf

pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

from sklearn.base import clone

from hessianfree.sklearn import HFRegressor, settings
from hessianfree.sklearn.frame import WeightedData
from hessianfree.sklearn.training import padded

from sets import NUMBERS, X

SMALL = {"hidden_layer_sizes": (8,), "random_state": 0}


def fitted(model):
    return model.fit(X, NUMBERS)


@pytest.mark.filterwarnings("ignore:Training ended early")
@pytest.mark.parametrize(
    ("optimizer", "arguments", "solver"),
    [
        ("hessian_free", {"CG_iter": 20}, "HessianFree"),
        ("adam", {"learning_rate": 0.03}, "FirstOrder"),
        ("sgd", None, "FirstOrder"),
        (hf.opt.HessianFree(CG_iter=20, plotting=False), None, "HessianFree"),
        (hf.opt.Auto(), None, "Auto"),
    ],
    ids=["hessian_free", "adam", "sgd", "HessianFree", "Auto"],
)
def test_every_optimizer_trains(optimizer, arguments, solver):
    size = 16 if solver == "FirstOrder" else 60
    model = HFRegressor(**SMALL, optimizer=optimizer, optimizer_args=arguments, batch_size=size, max_iter=60)
    assert fitted(model).solver_ == solver
    assert model.score(X, NUMBERS) > 0.8
    assert model.weights_.dtype == np.float64


def test_data_too_large_for_gauss_newton_go_to_auto(monkeypatch):
    assert fitted(HFRegressor(**SMALL)).solver_ == "gauss_newton"
    monkeypatch.setattr(settings, "SMALL", 60 * (41 + 9 * settings.UNIT) - 1)
    model = HFRegressor(**SMALL, max_seconds=20)
    assert fitted(model).solver_ == "Auto"
    assert model.score(X, NUMBERS) > 0.8


def test_fits_of_one_shape_compile_once():
    from hessianfree.engine import descent

    def count():
        return sum(program.jitted()._cache_size() for program in descent.compiled_several.programs)

    fitted(HFRegressor(**SMALL, optimizer="adam", max_seconds=1e-9, batch_size=16))
    before = count()
    fitted(HFRegressor(**{**SMALL, "random_state": 1}, optimizer="adam", max_seconds=1e-9, batch_size=16, alpha=0.5))
    HFRegressor(**SMALL, optimizer="adam", max_seconds=1e-9, batch_size=16).fit(X[:59], NUMBERS[:59])
    assert count() == before


def test_an_optimizer_that_is_given_is_not_changed():
    optimizer = hf.opt.HessianFree(CG_iter=20, plotting=False)
    model = HFRegressor(**SMALL, optimizer=optimizer, max_seconds=1e-9)
    fitted(model)
    assert optimizer.settings.weight_decay == 0
    assert optimizer.damping == 1
    assert type(clone(model).optimizer) is hf.opt.HessianFree


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"optimizer": 3}, TypeError, "optimizer is 3; one of 'auto'"),
        ({"optimizer": optax.adam(1e-3)}, TypeError, "Wrap a transformation of optax in hf.opt.FirstOrder"),
        ({"optimizer": "adam", "optimizer_args": 3}, TypeError, "optimizer_args is 3; a dict"),
        ({"optimizer": hf.opt.SGD(), "optimizer_args": {"a": 1}}, ValueError, "goes with the name of an optimizer"),
        ({"optimizer": hf.opt.SGD(weight_decay=0.1)}, ValueError, "weight decay of its own, 0.1; set alpha=0"),
        ({"optimizer": hf.opt.Optimizer()}, ValueError, "Optimizer knows no weight decay; set alpha=0"),
    ],
)
def test_optimizers_that_do_not_fit_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        fitted(HFRegressor(**arguments))


def test_a_loss_that_is_not_finite_is_refused():
    model = HFRegressor(**SMALL, optimizer="sgd", optimizer_args={"learning_rate": 1e30})
    with pytest.raises(ValueError, match="not finite from the first iteration on"):
        fitted(model)


def test_padding_weighs_nothing_and_gives_few_sizes():
    data = WeightedData(X[:37], NUMBERS[:37, None], np.full(37, 2.0))
    found = padded(data)
    assert len(found.x) == 38
    assert found.weights.sum() == 74
    assert len(padded(data, 16).x) == 48
    sizes = {len(padded(WeightedData(np.zeros((n, 1)), np.zeros((n, 1)), np.ones(n))).x) for n in range(900, 1001)}
    assert sizes == {928, 960, 992, 1024}
