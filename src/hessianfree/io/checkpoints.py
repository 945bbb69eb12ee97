"""The two newest checkpoints of a run on the disk, each whole or not there.

The newest is at the path, the one before at the path with ".previous" added. Both are archives (archives.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hessianfree.io.archives import Archive, Kind, NewerVersionError, open_archive, write_archive
from hessianfree.io.files import MAX_STEM, FileFormatError, write_atomically
from hessianfree.io.trees import Arrays

CHECKPOINT = Kind("checkpoint", 1)
logger = logging.getLogger("hessianfree")


class Found(NamedTuple):
    """A checkpoint that was read: where, what is said of it, and its arrays."""

    path: Path
    description: dict[str, Any]
    arrays: Arrays


def previous(path: str | os.PathLike[str]) -> Path:
    """Where the checkpoint before the newest is.

    Example:
        >>> previous("run.ckpt").name
        'run.ckpt.previous'
    """
    return Path(f"{os.fspath(path)}.previous")


def check_place(path: object, name: str = "checkpoint", example: str = "run.ckpt") -> None:
    """Check that a file can be at a path; `name` is what messages call it, and `example` a path that would do.

    Raises:
        TypeError: if it is not a path.
        IsADirectoryError: if a folder is there.
        FileNotFoundError: if it is in a folder that does not exist.
        OSError: if its name is too long for that of the checkpoint before.
    """
    if not isinstance(path, (str, os.PathLike)) or isinstance(path, bytes):
        raise TypeError(f"{name} is {path!r}; the path of a file is expected, such as {example!r}.")
    place = Path(path)
    if place.is_dir():
        raise IsADirectoryError(f"{name} is {os.fspath(path)!r}, a folder; give a file in it, such as {example!r}.")
    if not place.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{name} is {os.fspath(path)!r}, but there is no folder {str(place.parent)!r}; make it first."
        )
    with contextlib.suppress(FileNotFoundError):
        os.lstat(previous(os.path.realpath(place)))


def write(path: str | os.PathLike[str], arrays: Arrays, description: Mapping[str, Any]) -> None:
    """Write a checkpoint; the one at the path becomes the previous one.

    Args:
        path: the file.
        arrays: by name.
        description: what JSON can hold.

    Raises:
        OSError: if the folder or the disk rejects the file; both older checkpoints are then as they were.

    Example:
        >>> import numpy as np, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "run.ckpt")
        >>> for update in range(3):
        ...     write(path, {"x": np.full(2, update)}, {"update": update})
        >>> newest(path).description, read(previous(path)).arrays["x"]
        ({'update': 2}, array([1, 1]))
    """
    write_atomically(path, lambda file: write_archive(file, CHECKPOINT, arrays, description), previous(path))


def read(path: str | os.PathLike[str], accept: Callable[[Archive], object] = lambda archive: None) -> Found:
    """Read one checkpoint, its arrays only after `accept` has seen the header. Raises as `open_archive` does."""
    archive = open_archive(path, CHECKPOINT)
    accept(archive)
    try:
        return Found(Path(path), archive.description, archive.arrays())
    except MemoryError:
        raise FileFormatError(path, "more than fits in memory", "a checkpoint", "give another file") from None


def newest(path: str | os.PathLike[str], accept: Callable[[Archive], object] = lambda archive: None) -> Found | None:
    """The newest checkpoint that is whole, or None if there is none at all.

    Where the newest is damaged or no checkpoint, the one before is read, and a warning is logged.

    Args:
        path: of the newest.
        accept: sees the header before anything large is read; a FileFormatError of it is taken for damage.

    Raises:
        NewerVersionError: if a newer release of this package wrote it.
        FileFormatError: if there are files, and none of them is a whole checkpoint.
    """
    places = [place for place in (Path(path), previous(path)) if place.exists()]
    faults: list[FileFormatError] = []
    for place in places:
        try:
            found = read(place, accept)
        except NewerVersionError:
            raise
        except FileNotFoundError:  # a run that goes on has just moved it to the place before
            continue
        except FileFormatError as fault:
            faults.append(fault)
            continue
        if place != Path(path):
            what = f"{faults[0].args[1]} is" if faults else "nothing is"
            logger.warning("%s at %s; the run goes on from the checkpoint before, %s.", what, path, place)
        return found
    if faults:
        raise faults[0]
    return None


def remove_unfinished(path: str | os.PathLike[str]) -> None:
    """Delete what writers left behind that were killed; call it while you hold the lock."""
    target = Path(os.path.realpath(path))
    if len(target.name) > MAX_STEM:
        return  # cut short in the names of temporary files: they may be those of another run
    leftover = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.(tmp|link)")
    for name in os.listdir(target.parent):
        if leftover.fullmatch(name):
            with contextlib.suppress(OSError):
                os.unlink(target.with_name(name))
