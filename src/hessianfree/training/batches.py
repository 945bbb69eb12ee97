"""What an epoch goes through: minibatches of arrays, or batches as an iterable gives them, and the position in them."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine import descent
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.io.trees import pack
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.support.random_state import set_state, state_of

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
logger = logging.getLogger("hessianfree")


class Batches(Protocol[Item_co]):
    """What an epoch goes through."""

    def count(self) -> int | None:
        """Batches in an epoch, None where it is not known."""

    def of_epoch(self, done: int = 0) -> Generator[Item_co]:
        """The batches of the next epoch, without those that are done already after a restart."""

    def notes(self) -> dict[str, Any]:
        """What `restore` needs, as plain values: random states, and the position in an epoch."""

    def restore(self, notes: dict[str, Any], begun: bool) -> None:
        """Go on where another process stood; `begun` says whether within an epoch, which is then the next one here."""


class Minibatches(ABC, Generic[Item]):
    """Minibatches of a known number of examples, in the order of a permutation.

    Args:
        examples: how many there are.
        size: examples per minibatch, all by default; the last one may be smaller.
        rng: numpy RandomState or Generator; draws the order.
    """

    def __init__(self, examples: int, size: int | None, rng: Any) -> None:
        self.examples, self.rng = examples, rng
        self.size = min(size or examples, examples)
        self._before = state_of(rng)  # the random state before the order of the epoch was drawn
        self._again = False  # whether that order is to be drawn again

    @abstractmethod
    def take(self, indices: NDArray[np.intp] | None) -> Item:
        """The minibatch of these examples; for None that of all, whose order does not matter."""

    @property
    @abstractmethod
    def on_device(self) -> Batch:
        """All examples, kept on the device."""

    @property
    @abstractmethod
    def may_pad(self) -> bool:
        """Whether the last minibatch may be filled up with examples of weight zero, which nothing looks at."""

    def count(self) -> int:
        """Minibatches in an epoch."""
        return -(-self.examples // self.size)

    def of_epoch(self, done: int = 0) -> Generator[Item]:
        """All of them, without those that are done."""
        for indices in self.order()[done:]:
            yield self.take(None if self.size >= self.examples else indices)

    def order(self) -> list[NDArray[np.intp]]:
        """The examples of each minibatch of the next epoch."""
        if self._again:
            now = state_of(self.rng)
            set_state(self.rng, self._before)
            order = self.rng.permutation(self.examples)
            set_state(self.rng, now)
            self._again = False
        else:
            self._before = state_of(self.rng)
            order = self.rng.permutation(self.examples)
        return [order[start : start + self.size] for start in range(0, self.examples, self.size)]

    def notes(self) -> dict[str, Any]:
        """The random state now and before the order of the epoch was drawn."""
        return {"before": self._before, "now": state_of(self.rng)}

    def restore(self, notes: dict[str, Any], begun: bool) -> None:
        """Draw the order of an epoch that was begun from the state before it, and go on in the state after it."""
        self._before, self._again = notes["before"], begun
        set_state(self.rng, self._before)  # raises if it is none
        set_state(self.rng, notes["now"])

    def together(self, order: Sequence[NDArray[np.intp]]) -> tuple[descent.IndexedBatches, int]:
        """The minibatches in the form of the engine, and how many of them have that form: one may not."""
        usable = len(order) if self.may_pad else sum(len(indices) == self.size for indices in order)
        padded = [_filled(indices, self.size) for indices in order[:usable]]
        counted = [np.arange(self.size) < len(indices) for indices in order[:usable]]
        return descent.IndexedBatches(self.on_device, np.array(padded), np.array(counted)), usable


def _filled(indices: NDArray[np.intp], size: int) -> NDArray[np.intp]:
    """So many indices: the first is repeated."""
    return np.concatenate([indices, np.repeat(indices[:1], size - len(indices))])


def taken(batch: Batch, indices: NDArray[np.intp], size: int | None = None) -> Batch:
    """Some of the examples of a batch, padded to a common size so that nothing is compiled for the remainder.

    The padding repeats an example, which keeps it as well behaved as the data, and gives it the weight zero.

    Args:
        batch: the examples.
        indices: which to take.
        size: the common size; None for no padding.
    """
    padding = max((size or 0) - len(indices), 0)
    chosen = _filled(indices, len(indices) + padding)
    found = jax.tree.map(lambda leaf: leaf[chosen], batch)
    if not padding:
        return found
    weights = np.array(found.weights)
    weights[-padding:] = 0
    return found._replace(weights=weights)


def _may_pad(objective: Objective) -> bool:
    """Whether the loss is given for each example: one of the whole batch would see the padding."""
    return objective.reduction != "mean"


class Arrays(Minibatches[Batch]):
    """Minibatches of checked arrays, for an objective; the last is padded unless the loss looks at the whole batch."""

    def __init__(self, whole: Batch, size: int | None, objective: Objective, rng: np.random.Generator) -> None:
        super().__init__(len(whole.weights), size, rng)
        self.whole, self.objective = whole, objective

    @cached_property
    def on_device(self) -> Batch:
        """All examples, kept on the device in their own precision."""
        with parameters.computing(self.whole.weights):
            return jax.device_put(self.whole)

    @property
    def may_pad(self) -> bool:
        """Whether the loss is given for each example."""
        return _may_pad(self.objective)

    def take(self, indices: NDArray[np.intp] | None) -> Batch:
        """The arrays as they are, or cut and padded."""
        return self.whole if indices is None else taken(self.whole, indices, self.size if self.may_pad else None)


class Given:
    """Batches as the user's iterable gives them.

    The position in an epoch is known for lists and other sequences, for iterables with `state_dict()` and
    `load_state_dict(state)` (torchdata's StatefulDataLoader), and for iterators with `get_state()` and
    `set_state(state)` (grain's). After a restart, others begin with a new epoch.

    Args:
        data: the iterable.
        objective: what is trained.
        params: the parameters, whose precision the data take.
    """

    def __init__(self, data: Iterable[Any], objective: Objective, params: PyTree) -> None:
        self.data, self.objective, self.params = data, objective, params
        self.size: int | None = None
        self._iterator: Any = None
        self._fresh = False  # whether the iterator is new
        self._position: Any = None  # to go on from
        self._told = False

    def count(self) -> int | None:
        """Batches in an epoch, if the iterable knows."""
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:
            return None

    def of_epoch(self, done: int = 0) -> Generator[Batch]:
        """All of them; one that is smaller than the first is padded unless the loss looks at the whole batch.

        Raises:
            ValueError: if the first epoch has no batches.
        """
        for given in self._rest(done):
            batch = parameters.as_batch(given, self.params)
            count = len(batch.weights)
            self.size = self.size or count
            short = _may_pad(self.objective) and count < self.size
            yield taken(batch, np.arange(count), self.size) if short else batch
        if self.size is None:
            raise ValueError(
                "The data gave no batch at all: the iterable is empty, or a generator that was used up before."
            )

    def _rest(self, done: int) -> Iterable[Any]:
        """The batches that are not done, as they are given."""
        data: Any = self.data
        if done and isinstance(data, Sequence):
            return (data[number] for number in range(done, len(data)))
        position, self._position = self._position, None
        if done and position is None:
            return ()
        of_torch = _has(data, *_OF_TORCH)
        if position is not None and of_torch:
            data.load_state_dict(position)  # before iter(data), which may look at it at once
        if not self._fresh:
            self._iterator = iter(data)
        if position is not None and not of_torch:
            self._iterator.set_state(position)
        self._fresh = False
        return self._iterator

    def notes(self) -> dict[str, Any]:
        """The size of the first batch, and the position if it is known; if not, that is logged once."""
        if self._position is not None:  # nothing was taken since it was restored
            return {"size": self.size, "position": self._position}
        of_torch = _has(self.data, *_OF_TORCH)
        if self._iterator is None and not of_torch and not isinstance(self.data, Sequence):
            self._iterator, self._fresh = iter(self.data), True  # the one that the first epoch goes through
        position = None
        if of_torch:
            position = _storable(self.data.state_dict())  # type: ignore[attr-defined]
        elif _has(self._iterator, *_OF_GRAIN):
            position = _storable(self._iterator.get_state())
        if position is None and not isinstance(self.data, Sequence) and not self._told:
            self._told = True
            logger.warning(
                "The data are a %s, whose position within an epoch is not known, or not in plain values: a run that is "
                "resumed goes on with the next epoch. Lists, loaders with state_dict and load_state_dict, and "
                "iterators with get_state and set_state go on where they were.",
                type(self.data).__name__,
            )
        return {"size": self.size, "position": position}

    def restore(self, notes: dict[str, Any], begun: bool) -> None:
        """Go on from that position, or with a new epoch, which a loader may shuffle by what it knows of the last."""
        self.size = notes["size"]
        self._position = notes["position"] if begun or _has(self.data, *_OF_TORCH) else None


#: Methods of torchdata's StatefulDataLoader, and of grain's iterators.
_OF_TORCH, _OF_GRAIN = ("state_dict", "load_state_dict"), ("get_state", "set_state")


def _storable(position: Any) -> Any:
    """A copy of a position; None if a file cannot hold it."""
    try:
        pack(position, {}, "position")
    except TypeError:
        return None
    return copy.deepcopy(position)


def _has(value: object, *methods: str) -> bool:
    return all(callable(getattr(value, method, None)) for method in methods)
