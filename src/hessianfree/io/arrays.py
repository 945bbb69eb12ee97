"""Read named arrays from `.npz` files; nothing in them can execute."""

from __future__ import annotations

import os
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.io.files import FileFormatError, check_is_file

EXPECTED = "an .npz file of arrays, as np.savez writes it"


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Read all arrays of an `.npz` file.

    Args:
        path: the file.

    Returns:
        Name -> array, in the order of the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it is damaged or of another format, or holds Python objects, which could execute.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "data.npz")
        >>> np.savez(path, x=np.zeros((3, 2)), y=np.array(["a", "b", "a"]))
        >>> {name: array.shape for name, array in read_arrays(path).items()}
        {'x': (3, 2), 'y': (3,)}
    """
    check_is_file(path, EXPECTED)
    remedy = "write it again by np.savez, with arrays of numbers or text"
    if not zipfile.is_zipfile(path):
        raise FileFormatError(path, "no .npz archive", EXPECTED, remedy)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise FileFormatError(path, f"arrays that cannot be read ({str(error)[:100]})", EXPECTED, remedy) from None
