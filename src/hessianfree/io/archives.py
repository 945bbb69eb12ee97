"""Named arrays and what is said of them in one file, checked before anything large is read.

The file is a safetensors file, so that other tools can read it and no code can hide in it: eight bytes with the length
of the header, the header in JSON, and the arrays one after the other. The header's own `__metadata__` holds the kind of
the archive, its version, the description in JSON and a checksum of all of it.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hessianfree.io.files import FileFormatError, check_is_file

#: Bytes of a header at most: about 30,000 arrays. What JSON makes of them is bounded with them.
MAX_HEADER = 1 << 22

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_REMEDY = "give another file, or copy this one again from where it is whole"
#: What to do with other files of this package, by their kind.
_USES = {
    "checkpoint": "go on from it with resume=PATH in a run of the same kind, or look at it with hf.plot(PATH)",
    "saved network or result": "read it with hf.load(PATH)",
}


class Kind(NamedTuple):
    """What an archive is, and the version of its contents that is written and read; older ones are read too."""

    name: str
    version: int


class ArrayType(NamedTuple):
    """Type and shape of an array."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self.dtype.itemsize * math.prod(self.shape)


@dataclass(frozen=True)
class Archive:
    """The header of an archive, all of it checked; the arrays are still in the file.

    Attributes:
        path: the file.
        description: what was said of the arrays.
        version: of the contents.
        types: type and shape of each array, in the order of the file.
        kind: what it calls itself.
    """

    path: str | os.PathLike[str]
    description: dict[str, Any]
    version: int
    types: dict[str, ArrayType]
    kind: str
    _start: int
    _checksum: int
    _header_checksum: int

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Read the arrays.

        Returns:
            New arrays by name; memory is that of the file.

        Raises:
            FileFormatError: if the file was damaged.
        """
        found, checksum = {}, self._header_checksum
        with open(self.path, "rb") as file:
            file.seek(self._start)
            for name, (dtype, shape) in self.types.items():
                array = np.empty(shape, dtype)
                content = _bytes_of(array)
                if file.readinto(content) != len(content):
                    raise FileFormatError(self.path, "a file that was cut short", f"a {self.kind}", _REMEDY)
                found[name], checksum = array, zlib.crc32(content, checksum)
        if checksum != self._checksum:
            raise FileFormatError(
                self.path, "contents that differ from their checksum", f"an undamaged {self.kind}", _REMEDY
            )
        return found


def _bytes_of(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


# ---- writing ---------------------------------------------------------------------------------------------------------


def write_archive(
    file: BinaryIO, kind: Kind, arrays: Mapping[str, NDArray[Any]], description: Mapping[str, Any]
) -> None:
    """Write an archive into an open file; see `write_atomically`.

    Args:
        file: open for writing.
        kind: what to call it, and the version of its contents.
        arrays: by name, of booleans, whole numbers or real floats. They are written without a copy in between.
        description: what JSON can hold; floats may be NaN or infinite.

    Raises:
        TypeError: if an array has a type that the format does not know, or JSON cannot hold the description.
        ValueError: if a name could be mistaken for a path elsewhere, or there are too many arrays for the header.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> write_archive(file, Kind("note", 1), {"x": np.arange(3)}, {"unit": "m"})
        >>> from safetensors.numpy import load
        >>> load(file.getvalue())["x"]
        array([0, 1, 2])
    """
    packed: dict[str, NDArray[Any]] = {}
    entries: dict[str, Any] = {}
    end = 0
    # The larger types first, as the format asks for: every array then begins at a multiple of its type's size.
    for name, given in sorted(arrays.items(), key=lambda item: -np.asarray(item[1]).dtype.itemsize):
        array = np.asarray(given, order="C")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        if array.dtype not in _NAMES:
            raise TypeError(
                f"The array {name!r} has type {array.dtype}; booleans, whole numbers or real floats are possible."
            )
        if why := _wrong_name(name):
            raise ValueError(f"An array is called {name!r}, {why}.")
        start, end = end, end + array.nbytes
        packed[name] = array
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(description, sort_keys=True)
    metadata = {"kind": kind.name, "version": str(kind.version), "description": text}
    checksum = _checksum_of(metadata, entries)
    for array in packed.values():
        checksum = zlib.crc32(_bytes_of(array), checksum)
    header = json.dumps({"__metadata__": {**metadata, "crc32": str(checksum)}, **entries}).encode()
    if len(header) > MAX_HEADER:
        raise ValueError(f"{len(arrays):,} arrays take a header of {len(header):,} bytes; {MAX_HEADER:,} are possible.")
    header += b" " * (-len(header) % 8)
    file.write(struct.pack("<Q", len(header)) + header)
    for array in packed.values():
        file.write(_bytes_of(array))


def _checksum_of(metadata: Mapping[str, Any], entries: Mapping[str, Any]) -> int:
    """Of everything in the header but the checksum."""
    return zlib.crc32(json.dumps([metadata, list(entries.items())], sort_keys=True).encode())


# ---- reading ---------------------------------------------------------------------------------------------------------


def is_archive(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like an archive, or another safetensors file; False if there is no file."""
    try:
        check_is_file(path, "an archive")
    except (FileNotFoundError, FileFormatError):
        return False
    with open(path, "rb") as file:
        first = file.read(9)
    return len(first) == 9 and struct.unpack("<Q", first[:8])[0] <= MAX_HEADER + 8 and first[8:] == b"{"


