"""What a network is made of: weights, layers, loss, device and cached examples. FFNet and RNNet are its interface.

All weights are ONE flat numpy vector: connections by `pre` ascending, then as listed in `conns[pre]`, recurrent ones
(l, l) after all others; each is its matrix W (n_pre, n_post) row by row, then its bias b (n_post).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from hessianfree.engine.linearization import curvature_product, value_and_gradient
from hessianfree.engine.objective import Batch, Problem
from hessianfree.networks import arguments, initial_weights
from hessianfree.networks.assembly import Assembler, Assembly
from hessianfree.networks.labels import Labels, OutputLayer
from hessianfree.networks.model.windows import Truncation
from hessianfree.networks.model.wiring import Connection, NetworkInputs, NetworkTargets, Params
from hessianfree.networks.parts.interfaces import Nonlinearity, Plant
from hessianfree.networks.parts.loss_funcs import flatten
from hessianfree.objective.pieces import checked_size, in_pieces
from hessianfree.support import checks, runtime
from hessianfree.support.keys import Unkeyable
from hessianfree.training.batches import taken

Floats = NDArray[Any]


class Structure(NamedTuple):
    """What shape and layers of a network are, checked; see the arguments of FFNet and RNNet.

    `recurrent` lists the layers with recurrent weights, None for a network without time.
    """

    shape: tuple[int, ...]
    layers: list[Nonlinearity]
    conns: Mapping[int, Sequence[int]] | None
    recurrent: tuple[int, ...] | None = None
    truncation: Truncation | None = None


class Examples(NamedTuple):
    """Inputs and targets, and the batch that stands for them: padded, or with the state of a plant, say.

    `plant` is the plant that runs in the compiled loop, or None.
    """

    x: Floats
    t: Floats
    batch: Batch
    plant: Plant | None = None


class NetworkCore(Unkeyable):
    """Weights, layers, loss and cached examples, and the problem that they make; FFNet documents the arguments.

    Attributes:
        epoch: number of the present or last epoch; None before a run.
        best_W: the weights with the lowest test error of the last run; None before a run.
        best_error: that error.
        labels: what the outputs stand for, where the network knows classes.
    """

    def __init__(
        self, structure: Structure, loss: Any, use_GPU: bool | None, debug: bool, rng: Any, dtype: DTypeLike
    ) -> None:
        shape, self.layers, conns, self.recurrent, truncation = structure
        self.n_layers, self.use_GPU = len(shape), use_GPU
        self.conns = checks.connections(conns, self.n_layers)
        self.shape, self.debug = shape, debug
        self.dtype = np.dtype(np.float64) if debug else checks.float_type(dtype)
        self.rng = arguments.random_source(rng)
        connections = [(pre, post) for pre, posts in self.conns.items() for post in posts]
        connections += [(layer, layer) for layer in self.recurrent or ()]
        self.offsets: dict[Connection, tuple[int, int, int]] = {}  # start, end of W, end of b
        end = 0
        for pre, post in connections:
            start, middle = end, end + shape[pre] * shape[post]
            end = middle + shape[post]
            self.offsets[pre, post] = (start, middle, end)
        self._W: Floats = np.zeros(end, self.dtype)
        self._mask: NDArray[np.bool_] | None = None
        self.loss = arguments.loss_function(loss)
        runtime.device_for(use_GPU)  # raises if there is no GPU
        self._assembler = Assembler(shape, self.dtype, self.recurrent, truncation)
        self._examples: Examples | None = None
        self.epoch: int | None = None
        self.best_W: Floats | None = None
        self.best_error: float | None = None
        self.labels: Labels | None = None
        self._chunk_size: int | None = None
        self._optimizer: Any = None
        with self.computing():
            self.check_loss()
            self.assemble()  # raises if a layer or loss cannot work

    def computing(self) -> AbstractContextManager[None]:
        """The context in which everything of this network is computed: its precision and its device."""
        return runtime.computing(self.dtype, runtime.device_for(self.use_GPU))

    @property
    def optimizer(self) -> Any:
        """The optimizer; setting it tells the optimizer about the network."""
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        optimizer.net = self

    @property
    def output_layer(self) -> OutputLayer:
        """The last layer as it is now."""
        return OutputLayer(self.layers[-1], self.shape[-1], self.recurrent is not None)

    @property
    def is_built_in(self) -> bool:
        """Whether all layers and losses are those of this package, which look at each example by itself."""
        built_in = arguments.is_built_in
        return all(map(built_in, self.layers)) and all(map(built_in, flatten(self.loss)))

    # ---- weights -----------------------------------------------------------------------------------------------------

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

    def _fill(self, given: Any, init_params: Mapping[str, Any], recurrent_params: Mapping[str, Any]) -> None:
        """Load the initial weights, or draw them, recurrent ones after all others."""
        if given is not None:
            array = given if isinstance(given, np.ndarray) else initial_weights.load(given)
            if array.dtype != self.dtype and not self.debug:
                raise TypeError(f"load_weights has dtype {array.dtype}, the network {self.dtype}; convert with astype.")
            self.W = array
            return
        forward = [(self.shape[pre], self.shape[post]) for pre, post in self.offsets if pre != post]
        recurrent = [(self.shape[pre], self.shape[post]) for pre, post in self.offsets if pre == post]
        drawn = self.init_weights(forward, **init_params)
        self.W = np.concatenate([drawn, self.init_weights(recurrent, **recurrent_params)]) if recurrent else drawn

    def init_weights(
        self,
        shapes: Sequence[Connection],
        coeff: float | Sequence[float] = 1.0,
        biases: float | Sequence[float] = 0.0,
        init_type: str = "sparse",
        spectral_radius: float | Sequence[float] | None = None,
    ) -> Floats:
        """Draw weights for matrices of these shapes, in order; the network itself is not changed.

        Args:
            shapes: (n_pre, n_post) of each matrix.
            coeff: scale, one for all or one per matrix.
            biases: value of the biases, one for all or one per matrix.
            init_type: "sparse" (15 connections to each unit, of deviation `coeff`), "uniform", "gaussian" or
                "orthogonal" (times `coeff`).
            spectral_radius: largest magnitude of an eigenvalue, one for all or one per matrix, for square matrices; it
                sets the scale in place of `coeff`.

        Returns:
            One flat vector: each matrix row by row, followed by its bias.

        Raises:
            ValueError: if there is no such `init_type`, a list has the wrong length, or a spectral radius is asked of a
                matrix that is not square.
        """
        drawn = initial_weights.drawn(shapes, coeff, biases, init_type, self.rng, spectral_radius)
        return drawn.astype(self.dtype)

    def get_weights(self, params: Floats, conn: Connection) -> tuple[Floats, Floats] | None:
        """Matrix and bias of one connection, as views of `params`.

        Args:
            params: a flat vector such as `net.W`.
            conn: (pre, post); (l, l) for the recurrent weights of layer l.

        Returns:
            (W (n_pre, n_post), b (n_post)), or None where there is no such connection.
        """
        return self._views(params, conn) if conn in self.offsets else None

    def _views(self, flat: Floats, conn: Connection) -> tuple[Floats, Floats]:
        start, middle, end = self.offsets[conn]
        return flat[start:middle].reshape(self.shape[conn[0]], self.shape[conn[1]]), flat[middle:end]

    def params(self, flat: ArrayLike | None = None) -> Params:
        """A flat vector, `net.W` by default, as {(pre, post): (W, b)} of views."""
        vector = self.W if flat is None else np.asarray(flat, self.dtype)
        self._check_length(vector)
        return {conn: self._views(vector, conn) for conn in self.offsets}

    def flat(self, params: Params) -> Floats:
        """The flat vector of {(pre, post): (W, b)}."""
        return np.concatenate([np.asarray(part, self.dtype).ravel() for c in self.offsets for part in params[c]])

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Weights that no update may change, (P,) booleans or None; settable by any index of `W`."""
        return self._mask

    @mask.setter
    def mask(self, index: Any) -> None:
        self._mask = None if index is None else checks.mask(index, self.W.size)

    def free(self) -> Params | None:
        """1 where a weight may change, 0 where `mask` holds it; None without a mask."""
        return None if self.mask is None else self.params(~self.mask)

    # ---- the problem ---------------------------------------------------------------------------------------------

    def assemble(self, plant: Plant | None = None) -> Assembly:
        """The layers and losses as they are now, sorted into those that are compiled and those that run in numpy."""
        return self._assembler.assemble(self.layers, flatten(self.loss), plant)

    def problem(self) -> Problem:
        """The network and its loss on the cached minibatch, as the engine takes them."""
        batch = None if self._examples is None else self.batch()
        return in_pieces(self.assemble(self.looped_plant).problem(), self._chunk_size, batch)

    @property
    def chunk_size(self) -> int | None:
        """Examples that are worked on at once, as the present run says; None outside of runs."""
        return self._chunk_size

    @contextmanager
    def cutting(self, chunk_size: Any, generated: bool) -> Iterator[None]:
        """A context in which batches are worked through in pieces of so many examples.

        Args:
            chunk_size: from the user.
            generated: whether a plant generates the examples.

        Raises:
            ValueError: if it is not a positive whole number, or this network cannot be cut.
        """
        size = checked_size(chunk_size)
        if size is not None and (generated or not self.assemble().is_compiled):
            what = "a plant generates the examples" if generated else "a layer or loss runs in numpy"
            raise ValueError(
                f"chunk_size is {chunk_size}, but {what}, and takes all examples at once; leave chunk_size out and "
                "give a smaller minibatch_size, or a curvature_batch to the optimizer."
            )
        self._chunk_size = size
        try:
            yield
        finally:
            self._chunk_size = None

    @property
    def examples(self) -> Examples:
        """The cached minibatch."""
        if self._examples is None:
            raise RuntimeError("No examples are cached; call cache_minibatch(inputs, targets) first.")
        return self._examples

    def batch(self) -> Batch:
        """The cached minibatch as the engine takes it."""
        return self.examples.batch

    @property
    def inputs(self) -> Floats | None:
        """Inputs of the cached minibatch."""
        return None if self._examples is None else self._examples.x

    @property
    def targets(self) -> Floats | None:
        """Targets of the cached minibatch."""
        return None if self._examples is None else self._examples.t

    @property
    def looped_plant(self) -> Plant | None:
        """The plant of the cached minibatch, if one runs in the compiled loop."""
        return None if self._examples is None else self._examples.plant

    def cache(self, examples: Examples) -> None:
        """Make these the examples that updates, derivatives and `error` work on."""
        self._examples = examples
        self._assembler.steps = None if self.recurrent is None else examples.t.shape[1]

    def batch_on_host(self, x: Floats, t: Floats, weights: Floats | None = None) -> Batch:
        """Checked examples as the engine takes them, in the arrays as they are given."""
        weights = np.ones(len(x), self.dtype) if weights is None else weights
        return Batch(NetworkInputs(x, {}), NetworkTargets(t, {}), weights)

    def batch_of(self, x: Floats, t: Floats, weights: Floats | None = None, size: int | None = None) -> Batch:
        """Checked examples as the engine takes them, on the device, padded to a size with examples of weight zero."""
        count = len(x)
        given = self.batch_on_host(x, t, weights)
        # Copies: JAX may use the memory as it is, and later changes must not reach a cached batch.
        batch = taken(given, np.arange(count), size) if (size or 0) > count else jax.tree.map(np.copy, given)
        with self.computing():
            return jax.device_put(batch)

    def value_on(self, batch: Batch, W: ArrayLike | None = None, plant: Plant | None = None) -> float:
        """The loss on a batch, by default at the network's weights, with the plant that runs in the compiled loop."""
        with self.computing():
            return in_pieces(self.assemble(plant).problem(), self._chunk_size, batch).value(self.params(W), batch)

    # ---- derivatives ---------------------------------------------------------------------------------------------

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

    # ---- checks --------------------------------------------------------------------------------------------------

    def check_loss(self) -> None:
        """Refuse a loss that cannot be trained with, or not behind the output layer."""
        for part in flatten(self.loss):
            arguments.check_loss(part, self.layers[-1], self.shape[-1], self.dtype)

    def check_inputs(self, inputs: Any) -> Floats:
        """Inputs as an array of the network's width and dtype."""
        time = self.recurrent is not None
        return checks.examples("inputs", inputs, self.shape[0], self.dtype, layer="the input layer", time=time)

    def check_targets(
        self, x: Floats, targets: Any, weights: ArrayLike | None = None, part: bool = False
    ) -> tuple[Floats, Floats | None]:
        """Targets for checked inputs, numbers for each output, and weights, as arrays that fit.

        In a part of the data none need be known, and all weights may be zero.
        """
        time = self.recurrent is not None
        t = checks.examples(
            "targets", targets, self.shape[-1], self.dtype, layer="the output layer", time=time, allow_nan=True
        )
        checks.same_length(x, t)
        if self._assembler.truncation is not None and not part:
            self._assembler.truncation.check(t)
        w = None if weights is None else np.asarray(weights)
        if not part and w is not None:
            w = arguments.example_weights(w, len(x), self.dtype)
        for loss in flatten(self.loss):
            arguments.check_targets(loss, t if w is None else t[w > 0], part)
        return t, w
