"""Arrays on a disk: told from those in memory, and read row by row.

Stored are memory maps of numpy, datasets of HDF5 (h5py), arrays of zarr, and whatever else has `shape`, a numpy
`dtype` and rows by `array[start:stop]`. Neither h5py nor zarr is imported here.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.intp]

#: Bytes of an array that are read at once, at most: so much of a memory map is in memory beside the rows themselves.
AT_ONCE = 1 << 25
#: Bytes that the kernel maps around each row of a memory map, at most: a huge page.
AROUND = 1 << 21
#: Rows of an HDF5 file chosen in one call: the time for a choice grows faster than their number.
CHOSEN = 1_000
#: Unwanted bytes between two rows that are read with them rather than in a call of their own.
GAP = 1 << 16
#: Share of the machine's memory that a stored array may take where it is needed as a whole.
SHARE = 1 / 4
#: The machine's memory where it is not known.
ASSUMED = 8 << 30


def is_stored(array: Any) -> bool:
    """Whether an array is on a disk, and is to be read row by row.

    Raises:
        ValueError: if its file is closed.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "x.npy")
        >>> np.save(path, np.zeros((3, 2)))
        >>> is_stored(np.load(path, mmap_mode="r")), is_stored(np.load(path))
        (True, False)
    """
    if isinstance(array, np.ndarray):
        return isinstance(_owner(array)[-1], mmap.mmap)
    # Series of pandas have rows by label, and sparse matrices rows that are none.
    if isinstance(array, (np.generic, jax.Array)) or hasattr(array, "iloc") or hasattr(array, "tocsr"):
        return False
    try:
        return hasattr(array, "shape") and hasattr(array, "__getitem__") and isinstance(array.dtype, np.dtype)
    except AttributeError:
        return False
    except Exception as error:
        raise ValueError(
            f"The data hold a {type(array).__name__} that cannot be read ({error}); keep its file open until the run "
            "has ended."
        ) from error


def any_stored(*trees: Any) -> bool:
    """Whether some leaf of some of these pytrees is."""
    return any(map(is_stored, jax.tree.leaves(trees)))


def rows(array: Any, indices: Rows) -> NDArray[Any]:
    """Some rows of an array, in memory, in this order.

    Args:
        array: stored, or of numpy or JAX.
        indices: of the rows, (n,), from zero; one may appear several times.

    Raises:
        Whatever the file raises that cannot be read, with a note that says which rows were to be read.

    Example:
        >>> rows(np.arange(6).reshape(3, 2), np.array([2, 0]))
        array([[4, 5],
               [0, 1]])
    """
    if not is_stored(array):
        return array[indices]
    order = np.argsort(indices, kind="stable")  # in the order of the file
    found: NDArray[Any] = np.empty((len(indices), *array.shape[1:]), array.dtype)
    with naming(indices):
        for part, block in _read(array, indices[order]):
            found[order[part]] = block
    return found


def spread(array: Any, most: int) -> NDArray[Any]:
    """At most so many rows, evenly spaced."""
    count = int(array.shape[0])
    return rows(array, np.arange(0, count, -(-count // most) if count else 1))


def pieces(array: Any) -> Generator[NDArray[Any]]:
    """All rows, one piece after the other."""
    count, size = int(array.shape[0]), at_once(array)
    for start in range(0, count, size):
        yield rows(array, np.arange(start, min(start + size, count)))


def whole(array: Any, what: str) -> NDArray[Any]:
    """All of it, in memory.

    Args:
        array: stored, or in memory already.
        what: what to call it in messages.

    Raises:
        ValueError: if it is too large for that.
    """
    if not is_stored(array):
        return array
    check_fits({what: array})
    found: NDArray[Any] = np.empty(array.shape, array.dtype)
    start = 0
    for piece in pieces(array):
        found[start : start + len(piece)] = piece
        start += len(piece)
    return found


def check_fits(named: dict[str, Any]) -> None:
    """Refuse stored arrays that are too large to be read as a whole, by a ValueError that says how large they are."""
    large = {name: bytes_of(array) for name, array in named.items() if is_stored(array)}
    limit = SHARE * memory()
    if sum(large.values()) > limit:
        listed = " and ".join(f"{name} of {size / 2**30:.2g} GiB" for name, size in large.items())
        raise ValueError(
            f"The stored {listed} would be read as a whole: more than a quarter of the memory of this machine, "
            f"{memory() / 2**30:.2g} GiB. Pass minibatch_size, such as minibatch_size=1000: then so many rows are read "
            "for each update."
        )


def bytes_of(array: Any) -> int:
    """Bytes of a stored array in memory."""
    return int(np.prod(array.shape, dtype=np.int64)) * array.dtype.itemsize


def memory() -> int:
    """Bytes of memory that this machine has."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows
        return ASSUMED


