"""Examples of a network that are on a disk, read and checked minibatch by minibatch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessianfree.devices.placing import Placer
from hessianfree.engine.objective import Batch
from hessianfree.io import stored
from hessianfree.networks import arguments, rollouts
from hessianfree.networks.core import Examples, Floats, NetworkCore
from hessianfree.networks.labels import Labels, classes_among, labels_among, read
from hessianfree.networks.measures import NONE, Evaluation, Measures, looked_at, mean_loss
from hessianfree.networks.parts.loss_funcs import LossFunction
from hessianfree.support import checks
from hessianfree.training.batches import ONE
from hessianfree.training.judging import Evaluated
from hessianfree.training.stored import PIECE, StoredMinibatches, in_words, not_finite


class Part(NamedTuple):
    """Examples that were read and checked."""

    x: Floats
    t: Floats
    weights: Floats | None


class StoredExamples(StoredMinibatches[Examples, Part]):
    """Inputs, targets and weights of the examples, or None, of which some are on a disk.

    Args:
        net: the network.
        inputs: (N, n_0), over time (N, T, n_0).
        targets: numbers for each output, or labels; one pass over these finds the classes, where none are known.
        weights: (N,), or None; they are kept in memory, as the order of the examples is.
        size: examples per minibatch; all by default.
        known: the classes, if they are known.
        placer: says on which devices minibatches are.

    Raises:
        TypeError, ValueError: if the first minibatch does not fit the network, or there are other numbers of inputs,
            targets and weights.
    """

    def __init__(
        self,
        net: NetworkCore,
        inputs: Any,
        targets: Any,
        weights: Any,
        size: int | None,
        known: Labels | None = None,
        placer: Placer = ONE,
    ) -> None:
        self.net, self.x = net, _kept("inputs", inputs)
        labels = stored.is_stored(targets) and len(targets.shape) == 1  # a number for each row, as the order is
        targets = stored.whole(targets, "targets") if labels else targets
        self.targets = targets if stored.is_stored(targets) else self._in_memory(targets)
        _check_counts(self.x, self.targets)
        super().__init__(int(self.x.shape[0]), size, net.rng)
        self.weights: Floats | None = None
        if weights is not None:
            self.weights = arguments.example_weights(stored.whole(weights, "weights"), self.examples, net.dtype)
        self.labels = self._labels(known or net.labels)
        self.read(np.arange(min(self.size, PIECE)))  # raises if they do not fit
        self.on(placer)

    def _in_memory(self, targets: Any) -> NDArray[Any]:
        """Targets beside inputs that are stored."""
        labels = labels_among(targets, self.net.output_layer)
        return _kept("targets", targets) if labels is None else labels

    def _labels(self, known: Labels | None) -> Labels | None:
        """What the outputs stand for; None if the targets are numbers."""
        output = self.net.output_layer
        first = stored.rows(self.targets, np.arange(min(self.size, PIECE)))
        if labels_among(first, output) is None:
            return None
        pieces = stored.pieces(self.targets)
        classes = classes_among(pieces, output) if known is None else known.classes
        return Labels(classes, output.over_time and len(self.targets.shape) == 1)

    @property
    def timesteps(self) -> int:
        """Of a sequence; 1 without time."""
        return 1 if self.net.recurrent is None else int(self.x.shape[1])

    @property
    def one_each(self) -> bool:
        """Whether each example is known to count once at most: over time that would have to be read."""
        return self.net.recurrent is None or (self.labels is not None and self.labels.of_sequences)

    @property
    def may_pad(self) -> bool:
        """Whether no layer or loss is the user's own, which might look at the whole minibatch."""
        return self.net.is_built_in

    def whole(self) -> tuple[Any, Any, Floats | None]:
        """Inputs, targets and weights in memory; raises ValueError if they do not fit."""
        stored.check_fits({"inputs": self.x, "targets": self.targets})
        return stored.whole(self.x, "inputs"), stored.whole(self.targets, "targets"), self.weights

    def read(self, indices: NDArray[np.intp]) -> Part:
        """These examples."""
        net = self.net
        with stored.naming(indices):
            x = stored.rows(self.x, indices)
            if x.dtype.kind == "f" and len(bad := not_finite(x, indices)):
                raise ValueError(f"inputs hold NaN or infinite values in {in_words(bad)}; remove or replace them.")
            x = net.check_inputs(x)
            given = stored.rows(self.targets, indices)
            weights = None if self.weights is None else self.weights[indices]
            numbers = given if self.labels is None else self._ones(given)
            return Part(x, net.check_targets(x, numbers, weights, part=True)[0], weights)

    def _ones(self, labels: Any) -> Any:
        """Ones and zeros for labels."""
        return read(labels, self.net.output_layer, self.timesteps, self.labels, self.net.dtype).targets

    def made(self, part: Part, count: int) -> Examples:
        """A minibatch, padded to the common size if it may be."""
        net = self.net
        if self.on_many:
            return Examples(part.x, part.t, self.split(net.batch_on_host(*part), count))
        return Examples(part.x, part.t, net.batch_of(*part, self.size if self.may_pad else None))

    def in_engine(self, item: Examples) -> Batch:
        """The batch of the examples."""
        return item.batch

    def chosen(self, indices: Any) -> Examples:
        """These examples, or all for None."""
        if indices is None:
            stored.check_fits({"inputs": self.x, "targets": self.targets})
        places = np.arange(self.examples) if indices is None else np.arange(self.examples)[indices]
        if places.ndim != 1 or len(places) == 0:
            raise ValueError(f"minibatch is {indices!r}; a sequence of at least one index is expected.")
        part = self.read(places)
        return Examples(part.x, part.t, self.net.batch_of(*part))

    def spread(self, most: int) -> Part:
        """At most so many examples, evenly spaced."""
        return self.read(np.arange(0, self.examples, -(-self.examples // most)))

    def evaluation(self, loss: LossFunction | None, measures: Measures = NONE) -> Evaluation:
        """On all examples, by their weights, one piece after the other; measures take all outputs together."""
        net, looked = self.net, looked_at(loss, measures)

        def evaluate(W: ArrayLike | None) -> Evaluated:
            total, weighs, outputs, targets = 0.0, 0.0, [], []
            for part in self.in_order(self._piece):
                seen = rollouts.seen(net, part.x, W, *looked)
                weight = float(len(part.x) if part.weights is None else np.sum(part.weights, dtype=float))
                weighs += weight
                total += weight * self._error(part, seen, loss, W) if weight else 0.0
                if measures:
                    outputs.append(seen)
                    targets.append(part.t)
            with net.computing():
                joined = [None if layer[0] is None else np.concatenate(layer) for layer in zip(*outputs, strict=True)]
                found = {
                    name: measure.of(joined, np.concatenate(targets), self.weights)
                    for name, measure in measures.items()
                }
            return Evaluated(total / weighs, found)

        return evaluate

    @property
    def _piece(self) -> int:
        """Examples in a piece of an evaluation."""
        return self.size if self.size < self.examples else PIECE

    def _error(self, part: Part, seen: list[Any], loss: LossFunction | None, W: ArrayLike | None) -> float:
        """The error on a part of the examples."""
        with self.net.computing():
            if loss is not None:
                return mean_loss(loss, seen, part.t, part.weights)
            return self.net.value_on(self.net.batch_of(*part, self._piece if self.may_pad else None), W)


def _kept(name: str, array: Any) -> Any:
    """What is stored as it is, the rest as an array of numpy."""
    return array if stored.is_stored(array) else checks.numeric(name, array)


def _check_counts(inputs: Any, targets: Any) -> None:
    """Refuse what has no rows, or not as many of both."""
    for name, array in (("inputs", inputs), ("targets", targets)):
        if not array.shape:
            raise ValueError(f"{name} have shape (); one row for each example is expected.")
    if inputs.shape[0] != targets.shape[0]:
        raise ValueError(
            f"There are {inputs.shape[0]} inputs but {targets.shape[0]} targets; give one target per input."
        )
