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

from hessianfree.devices.fetching import to_host
from hessianfree.devices.placing import Placer, placed, placed_part, split_already
from hessianfree.engine import descent
from hessianfree.engine.objective import Batch
from hessianfree.engine.shards import Parts, picked
from hessianfree.engine.trees import PyTree
from hessianfree.io.trees import pack
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.support.random_state import set_state, state_of

Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
logger = logging.getLogger("hessianfree")
#: For data that stay where they are.
ONE = Placer(None)


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

    @property
    def on_many(self) -> bool:
        """Whether they are split over devices, which a call of several updates does not do."""
        return False

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
            order = self.drawn()
            set_state(self.rng, now)
            self._again = False
        else:
            self._before = state_of(self.rng)
            order = self.drawn()
        return order

    def drawn(self) -> list[NDArray[np.intp]]:
        """Draw the examples of each minibatch of an epoch: those of a permutation, one after the other."""
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


def check_divides(parts: Parts, examples: int, size: int) -> None:
    """Refuse minibatches that cannot be given to devices in equal parts, where they cannot be filled up."""
    rest = examples % size
    if size % parts.count or rest % parts.count:
        what = f"{size} examples" + (f", {rest} in the last one," if rest else "")
        raise ValueError(
            f"A minibatch of {what} cannot be split over {parts.count} devices, and is not filled up by examples of "
            "weight zero: the loss, or a layer of your own, might look at them. Choose numbers that devices divide, or "
            "make the loss return a value for each example."
        )


def may_pad(objective: Objective) -> bool:
    """Whether the loss is given for each example: one of the whole batch would see the padding."""
    return objective.reduction != "mean"


class Arrays(Minibatches[Batch]):
    """Minibatches of checked arrays, for an objective; the last is padded unless the loss looks at the whole batch."""

    def __init__(
        self, whole: Batch, size: int | None, objective: Objective, rng: np.random.Generator, placer: Placer = ONE
    ) -> None:
        super().__init__(len(whole.weights), size, rng)
        self.whole, self.objective, self.placer = whole, objective, placer
        if placer.parts is not None and not self.may_pad:
            check_divides(placer.parts, self.examples, self.size)

    @property
    def on_many(self) -> bool:
        """Whether they are split over devices."""
        return self.placer.parts is not None

    @cached_property
    def on_device(self) -> Batch:
        """All examples, kept on the device in their own precision."""
        with parameters.computing(self.whole.weights):
            return jax.device_put(self.whole)

    @property
    def may_pad(self) -> bool:
        """Whether the loss is given for each example."""
        return may_pad(self.objective)

    def take(self, indices: NDArray[np.intp] | None) -> Batch:
        """The arrays as they are, or cut and padded; on many devices each process reads what is for its own."""
        if indices is None:
            return self.placer.of(self.whole).batch
        if self.placer.parts is None:
            return taken(self.whole, indices, self.size if self.may_pad else None)
        room = self.size if self.may_pad else len(indices)
        return placed(self.placer.parts, lambda rows: taken(self.whole, indices[rows]), len(indices), room)


class SplitArrays(Minibatches[Batch]):
    """Minibatches of arrays that are split over devices already: each device picks among the examples that it has.

    The examples, in their order, are cut into as many stretches as a minibatch has examples, and a minibatch has one
    of each. So devices have equal shares of it, and the choice does not depend on their number.

    Args:
        whole: all examples, split.
        size: examples per minibatch, all by default.
        objective: what is trained.
        rng: draws the order.
        placer: knows the devices.
    """

    def __init__(
        self, whole: Batch, size: int | None, objective: Objective, rng: np.random.Generator, placer: Placer
    ) -> None:
        super().__init__(len(whole.weights), size, rng)
        assert placer.parts is not None
        self.parts, self.objective, self._whole = placer.parts, objective, placer.of(whole).batch
        if not self.may_pad and self.count() > 1:
            raise ValueError(
                "minibatch_size is given, but the loss returns one number for the batch, so that minibatches of arrays "
                "that are split over devices cannot be filled up; make it return a value for each example."
            )

    @property
    def on_device(self) -> Batch:
        """All examples."""
        return self._whole

    @property
    def on_many(self) -> bool:
        """They are."""
        return True

    @property
    def may_pad(self) -> bool:
        """Whether the loss is given for each example."""
        return may_pad(self.objective)

    def drawn(self) -> list[NDArray[np.intp]]:
        """Draw the examples of each minibatch, ascending."""
        edges = np.arange(self.size + 1) * self.examples // self.size
        keys = self.rng.random((self.size, self.count()))
        keys[np.arange(self.count()) >= np.diff(edges)[:, None]] = 2  # beyond the end of its stretch
        order = np.argsort(keys, axis=1)
        found = edges[:-1, None] + order
        return [found[order[:, n] < np.diff(edges), n] for n in range(self.count())]

    def take(self, indices: NDArray[np.intp] | None) -> Batch:
        """All, or these, each on the device that has it."""
        if indices is None:
            return self.on_device
        uneven = self.size % self.parts.count != 0
        return picked(self.parts, self.on_device, indices, -(-self.size // self.parts.count) + 2 * uneven)


class Given:
    """Batches as the user's iterable gives them.

    The position in an epoch is known for lists and other sequences, for iterables with `state_dict()` and
    `load_state_dict(state)` (torchdata's StatefulDataLoader), and for iterators with `get_state()` and
    `set_state(state)` (grain's). After a restart, others begin with a new epoch.

    Args:
        data: the iterable.
        objective: what is trained.
        params: the parameters, whose precision the data take.
        placer: knows the devices, and the processes that share the run; each has an iterable of its own, with its part
            of every batch.
    """

    def __init__(
        self,
        data: Iterable[Any],
        objective: Objective,
        params: PyTree,
        placer: Placer = ONE,
    ) -> None:
        self.data, self.objective, self.params = data, objective, params
        self.parts, self.processes = placer.parts, placer.processes
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
        checked = (parameters.as_batch(given, self.params) for given in self._rest(done))
        for batch in self.processes.together(checked):
            count = len(batch.weights)
            self.size = self.size or self.processes.largest(count)
            pads = may_pad(self.objective)
            if self.parts is not None:
                yield self._placed(self.parts, batch, max(self.size, self.processes.largest(count)), pads)
            else:
                yield taken(batch, np.arange(count), self.size) if pads and count < self.size else batch
        if self.size is None:
            raise ValueError(
                "The data gave no batch at all: the iterable is empty, or a generator that was used up before."
            )

    def _placed(self, parts: Parts, batch: Batch, size: int, may_pad: bool) -> Batch:
        """A batch over the devices, of which each process gives an equal part."""
        already = split_already(parts, batch)
        if already is not None:
            return already
        if not may_pad:
            check_divides(parts, len(batch.weights), len(batch.weights))
            size = len(batch.weights)
        on_host: Batch = to_host(batch)
        with parameters.computing(self.params):
            return placed_part(parts, on_host, size)

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
