"""Where the batches of a run come from: arrays cut into minibatches, or an iterable of the user's."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective

Item_co = TypeVar("Item_co", covariant=True)


class Batches(Protocol[Item_co]):
    """What an epoch goes through."""

    def count(self) -> int | None:
        """Batches in an epoch, None where it is not known."""
        ...

    def of_epoch(self) -> Generator[Item_co]:
        """The batches of the next epoch."""
        ...


def shuffled(count: int, size: int, rng: Any) -> Iterator[NDArray[np.intp] | None]:
    """Cut examples into minibatches, in the order of a permutation.

    Args:
        count: number of examples.
        size: examples per minibatch; the last one may be smaller.
        rng: numpy RandomState or Generator.

    Yields:
        The indices of each minibatch; None where it holds all the examples, whose order does not matter.
    """
    order = rng.permutation(count)
    for start in range(0, count, size):
        yield None if size >= count else order[start : start + size]


def taken(batch: Batch, indices: NDArray[np.intp], size: int | None = None) -> Batch:
    """Some of the examples of a batch, padded to a common size so that nothing is compiled for the remainder.

    The padding repeats an example, which keeps it as well behaved as the data, and gives it the weight zero.

    Args:
        batch: the examples.
        indices: which to take.
        size: the common size; None for no padding.
    """
    padding = max((size or 0) - len(indices), 0)
    chosen = np.concatenate([indices, np.repeat(indices[:1], padding)]) if padding else indices
    found = jax.tree.map(lambda leaf: leaf[chosen], batch)
    if not padding:
        return found
    weights = np.array(found.weights)
    weights[-padding:] = 0
    return found._replace(weights=weights)


def as_batch(given: Any, params: PyTree) -> Batch:
    """Checked data, in the precision of the parameters."""
    with parameters.computing(params):
        return parameters.as_batch(given, parameters.precision(params))


def _common_size(objective: Objective, size: int) -> int | None:
    """The size to pad to; None for a loss of the whole batch, which would see the padding."""
    return None if objective.reduction == "mean" else size


class Arrays:
    """Minibatches of checked arrays, in the order of a permutation.

    Args:
        whole: all examples.
        size: examples per minibatch, all by default.
        objective: what is trained.
        rng: draws the order.
    """

    def __init__(self, whole: Batch, size: int | None, objective: Objective, rng: np.random.Generator) -> None:
        self.whole, self.objective, self.rng = whole, objective, rng
        self.size = min(size or len(whole.weights), len(whole.weights))

    def count(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.whole.weights) // self.size)

    def of_epoch(self) -> Generator[Batch]:
        """All of them; the last is padded unless the loss looks at the whole batch."""
        for indices in shuffled(len(self.whole.weights), self.size, self.rng):
            yield self.whole if indices is None else taken(self.whole, indices, _common_size(self.objective, self.size))


class Given:
    """Batches as the user's iterable gives them.

    Args:
        data: the iterable.
        objective: what is trained.
        params: the parameters, whose precision the data take.
    """

    def __init__(self, data: Iterable[Any], objective: Objective, params: PyTree) -> None:
        self.data, self.objective, self.params = data, objective, params
        self.size: int | None = None

    def count(self) -> int | None:
        """Batches in an epoch, if the iterable knows."""
        try:
            return len(self.data)  # type: ignore[arg-type]
        except TypeError:
            return None

    def of_epoch(self) -> Generator[Batch]:
        """All of them; one that is smaller than the first is padded unless the loss looks at the whole batch.

        Raises:
            ValueError: if the first epoch has no batches.
        """
        for given in self.data:
            batch = as_batch(given, self.params)
            count = len(batch.weights)
            self.size = self.size or count
            common = _common_size(self.objective, self.size)
            yield batch if common is None or count >= common else taken(batch, np.arange(count), common)
        if self.size is None:
            raise ValueError(
                "The data gave no batch at all: the iterable is empty, or a generator that was used up before."
            )
