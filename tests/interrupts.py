"""A callback that interrupts a run, for tests of runs that go on."""

from __future__ import annotations


class Interrupts:
    """Ends a run by Ctrl-C after some steps."""

    def __init__(self, steps):
        self.left = steps

    def on_update(self, epoch_number, update, updates, record):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
