"""Write files completely or not at all, read them up to a limit, and reject them with one kind of exception."""

import contextlib
import os
import secrets
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
#: Characters of a file's name at most that are in the name of its temporary file.
MAX_STEM = 100


class FileFormatError(ValueError):
    """A file is damaged, hostile or of another kind than expected.

    The message names the file, what was found, what was expected and what to do.

    Args:
        path: the file.
        found: what the file holds.
        expected: what it should hold.
        remedy: what the reader of the message can do.

    Example:
        >>> print(FileFormatError("a.pkl", "an empty file", "a pickle", "copy it again"))
        a.pkl: found an empty file; expected a pickle. To fix it: copy it again.
    """

    def __init__(self, path: str | os.PathLike[str], found: str, expected: str, remedy: str) -> None:
        """Keep the four parts as `args`, so that the error itself can be copied between processes."""
        super().__init__(os.fspath(path), found, expected, remedy)

    def __str__(self) -> str:
        """Join the four parts into one sentence and a remedy."""
        path, found, expected, remedy = self.args
        return f"{path}: found {found}; expected {expected}. To fix it: {remedy}."


def write_atomically(
    path: str | os.PathLike[str],
    write: Callable[[BinaryIO], object],
    previous: str | os.PathLike[str] | None = None,
) -> None:
    """Write a file whole or not at all.

    Writes a temporary file in the same folder, waits until it is on the disk, and only then renames it to `path`. If
    anything fails before that, an older file at `path` stays as it was, and the temporary file is removed.

    Args:
        path: the file to write. Follows a symbolic link and keeps the permissions of an older file.
        write: is called once with a binary file open for writing.
        previous: where to keep the older file, if there is one. Where the file system has links, there is a whole file
            at `path` at every moment.

    Raises:
        FileNotFoundError: if the folder does not exist.
        OSError: if the folder or the disk rejects the file.
        Exception: whatever `write` raises.

    Example:
        >>> import os, tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_atomically(os.path.join(folder, "note.txt"), lambda file: file.write(b"whole"))
        >>> Path(folder, "note.txt").read_bytes()
        b'whole'
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"cannot write {path}: there is no folder {target.parent}; create it first or choose another path"
        )
    # Not tempfile.mkstemp: its files are private to the user (0600) and would stay private after the renaming.
    temporary = target.with_name(f".{target.name[:MAX_STEM]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut after the renaming can leave an empty file
        if target.exists():
            shutil.copymode(target, temporary)
            if previous is not None:
                _keep(target, previous, temporary.with_suffix(".link"))
        os.replace(temporary, target)
    except BaseException:  # an interrupt must clean up too
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        raise
    _settle(target.parent)


def _keep(target: Path, previous: str | os.PathLike[str], link: Path) -> None:
    """Let a file have another name too, in place of what has that name."""
    try:
        os.link(target, link)
        os.replace(link, previous)
    except OSError:  # no links on this file system
        os.replace(target, previous)
    with contextlib.suppress(FileNotFoundError):
        link.unlink()  # the renaming does nothing if both names are of one file already


def _settle(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the system can say so."""
    with contextlib.suppress(OSError):  # not on Windows, nor on every network file system
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def check_is_file(path: str | os.PathLike[str], expected: str) -> None:
    """Reject a path that is not an ordinary file; `expected` is what it should hold, for the message.

    Raises FileNotFoundError if nothing is there, and FileFormatError for a folder, a pipe or a device: reading it might
    never end.

    Example:
        >>> check_is_file("no-such.pkl", "a pickle")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileNotFoundError: no file no-such.pkl (looked in ...); expected a pickle; check the path
    """
    if not os.path.exists(path):
        where = Path(os.path.abspath(path)).parent
        raise FileNotFoundError(f"no file {os.fspath(path)} (looked in {where}); expected {expected}; check the path")
    if not os.path.isfile(path):
        folder = os.path.isdir(path)
        found, within = ("a folder", " in it") if folder else ("a device or a pipe", "")
        raise FileFormatError(path, found, expected, f"give the path of a file{within}")


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int, expected: str) -> bytes:
    """Read a file, plain or gzipped, but never more than a given size.

    Args:
        path: the file; gzip is recognised by its first bytes, whatever the name.
        max_bytes: the largest decompressed size to accept, in bytes.
        expected: what the file should hold, for the message.

    Returns:
        The bytes, decompressed.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it is not an ordinary file, is a damaged gzip file, or holds more than `max_bytes`.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "note.txt")
        >>> write_atomically(path, lambda file: file.write(b"whole"))
        >>> read_bytes(path, max_bytes=100, expected="a note")
        b'whole'
    """
    import gzip

    check_is_file(path, expected)
    try:
        with open(path, "rb") as plain:
            compressed = plain.read(2) == _GZIP_MAGIC
            plain.seek(0)
            data = _read_at_most(gzip.GzipFile(fileobj=plain) if compressed else plain, max_bytes)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        found = f"a truncated or damaged gzip file ({error})"
        raise FileFormatError(path, found, expected, "copy or download the file again") from None
    if len(data) > max_bytes:
        remedy = f"raise the limit of {max_bytes:,} bytes (max_bytes) only if you trust the file"
        raise FileFormatError(path, f"more than {max_bytes:,} bytes once decompressed", expected, remedy)
    return data


def _read_at_most(file: Any, max_bytes: int) -> bytes:
    """Read up to one byte more than `max_bytes`, so that the caller notices a file that is too long."""
    data = bytearray()
    while len(data) <= max_bytes and (chunk := file.read(min(_CHUNK, max_bytes + 1 - len(data)))):
        data += chunk
    return bytes(data)
