"""Feedforward networks, and what recurrent ones share with them: data, derivatives, training; numpy at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from hessianfree.engine.linearization import curvature_product, value_and_gradient
from hessianfree.engine.objective import Batch, Problem
from hessianfree.networks import arguments, sources
from hessianfree.networks.assembly import Assembler, Assembly
from hessianfree.networks.model.windows import Truncation
from hessianfree.networks.model.wiring import NetworkInputs, NetworkTargets
from hessianfree.networks.parts import loss_funcs
from hessianfree.networks.parts import nonlinearities as nl
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.networks.weight_vector import WeightVector
from hessianfree.support import checks, runtime
from hessianfree.training import loop as training

Floats = NDArray[Any]

_LOGISTIC = nl.Logistic()
_SQUARED_ERROR = loss_funcs.SquaredError()


class Recurrence(NamedTuple):
    """What makes a network recurrent: layers with recurrent weights, how those are drawn, and truncation."""

    layers: tuple[int, ...]
    init_params: Mapping[str, Any]
    truncation: Truncation | None


class FFNet(WeightVector):
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
        TypeError: for something that is no nonlinearity or no loss, a layer with state, or weights of the wrong type.
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
        sizes = checks.network_shape(shape)
        layer_objects = arguments.layer_list(layers, len(sizes))
        arguments.check_stateless(layer_objects)
        self._build(
            sizes, layer_objects, conns, loss_type, W_init_params, use_GPU, load_weights, debug, rng, dtype, None
        )

    def _build(
        self,
        shape: tuple[int, ...],
        layers: list[nl.Nonlinearity],
        conns: Mapping[int, Sequence[int]] | None,
        loss_type: Any,
        W_init_params: Mapping[str, Any] | None,
        use_GPU: bool | None,
        load_weights: Any,
        debug: bool,
        rng: Any,
        dtype: DTypeLike,
        recurrence: Recurrence | None,
    ) -> None:
        """What the constructors of feedforward and recurrent networks do alike."""
        self.n_layers, self.layers, self.debug = len(shape), layers, debug
        self.conns = checks.connections(conns, self.n_layers)
        connections = [(pre, post) for pre, posts in self.conns.items() for post in posts]
        recurrent = None if recurrence is None else recurrence.layers
        float_type = np.dtype(np.float64) if debug else checks.float_type(dtype)
        super().__init__(
            shape,
            [*connections, *((layer, layer) for layer in recurrent or ())],
            float_type,
            arguments.random_source(rng),
        )
        self.loss = arguments.loss_function(loss_type)
        runtime.device_for(use_GPU)  # tells of a missing GPU
        self.use_GPU = use_GPU
        self.recurrent = recurrent
        self._assembler = Assembler(shape, self.dtype, recurrent, recurrence.truncation if recurrence else None)
        self.looped_plant: Any = None  # that of the cached examples, where it runs in the compiled loop
        with self.computing():
            self.check_loss()
            self.assemble()  # tells of any layer or loss that cannot work
        if load_weights is None:
            self.W = self._drawn_weights(W_init_params or {}, recurrence.init_params if recurrence else {})
        else:
            self.W = self._loaded_weights(load_weights, any_type=debug)

        self.epoch: int | None = None
        self.best_W: Floats | None = None
        self.best_error: float | None = None
        self._optimizer: Any = None
        self._batch: Batch | None = None
        self._examples: tuple[Floats, Floats] | None = None

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
        return sources.activations(self, self.check_inputs(inputs), params, deriv)

    def error(self, W: ArrayLike | None = None, inputs: Any = None, targets: Any = None) -> float:
        """The loss, averaged over examples.

        Args:
            W: flat weights, `net.W` by default.
            inputs: (B, n_0), over time (B, T, n_0); the cached minibatch by default.
            targets: (B, n_out), over time (B, T, n_out), likewise.

        Returns:
            The loss, exact from the logits where it matches the output layer.
        """
        if inputs is None and targets is None:
            return self.value_on(self.batch(), W)
        if inputs is None or (targets is None and not isinstance(inputs, nl.Plant)):
            raise ValueError("error needs inputs and targets together, or neither for the cached minibatch.")
        return sources.source(self, inputs, targets).evaluation(None)(W)

    def cache_minibatch(self, inputs: Any, targets: Any, minibatch: Any = None) -> None:
        """Choose the examples that `calc_grad`, `calc_G`, `error` and the optimizer work on.

        Args:
            inputs: (N, n_0), over time (N, T, n_0), or a plant.
            targets: (N, n_out), over time (N, T, n_out), NaN counting for nothing; None with a plant.
            minibatch: indices of the examples to use, all by default.
        """
        self.forget_examples()
        sources.source(self, inputs, targets).cache(minibatch)

    def forget_examples(self) -> None:
        """Cache the next examples anew, even if they come in the same arrays: their contents may have changed."""
        self._examples = None

    def cache_examples(self, x: Floats, t: Floats, size: int) -> None:
        """Cache checked examples, padded to `size` by examples that weigh nothing; the same arrays stay cached."""
        same = self._examples is not None and self._examples[0] is x and self._examples[1] is t
        if not same:
            self.cache_batch(x, t, self.batch_of(x, t, size), None)

    def cache_batch(self, x: Floats, t: Floats, batch: Batch, plant: Any) -> None:
        """Cache a batch, the inputs and targets it stands for, and the plant if one runs in the compiled loop."""
        self._examples, self._batch, self.looped_plant = (x, t), batch, plant
        self._assembler.steps = None if self.recurrent is None else t.shape[1]

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

    def value_on(self, batch: Batch, W: ArrayLike | None = None, plant: Any = None) -> float:
        """The loss on a batch from `batch_of`, or on the cached one; `plant` if one runs in the compiled loop."""
        with self.computing():
            in_loop = plant if batch is not self._batch else self.looped_plant
            return self.assemble(in_loop).problem().value(self.params(W), batch)

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

    def assemble(self, plant: Any = None) -> Assembly:
        """The layers and losses as they are now, sorted into what is compiled and what runs on the host."""
        return self._assembler.assemble(self.layers, loss_funcs.flatten(self.loss), plant)

    def problem(self) -> Problem:
        """The network and its loss on the cached minibatch, as the engine sees them."""
        return self.assemble(self.looped_plant).problem()

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
        max_seconds: float | None = None,
        callbacks: Sequence[Any] = (),
        early_stopping: bool = True,
    ) -> training.RunResult:
        """Train the network; Ctrl-C ends the run cleanly.

        An epoch is a pass over a permutation of the examples in minibatches, one update each. `W` holds the last
        weights, `best_W` those with the lowest test error; if the optimizer averages, test errors are those of the
        average, and `best_W` is the best average.

        Args:
            inputs: (N, n_0), over time (N, T, n_0), or a plant that generates them.
            targets: (N, n_out), over time (N, T, n_out), NaN counting for nothing; None with a plant.
            optimizer: HessianFree(), SGD() or any other Optimizer.
            max_epochs: epochs at most.
            minibatch_size: examples per update, all by default.
            test: (inputs, targets) to evaluate on, the training data by default.
            test_err: loss to evaluate with, the network's own by default.
            target_err: test error below which to stop.
            plotting: whether to write `{file_output or "HF"}_plots.pkl` after each epoch.
            file_output: prefix of the files; if given, `{file_output}_weights.npy` is written too.
            print_period: epochs between printed lines, None to be silent.
            max_seconds: after which the update at hand is the last, counted from the call, compilation included.
            callbacks: objects that are told what happens, by any of on_update(epoch_number, update, updates, record),
                on_epoch(epoch), with `number`, `test_error`, `seconds` and `updates`, and on_end(result). The run ends
                where one of the first two returns True.
            early_stopping: whether a run with `test` ends where, from the twelfth epoch on, the test error is worse
                than nine epochs before.

        Returns:
            Why the run ended, its epochs, errors and update records.

        Raises:
            ValueError: for data of the wrong shape, NaN or infinite inputs, or no examples.
            OverflowError: for a plant that generates inputs that are not finite, naming the timestep.
        """
        return training.run_epochs(
            self,
            inputs,
            targets,
            optimizer,
            training.RunSettings(
                max_epochs,
                minibatch_size,
                test,
                test_err,
                target_err,
                plotting,
                file_output,
                print_period,
                max_seconds,
                callbacks,
                early_stopping,
            ),
        )

    def _run_epoch(self, inputs: Any, targets: Any, minibatch_size: int | None = None) -> None:
        """One epoch of updates and nothing else."""
        self.forget_examples()
        for _ in training.epoch_updates(self, sources.source(self, inputs, targets), minibatch_size):
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
        time = self.recurrent is not None
        return checks.examples("inputs", inputs, self.shape[0], self.dtype, layer="the input layer", time=time)

    def check_examples(self, inputs: Any, targets: Any) -> tuple[Floats, Floats]:
        """Inputs and targets as arrays that fit the network and each other."""
        x, time = self.check_inputs(inputs), self.recurrent is not None
        t = checks.examples(
            "targets", targets, self.shape[-1], self.dtype, layer="the output layer", time=time, allow_nan=True
        )
        checks.same_length(x, t)
        if self._assembler.truncation is not None:
            self._assembler.truncation.check(t)
        for loss in loss_funcs.flatten(self.loss):
            arguments.check_targets(loss, t)
        return x, t
