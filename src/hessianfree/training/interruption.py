"""Ctrl-C and SIGTERM while a run keeps checkpoints: the present update is finished, and nothing of it is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interruption:
    """Which signal asked for the end of the run, None as long as none did."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler. A second Ctrl-C does not wait any more."""
        if number == signal.SIGINT and self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal != signal.SIGTERM:  # which Ctrl-C does not take back
            self.signal = number

    def leave(self) -> None:
        """End the process after SIGTERM, as it would have ended: raises SystemExit with 128 + its number."""
        if self.signal == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)


@contextmanager
def deferred(wanted: bool) -> Iterator[Interruption]:
    """Note Ctrl-C and SIGTERM instead of acting on them, where that is possible and wanted.

    It is possible in the main thread, for signals that nothing else handles.
    """
    noted = Interruption()
    before: dict[int, Any] = {}
    usual: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    if wanted and threading.current_thread() is threading.main_thread():
        for number, handler in usual.items():
            if signal.getsignal(number) is handler:
                before[number] = signal.signal(number, noted.note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
