"""Data that come piece by piece."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

from sklearn.preprocessing import StandardScaler

from hessianfree.sklearn import HFClassifier, HFRegressor
from hessianfree.sklearn.frame import moved

from sets import LABELS, NAMES, NUMBERS, X

SMALL = {"hidden_layer_sizes": (8,), "random_state": 0}
FAST = {"optimizer": "adam", "optimizer_args": {"learning_rate": 0.03}, "batch_size": 32}


def pieces(size=20):
    return [slice(start, start + size) for start in range(0, 60, size)]


def online(model, y, passes, **first):
    for number in range(passes):
        for piece in pieces():
            model.partial_fit(X[piece], y[piece], **(first if number == 0 and piece.start == 0 else {}))
    return model


def test_pieces_teach_numbers_and_scalers_see_all_of_them():
    model = online(HFRegressor(**SMALL, **FAST), NUMBERS, 40)
    assert model.score(X, NUMBERS) > 0.8
    assert model.n_iter_ == len(model.loss_curve_) == 120
    np.testing.assert_allclose(model.x_scaler_.mean_, X.mean(axis=0))
    np.testing.assert_allclose(model.y_scaler_.scale_, NUMBERS.std(), rtol=1e-6)


def test_pieces_teach_names():
    model = HFClassifier(**SMALL, **FAST)
    with pytest.raises(ValueError, match="needs classes"):
        model.partial_fit(X, NAMES)
    online(model, NAMES, 40, classes=["low", "middle", "high"])
    assert model.score(X, NAMES) > 0.8
    with pytest.raises(ValueError, match=r"y holds \['other'\], which are not among the classes"):
        model.partial_fit(X, np.full(60, "other"))
    with pytest.raises(ValueError, match=r"classes are .*, and were"):
        model.partial_fit(X, NAMES, classes=["low", "high"])


def test_pieces_teach_labels():
    model = online(HFClassifier(**SMALL, **FAST), LABELS, 40)
    assert model.predict(X).shape == LABELS.shape
    assert model.score(X, LABELS) > 0.8


def test_weights_that_are_moved_to_other_units_predict_the_same():
    model = HFRegressor(**SMALL).fit(X, NUMBERS)
    before, flat = model._frame, model.weights_
    x_scaler, y_scaler = StandardScaler().fit(3 * X[:10]), StandardScaler().fit(NUMBERS[:9, None])
    after = before._replace(x_scaler=x_scaler, y_scaler=y_scaler)
    np.testing.assert_allclose(after.outputs(moved(flat, before, after), X)[:, 0], model.predict(X), rtol=1e-10)
    assert not np.allclose(after.outputs(flat, X)[:, 0], model.predict(X))


def test_a_piece_changes_the_units_and_not_what_was_learnt():
    model = HFRegressor(**SMALL, batch_size=32, optimizer="sgd", optimizer_args={"learning_rate": 1e-9}, alpha=0.0)
    model.partial_fit(X[:20], NUMBERS[:20])
    before = model.predict(X)
    model.partial_fit(2 * X[20:40], NUMBERS[20:40])
    np.testing.assert_allclose(model.predict(X), before, atol=1e-4 * NUMBERS.std())
    assert model.x_scaler_.n_samples_seen_ == 40


@pytest.mark.parametrize("optimizer", ["auto", "hessian_free"])
def test_a_pickle_goes_on_where_it_was(optimizer):
    model = online(HFRegressor(**SMALL, batch_size=32, optimizer=optimizer), NUMBERS, 1)
    copy = pickle.loads(pickle.dumps(model))
    for one in (model, copy):
        one.partial_fit(X[:20], NUMBERS[:20])
    np.testing.assert_allclose(copy.weights_, model.weights_, rtol=1e-5, atol=1e-6)


def test_pieces_go_on_after_a_fit():
    model = HFRegressor(**SMALL, batch_size=32).fit(X, NUMBERS)
    before = model.predict(X)
    model.partial_fit(X[:20], NUMBERS[:20])
    np.testing.assert_allclose(model.predict(X), before, atol=0.2 * NUMBERS.std())
    assert model.score(X, NUMBERS) > 0.8


def test_pieces_are_refused_where_all_data_are_needed():
    with pytest.raises(ValueError, match="set early_stopping=False"):
        HFRegressor(early_stopping=True).partial_fit(X, NUMBERS)
    with pytest.raises(ValueError, match="optimizer='gauss_newton' needs all of them"):
        HFRegressor(optimizer="gauss_newton").partial_fit(X, NUMBERS)
    with pytest.raises(ValueError, match="class_weight='balanced' needs all the data"):
        HFClassifier(class_weight="balanced").partial_fit(X, NAMES, classes=np.unique(NAMES))
