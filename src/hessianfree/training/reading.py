"""Read ahead: the next item is made by a thread while the present one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Place = TypeVar("Place")
Item = TypeVar("Item")

#: Items made ahead. One is enough unless the times to make them differ a lot, and each takes memory.
AHEAD = 1


def read_ahead(read: Callable[[Place], Item], places: Sequence[Place]) -> Generator[Item]:
    """Items in order, each read by a thread before it is asked for.

    The thread has ended when the generator has: at its end, when it is closed, and after an error.

    Args:
        read: makes an item; what it raises is raised where that item would have come.
        places: what to call it with.

    Example:
        >>> list(read_ahead(lambda place: place**2, [1, 2, 3]))
        [1, 4, 9]
    """
    pool = ThreadPoolExecutor(1, "hessianfree-reading")
    try:
        waiting = deque(pool.submit(read, place) for place in places[:AHEAD])
        for number in range(len(places)):
            waiting.extend(pool.submit(read, place) for place in places[number + AHEAD : number + AHEAD + 1])
            item = waiting.popleft().result()
            yield item
            del item  # not kept while the next one is waited for
    finally:
        pool.shutdown(cancel_futures=True)
