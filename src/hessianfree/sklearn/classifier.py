"""`HFClassifier`: a network that predicts classes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit, log_softmax, softmax
from sklearn.base import ClassifierMixin
from sklearn.preprocessing import label_binarize
from sklearn.utils import Tags, column_or_1d
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from hessianfree.sklearn import links
from hessianfree.sklearn.base import FittedTargets, Floats, NetworkEstimator


class HFClassifier(ClassifierMixin, NetworkEstimator):
    """A network that predicts classes, as a classifier of scikit-learn.

    It minimises sum_i w_i l_i + alpha/2 sum W^2, divided by sum_i w_i, over all matrices W and biases. The loss l is
    the cross-entropy: of a softmax over more than two classes, of one probability for two, of a probability for each
    label where labels do not exclude each other (y with a column of 0 and 1 for each). Labels may be numbers or
    strings. Inputs are standardised unless you switch that off.

    Args:
        hidden_layer_sizes: units per hidden layer, such as (100,) or (64, 32); a number is one layer, and () a linear
            model.
        activation: nonlinearity of the hidden layers, by its name in `hf.nl`: "ReLU", "Tanh", "Logistic", "Gaussian",
            "SoftLIF" or "Linear". Saturating ones want a smaller alpha.
        optimizer: "auto", "gauss_newton", "hessian_free", "adam", "sgd", or an object of `hf.opt`. "gauss_newton" makes
            Newton steps by conjugate gradients with the Gauss-Newton matrix of all examples, in numpy, so that nothing
            is compiled. "auto" is that while examples times weights are up to 3e7, a unit counting as 25 weights more,
            and `hf.opt.Auto()` beyond. All others are compiled, which takes about two seconds for a new shape, and run
            where JAX computes, in float32.
        optimizer_args: arguments of "hessian_free" (see `hf.opt.HessianFree`), or of "adam" and "sgd" (see optax), such
            as {"learning_rate": 1e-2}; by default the rates are 3e-3 for "adam" and 0.1, with momentum, for "sgd".
        alpha: L2 penalty as in scikit-learn: alpha / 2 times the sum of the squared weights, biases left out, is added
            to the sum of the losses of all examples, those that `partial_fit` saw before included.
        batch_size: examples per update of a compiled optimizer; "auto" is at most 200 for first-order steps and at most
            50,000 for Hessian-free updates. "gauss_newton" takes all of them.
        max_iter: iterations at most: steps of "gauss_newton", else epochs.
        max_seconds: seconds after which the present iteration is the last; None for no limit.
        tol: share of the loss that `n_iter_no_change` iterations must gain together for the fit to go on.
        n_iter_no_change: how many.
        early_stopping: whether to hold out examples, and to judge iterations by their loss; the best weights are kept.
        validation_fraction: share of the examples that are held out.
        standardize: whether inputs are taken minus their mean, divided by their deviation.
        class_weight: a dict {label: factor on the weights of its examples}, "balanced" for factors that give all
            classes the same sum, or None.
        warm_start: whether `fit` goes on from the weights of the last fit. They are moved to the units of the new data.
        random_state: seed or RandomState of the initial weights, the order of examples, and what is held out.
        verbose: whether to print a line for each iteration.

    Attributes:
        classes_: the labels, in the order of the probabilities.
        weights_: all weights in one vector, in the layout of `FFNet.W`, for data in the units of the scalers.
        coefs_, intercepts_: the matrix and the bias of each layer, views of it.
        shape_: units per layer.
        x_scaler_, y_scaler_: the fitted `StandardScaler` of inputs and of targets; None without.
        n_iter_: iterations made.
        loss_: what the fit is judged by, for the weights that were kept: the loss of the examples that were held out,
            if there are any; else that of all examples, with the penalty.
        loss_curve_: the loss of the training data after each iteration.
        validation_losses_: that of the examples that were held out; None without.
        solver_: what trained: "gauss_newton", or the class of the optimizer.
        n_features_in_, feature_names_in_: of the inputs; the names if they came in a DataFrame.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> model = HFClassifier(random_state=0).fit(X[::2], y[::2])
        >>> bool(model.score(X[1::2], y[1::2]) > 0.9)
        True
        >>> model.predict_proba(X[:5]).shape
        (5, 3)

    Source: Steihaug 1983, "The conjugate gradient method and trust regions in large scale optimization"; Schraudolph
    2002, "Fast curvature matrix-vector products for second-order gradient descent".
    """

    _scales_targets = _numeric_targets = False

    def __init__(
        self,
        hidden_layer_sizes: Any = (100,),
        activation: str = "ReLU",
        *,
        optimizer: Any = "auto",
        optimizer_args: dict[str, Any] | None = None,
        alpha: float = 1.0,
        batch_size: Any = "auto",
        max_iter: int = 200,
        max_seconds: float | None = None,
        tol: float = 1e-2,
        n_iter_no_change: int = 5,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        standardize: bool = True,
        class_weight: Any = None,
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation,
            optimizer=optimizer,
            optimizer_args=optimizer_args,
            alpha=alpha,
            batch_size=batch_size,
            max_iter=max_iter,
            max_seconds=max_seconds,
            tol=tol,
            n_iter_no_change=n_iter_no_change,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            standardize=standardize,
            warm_start=warm_start,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    # ---- labels ------------------------------------------------------------------------------------------------------

    def _learn(self, y: NDArray[Any], classes: Any) -> None:
        """Learn the classes."""
        if self.class_weight is not None and not (
            self.class_weight == "balanced" or isinstance(self.class_weight, dict)
        ):
            raise ValueError(f"class_weight is {self.class_weight!r}; a dict, 'balanced' or None is expected.")
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind == "multiclass-multioutput":
            raise ValueError(
                f"y has {y.shape[1]} columns with more than two classes in some; fit an estimator to each column, or "
                "give 0 and 1 for labels that do not exclude each other."
            )
        self._multilabel = kind == "multilabel-indicator"
        if self._multilabel:
            if self.class_weight is not None:
                raise ValueError("class_weight goes with classes that exclude each other; set class_weight=None.")
            self.classes_ = np.arange(y.shape[1])
            return
        self.classes_ = np.unique(column_or_1d(y, warn=True) if classes is None else classes)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds one class, {str(self.classes_[0])!r}; at least two classes are expected.")

    def _encoded(self, y: NDArray[Any]) -> FittedTargets:
        """One column for each class; one in all for two classes."""
        if self._multilabel:
            if type_of_target(y) != "multilabel-indicator":
                raise ValueError("y had a column of 0 and 1 for each label before; it must have it again.")
            return FittedTargets(np.asarray(y, float), links.LOGISTIC)
        labels = column_or_1d(y)
        if unknown := set(labels.tolist()) - set(self.classes_.tolist()):
            raise ValueError(f"y holds {sorted(unknown)}, which are not among the classes {self.classes_.tolist()}.")
        values = label_binarize(labels, classes=self.classes_).astype(float)
        return FittedTargets(values, links.LOGISTIC if len(self.classes_) == 2 else links.SOFTMAX, labels)

    def _weighted(self, weights: Floats, y: NDArray[Any]) -> Floats:
        """Times the weights of their classes."""
        if self.class_weight is None:
            return weights
        labels = column_or_1d(y)
        of_classes = compute_class_weight(self.class_weight, classes=self.classes_, y=labels, sample_weight=weights)
        return weights * of_classes[np.searchsorted(self.classes_, labels)]

    # ---- fitting and predicting --------------------------------------------------------------------------------------

    def partial_fit(
        self, X: Any, y: Any, classes: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Go through some examples once, in minibatches, from where the last call or `fit` ended.

        The optimizer's state, and the means and deviations of the inputs, go on from call to call; when those change,
        the weights are changed so that predictions stay what they were. With the optimizer "auto" the updates are those
        of Adam.

        Args:
            X: inputs, (B, n).
            y: labels, (B,), or 0 and 1 for each label, (B, m).
            classes: all labels that may come, in the first call; for (B, m) they are its columns.
            sample_weight: of the examples, (B,), >= 0; 1 by default.

        Returns:
            The estimator itself.

        Raises:
            ValueError: as `fit`; and if the classes are not known, y holds others, `early_stopping` is set, the class
                weights are "balanced", or the optimizer is "gauss_newton", which needs all the data at once.
        """
        if self.class_weight == "balanced":
            raise ValueError("class_weight='balanced' needs all the data at once; give partial_fit a dict of weights.")
        first = not hasattr(self, "weights_")
        if first and classes is None and not type_of_target(y).startswith("multilabel"):
            raise ValueError("The first call of partial_fit needs classes: all labels that may come.")
        if not first and classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(f"classes are {np.unique(classes).tolist()}, and were {self.classes_.tolist()} before.")
        return self._go_through(X, y, sample_weight, classes)

    def predict(self, X: Any) -> NDArray[Any]:
        """Predict the most probable class, or all labels of a probability above one half.

        Args:
            X: inputs, (B, n).

        Returns:
            Labels, (B,), or 0 and 1 for each label, (B, m).
        """
        scores = self.decision_function(X)
        if self._multilabel:
            return (scores > 0).astype(int)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(axis=1)]

    def decision_function(self, X: Any) -> Floats:
        """The outputs of the network before its last nonlinearity: logits.

        Args:
            X: inputs, (B, n).

        Returns:
            Of each class or label, (B, K); for two classes of the second alone, (B,).
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if not self._multilabel and len(self.classes_) == 2 else outputs

    def predict_proba(self, X: Any) -> Floats:
        """Predict probabilities.

        Args:
            X: inputs, (B, n).

        Returns:
            Of each class in the order of `classes_`, (B, K), with sums of one; or of each label by itself, (B, m).
        """
        scores = self.decision_function(X)
        if self._multilabel:
            return expit(scores)
        return softmax(scores, axis=1) if scores.ndim == 2 else np.stack([expit(-scores), expit(scores)], axis=1)

    def predict_log_proba(self, X: Any) -> Floats:
        """Predict logarithms of probabilities, from the outputs themselves, so that small ones keep their digits.

        Args:
            X: inputs, (B, n).

        Returns:
            Logarithms of what `predict_proba` returns.
        """
        scores = self.decision_function(X)
        if self._multilabel:
            return log_expit(scores)
        if scores.ndim == 2:
            return log_softmax(scores, axis=1)
        return np.stack([log_expit(-scores), log_expit(scores)], axis=1)
