"""Read the plot series of a training run, even while the run writes them."""

from __future__ import annotations

import io
import os
import pickletools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.io.files import FileFormatError, check_is_file, read_bytes
from hessianfree.io.pickles import load_arrays

EXPECTED = "a plots file, a saved result or a checkpoint"
_REMEDY = (
    "give what training with plotting=True writes, {file_output}_plots.pkl or HF_plots.pkl, or what result.save wrote"
)
_MAX_BYTES = 1 << 28  # 256 MiB: millions of updates

Series = dict[str, NDArray[np.float64]]


class UnfinishedFileError(FileFormatError):
    """A file is empty, cut short or garbled. If a run is writing it, it may be complete a moment later."""


def read_series(path: str | os.PathLike[str]) -> Series:
    """Read the series of a plots file of this package, or of hessianfree 0.4.0, without running anything it contains.

    Args:
        path: the file, `{prefix}_plots.pkl`.

    Returns:
        Name -> values, (n,) float64 each, in the order of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        UnfinishedFileError: if the file does not hold a complete pickle; it may be half-written.
        FileFormatError: if it is a complete pickle of something else, or could run code.

    Example:
        >>> import os, pickle, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "HF_plots.pkl")
        >>> with open(path, "wb") as file:
        ...     pickle.dump({"damping (log)": [1, 0.5]}, file)
        >>> read_series(path)
        {'damping (log)': array([1. , 0.5])}
    """
    check_is_file(path, EXPECTED)
    try:
        content = load_arrays(path, max_bytes=_MAX_BYTES)
    except FileFormatError as error:
        kind = FileFormatError if _holds_whole_pickle(path) else UnfinishedFileError
        raise kind(path, error.args[1], EXPECTED, _REMEDY) from None
    if not isinstance(content, dict):
        raise FileFormatError(path, f"a pickled {type(content).__name__}", EXPECTED, _REMEDY)
    if unnamed := [key for key in content if not isinstance(key, str)]:
        found = f"a series whose name is a {type(unnamed[0]).__name__}"
        raise FileFormatError(path, found, EXPECTED, _REMEDY)
    return {name: _values(path, name, values) for name, values in content.items()}


def _holds_whole_pickle(path: str | os.PathLike[str]) -> bool:
    """Whether the file is one pickle from its first to its last byte; reads its instructions without running them."""
    try:
        data = read_bytes(path, max_bytes=_MAX_BYTES, expected=EXPECTED)
        file = io.BytesIO(data)
        for _ in pickletools.genops(file):
            pass
    except Exception:  # bytes that are not a pickle can break the reader in any way
        return False
    return file.tell() == len(data)


def _values(path: str | os.PathLike[str], name: str, values: Any) -> NDArray[np.float64]:
    try:
        array = np.asarray(values)
    except ValueError:  # lists of unequal lengths
        array = np.empty((0, 0))
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        found = f"the series {name[:60]!r}, which is not a flat list of numbers"
        raise FileFormatError(path, found, EXPECTED, _REMEDY)
    return array.astype(np.float64)
