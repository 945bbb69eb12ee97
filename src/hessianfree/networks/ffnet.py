"""Feedforward networks, and what recurrent ones share with them: the interface of 2016, with numpy at the edge."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from hessianfree.devices import meshes
from hessianfree.devices.fetching import fetched
from hessianfree.devices.placing import Placer
from hessianfree.devices.processes import Processes
from hessianfree.networks import arguments, expansion, facts, rollouts, saving
from hessianfree.networks.core import Structure
from hessianfree.networks.learner import NetworkLearner, check_cut, identity, keep_best, trial
from hessianfree.networks.parts import loss_funcs
from hessianfree.networks.parts import nonlinearities as nl
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.networks.prediction import PredictingNetwork
from hessianfree.networks.sources import Rollouts, check_splits, source, to_train_on
from hessianfree.support import checks
from hessianfree.support.random_state import state_of
from hessianfree.support.runtime import keep_compiled_programs
from hessianfree.training.callbacks import ErrorSeries, Output, Places, plots_file
from hessianfree.training.checkpoints import CheckpointSettings, keeping
from hessianfree.training.identity import of_data
from hessianfree.training.loop import RunSettings, callbacks_of, run
from hessianfree.training.results import Result
from hessianfree.training.trainee import Pace, Training, updates

_LOGISTIC = nl.Logistic()
_SQUARED_ERROR = loss_funcs.SquaredError()
_PLACES = Places("net.W", "net.best_W", "result.last_params", "weights")


def _placer(devices: Any, *data: Any) -> Placer:
    """What knows the devices of a run, and the processes that share them."""
    parts = meshes.several(meshes.chosen(devices, *(given for given in data if isinstance(given, jax.Array))))
    return Placer(parts, Processes(meshes.processes_of(parts)))


class FFNet(PredictingNetwork):
    """A feedforward network, trained by `run_epochs`.

    z_post = sum over pre of (a_pre W + b), a = nonlinearity(z).

    Args:
        shape: units per layer, the input layer first.
        layers: one nonlinearity (every layer but the first, which is Linear), or one per layer; an item may be a
            class name such as "Tanh".
        conns: `{pre: [post, ...]}`; a chain by default.
        loss_type: a loss or its name, "squared_error", "cross_entropy" or "binary_cross_entropy", or a list of them to
            be summed.
        W_init_params: arguments of `init_weights`.
        use_GPU: None for JAX's default device, False for the CPU, True for a GPU.
        load_weights: initial weights, an array or the path of a `.npy` file.
        debug: compute in float64, and compare gradient and curvature with finite differences at each update.
        rng: RandomState, seed or Generator; initial weights and the order of examples draw from it.
        dtype: np.float32 or np.float64.

    Raises:
        ValueError: if shape, connections and layers do not fit together.
        TypeError: if a layer is not a nonlinearity or keeps state, the loss is not a loss, or loaded weights have the
            wrong type.
        IndexError: if loaded weights have the wrong length.
        RuntimeError: if use_GPU is True and there is no GPU.

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
        super().__init__(Structure(sizes, layer_objects, conns), loss_type, use_GPU, debug, rng, dtype)
        self._fill(load_weights, W_init_params or {}, {})

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
            ValueError: if inputs have the wrong width, or are NaN or infinite.
            OverflowError: if an activation is not finite, naming the layer.
        """
        return rollouts.activations(self, self.check_inputs(inputs), params, deriv)

    def error(
        self, W: ArrayLike | None = None, inputs: Any = None, targets: Any = None, weights: ArrayLike | None = None
    ) -> float:
        """The loss, averaged over examples.

        Args:
            W: flat weights, `net.W` by default.
            inputs: (B, n_0), over time (B, T, n_0); the cached minibatch by default.
            targets: (B, n_out), over time (B, T, n_out), or class labels, see `run_epochs`; likewise.
            weights: of the examples in the mean, (B,), >= 0; 1 by default. A cached minibatch has its own.

        Returns:
            The loss, exact from the logits where it matches the output layer.
        """
        if inputs is None and targets is None and weights is None:
            return self.value_on(self.batch(), W, self.looped_plant)
        if inputs is None or (targets is None and not isinstance(inputs, nl.Plant)):
            raise ValueError("error needs inputs and targets together, or neither for the cached minibatch.")
        return source(self, inputs, targets, weights).evaluation(None)(W).error

    def cache_minibatch(
        self, inputs: Any, targets: Any, minibatch: Any = None, weights: ArrayLike | None = None
    ) -> None:
        """Choose the examples that `calc_grad`, `calc_G`, `error` and the optimizer work on.

        Args:
            inputs: (N, n_0), over time (N, T, n_0), or a plant.
            targets: (N, n_out), over time (N, T, n_out), NaN for a target that does not count; or class labels, see
                `run_epochs`; None with a plant.
            minibatch: indices of the examples to use, all by default.
            weights: of the examples in the mean, (N,), >= 0; 1 by default.
        """
        data = source(self, inputs, targets, weights)
        self.cache(data.chosen(minibatch))
        self.labels = data.labels or self.labels

    @property
    def activations(self) -> Any:
        """Activations of every layer for the cached minibatch, at the current weights."""
        return None if self.inputs is None else self.forward(self.inputs)

    @property
    def d_activations(self) -> Any:
        """Derivatives of every layer for the cached minibatch, at the current weights."""
        return None if self.inputs is None else self.forward(self.inputs, deriv=True)[1]

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to one file, for later use in another process; `hf.load` reads it.

        The file holds shape, connections, layers, losses, weights, mask, best weights and classes, but neither the
        optimizer nor the state of `rng`. Layers, losses and plants of classes of your own are written as their
        attributes and the import path of their class, which you pass to `hf.load`. The file is written whole or not at
        all.

        Args:
            path: the file, a safetensors file with metadata.

        Raises:
            TypeError: if a layer or loss holds what a file cannot, such as a function, naming the attribute.
            FileNotFoundError: if the folder does not exist.
            OSError: if the folder or the disk rejects the file.

        Example:
            >>> import os, tempfile
            >>> FFNet([2, 5, 1]).save(os.path.join(tempfile.mkdtemp(), "net.safetensors"))
        """
        saving.save(self, path)

    # ---- training ------------------------------------------------------------------------------------------------

    def run_epochs(
        self,
        inputs: Any,
        targets: Any,
        optimizer: Any,
        max_epochs: int = 100,
        minibatch_size: int | None = None,
        test: tuple[Any, Any] | None = None,
        test_err: LossFunction | str | None = None,
        target_err: float = 1e-6,
        plotting: bool = False,
        file_output: str | None = None,
        print_period: int | None = 10,
        max_seconds: float | None = None,
        callbacks: Sequence[Any] = (),
        early_stopping: bool = True,
        weights: ArrayLike | None = None,
        checkpoint: Any = None,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float | None = 60.0,
        resume: Any = False,
        metrics: Mapping[str, Any] | None = None,
        restore_best: bool = True,
        devices: Any = None,
        chunk_size: int | None = None,
    ) -> Result:
        """Train the network; Ctrl-C ends the run cleanly.

        An epoch is a pass over a permutation of the examples in minibatches, one update each. `best_W` holds the
        weights with the lowest test error; if the optimizer averages, test errors are those of the average, and
        `best_W` is the best average. In the end `W` holds `best_W` too if there are test data, else the last weights.

        Args:
            inputs: (N, n_0), over time (N, T, n_0), or a plant that generates them. Arrays on a disk (np.memmap, HDF5,
                zarr) are read minibatch by minibatch, see docs/scale.md; so are targets.
            targets: (N, n_out), over time (N, T, n_out), NaN for a target that does not count; None with a plant. For
                Softmax outputs, or one Logistic unit, also class labels: whole numbers, booleans or strings, (N,), over
                time one for each timestep, (N, T), or one for each sequence, (N,), which counts at its end. They
                become ones and zeros; `classes` lists them in the order of the outputs.
            optimizer: HessianFree(), SGD() or any other Optimizer.
            max_epochs: epochs at most.
            minibatch_size: examples per update, all by default.
            test: (inputs, targets) to evaluate on, the training data by default; targets as above. Without it, errors
                of minibatches from a disk are the mean of the epoch's updates.
            test_err: loss to evaluate with, or its name, such as "classification_error"; the network's own by default.
            target_err: test error below which to stop.
            plotting: whether to write `{file_output or "HF"}_plots.pkl` after each epoch.
            file_output: prefix of the files; if given, `{file_output}_weights.npy` is written too.
            print_period: epochs between printed lines, None to be silent.
            max_seconds: seconds after which the present update is the last, counted from the call, compilation
                included.
            callbacks: objects with some of the methods on_start(run), on_update(epoch_number, update, updates, record),
                on_epoch(epoch) and on_end(result); see `hessianfree.callbacks`. The run ends if on_update or
                on_epoch returns True.
            early_stopping: whether a run with `test` ends if, from the twelfth epoch on, the test error is worse than
                nine epochs before.
            weights: of the training examples in the loss, (N,), finite and >= 0; 1 by default. An example of weight 2
                counts like two, one of weight 0 not at all. Errors on the training data are weighted too, those on
                `test` are not.
            checkpoint: path of a file for checkpoints, which the run writes as it goes on and at its end; the one
                before stays beside it, with ".previous" added to its name. None for no checkpoints. See docs/runs.md.
            checkpoint_every: updates from one checkpoint to the next; None to count seconds alone.
            checkpoint_seconds: seconds from one checkpoint to the next, if there are not as many updates before; None
                to count updates alone.
            resume: True to go on from the checkpoint if there is one, so that the rest is bit for bit the run that was
                never interrupted; one that had ended returns at once. Or the path of another checkpoint.
            metrics: what else to compute after each epoch, name -> function (outputs, targets) -> number, or a loss or
                its name. It is computed on `test`, else on the training data, for one more pass over them, and once
                before the run. Targets are those of each output, (N, n_out), also where labels are given. Losses honour
                the weights of examples, functions do not know them. With labels "accuracy" is always among the metrics:
                the share of examples, over time of timesteps, whose class is predicted.
            restore_best: whether a run with `test` sets `W` to `best_W` at its end; the files hold these weights then,
                and `result.last_params` the last ones. A later run starts from there as from weights that you set:
                HessianFree and Auto forget what they know of the last weights, FirstOrder goes on with its averages. A
                checkpoint holds the last weights, and a run that is resumed goes on with them.
            devices: None for one device, "all", or a mesh, `jax.make_mesh((8,), ("examples",))`: examples are split
                over its first axis, which is for networks that are compiled as a whole, and without a plant as inputs.
                Layers and losses of your own must then treat every example by itself. With several processes each
                calls with the same arguments. See docs/scale.md.
            chunk_size: examples that are worked on at once: minibatches, and the data that errors are taken on, are
                gone through in pieces of at most so many, and memory is that of one piece. Results are the same but for
                rounding; a curvature product takes a quarter more work, as each piece is linearised again. All by
                default. Not for plants, nor for layers and losses in numpy. See docs/scale.md.

        Returns:
            Weights, why the run ended, its epochs with errors and metrics, and the records of its updates.

        Raises:
            TypeError: if the optimizer, the loss or a callback is of the wrong kind.
            ValueError: if data or weights have the wrong shape, inputs are NaN or infinite, there are no examples, or
                `chunk_size` is given and the network cannot be cut.
            MemoryError: if the first update cannot fit into memory, with the estimate by parts and what lowers it.
            OverflowError: if a plant generates inputs that are not finite, naming the timestep.
            FileExistsError: if there is a checkpoint, and `resume` is False.
            OSError: if the checkpoint cannot be written, or another run uses its path.
        """
        start = time.perf_counter()
        keep_compiled_programs()
        placer = _placer(devices, inputs, targets)
        processes = placer.processes
        if placer.parts is not None:
            inputs, targets, test, weights = fetched((inputs, targets, test, weights))
        with processes.settling():
            when, shown = (max_epochs, minibatch_size, target_err), (plotting, file_output, print_period)
            ends, restores = (max_seconds, callbacks, early_stopping), restore_best if test is not None else False
            settings = RunSettings(*when, *shown, *ends, restores, _PLACES)
            keep = CheckpointSettings(checkpoint, checkpoint_every, checkpoint_seconds, resume)
            self._check_ready(optimizer)
            if devices is not None or placer.parts is not None:
                check_splits(self, inputs)
            data = to_train_on(source(self, inputs, targets, weights, minibatch_size, placer=placer))
            expansive = expansion.tell(self, data.timesteps)
        processes.check_same(lambda: {"weights": of_data(self.W), "rng": str(state_of(self.rng)), **settings.said()})
        with self.cutting(chunk_size, isinstance(data, Rollouts)):
            with processes.settling():
                check_cut(self, data)
            tried = trial(self, data, test, test_err, metrics)
            self.optimizer = optimizer
            given = identity(self, data, tried, minibatch_size)
            processes.check_same(lambda: {name: said() for name, said in given.items()})
            self.labels = data.labels or self.labels
            plant = data.plant if isinstance(data, Rollouts) else None
            best, begin = partial(keep_best, self), partial(setattr, self, "epoch")
            look = partial(facts.of_run, self, data, expansive)
            trainee = Training(NetworkLearner(self, plant), data, tried.judge, tried.judged, begin, best, look)
            plots: dict[str, list[float]] = getattr(optimizer, "plots", {})
            settings = settings.on(processes)
            files = self._files(settings.file_output, plots if settings.plotting else None)
            with keeping(keep, trainee, given, plots, processes) as kept, callbacks_of(settings, files) as chosen:
                return run(trainee, settings, [ErrorSeries(plots), *chosen], start, kept, processes)

    def _check_ready(self, optimizer: Any) -> None:
        """Refuse what cannot train, or be trained."""
        if isinstance(optimizer, type) or not callable(getattr(optimizer, "compute_update", None)):
            raise TypeError(
                f"optimizer is {optimizer!r}; an object with compute_update is expected, such as HessianFree()."
            )
        self.check_loss()
        if message := arguments.shared_state(self.layers):
            raise ValueError(message)
        checks.finite("the weights", self.W, allow_nan=False)

    def _files(self, prefix: str | None, plots: dict[str, list[float]] | None) -> list[Output]:
        """The files of a run: the series of the plots, if any, and the weights."""
        files = [] if plots is None else [plots_file(prefix, plots)]
        if prefix is not None:
            path = Path(f"{prefix}_weights.npy")
            files.append(Output(path, lambda file: np.save(file, self.W, allow_pickle=False)))
        return files

    def _run_epoch(self, inputs: Any, targets: Any, minibatch_size: int | None = None) -> None:
        """One epoch of updates and nothing else."""
        data = to_train_on(source(self, inputs, targets, size=minibatch_size))
        self.labels = data.labels or self.labels
        for _ in updates(NetworkLearner(self), data, pace=Pace()):
            pass
