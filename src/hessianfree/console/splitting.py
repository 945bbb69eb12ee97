"""Which examples a network learns from, and which it is tested on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def split(
    count: int, size: float, how: str, seed: int, labels: NDArray[Any] | None = None
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows to learn from, and rows to test on.

    Args:
        count: how many rows there are.
        size: to test on: a share below 1, else a number.
        how: "random", or "last" for the last rows.
        seed: of the draw.
        labels: (count,), of which each class gives its share to the test; None for none.

    Returns:
        Both in the order of the file.

    Raises:
        ValueError: if the size is not a whole number, or leaves nothing on either side.

    Example:
        >>> [rows.tolist() for rows in split(5, 0.4, "last", 0)]
        [[0, 1, 2], [3, 4]]
    """
    tested = round(count * size) if size < 1 else size
    if tested != int(tested) or not 0 < tested < count:
        raise ValueError(
            f"test-size is {size:g}, and there are {count} rows; a share between 0 and 1 is expected, or a number of "
            f"rows from 1 to {count - 1}."
        )
    tested = int(tested)
    if how == "last":
        return np.arange(count - tested), np.arange(count - tested, count)
    order = np.random.RandomState(seed).permutation(count)
    if labels is not None:
        # Each row takes a place between 0 and 1 within its class: those with the lowest places are a share of each.
        _, members = np.unique(labels[order], return_inverse=True)
        places = np.empty(count)
        for member in range(members.max() + 1):
            own = np.flatnonzero(members == member)
            places[own] = (np.arange(len(own)) + 0.5) / len(own)
        order = order[np.argsort(places, kind="stable")]
    return np.sort(order[tested:]), np.sort(order[:tested])
