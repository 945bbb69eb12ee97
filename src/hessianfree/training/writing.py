"""A thread that writes checkpoints while the run goes on."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, TypeAlias

from hessianfree.io import checkpoints as files
from hessianfree.io.trees import Arrays

logger = logging.getLogger("hessianfree")
#: How nice the thread is that writes: it has a third of the share of another thread where both want to run.
PRIORITY = 5
#: What packs a run as it was, for a file.
Snapshot: TypeAlias = Callable[[], tuple[Arrays, dict[str, Any]]]


class Writer:
    """Writes checkpoints in a thread of its own, one after the other; a newer one replaces one that waits."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._waiting: Snapshot | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def write_now(self, packed: Snapshot) -> None:
        """Write, and wait until it is done."""
        files.write(self._path, *packed())

    def write_soon(self, packed: Snapshot) -> None:
        """Write it while the run goes on."""
        with self._lock:
            self._waiting = packed
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hessianfree-checkpoints")
                self._thread.start()

    def finish(self) -> None:
        """Wait until nothing is waiting."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def _work(self) -> None:
        if sys.platform == "linux":  # where threads have priorities of their own: training comes first
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)
        while True:
            with self._lock:
                packed, self._waiting = self._waiting, None
                if packed is None:
                    self._thread = None
                    return
            try:
                self.write_now(packed)
            except Exception as error:  # the run must not end for it, and the next one may succeed
                logger.warning("A checkpoint could not be written, and the one before stays: %s", error)
