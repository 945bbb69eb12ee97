"""Feedforward networks: shape, layers, connections and ONE flat weight vector; numpy at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from hessianfree import arguments, checks, host, loss_funcs, runtime, training, weights
from hessianfree import nonlinearities as nl
from hessianfree.assembly import Assembler
from hessianfree.engine.objective import Batch, Problem, curvature_product, value_and_gradient
from hessianfree.keys import Unkeyable
from hessianfree.loss_funcs import LossFunction
from hessianfree.network import NetworkInputs, NetworkObjective, NetworkTargets, compiled_activity
from hessianfree.weights import Connection, Params

Floats = NDArray[Any]

_LOGISTIC = nl.Logistic()
_SQUARED_ERROR = loss_funcs.SquaredError()


class FFNet(Unkeyable):
    """A feedforward network, trained by `run_epochs`.

    z_post = sum over pre of (a_pre W + b), a = nonlinearity(z).

    Args:
        shape: units per layer, the input layer first.
        layers: one nonlinearity (every layer but the first, which is Linear), or one per layer; an item may be a
            class name such as "Tanh".
        conns: `{pre: [post, ...]}`; a chain by default.
        loss_type: a loss, or a list of losses to be summed.
        W_init_params: arguments of `init_weights`.
        use_GPU: None for JAX's default device, False for the CPU, True for a GPU.
        load_weights: initial weights, an array or the path of a `.npy` file.
        debug: compute in float64, and compare gradient and curvature with finite differences at each update.
        rng: RandomState, seed or Generator; initial weights and the order of examples draw from it.
        dtype: np.float32 or np.float64.

    Raises:
        ValueError: for shapes, connections or layers that do not fit together.
        TypeError: for something that is no nonlinearity or no loss, or weights of the wrong type.
        IndexError: for loaded weights of the wrong length.
        RuntimeError: for use_GPU=True without a GPU.

    Example:
        >>> net = FFNet([2, 5, 1], rng=0)
        >>> net.forward(np.zeros((4, 2)))[-1].shape
        (4, 1)
    """

    def __init__(
        self,
        shape: Sequence[int],
        layers: Any = _LOGISTIC,
        conns: Mapping[int, Sequence[int]] | None = None,
        loss_type: Any = _SQUARED_ERROR,
        W_init_params: Mapping[str, Any] | None = None,
        use_GPU: bool | None = None,
        load_weights: Any = None,
        debug: bool = False,
        rng: Any = None,
        dtype: DTypeLike = np.float32,
    ) -> None:
        self.shape = checks.network_shape(shape)
        self.n_layers = len(self.shape)
        self.dtype = np.dtype(np.float64) if debug else checks.float_type(dtype)
        self.debug = debug
        self.rng = arguments.random_source(rng)
        self.conns = checks.connections(conns, self.n_layers)
        self.layers = arguments.layer_list(layers, self.n_layers)
        arguments.check_stateless(self.layers)
        self.loss = arguments.loss_function(loss_type)
        runtime.device_for(use_GPU)  # tells of a missing GPU
        self.use_GPU = use_GPU

        self._connections = tuple((pre, post) for pre, posts in self.conns.items() for post in posts)
        self.offsets = weights.layout(self.shape, self._connections)
        self._assembler = Assembler(self.shape, self._connections, self.dtype)
        with self.computing():
            self.check_loss()
            self.problem()  # tells of any layer or loss that cannot work
        self._W: Floats = np.empty(max(end for _, _, end in self.offsets.values()), self.dtype)
        self.W = self._initial_weights(load_weights, dict(W_init_params or {}))

        self._mask: NDArray[np.bool_] | None = None
        self.epoch: int | None = None
        self.best_W: Floats | None = None
        self.best_error: float | None = None
        self._optimizer: Any = None
        self._batch: Batch | None = None
        self._examples: tuple[Floats, Floats] | None = None

    # ---- weights -------------------------------------------------------------------------------------------------

    @property
    def W(self) -> Floats:
        """All weights, one flat vector; writable in place and through the views of `get_weights`."""
        return self._W

    @W.setter
    def W(self, value: ArrayLike) -> None:
        array = np.array(checks.numeric("weights", value), self.dtype)
        self._check_length(array)
        checks.finite("weights", array, allow_nan=False)
        self._W[:] = array  # in place: views of the vector stay views of it

    def _check_length(self, array: Floats) -> None:
        if array.shape != self._W.shape:
            raise IndexError(
                f"The weights have shape {array.shape}, but a network of shape {list(self.shape)} has "
                f"{self._W.size} in one flat vector."
            )

    def _initial_weights(self, load: Any, init_params: dict[str, Any]) -> Floats:
        if load is None:
            return self.init_weights(
                [(self.shape[pre], self.shape[post]) for pre, post in self._connections], **init_params
            )
        array = load if isinstance(load, np.ndarray) else weights.load(load)
        if array.dtype != self.dtype and not self.debug:
            raise TypeError(f"load_weights has dtype {array.dtype}, the network {self.dtype}; convert with astype.")
        return array

    def init_weights(
        self,
        shapes: Sequence[Connection],
        coeff: float | Sequence[float] = 1.0,
        biases: float | Sequence[float] = 0.0,
        init_type: str = "sparse",
    ) -> Floats:
        """Draw weights for matrices of these shapes, in order; the network itself is not changed.

        Args:
            shapes: (n_pre, n_post) of each matrix.
            coeff: scale, one for all or one per matrix.
            biases: value of the biases, one for all or one per matrix.
            init_type: "sparse", "uniform" or "gaussian".

        Returns:
            One flat vector: each matrix row by row, followed by its bias.

        Raises:
            ValueError: for an unknown `init_type` or lists of the wrong length.
        """
        drawn = weights.draw(shapes, self.rng, coeff, biases, init_type)
        return np.concatenate([part.ravel() for pair in drawn for part in pair]).astype(self.dtype)

    def get_weights(self, params: Floats, conn: Connection) -> tuple[Floats, Floats] | None:
        """Matrix and bias of one connection, as views of `params`.

        Args:
            params: a flat vector such as `net.W`.
            conn: (pre, post).

        Returns:
            (W (n_pre, n_post), b (n_post)), or None where there is no such connection.
        """
        if conn not in self.offsets:
            return None
        return weights.views(params, self.shape, {conn: self.offsets[conn]})[conn]

    def params(self, flat: ArrayLike | None = None) -> Params:
        """A flat vector, `net.W` by default, as {(pre, post): (W, b)} of views."""
        vector = self.W if flat is None else np.asarray(flat, self.dtype)
        self._check_length(vector)
        return weights.views(vector, self.shape, self.offsets)

    def flat(self, params: Params) -> Floats:
        """The flat vector of {(pre, post): (W, b)}."""
        return weights.flatten(params, self.offsets, self.dtype)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Weights that no update may change, (P,) booleans or None; settable by any index of `W`."""
        return self._mask

    @mask.setter
    def mask(self, index: Any) -> None:
        self._mask = None if index is None else checks.mask(index, self.W.size)

    def free(self) -> Params | None:
        """1 where a weight may change, 0 where `mask` holds it; None without a mask."""
        if self.mask is None:
            return None
        return self.params(~self.mask)

    # ---- running the network -------------------------------------------------------------------------------------

    def forward(self, inputs: Any, params: ArrayLike | None = None, deriv: bool = False) -> Any:
        """Activations of every layer.

        Args:
            inputs: (B, n_0).
            params: flat weights, `net.W` by default.
            deriv: whether to return derivatives too.

        Returns:
            A list of (B, n_l), the input layer included; with `deriv` also the list of d_activation of each layer.

        Raises:
            ValueError: for inputs of the wrong width, NaN or infinite.
            OverflowError: if an activation is not finite, naming the layer.
        """
        x = self.check_inputs(inputs)
        with self.computing():
            problem = self.problem()
            if isinstance(problem, NetworkObjective):
                activity = jax.device_get(compiled_activity(problem, self.params(params), NetworkInputs(x, {})))
            else:
                activity = host.host_forward(self.layers, self.params(params), x)
            activations = [np.array(a, self.dtype) for a in activity.a]
            for layer, a in enumerate(activations):
                if not np.isfinite(a).all():
                    raise OverflowError(
                        f"Layer {layer} ({type(self.layers[layer]).__name__}) has activations that are not finite; the "
                        "weights or inputs are too large for it."
                    )
            if not deriv:
                return activations
            layers = zip(self.layers, activity.z, activations, strict=True)
            return activations, [host.derivative(layer, np.asarray(z), a) for layer, z, a in layers]

    def error(self, W: ArrayLike | None = None, inputs: Any = None, targets: Any = None) -> float:
        """The loss, averaged over examples.

        Args:
            W: flat weights, `net.W` by default.
            inputs: (B, n_0), the cached minibatch by default.
            targets: (B, n_out), likewise.

        Returns:
            The loss, exact from the logits where it matches the output layer.
        """
        if (inputs is None) != (targets is None):
            raise ValueError("error needs inputs and targets together, or neither for the cached minibatch.")
        batch = self.batch() if inputs is None else self.batch_of(*self.check_examples(inputs, targets))
        return self.value_on(batch, W)

    def cache_minibatch(self, inputs: Any, targets: Any, minibatch: Any = None) -> None:
        """Choose the examples that `calc_grad`, `calc_G`, `error` and the optimizer work on.

        Args:
            inputs: (N, n_0).
            targets: (N, n_out); NaN counts for nothing.
            minibatch: indices of the examples to use, all by default.
        """
        x, t = self.check_examples(inputs, targets)
        if minibatch is not None:
            x, t = x[minibatch], t[minibatch]
            if x.ndim != 2 or len(x) == 0:
                raise ValueError(f"minibatch is {minibatch!r}; a sequence of at least one index is expected.")
        self.forget_examples()
        self.cache_examples(x, t, len(x))

    def forget_examples(self) -> None:
        """Cache the next examples anew, even if they come in the same arrays: their contents may have changed."""
        self._examples = None

    def cache_examples(self, x: Floats, t: Floats, size: int) -> None:
        """Cache checked examples, padded to `size` by examples that weigh nothing; the same arrays stay cached."""
        same = self._examples is not None and self._examples[0] is x and self._examples[1] is t
        if not same:
            self._examples, self._batch = (x, t), self.batch_of(x, t, size)

    def batch_of(self, x: Floats, t: Floats, size: int | None = None) -> Batch:
        """Checked examples as the engine takes them, on the device, padded to `size`."""
        count, size = len(x), size or len(x)
        weight = np.zeros(size, self.dtype)
        weight[:count] = 1
        if size == count:
            x, t = x.copy(), t.copy()  # JAX may use the memory as it is: later changes are not to reach a cached batch
        else:
            # Repeating an example keeps the padding as well behaved as the data.
            padded = np.concatenate([np.arange(count), np.zeros(size - count, int)])
            x, t = x[padded], t[padded]
        with self.computing():
            return jax.device_put(Batch(NetworkInputs(x, {}), NetworkTargets(t, {}), weight))

    def value_on(self, batch: Batch, W: ArrayLike | None = None) -> float:
        """The loss on a batch from `batch_of`."""
        with self.computing():
            return self.problem().value(self.params(W), batch)

    def batch(self) -> Batch:
        """The cached minibatch as the engine takes it."""
        if self._batch is None:
            raise RuntimeError("No examples are cached; call cache_minibatch(inputs, targets) first.")
        return self._batch

    @property
    def inputs(self) -> Floats | None:
        """Inputs of the cached minibatch."""
        return None if self._examples is None else self._examples[0]

    @property
    def targets(self) -> Floats | None:
        """Targets of the cached minibatch."""
        return None if self._examples is None else self._examples[1]

    @property
    def activations(self) -> Any:
        """Activations of every layer for the cached minibatch, at the current weights."""
        return None if self.inputs is None else self.forward(self.inputs)

    @property
    def d_activations(self) -> Any:
        """Derivatives of every layer for the cached minibatch, at the current weights."""
        return None if self.inputs is None else self.forward(self.inputs, deriv=True)[1]

    # ---- derivatives ---------------------------------------------------------------------------------------------

    def problem(self) -> Problem:
        """The network and its loss as the engine sees them, with the layers and losses as they are now."""
        return self._assembler.problem(self.layers, loss_funcs.flatten(self.loss))

    def calc_grad(self) -> Floats:
        """Gradient of the loss on the cached minibatch, (P,)."""
        with self.computing():
            objective, batch = self.problem().localize(self.params(), self.batch())
            return self.flat(jax.device_get(value_and_gradient(objective, self.params(), batch)[1]))

    def calc_G(self, v: ArrayLike, damping: float = 0, out: Floats | None = None) -> Floats:
        """Gauss-Newton product (G + damping I) v on the cached minibatch.

        Args:
            v: (P,).
            damping: lambda.
            out: where to put the result, (P,).

        Returns:
            The product, (P,).
        """
        with self.computing():
            objective, batch = self.problem().localize(self.params(), self.batch())
            product = self.flat(jax.device_get(curvature_product(objective, self.params(), batch, self.params(v))))
        result = product + np.asarray(damping, self.dtype) * np.asarray(v, self.dtype)
        if out is None:
            return result
        out[:] = result
        return out

    # ---- training ------------------------------------------------------------------------------------------------

    @property
    def optimizer(self) -> Any:
        """The optimizer; setting it tells the optimizer about the network."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        optimizer.net = self

    def run_epochs(
        self,
        inputs: Any,
        targets: Any,
        optimizer: Any,
        max_epochs: int = 100,
        minibatch_size: int | None = None,
        test: tuple[Any, Any] | None = None,
        test_err: LossFunction | None = None,
        target_err: float = 1e-6,
        plotting: bool = False,
        file_output: str | None = None,
        print_period: int | None = 10,
    ) -> training.RunResult:
        """Train the network; Ctrl-C ends the run cleanly.

        An epoch is a pass over a permutation of the examples in minibatches, one update each. `W` holds the last
        weights, `best_W` those with the lowest test error.

        Args:
            inputs: (N, n_0).
            targets: (N, n_out); NaN counts for nothing.
            optimizer: HessianFree(), SGD() or any other Optimizer.
            max_epochs: epochs at most.
            minibatch_size: examples per update, all by default.
            test: (inputs, targets) to evaluate on, the training data by default.
            test_err: loss to evaluate with, the network's own by default.
            target_err: test error below which to stop.
            plotting: whether to write `{file_output or "HF"}_plots.pkl` after each epoch.
            file_output: prefix of the files; if given, `{file_output}_weights.npy` is written too.
            print_period: epochs between printed lines, None to be silent.

        Returns:
            Why the run ended, its epochs, errors and update records.

        Raises:
            ValueError: for data of the wrong shape, NaN or infinite inputs, or no examples.
        """
        return training.run_epochs(
            self,
            inputs,
            targets,
            optimizer,
            training.RunSettings(
                max_epochs, minibatch_size, test, test_err, target_err, plotting, file_output, print_period
            ),
        )

    def _run_epoch(self, inputs: Any, targets: Any, minibatch_size: int | None = None) -> None:
        """One epoch of updates and nothing else."""
        x, t = self.check_examples(inputs, targets)
        self.forget_examples()
        for _ in training.epoch_updates(self, x, t, minibatch_size):
            pass

    # ---- checks --------------------------------------------------------------------------------------------------

    def computing(self) -> Any:
        """Context in which everything of this network is computed: its precision and its device."""
        return runtime.computing(self.dtype, runtime.device_for(self.use_GPU))

    def check_loss(self) -> None:
        """Tell of a loss that cannot be trained with, or not behind the output layer."""
        for part in loss_funcs.flatten(self.loss):
            arguments.check_loss(part, self.layers[-1], self.shape[-1], self.dtype)

    def check_inputs(self, inputs: Any) -> Floats:
        """Inputs as an array of the network's width and dtype."""
        return checks.examples("inputs", inputs, self.shape[0], self.dtype, layer="the input layer")

    def check_examples(self, inputs: Any, targets: Any) -> tuple[Floats, Floats]:
        """Inputs and targets as arrays that fit the network and each other."""
        x = self.check_inputs(inputs)
        t = checks.examples("targets", targets, self.shape[-1], self.dtype, layer="the output layer", allow_nan=True)
        checks.same_length(x, t)
        for loss in loss_funcs.flatten(self.loss):
            arguments.check_targets(loss, t)
        return x, t
