"""Fitting and predicting: against numpy, against linear models of scikit-learn, and inside its tools."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn.base", reason="scikit-learn is not installed")

from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from hessianfree.sklearn import HFClassifier, HFRegressor

from sets import COLUMNS, LABELS, NAMES, NUMBERS, TWO, X, Z

SMALL = {"hidden_layer_sizes": (8,), "random_state": 0}


def outputs_by_hand(model, inputs):
    """The network in four lines of numpy."""
    a = (inputs - inputs.mean(axis=0)) / inputs.std(axis=0)
    for W, b in zip(model.coefs_[:-1], model.intercepts_[:-1], strict=True):
        a = np.maximum(a @ W + b, 0)
    return a @ model.coefs_[-1] + model.intercepts_[-1]


# ---- predictions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [NUMBERS, COLUMNS], ids=["one column", "two columns"])
def test_numbers_are_those_of_the_network_by_hand(y):
    model = HFRegressor(**SMALL).fit(X, y)
    expected = outputs_by_hand(model, X).reshape(y.shape) * y.std(axis=0) + y.mean(axis=0)
    np.testing.assert_allclose(model.predict(X), expected, rtol=1e-10)
    assert model.score(X, y) > 0.8


def test_probabilities_are_those_of_the_network_by_hand():
    model = HFClassifier(**SMALL).fit(X, NAMES)
    e = np.exp(outputs_by_hand(model, X))
    expected = e / e.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-8)
    np.testing.assert_allclose(model.predict_log_proba(X), np.log(expected), rtol=1e-8)
    assert model.classes_.tolist() == ["high", "low", "middle"]
    np.testing.assert_array_equal(model.predict(X), model.classes_[expected.argmax(axis=1)])
    assert model.score(X, NAMES) > 0.9


def test_two_classes_have_one_output_and_two_probabilities():
    model = HFClassifier(**SMALL).fit(X, TWO)
    yes = 1 / (1 + np.exp(-outputs_by_hand(model, X)[:, 0]))
    assert model.shape_ == (3, 8, 1)
    np.testing.assert_allclose(model.predict_proba(X), np.stack([1 - yes, yes], axis=1), rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), model.predict_proba(X))
    np.testing.assert_array_equal(model.predict(X), np.where(yes > 0.5, "yes", "no"))
    assert model.score(X, TWO) > 0.9


def test_labels_that_do_not_exclude_each_other_have_a_probability_each():
    model = HFClassifier(**SMALL).fit(X, LABELS)
    expected = 1 / (1 + np.exp(-outputs_by_hand(model, X)))
    np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-8)
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), expected, rtol=1e-8)
    np.testing.assert_array_equal(model.predict(X), expected > 0.5)
    assert model.score(X, LABELS) > 0.8
    np.testing.assert_array_equal(HFClassifier(**SMALL).fit(X, csr_array(LABELS)).weights_, model.weights_)


def test_columns_of_a_data_frame_keep_their_names():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    model = HFRegressor(**SMALL).fit(frame, pandas.Series(NUMBERS))
    assert model.feature_names_in_.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(model.predict(frame), HFRegressor(**SMALL).fit(X, NUMBERS).predict(X))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a", "c"]])


def test_the_network_as_an_ffnet_takes_data_in_their_own_units():
    classifier, regressor = HFClassifier(**SMALL).fit(X, NAMES), HFRegressor(**SMALL).fit(X, NUMBERS)
    np.testing.assert_allclose(classifier.to_network().forward(X)[-1], classifier.predict_proba(X), atol=1e-3)
    found = regressor.to_network().forward(X)[-1][:, 0]
    np.testing.assert_allclose(found, regressor.predict(X), atol=1e-3 * NUMBERS.std())


# ---- the optimum -----------------------------------------------------------------------------------------------------

#: Without hidden layers the loss is convex: there is one optimum, which scikit-learn's linear models find, too.
LINEAR = {"hidden_layer_sizes": (), "tol": 1e-7, "random_state": 0}


@pytest.mark.parametrize("optimizer", ["gauss_newton", "hessian_free"])
def test_without_hidden_layers_it_is_ridge_regression(optimizer):
    model = HFRegressor(**LINEAR, alpha=20.0, optimizer=optimizer, max_iter=30).fit(X, COLUMNS)
    t = StandardScaler().fit_transform(COLUMNS)
    ridge = Ridge(alpha=20.0).fit(StandardScaler().fit_transform(X), t)
    np.testing.assert_allclose(model.coefs_[0], ridge.coef_.T, atol=1e-4)
    np.testing.assert_allclose(model.intercepts_[0], ridge.intercept_, atol=1e-4)


def test_without_hidden_layers_it_is_logistic_regression():
    model = HFClassifier(**LINEAR, alpha=2.0).fit(X, NAMES)
    logistic = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-9, max_iter=1000)).fit(X, NAMES)
    np.testing.assert_allclose(model.predict_proba(X), logistic.predict_proba(X), atol=1e-5)


def test_alpha_is_that_of_scikit_learn():
    weak, strong = (HFRegressor(**SMALL, alpha=alpha).fit(X, NUMBERS) for alpha in (0.1, 100.0))
    squares = [sum((W**2).sum() for W in model.coefs_) for model in (weak, strong)]
    assert squares[1] < 0.1 * squares[0]


# ---- weights of examples ---------------------------------------------------------------------------------------------


def test_an_example_of_weight_two_counts_like_two():
    weights = np.arange(60) % 3
    repeated = np.repeat(np.arange(60), weights)
    one = HFRegressor(**SMALL).fit(X, NUMBERS, sample_weight=weights)
    other = HFRegressor(**SMALL).fit(X[repeated], NUMBERS[repeated])
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-6)


def test_class_weights_are_factors_on_the_weights_of_examples():
    factors = {"low": 5.0, "middle": 1.0, "high": 0.5}
    options = {**SMALL, "standardize": False}  # units are those of the examples, whatever the weights of their classes
    by_class = HFClassifier(**options, class_weight=factors).fit(Z, NAMES)
    by_example = HFClassifier(**options).fit(Z, NAMES, sample_weight=[factors[name] for name in NAMES])
    np.testing.assert_allclose(by_class.predict_proba(Z), by_example.predict_proba(Z), rtol=1e-6)


def test_balanced_classes_count_alike():
    rare = np.concatenate([np.flatnonzero(TWO == "yes")[:4], np.flatnonzero(TWO == "no")])
    shares = [
        HFClassifier(hidden_layer_sizes=(), class_weight=chosen, random_state=0)
        .fit(X[rare], TWO[rare])
        .predict_proba(X)
        for chosen in (None, "balanced")
    ]
    assert shares[1][:, 1].mean() > shares[0][:, 1].mean() + 0.1


# ---- when it ends ----------------------------------------------------------------------------------------------------


def test_early_stopping_keeps_the_best_weights():
    options = {**SMALL, "alpha": 0.0, "tol": 0.0, "validation_fraction": 0.5, "early_stopping": True}
    model = HFClassifier(**options).fit(X, NAMES)
    losses = model.validation_losses_
    assert len(losses) == len(model.loss_curve_) == model.n_iter_
    assert model.loss_ == min(losses) < losses[-1]
    # The weights are those of that iteration: a fit that ends there has them last.
    again = HFClassifier(**options, n_iter_no_change=10_000, max_iter=1 + int(np.argmin(losses)))
    with pytest.warns(match="raise max_iter"):
        again.fit(X, NAMES)
    np.testing.assert_array_equal(again.weights_, model.weights_)


def test_examples_that_are_held_out_keep_the_proportions_of_classes():
    model = HFClassifier(**SMALL, early_stopping=True, validation_fraction=0.25)
    assert log_loss(NAMES, model.fit(X, NAMES).predict_proba(X)) < 0.5
    few = np.array(["rare"] + ["often"] * 59)
    assert HFClassifier(**SMALL, early_stopping=True).fit(X, few).classes_.tolist() == ["often", "rare"]


def test_a_fit_that_runs_out_of_iterations_says_so():
    with pytest.warns(match="all 2 iterations are done, and the loss still falls; raise max_iter or tol"):
        model = HFRegressor(**SMALL, max_iter=2).fit(X, NUMBERS)
    assert model.n_iter_ == 2


def test_time_ends_a_fit_without_a_warning():
    assert HFRegressor(**SMALL, max_seconds=1e-9).fit(X, NUMBERS).n_iter_ == 1


def test_ctrl_c_keeps_what_was_found(monkeypatch):
    from hessianfree.sklearn.monitor import Monitor

    note, calls = Monitor.note, []

    def interrupted(self, loss, weights):
        calls.append(loss)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return note(self, loss, weights)

    monkeypatch.setattr(Monitor, "note", interrupted)
    with pytest.warns(match="Training ended early: interrupted"):
        model = HFRegressor(**SMALL).fit(X, NUMBERS)
    assert model.n_iter_ == 3
    assert model.loss_ == min(calls[:3])


def test_verbose_prints_a_line_for_each_iteration(capsys):
    model = HFRegressor(**SMALL, early_stopping=True, verbose=True).fit(X, NUMBERS)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == model.n_iter_
    assert lines[0].startswith(f"iteration 1: loss {model.loss_curve_[0]:.4g}, validation loss ")


def test_a_warm_start_goes_on_in_the_units_of_the_new_data():
    model = HFRegressor(**SMALL, warm_start=True).fit(X, NUMBERS)
    loss = model.loss_
    model.set_params(max_iter=1)
    with pytest.warns(match="raise max_iter"):
        model.fit(X[:40], NUMBERS[:40])
    assert model.loss_curve_[0] < 1.5 * loss
    cold = clone(model)
    with pytest.warns(match="raise max_iter"):
        assert cold.fit(X, NUMBERS).loss_ > 2 * loss
    with pytest.raises(ValueError, match=r"make layers of \[3, 5, 1\] units, and those before made \[3, 8, 1\]"):
        model.set_params(hidden_layer_sizes=5).fit(X, NUMBERS)


# ---- scikit-learn's tools --------------------------------------------------------------------------------------------


def test_a_pickle_predicts_the_same():
    model = HFClassifier(**SMALL).fit(X, NAMES)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), model.predict_proba(X))


def test_a_clone_has_the_parameters_and_nothing_that_was_fitted():
    model = HFClassifier(**SMALL, alpha=0.5, class_weight="balanced").fit(X, NAMES)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert not hasattr(copy, "weights_")


def test_a_grid_search_over_a_pipeline_finds_the_penalty():
    pipeline = make_pipeline(PolynomialFeatures(2, include_bias=False), HFRegressor(**SMALL))
    search = GridSearchCV(pipeline, {"hfregressor__alpha": [0.1, 1e6]}, cv=3).fit(X, NUMBERS)
    assert search.best_params_ == {"hfregressor__alpha": 0.1}
    assert search.best_score_ > 0.8


def test_cross_validation_on_names():
    assert cross_val_score(HFClassifier(**SMALL), X, NAMES, cv=3).mean() > 0.8


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"hidden_layer_sizes": (0,)}, r"hidden_layer_sizes is \(0,\); whole numbers >= 1"),
        ({"hidden_layer_sizes": 1.5}, "hidden_layer_sizes is 1.5; whole numbers >= 1"),
        ({"activation": "relu"}, "no activation 'relu'. Did you mean 'ReLU'"),
        ({"activation": "Softmax"}, "no activation 'Softmax'"),
        ({"optimizer": "lbfgs"}, "no optimizer 'lbfgs'. The names are 'auto', 'gauss_newton'"),
        ({"optimizer_args": {"a": 1}}, "optimizer_args is .*, but the optimizer 'auto' takes none"),
        ({"alpha": -1}, "alpha is -1; a finite number >= 0"),
        ({"tol": np.nan}, "tol is nan"),
        ({"max_iter": 0}, "max_iter is 0; a whole number >= 1"),
        ({"n_iter_no_change": 2.5}, "n_iter_no_change is 2.5"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "all"}, "batch_size is 'all'; a whole number >= 1 or 'auto'"),
        ({"max_seconds": 0}, "max_seconds is 0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0; a number between 0 and 1"),
        ({"early_stopping": True, "validation_fraction": 0.999}, "leaves none to train on"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        HFRegressor(**arguments).fit(X, NUMBERS)


@pytest.mark.parametrize(
    ("y", "arguments", "message"),
    [
        (np.ones(60), {}, "y holds one class"),
        (NUMBERS, {}, "Unknown label type"),
        (np.stack([np.arange(60) % 3, np.arange(60) % 3], axis=1), {}, "2 columns with more than two classes"),
        (LABELS, {"class_weight": "balanced"}, "classes that exclude each other"),
        (TWO, {"class_weight": "equal"}, "class_weight is 'equal'; a dict, 'balanced' or None"),
    ],
)
def test_labels_that_cannot_be_learnt_are_refused(y, arguments, message):
    with pytest.raises(ValueError, match=message):
        HFClassifier(**arguments).fit(X, y)


def test_numbers_that_overflow_are_refused():
    with pytest.raises(ValueError, match="not finite from the first iteration on"), np.errstate(all="ignore"):
        HFRegressor(**SMALL, standardize=False).fit(1e200 * X, 1e200 * NUMBERS)
