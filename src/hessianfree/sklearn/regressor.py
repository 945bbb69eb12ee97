"""`HFRegressor`: a network that predicts numbers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import MultiOutputMixin, RegressorMixin

from hessianfree.sklearn import links
from hessianfree.sklearn.base import FittedTargets, Floats, NetworkEstimator


class HFRegressor(MultiOutputMixin, RegressorMixin, NetworkEstimator):
    """A network that predicts numbers, as a regressor of scikit-learn.

    It minimises sum_i w_i 1/2 |o_i - t_i|^2 + alpha/2 sum W^2, divided by sum_i w_i, over all matrices W and biases.
    Inputs and targets are standardised unless you switch that off, so that they may have any units. Several columns of
    targets are predicted together.

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
        standardize: whether inputs and targets are taken minus their mean, divided by their deviation.
        warm_start: whether `fit` goes on from the weights of the last fit. They are moved to the units of the new data.
        random_state: seed or RandomState of the initial weights, the order of examples, and what is held out.
        verbose: whether to print a line for each iteration.

    Attributes:
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
        >>> from sklearn.datasets import load_diabetes
        >>> X, y = load_diabetes(return_X_y=True)
        >>> model = HFRegressor(random_state=0).fit(X[:300], y[:300])
        >>> bool(model.score(X[300:], y[300:]) > 0.3)
        True

    Source: Steihaug 1983, "The conjugate gradient method and trust regions in large scale optimization"; Schraudolph
    2002, "Fast curvature matrix-vector products for second-order gradient descent".
    """

    _numeric_targets = True

    def _learn(self, y: NDArray[Any], classes: Any) -> None:
        self._one_column = y.ndim == 1

    def _encoded(self, y: NDArray[Any]) -> FittedTargets:
        return FittedTargets(np.asarray(y, float).reshape(len(y), -1), links.LINEAR)

    def _weighted(self, weights: Floats, y: NDArray[Any]) -> Floats:
        return weights

    def partial_fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Go through some examples once, in minibatches, from where the last call or `fit` ended.

        The optimizer's state, and the means and deviations of inputs and targets, go on from call to call; when those
        change, the weights are changed so that predictions stay what they were. With the optimizer "auto" the updates
        are those of Adam.

        Args:
            X: inputs, (B, n).
            y: targets, (B,) or (B, m), as many columns in each call.
            sample_weight: of the examples, (B,), >= 0; 1 by default.

        Returns:
            The estimator itself.

        Raises:
            ValueError: as `fit`; and if `early_stopping` is set, or the optimizer is "gauss_newton", which needs all
                the data at once.
        """
        return self._go_through(X, y, sample_weight, None)

    def predict(self, X: Any) -> Floats:
        """Predict targets.

        Args:
            X: inputs, (B, n).

        Returns:
            Predictions, (B,) or (B, m) as the targets were.
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if self._one_column else outputs
