"""Minibatches of arrays on a disk: only these are read, the next one while the device works on the present one.

Checks and conversions are those of arrays in memory, made for each minibatch as it is read. A thread reads, in numpy
alone; what JAX does with a minibatch is done by the thread that asks for it.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Any, Generic, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from hessianfree.devices.placing import Placer, own_examples, placed
from hessianfree.engine.descent import IndexedBatches
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.io import stored
from hessianfree.objective import data as data_checks
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.training.batches import ONE, Item, Minibatches, check_divides, may_pad, taken
from hessianfree.training.reading import read_ahead

logger = logging.getLogger("hessianfree")
Part = TypeVar("Part")

#: Examples of a piece in an evaluation, where nothing else is said.
PIECE = 1_000


class StoredMinibatches(Minibatches[Item], Generic[Item, Part]):
    """Minibatches of examples that are read as they are needed.

    Attributes:
        last: the minibatch that was read last, a sample of the data; None before.
    """

    last: Item | None = None
    placer = ONE

    def on(self, placer: Placer) -> Self:
        """The same on the devices that a placer knows."""
        self.placer = placer
        if placer.parts is not None and not self.may_pad:
            check_divides(placer.parts, self.examples, self.size)
        return self

    @property
    def on_many(self) -> bool:
        """Whether minibatches are split over devices."""
        return self.placer.parts is not None

    def split(self, batch: Batch, count: int) -> Batch:
        """A minibatch of so many examples over the devices, of which this process has read its own."""
        parts, own = self.placer.parts, self._own(count)
        assert parts is not None
        take = lambda rows: jax.tree.map(lambda leaf: leaf[np.searchsorted(own, rows)], batch)  # noqa: E731
        return placed(parts, take, count, self._room(count))

    def _own(self, count: int) -> NDArray[np.intp]:
        """Which examples of a minibatch of so many this process reads."""
        if self.placer.parts is None or not self.placer.processes.several:
            return np.arange(count)
        return own_examples(self.placer.parts, count, self._room(count))

    def _room(self, count: int) -> int:
        return self.size if self.may_pad else count

    @abstractmethod
    def read(self, indices: NDArray[np.intp]) -> Part:
        """These examples, checked and converted, in numpy; a thread calls it."""

    @abstractmethod
    def made(self, part: Part, count: int) -> Item:
        """The minibatch of so many examples, of what was read of them."""

    @abstractmethod
    def in_engine(self, item: Item) -> Batch:
        """A minibatch as the engine takes it."""

    def indexed(self, item: Item) -> IndexedBatches | None:
        """The only minibatch among several, for programs that make several updates; None if it is a smaller one."""
        batch = self.in_engine(item)
        if len(batch.weights) < self.size:
            return None
        return IndexedBatches(batch, np.arange(self.size)[None], np.ones((1, self.size), bool))

    def take(self, indices: NDArray[np.intp] | None) -> Item:
        """The minibatch of these examples; for None that of all."""
        chosen = np.arange(self.examples) if indices is None else indices
        return self.made(self.read(chosen[self._own(len(chosen))]), len(chosen))

    @property
    def on_device(self) -> Batch:
        """Not these: they may not fit."""
        raise TypeError("Stored arrays are not kept on the device.")

    def of_epoch(self, done: int = 0) -> Generator[Item]:
        """All of them, without those that are done."""
        order = self.order()[done:]
        read = self._parts([indices[self._own(len(indices))] for indices in order])
        for indices, part in zip(order, self.placer.processes.together(read), strict=True):
            self.last = self.made(part, len(indices))
            yield self.last

    def in_order(self, size: int) -> Generator[Part]:
        """All examples in pieces of this size, in the order of the file."""
        starts = range(0, self.examples, size)
        return self._parts([np.arange(start, min(start + size, self.examples)) for start in starts])

    def _parts(self, order: Sequence[NDArray[np.intp]]) -> Generator[Part]:
        with closing(read_ahead(self.read, order)) as parts:
            yield from parts


class StoredArrays(StoredMinibatches[Batch, Batch]):
    """Minibatches for an objective.

    Args:
        data: a tuple (inputs, targets) or (inputs, targets, weights), some leaves of which are stored.
        size: examples per minibatch, all by default.
        objective: what is trained.
        params: the parameters, whose precision the data take.
        rng: draws the order.

    Raises:
        TypeError, ValueError: as `parameters.as_batch`, and if the first minibatch does not fit the model.
    """

    def __init__(self, data: Any, size: int | None, objective: Objective, params: PyTree, rng: Any) -> None:
        self.dtype = parameters.precision(params)
        *parts, weights = parameters.parts_of(data)
        with parameters.computing(params):
            inputs, targets = (self._kept(part) for part in parts)
        count = parameters.examples_in(inputs, targets)
        given = np.ones(count, self.dtype)
        if weights is not None:
            read = stored.whole(weights, "weights")  # a number for each row, as the order is
            given = np.asarray(parameters.checked_weights(read, count, self.dtype))
        super().__init__(count, size, rng)
        self.whole, self.objective, self._told = Batch(inputs, targets, given), objective, False
        data_checks.check_some_known("data", None, self.whole)
        self._outputs: PyTree = None
        first = self.read(np.arange(min(self.size, PIECE)))
        with parameters.computing(params):
            model = objective.traced(params, first, curved=False).model
            self._outputs = jax.eval_shape(model.outputs, params, first.inputs)

    def _kept(self, part: PyTree) -> PyTree:
        """Inputs or targets: what is stored as it is, the rest as it is going to be used."""
        if not stored.any_stored(part):
            return jax.tree.map(_on_host, parameters.as_data(part, self.dtype))
        return jax.tree.map(lambda leaf: leaf if stored.is_stored(leaf) else self._kept(leaf), part)

    @property
    def may_pad(self) -> bool:
        """Whether the loss is given for each example."""
        return may_pad(self.objective)

    def read(self, indices: NDArray[np.intp]) -> Batch:
        """These examples, not padded."""
        inputs, targets, weights = self.whole
        with stored.naming(indices):
            inputs, targets = jax.tree.map(lambda leaf: stored.rows(leaf, indices), (inputs, targets))
            x, t = (parameters.as_data(part, self.dtype) for part in (inputs, targets))
            found = Batch(x, t, weights[indices])
            if isinstance(self.objective.loss, str) and self._outputs is not None:
                data_checks.check_range(self.objective.loss, self._outputs, found)
        self._tell(found, indices)
        return found

    def made(self, part: Batch, count: int) -> Batch:
        """The same, padded if it is smaller than the others and may be."""
        if self.on_many:
            return self.split(part, count)
        return taken(part, np.arange(count), self.size) if self.may_pad and count < self.size else part

    def in_engine(self, item: Batch) -> Batch:
        """Itself."""
        return item

    def _tell(self, batch: Batch, indices: NDArray[np.intp]) -> None:
        """Say once where inputs are not finite: the record of the update, which is rejected, knows no rows."""
        for name, leaf in parameters.named_leaves(batch.inputs, "inputs"):
            if self._told or not jnp.issubdtype(leaf.dtype, np.floating):
                continue
            bad = not_finite(leaf, indices)
            if len(bad):
                self._told = True
                logger.warning("The %s are NaN or infinite in %s of the stored arrays.", name, in_words(bad))


def _on_host(leaf: Any) -> Any:
    """In numpy, for the thread that reads; but not keys, which numpy does not know."""
    return leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf)


def loaded(data: Any) -> Any:
    """A tuple of data in memory.

    Raises:
        ValueError: if it is too large for that.
    """
    named = [pair for part, name in zip(data, ("inputs", "targets", "weights"), strict=False)
             for pair in parameters.named_leaves(part, name)]  # fmt: skip
    stored.check_fits(dict(named))
    return jax.tree.map(lambda leaf: stored.whole(leaf, "data"), data)


def not_finite(array: NDArray[Any], indices: NDArray[np.intp]) -> NDArray[np.intp]:
    """Which of these rows, ascending, hold NaN or infinity."""
    bad = ~np.isfinite(array)
    return np.sort(indices[bad.any(axis=tuple(range(1, bad.ndim)))])


def in_words(found: NDArray[np.intp]) -> str:
    """Rows in words.

    Example:
        >>> in_words(np.array([3])), in_words(np.arange(9))
        ('row 3', '9 rows, 0, 1, 2, 3, 4, ...')
    """
    if len(found) == 1:
        return f"row {found[0]}"
    return f"{len(found)} rows, {', '.join(map(str, found[:5]))}{', ...' if len(found) > 5 else ''}"
