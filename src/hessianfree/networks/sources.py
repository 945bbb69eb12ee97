"""Where a network's examples come from: arrays, or a plant that generates them."""

from __future__ import annotations

from collections.abc import Generator
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hessianfree.devices.placing import Placer, placed_whole
from hessianfree.engine.objective import Batch
from hessianfree.io.stored import is_stored
from hessianfree.networks import rollouts
from hessianfree.networks.core import Examples, Floats, NetworkCore
from hessianfree.networks.labels import Labels, read
from hessianfree.networks.measures import NONE, Evaluation, Measures, looked_at, mean_loss
from hessianfree.networks.parts.interfaces import Plant
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.networks.stored import StoredExamples
from hessianfree.support.random_state import set_state, state_of
from hessianfree.training.batches import ONE, Minibatches, check_divides
from hessianfree.training.judging import Evaluated


def source(
    net: NetworkCore,
    inputs: Any,
    targets: Any,
    weights: ArrayLike | None = None,
    size: int | None = None,
    known: Labels | None = None,
    placer: Placer = ONE,
) -> Source:
    """The source that arguments of the network's methods stand for, with its data checked; minibatches have this size.

    Targets that are class labels become ones and zeros here, once and for all: by those that are
    known, else by those that the network knows, else by those that appear. The placer says on which devices they are.

    Raises TypeError if a plant is given to a network without time, or a class instead of a plant, ValueError if data or
    a plant do not fit the network.
    """
    if isinstance(inputs, type) and issubclass(inputs, Plant):
        raise TypeError(f"The inputs are the class {inputs.__name__}; give an instance: write its parentheses.")
    if any(map(is_stored, () if isinstance(inputs, Plant) else (inputs, targets, weights))):
        return StoredExamples(net, inputs, targets, weights, size, known, placer)
    if not isinstance(inputs, Plant):
        x = net.check_inputs(inputs)
        found = read(targets, net.output_layer, x.shape[1], known or net.labels, net.dtype)
        return GivenExamples(net, x, *net.check_targets(x, found.targets, weights), size, found.labels, placer)
    if net.recurrent is None:
        raise TypeError("A plant generates inputs over time, but a feedforward network has no time. Use RNNet.")
    if targets is not None:
        raise ValueError("A plant brings its own targets; pass targets=None.")
    if weights is not None:
        raise ValueError(
            "weights are given, but a plant generates new examples in each epoch, all of weight 1; leave the weights "
            "out, and give the plant more of those examples that must count more."
        )
    return Rollouts(net, inputs, size)


def check_splits(net: NetworkCore, inputs: Any) -> None:
    """Refuse a network whose examples cannot be split over devices.

    Raises:
        ValueError: if it runs in numpy, in part or whole, or a plant generates the examples.
    """
    assembly = net.assemble()
    in_numpy = [f"layer {number} ({type(net.layers[number]).__name__})" for number in assembly.numpy_layers]
    in_numpy += ["a plant, which generates the inputs"] if isinstance(inputs, Plant) else []
    in_numpy += ["the checks of debug=True"] if net.debug else []
    if not in_numpy and not assembly.is_compiled:
        in_numpy = ["a loss"]
    if in_numpy:
        raise ValueError(
            f"devices is given, but {' and '.join(in_numpy)} can run on one device only; leave devices out, or write "
            "it with jax.numpy where that is possible."
        )


def to_train_on(data: Source) -> Source:
    """The same; but stored examples that are needed as a whole in memory, if they fit: else raises ValueError."""
    if not isinstance(data, StoredExamples) or data.size < data.examples:
        return data
    return source(data.net, *data.whole(), data.size, data.labels, data.placer)


