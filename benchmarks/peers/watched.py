"""The curve of a run of somebody else's code: what is known of the solution, a clock, and the end of the run.

Seconds are those of the processor, over all threads. On one core that does nothing else they pass as time does, and
other work on that core changes them little. What has passed on the wall is in the curve too.
"""

import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

#: The error is computed when this part of the time so far has passed again.
APART = 0.02


def clocks() -> Any:
    """Seconds of the processor and on the wall."""
    return np.array([time.process_time(), time.perf_counter()])


class TimeUpError(Exception):
    """The time is up."""


class Watch:
    """The curve of a run; its clocks stand still while errors are computed.

    Args:
        path: file of numpy with points (n, d), values (n,) of the solution there, and what the root of the mean square
            of the differences is divided by, as "scale".
        seconds: for the run.
    """

    def __init__(self, path: str, seconds: float) -> None:
        with np.load(path) as known:
            self.points, self.values, self.scale = known["points"], known["values"], float(known["scale"])
        self.limit = seconds
        self.curve: list[dict[str, float]] = []
        self.updates = 0
        self.began = clocks()

    def begin(self) -> None:
        """Start the clocks."""
        self.began = clocks()

    def look(self, predict: Callable[[Any], Any], updates: int = 1) -> None:
        """Count updates, and add a point unless the last is close.

        Args:
            predict: the network's values, n numbers in any shape, at points (n, d).
            updates: since the last look.

        Raises:
            TimeUpError: if the time is up.
        """
        now, wall = (clocks() - self.began).tolist()
        self.updates += updates
        over = now > self.limit
        if over or not self.curve or now > (1 + APART) * self.curve[-1]["seconds"]:
            point = {"seconds": now, "updates": self.updates, "test error": self.error(predict)}
            self.curve.append({**point, "wall seconds": wall})
            told = f"{now:8.1f} s ({wall:.1f} on the wall)  {self.updates:7} updates  {point['test error']:.2e}"
            print(told, file=sys.stderr, flush=True)
            self.began = clocks() - [now, wall]
        if over:
            raise TimeUpError

    def error(self, predict: Callable[[Any], Any]) -> float:
        """Root of the mean square of the differences from the solution, divided by the scale."""
        found = np.asarray(predict(self.points), np.float64).ravel()
        return float(np.sqrt(np.mean((found - self.values) ** 2)) / self.scale)

    def found(self, parameters: int, *packages: str) -> dict[str, Any]:
        """What a script prints at last: the curve, the size of the network, and versions of packages."""
        return {"curve": self.curve, "parameters": parameters, "versions": {name: version(name) for name in packages}}
