"""What both estimators share: parameters, fitting, and the outputs of the network."""

from __future__ import annotations

import copy
import warnings
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from hessianfree.networks.ffnet import FFNet
from hessianfree.sklearn import settings, training
from hessianfree.sklearn.dense import DenseNetwork
from hessianfree.sklearn.frame import Frame, WeightedData, moved
from hessianfree.sklearn.links import Link
from hessianfree.sklearn.monitor import CONVERGED, OUT_OF_TIME, Monitor
from hessianfree.support.runtime import keep_compiled_programs

Floats = NDArray[Any]


class FittedTargets(NamedTuple):
    """Targets as the network takes them, (B, m), what they mean, and the labels that a split keeps in proportion."""

    values: Floats
    link: Link
    labels: NDArray[Any] | None = None


class NetworkEstimator(BaseEstimator, ABC):
    """A network as an estimator; `HFClassifier` and `HFRegressor` document parameters and attributes."""

    #: Whether targets are numbers, and are standardised as inputs are.
    _numeric_targets: bool

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
        warm_start: bool = False,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.optimizer = optimizer
        self.optimizer_args = optimizer_args
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.max_seconds = max_seconds
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.standardize = standardize
        self.warm_start = warm_start
        self.random_state = random_state
        self.verbose = verbose

    # ---- what differs ------------------------------------------------------------------------------------------------

    @abstractmethod
    def _learn(self, y: NDArray[Any], classes: Any) -> None:
        """Learn of the first targets what later ones must agree with."""

    @abstractmethod
    def _encoded(self, y: NDArray[Any]) -> FittedTargets:
        """Targets as numbers. Raises ValueError if they do not agree with the first ones."""

    @abstractmethod
    def _weighted(self, weights: Floats, y: NDArray[Any]) -> Floats:
        """The weights of examples with these targets in the loss."""

    # ---- fitting -----------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the network to data.

        Args:
            X: inputs, (B, n): an array or a DataFrame of finite numbers; sparse matrices are refused.
            y: targets, (B,) or (B, m).
            sample_weight: of the examples, (B,), >= 0; 1 by default. An example of weight 2 counts like two.

        Returns:
            The estimator itself.

        Raises:
            ValueError: if a parameter is out of range, X, y and weights do not fit each other, or the loss is not
                finite from the beginning.
            TypeError: if X is sparse, or the optimizer is of the wrong kind.
        """
        self._check_parameters()
        X, y, given = self._checked(X, y, sample_weight, fresh=True)
        known = self._frame if self.warm_start and hasattr(self, "weights_") else None
        if known is None:
            self._learn(y, None)
        targets, rng = self._encoded(y), check_random_state(self.random_state)
        frame = self._framed(X, targets, given, known)
        start = frame.structure.initial(rng) if known is None else moved(self.weights_, known, frame)
        data, seed = frame.examples(X, targets.values, self._weighted(given, y)), int(rng.randint(2**31 - 1))
        data, held_out = self._split(data, targets.labels, seed) if self.early_stopping else (data, None)
        validation = None if held_out is None else frame.objective(held_out, 0.0).value
        monitor = Monitor(self.tol, self.n_iter_no_change, validation, self.max_seconds, bool(self.verbose))
        self.solver_ = self._train(frame, start, data, monitor, seed)
        if not monitor.weights.size:
            raise ValueError(
                "The loss is not finite from the first iteration on; smaller numbers in X and y, or standardize=True, "
                "keep it finite."
            )
        self._keep(frame, monitor.weights, None)
        self._seen = data.weights.sum()
        self.n_iter_, self.loss_, self.loss_curve_ = len(monitor.losses), monitor.best, monitor.losses
        self.validation_losses_ = monitor.validation_losses if self.early_stopping else None
        if monitor.ending not in (CONVERGED, OUT_OF_TIME):
            all_done = f"all {self.max_iter} iterations are done, and the loss still falls; raise max_iter or tol"
            warnings.warn(f"Training ended early: {monitor.ending or all_done}.", ConvergenceWarning, stacklevel=2)
        return self

    def _go_through(self, X: Any, y: Any, sample_weight: ArrayLike | None, classes: ArrayLike | None) -> Self:
        """Go through some examples once, in minibatches, from where the last call or `fit` ended."""
        self._check_parameters()
        if self.early_stopping:
            raise ValueError("partial_fit has no data to stop by; set early_stopping=False.")
        if self.optimizer == "gauss_newton":
            raise ValueError("partial_fit sees the data piece by piece; optimizer='gauss_newton' needs all of them.")
        known = self._frame if hasattr(self, "weights_") else None
        X, y, given = self._checked(X, y, sample_weight, fresh=known is None)
        if known is None:
            self._learn(y, classes)
        targets, rng = self._encoded(y), check_random_state(self.random_state)
        frame = self._framed(X, targets, given, known, adding=True)
        start = frame.structure.initial(rng) if known is None else moved(self.weights_, known, frame)
        data = frame.examples(X, targets.values, self._weighted(given, y))
        keep_compiled_programs()
        online = self._going_on(frame, start, known, int(rng.randint(2**31 - 1)))
        seen = data.weights.sum() + (0.0 if known is None else self._seen)
        if self.alpha and seen:
            settings.set_decay(online.optimizer, self.alpha / seen)
        loss = online.pass_over(data, settings.batch_size(self.batch_size, online.optimizer))
        if known is None:
            self.n_iter_, self.loss_curve_, self.validation_losses_ = 0, [], None
        self._keep(frame, online.weights, online)
        self._seen, self.solver_ = seen, type(online.optimizer).__name__
        self.n_iter_, self.loss_, self.loss_curve_ = self.n_iter_ + 1, loss, [*self.loss_curve_, loss]
        return self

    def _check_parameters(self) -> None:
        """Check all parameters before any work starts."""
        settings.hidden_layers(self.hidden_layer_sizes)
        settings.hidden_activation(self.activation)
        settings.check_numbers(self.get_params(deep=False))
        settings.check_optimizer(self.optimizer, self.optimizer_args, self.alpha)

    def _checked(self, X: Any, y: Any, sample_weight: Any, fresh: bool) -> tuple[Floats, NDArray[Any], Floats]:
        """Data as arrays, and a weight for each example."""
        options = {"multi_output": True, "y_numeric": self._numeric_targets, "dtype": np.float64, "order": "C"}
        X, y = validate_data(self, X, y, reset=fresh, **options)
        y = y.toarray() if issparse(y) else y
        return X, y, _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)

    def _framed(
        self, X: Floats, targets: FittedTargets, weights: Floats, known: Frame | None, adding: bool = False
    ) -> Frame:
        """The network for these data, and their units; those of a known frame go on if data are added."""
        shape = (X.shape[1], *settings.hidden_layers(self.hidden_layer_sizes), targets.values.shape[1])
        if known is not None and shape != known.structure.shape:
            raise ValueError(
                f"The data and hidden_layer_sizes make layers of {list(shape)} units, and those before made "
                f"{list(known.structure.shape)}; keep them, or fit a new estimator."
            )

        def scaler(before: StandardScaler | None, values: Floats) -> StandardScaler:
            begun = StandardScaler() if before is None else copy.deepcopy(before)
            return begun.partial_fit(values, sample_weight=weights)

        before = (known.x_scaler, known.y_scaler) if known is not None and adding else (None, None)
        return Frame(
            DenseNetwork(shape, settings.hidden_activation(self.activation)),
            targets.link,
            scaler(before[0], X) if self.standardize else None,
            scaler(before[1], targets.values) if self.standardize and self._numeric_targets else None,
        )

    def _split(self, data: WeightedData, labels: NDArray[Any] | None, seed: int) -> tuple[WeightedData, WeightedData]:
        """Data to train on, and to stop by."""
        count = int(np.ceil(self.validation_fraction * len(data.x)))
        if count >= len(data.x):
            raise ValueError(
                f"validation_fraction is {self.validation_fraction} of {len(data.x)} examples, which leaves none to "
                "train on; lower it, or set early_stopping=False."
            )
        if labels is not None:
            _, sizes = np.unique(labels, return_counts=True)
            if sizes.min() < 2 or min(count, len(labels) - count) < len(sizes):
                labels = None  # too few of a class for both parts
        parts = train_test_split(*data, test_size=count, random_state=seed, stratify=labels)
        train, held_out = WeightedData(*parts[::2]), WeightedData(*parts[1::2])
        if not (train.weights.any() and held_out.weights.any()):
            raise ValueError(
                "All sample weights of the training data or of the validation data are zero; try another random_state."
            )
        return train, held_out

    def _train(self, frame: Frame, start: Floats, data: WeightedData, monitor: Monitor, seed: int) -> str:
        """Train from given weights; returns what trained."""
        decay = self.alpha / data.weights.sum()
        small = self.optimizer == "auto" and settings.is_small(len(data.x), frame.structure)
        if self.optimizer == "gauss_newton" or small:
            training.by_gauss_newton(frame.objective(data, decay), start, self.max_iter, monitor)
            return "gauss_newton"
        optimizer = settings.chosen(self.optimizer, self.optimizer_args, online=False)
        if self.alpha:
            settings.set_decay(optimizer, decay)
        size = settings.batch_size(self.batch_size, optimizer)
        decays, net = decay * frame.structure.matrices(), frame.network(start, seed)
        training.by_optimizer(net, data, optimizer, self.max_iter, size, decays, monitor)
        return type(optimizer).__name__

    def _going_on(self, frame: Frame, start: Floats, known: Frame | None, seed: int) -> training.Online:
        """The optimizer with its state, at weights that have been moved to the present units."""
        online = self._online if known is not None else None
        if not isinstance(online, training.Online):
            kept, optimizer = online, settings.chosen(self.optimizer, self.optimizer_args, online=True)
            online = training.Online(frame.network(start, seed), optimizer)
            if kept is None:
                return online
            online.restore(kept)
        if known is not None:
            online.net.W = moved(online.net.W, known, frame)
        return online

    def _keep(self, frame: Frame, weights: Floats, online: training.Online | None) -> None:
        """Keep what was fitted."""
        self._frame, self.weights_, self._online = frame, weights, online
        self.shape_, self.x_scaler_, self.y_scaler_ = frame.structure.shape, frame.x_scaler, frame.y_scaler

    # ---- the fitted network ------------------------------------------------------------------------------------------

    def _outputs(self, X: Any) -> Floats:
        """Outputs of the network before the nonlinearity of its last layer, (B, m), in the units of the targets."""
        check_is_fitted(self, "weights_")
        return self._frame.outputs(self.weights_, validate_data(self, X, dtype=np.float64, order="C", reset=False))

    def to_network(self) -> FFNet:
        """The fitted network as an `FFNet` in float32, which takes inputs and gives predictions in their own units.

        Example:
            >>> from hessianfree.sklearn import HFRegressor
            >>> X = np.linspace(-1, 1, 30)[:, None]
            >>> model = HFRegressor(random_state=0).fit(X, X.ravel() ** 2)
            >>> outputs = model.to_network().forward(X)[-1]
            >>> bool(np.allclose(outputs.ravel(), model.predict(X), atol=1e-4))
            True
        """
        check_is_fitted(self, "weights_")
        here = self._frame.without_units()
        return here.network(moved(self.weights_, self._frame, here))

    @property
    def coefs_(self) -> list[Floats]:
        """The matrix of each layer, (units below, units), for data in the units of the scalers."""
        return [W for W, _ in self._frame.structure.views(self.weights_)]

    @property
    def intercepts_(self) -> list[Floats]:
        """The bias of each layer, (units,), likewise."""
        return [b for _, b in self._frame.structure.views(self.weights_)]

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        online = state.get("_online")
        return {**state, "_online": online.kept()} if isinstance(online, training.Online) else state
