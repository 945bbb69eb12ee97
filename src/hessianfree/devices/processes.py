"""What the processes of one run agree on, so that all of them do the same, and none waits for another in vain.

Every process runs the same program. Where one may do something else (the user interrupts it, its data end, its disk is
full), all exchange what happened before they go on. Each method that exchanges something must be called by all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, TypeVar

import jax
import numpy as np

Item = TypeVar("Item")

#: Longest text of another process's error that is told.
LONGEST = 2_000


class _Status(IntEnum):
    """How something went on a process."""

    DONE = 0
    ENDED = 1
    FAILED = 2


class OtherProcessError(RuntimeError):
    """Another process of the run has failed; the message says which, and how."""


class Processes:
    """The processes of a run; with a single one nothing is exchanged.

    Args:
        count: how many share the run.
    """

    def __init__(self, count: int = 1) -> None:
        self.several = count > 1

    @property
    def first(self) -> bool:
        """Whether this process prints, and writes files."""
        return not self.several or jax.process_index() == 0

    @contextmanager
    def settling(self) -> Iterator[None]:
        """What every process does in this context; raises on all of them if it fails on one.

        Raises:
            OtherProcessError: if it failed on another process.
        """
        try:
            yield
        except Exception as error:
            if self.several:
                self._exchange(_Status.FAILED, (), error)
            raise
        if self.several:
            self._exchange(_Status.DONE, (), None)

    def any(self, function: Callable[[], Sequence[bool]]) -> tuple[bool, ...]:
        """Run a function on every process; each of its answers is yes if it is so on one. Raises as `settling`."""
        if not self.several:
            return tuple(function())
        try:
            flags = tuple(function())
        except Exception as error:
            self._exchange(_Status.FAILED, (), error)
            raise
        return self._exchange(_Status.DONE, flags, None)[1]

    def together(self, items: Iterable[Item]) -> Iterator[Item]:
        """Go through items on every process, as long as all of them have some. Raises as `settling`."""
        if not self.several:
            yield from items
            return
        iterator = iter(items)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                self._exchange(_Status.ENDED, (), None)
                return
            except Exception as error:
                self._exchange(_Status.FAILED, (), error)
                raise
            if self._exchange(_Status.DONE, (), None)[0]:
                return
            yield item

    def largest(self, number: int) -> int:
        """The largest of the numbers that the processes have."""
        return int(max(map(int, _gathered(np.int64(number))))) if self.several else number

    def check_same(self, given: Callable[[], Mapping[str, str]]) -> None:
        """Refuse a run whose processes were given different things.

        Args:
            given: says in words what this process was given, by names that messages use.

        Raises:
            ValueError: if they differ, naming each.
            OtherProcessError: if another process failed before.
        """
        if not self.several:
            return
        with self.settling():
            own = json.dumps(dict(given()))
        all_given = [json.loads(text) for text in _exchanged(own)]
        names = list(dict.fromkeys(name for words in all_given for name in words))
        differing = []
        for name in names:
            said = [words.get(name, "nothing") for words in all_given]
            other = next((number for number, text in enumerate(said) if text != said[0]), None)
            if other is not None:
                differing.append(f"{name} (process 0: {_short(said[0])}; process {other}: {_short(said[other])})")
        if differing:
            raise ValueError(
                f"The processes of the run were given different things: {'; '.join(differing)}. Give all of them the "
                "same; data of which each process has a part are joined by jax.make_array_from_process_local_data."
            )

    def _exchange(
        self, status: _Status, flags: tuple[bool, ...], error: Exception | None
    ) -> tuple[bool, tuple[bool, ...]]:
        """Whether something has ended on one process, and which flags are up on one."""
        told = np.zeros(9, np.int32)
        told[0], told[1 : 1 + len(flags)] = status, flags
        found = _gathered(told)
        failed = [number for number, row in enumerate(found) if row[0] == _Status.FAILED]
        if failed:
            texts = _exchanged("" if error is None else f"{type(error).__name__}: {error}"[:LONGEST])
            if error is None:
                raise OtherProcessError(f"Process {failed[0]} of the run has failed: {texts[failed[0]]}")
        ended = any(row[0] == _Status.ENDED for row in found)
        return ended, tuple(bool(np.any(found[:, 1 + place])) for place in range(len(flags)))


#: A run of one process.
ALONE = Processes()


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _gathered(value: Any) -> Any:
    """One row for each process, on all of them."""
    from jax.experimental import multihost_utils

    with jax.enable_x64(True):
        return np.asarray(multihost_utils.process_allgather(np.asarray(value)))


def _exchanged(text: str) -> list[str]:
    """A text of each process."""
    own = np.frombuffer(text.encode(), np.uint8)
    sizes = _gathered(np.int64(len(own)))
    padded = np.zeros(int(max(map(int, sizes))) + 1, np.uint8)
    padded[: len(own)] = own
    return [bytes(row[: int(size)]).decode() for row, size in zip(_gathered(padded), sizes, strict=True)]