def open_archive(path: str | os.PathLike[str], *kinds: Kind) -> Archive:
    """Read and check the header of an archive; nothing in the file is executed, and little memory is taken.

    Args:
        path: the file.
        kinds: what is expected, one or more.

    Returns:
        The header. Compare its types with what you expect before you read its `arrays()`.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it is of another kind, of a newer version, damaged or made to do harm.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "note.safetensors")
        >>> with open(path, "wb") as file:
        ...     write_archive(file, Kind("note", 1), {"x": np.arange(3)}, {"unit": "m"})
        >>> found = open_archive(path, Kind("note", 1))
        >>> found.description, found.types["x"].shape, found.arrays()["x"]
        ({'unit': 'm'}, (3,), array([0, 1, 2]))
    """
    expected = " or ".join(f"a {kind.name}" for kind in kinds)
    check_is_file(path, expected)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else -1
        if not 2 <= length <= MAX_HEADER + 8:
            raise FileFormatError(path, f"a file of another kind, which begins with {first!r}", expected, _REMEDY)
        if length > size - 8:
            raise FileFormatError(path, "a file that is cut short, or of another kind", expected, _REMEDY)
        raw = file.read(length)
    start = 8 + length
    try:
        header = _parsed(raw)
        metadata = header.pop("__metadata__", None)
        kind, version, description, checksum = _metadata(metadata, kinds)
        types = _types(header, size - start)
        found = {name: metadata[name] for name in ("kind", "version", "description")}
        return Archive(path, description, version, types, kind.name, start, checksum, _checksum_of(found, header))
    except _FoundError as wrong:
        raise wrong.kind(path, wrong.args[0], expected, wrong.remedy) from None


class NewerVersionError(FileFormatError):
    """A newer release of this package wrote the file."""


class _FoundError(Exception):
    """What is wrong with a header, in words."""

    def __init__(self, found: str, remedy: str = _REMEDY, kind: type[FileFormatError] = FileFormatError) -> None:
        super().__init__(found)
        self.remedy, self.kind = remedy, kind


def _parsed(text: str | bytes) -> dict[str, Any]:
    """A JSON object without repeated names."""
    try:
        found = json.loads(text, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, a number of a million digits, or too deep
        raise _FoundError("a header that is not JSON, or nested too deeply") from None
    if not isinstance(found, dict):
        raise _FoundError(f"a header that is a {type(found).__name__}")
    return found


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _FoundError("a name that occurs twice")
    return found


def _metadata(metadata: Any, kinds: Sequence[Kind]) -> tuple[Kind, int, dict[str, Any], int]:
    """Kind, version, description and checksum."""
    kind = next((kind for kind in kinds if isinstance(metadata, dict) and metadata.get("kind") == kind.name), None)
    if kind is None:
        named = metadata.get("kind") if isinstance(metadata, dict) else None
        if isinstance(named, str):
            raise _FoundError(f"a {named[:60]}", _USES.get(named, _REMEDY))
        raise _FoundError("a safetensors file of another program")
    numbers = [metadata.get(name) for name in ("version", "crc32")]
    if not all(isinstance(number, str) and re.fullmatch(r"[0-9]{1,10}", number) for number in numbers):
        raise _FoundError("a header without version or checksum")
    version, checksum = (int(str(number)) for number in numbers)
    if version > kind.version:
        raise _FoundError(
            f"version {version} of it, which a newer release of hessianfree wrote; this one reads up to {kind.version}",
            "install that release: pip install --upgrade hessianfree-jax",
            NewerVersionError,
        )
    description = metadata.get("description")
    if not isinstance(description, str):
        raise _FoundError("a header without a description")
    return kind, version, _parsed(description), checksum


def _types(entries: dict[str, Any], data_bytes: int) -> dict[str, ArrayType]:
    """Type and shape of each array, once they fill the file exactly, each from where the last one ends."""
    found: dict[str, ArrayType] = {}
    end = 0
    for name, entry in entries.items():
        if why := _wrong_name(name):
            raise _FoundError(f"an array called {name[:60]!r}, {why}")
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _FoundError(f"an array {name!r} without type, shape and place")
        dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        shape, place = entry["shape"], entry["data_offsets"]
        if dtype is None or not _are_sizes(shape) or len(shape) > 32 or not _are_sizes(place) or len(place) != 2:
            raise _FoundError(f"an array {name!r} of an impossible type, shape or place")
        if dtype.itemsize * math.prod(size or 1 for size in shape) >= 1 << 63:  # numpy makes none, not even if empty
            raise _FoundError(f"an array {name!r} of an impossible shape")
        found[name] = ArrayType(dtype, tuple(shape))
        start, end = end, end + found[name].nbytes
        if place != [start, end] or end > data_bytes:
            raise _FoundError(f"an array {name!r} of shape {shape} that does not fit into the file")
    if end != data_bytes:
        raise _FoundError(f"{data_bytes - end:,} bytes that belong to no array")
    return found


def _are_sizes(value: Any) -> bool:
    """Whether this is a list of whole numbers from 0 up."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)


def _wrong_name(name: str) -> str:
    """Why an array may not be called that; empty if it may. Names are no paths here, but elsewhere they may become one.

    Example:
        >>> _wrong_name("state/0"), _wrong_name("../x")
        ('', 'which could be the path of another folder')
    """
    if not 0 < len(name) <= 500 or not name.isprintable():
        return "which is empty, long, or has characters that cannot be printed"
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            return "which could be the path of another folder"
    return ""