def at_once(array: Any) -> int:
    """How many rows are read at once."""
    count = max(int(array.shape[0]), 1)
    return max(1, AT_ONCE // max(bytes_of(array) // count, 1))


@contextmanager
def naming(indices: Rows) -> Iterator[None]:
    """Note with whatever is raised which rows were being read."""
    try:
        yield
    except Exception as error:
        if len(indices) and not any(note.startswith(_NOTE) for note in getattr(error, "__notes__", ())):
            error.add_note(f"{_NOTE}, {len(indices)} of them between row {indices.min()} and row {indices.max()}.")
        raise


_NOTE = "This happened while rows of a stored array were read"


# ---- how each kind is read -------------------------------------------------------------------------------------------


def _read(array: Any, ascending: Rows) -> Generator[tuple[slice, NDArray[Any]]]:
    """Rows in parts: which of the indices, and the rows that they stand for."""
    if isinstance(array, np.ndarray):
        yield from _of_map(array, ascending)
        return
    size = at_once(array)
    if hasattr(array, "get_orthogonal_selection"):  # zarr: each chunk is decompressed once
        for part in _parts(len(ascending), size):
            yield part, np.asarray(array.get_orthogonal_selection((ascending[part],)))
    elif hasattr(array, "read_direct"):  # h5py: indices in a list must differ
        for part in _parts(len(ascending), min(size, CHOSEN)):
            chosen, places = np.unique(ascending[part], return_inverse=True)
            yield part, np.asarray(array[chosen])[places]
    else:
        yield from _by_slices(array, ascending, size)


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def _of_map(array: NDArray[Any], ascending: Rows) -> Generator[tuple[slice, NDArray[Any]]]:
    """Of a memory map: the pages that were touched are let go, or all of the file would be in memory in the end."""
    held = AROUND + bytes_of(array) // max(len(array), 1)
    for part in _parts(len(ascending), max(1, 4 * AT_ONCE // held)):
        found = np.asarray(array)[ascending[part]]
        _let_go(array)
        yield part, found


def _let_go(array: NDArray[Any]) -> None:
    """Let the pages of a memory map go, which stay in the kernel's cache; but not pages that alone hold changes."""
    *maps, owner = _owner(array)
    shared = any(isinstance(found, np.memmap) and found.mode in ("r", "r+", "w+") for found in maps)
    if shared and isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        owner.madvise(mmap.MADV_DONTNEED)


def _owner(array: Any) -> list[Any]:
    """An array, what it is a view of, and so on."""
    found = [array]
    while isinstance(found[-1], np.ndarray):
        found.append(found[-1].base)
    return found


def _by_slices(array: Any, ascending: Rows, size: int) -> Generator[tuple[slice, NDArray[Any]]]:
    """Of anything that has slices of rows: rows that are near each other, or in one chunk, come in one slice."""
    gap = max(GAP // max(bytes_of(array) // max(int(array.shape[0]), 1), 1), 1)
    chunk = (getattr(array, "chunks", None) or (1,))[0]
    chunk = chunk if isinstance(chunk, int) else 1
    start = 0
    for end in range(1, len(ascending) + 1):
        if end < len(ascending):
            near = ascending[end] - ascending[end - 1] <= gap or ascending[end] // chunk == ascending[end - 1] // chunk
            if near and ascending[end] - ascending[start] < size:
                continue
        first, last = int(ascending[start]), int(ascending[end - 1])
        yield slice(start, end), np.asarray(array[first : last + 1])[ascending[start:end] - first]
        start = end
