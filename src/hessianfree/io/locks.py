"""A lock on a path that the system drops when the process dies, so that no stale lock is ever left behind."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from types import TracebackType


class InUseError(OSError):
    """Another run holds the lock on a path."""


class Lock:
    """Holds a path for one run at a time, by a lock of the operating system on the file `path.lock` beside it.

    Args:
        path: what to hold; it need not exist.

    Raises:
        InUseError: on entering, if another run holds it, in this process or in another one.
        FileExistsError: on entering, if there is such a file that is no lock.
        OSError: if the folder rejects the file.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "run.ckpt")
        >>> with Lock(path):
        ...     with Lock(path):
        ...         pass
        Traceback (most recent call last):
        hessianfree.io.locks.InUseError: ...
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._name = self.path.with_name(f"{self.path.name}.lock")
        self._file: int | None = None
        self._process = 0

    def __enter__(self) -> Lock:
        """Take the lock."""
        while self._file is None:
            file = os.open(self._name, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _take(file)
                # The last holder may have deleted the file between the two lines above: then it is no lock any more.
                if os.path.exists(self._name) and os.path.samestat(os.fstat(file), os.stat(self._name)):
                    if not re.fullmatch(rb"[0-9]*", os.read(file, 100)):
                        raise FileExistsError(f"{self._name} is a file of something else, and no lock; move it away.")
                    self._file = file
            except BlockingIOError:
                holder = os.pread(file, 20, 0).decode(errors="replace") if hasattr(os, "pread") else ""
                raise InUseError(
                    f"{self.path} is in use by another run{f' (process {holder})' if holder else ''}; wait until it is "
                    "over, or choose another path."
                ) from None
            finally:
                if self._file is None:
                    os.close(file)
        self._process = os.getpid()
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        os.write(self._file, str(os.getpid()).encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let it go."""
        assert self._file is not None
        if os.getpid() == self._process:  # not for a forked child: the run that made it still holds the path
            with contextlib.suppress(OSError):  # where open files cannot be deleted, it stays, unlocked
                os.unlink(self._name)
        os.close(self._file)
        self._file = None


if sys.platform == "win32":
    import msvcrt

    def _take(file: int) -> None:
        """Lock an open file, or raise BlockingIOError."""
        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
else:
    import fcntl

    def _take(file: int) -> None:
        """Lock an open file, or raise BlockingIOError."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