class GivenExamples(Minibatches[Examples]):
    """Given inputs and targets, checked, weights of the examples, or None, and labels, if the targets were such."""

    def __init__(
        self,
        net: NetworkCore,
        x: Floats,
        t: Floats,
        weights: Floats | None,
        size: int | None,
        labels: Labels | None = None,
        placer: Placer = ONE,
    ) -> None:
        super().__init__(len(x), size, net.rng)
        self.net, self.x, self.t, self.weights, self.labels = net, x, t, weights, labels
        self.placer = placer
        if placer.parts is not None and not self.may_pad:
            check_divides(placer.parts, self.examples, self.size)

    @property
    def on_many(self) -> bool:
        """Whether they are split over devices."""
        return self.placer.parts is not None

    @property
    def timesteps(self) -> int:
        """Of a sequence; 1 without time."""
        return 1 if self.net.recurrent is None else self.x.shape[1]

    @cached_property
    def on_device(self) -> Batch:
        """All examples, kept on the device."""
        if self.placer.parts is not None:
            return self.placer.of(self.net.batch_on_host(self.x, self.t, self.weights)).batch
        return self.net.batch_of(self.x, self.t, self.weights)

    @property
    def may_pad(self) -> bool:
        """Whether no layer or loss is the user's own, which might look at the whole minibatch."""
        return self.net.is_built_in

    def take(self, indices: Any) -> Examples:
        """These examples, padded to the common size if they may be, so that nothing is compiled for the remainder."""
        return self._examples(indices, self.size if self.may_pad else None)

    def chosen(self, indices: Any) -> Examples:
        """These examples, or all for None."""
        if indices is None:
            return self._examples(None)
        x = self.x[indices]
        if x.ndim != self.x.ndim or len(x) == 0:
            raise ValueError(f"minibatch is {indices!r}; a sequence of at least one index is expected.")
        return self._examples(indices)

    def _examples(self, indices: Any, size: int | None = None) -> Examples:
        if indices is None:
            return Examples(self.x, self.t, self.on_device)
        x, t = self.x[indices], self.t[indices]
        weights = None if self.weights is None else self.weights[indices]
        if self.placer.parts is None:
            return Examples(x, t, self.net.batch_of(x, t, weights, size))
        given = self.net.batch_on_host(x, t, weights)
        return Examples(x, t, placed_whole(self.placer.parts, given, size or len(x)))

    @property
    def one_each(self) -> bool:
        """Whether each example counts once at most: over time at one timestep."""
        return self.net.recurrent is None or int((~np.isnan(self.t)).any(axis=-1).sum(axis=1).max()) <= 1

    def evaluation(self, loss: LossFunction | None, measures: Measures = NONE) -> Evaluation:
        """On all examples, by their weights."""
        if loss is None:
            batch = self.on_device

        def evaluate(W: ArrayLike | None) -> Evaluated:
            seen = rollouts.seen(self.net, self.x, W, *looked_at(loss, measures))
            with self.net.computing():
                metrics = {name: measure.of(seen, self.t, self.weights) for name, measure in measures.items()}
                if loss is None:
                    return Evaluated(self.net.value_on(batch, W), metrics)
                return Evaluated(mean_loss(loss, seen, self.t, self.weights), metrics)

        return evaluate


class Rollouts:
    """Examples that a plant, checked here, generates with the network as it is at that time."""

    labels: Labels | None = None
    #: Which timesteps count is not known before the plant has run.
    one_each = False

    def __init__(self, net: NetworkCore, plant: Plant, size: int | None) -> None:
        rollouts.check(net, plant)
        self.net, self.plant, self.size = net, plant, size

    @property
    def timesteps(self) -> int:
        """Of a sequence."""
        return int(self.plant.shape[1])

    def _size(self) -> int:
        """Examples of a minibatch."""
        whole = int(self.plant.shape[0])
        return min(self.size or whole, whole)

    def count(self) -> int:
        """Minibatches in an epoch: as many as fit into the plant's batch."""
        return -(-int(self.plant.shape[0]) // self._size())

    def notes(self) -> dict[str, Any]:
        """The random state of the network; the plant's is among its attributes, see `own_state`."""
        return {"now": state_of(self.net.rng)}

    def restore(self, notes: dict[str, Any], begun: bool) -> None:
        """Go on in that state."""
        set_state(self.net.rng, notes["now"])

    def of_epoch(self, done: int = 0) -> Generator[Examples]:
        """The minibatches; for a smaller one the plant's `shape[0]` is changed until the epoch is over."""
        count, size, found = self.count(), self._size(), self.plant.shape
        try:
            if count > 1:  # also during the update: the plant may be a layer, too
                self.plant.shape = [size, *found[1:]]
            for _ in range(count - done):
                yield self.chosen(None)
        finally:
            if count > 1:
                self.plant.shape = found

    def chosen(self, indices: Any) -> Examples:
        """Generated examples."""
        if indices is not None:
            raise ValueError("minibatch is given, but a plant generates the examples; pass minibatch=None.")
        return rollouts.generate(self.net, self.plant)[1]

    def evaluation(self, loss: LossFunction | None, measures: Measures = NONE) -> Evaluation:
        """On examples generated with the weights in question."""

        def evaluate(W: ArrayLike | None) -> Evaluated:
            activity, examples = rollouts.generate(self.net, self.plant, W)
            with self.net.computing():
                found = {name: measure.of(activity.a, examples.t, None) for name, measure in measures.items()}
                if loss is not None:
                    return Evaluated(mean_loss(loss, activity.a, examples.t, None), found)
                return Evaluated(self.net.value_on(examples.batch, W, examples.plant), found)

        return evaluate


#: Examples to train and evaluate on.
Source: TypeAlias = GivenExamples | StoredExamples | Rollouts
