"""What follows a fit: its losses, the best weights so far, and when nothing more is gained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]

#: How a fit may end as it should.
CONVERGED, OUT_OF_TIME = "nothing more was gained", "the time is over"


class Monitor:
    """Notes each iteration of a fit, and says when it ends.

    The fit is judged by the loss of the validation data where there are any, else by that of the training data. It has
    converged when `patience` iterations together did not lower that loss by more than the share `tol`.

    Args:
        tol: the share, >= 0.
        patience: iterations, at least 1.
        validation: the loss of the validation data at some weights, None without such data.
        max_seconds: seconds from now on after which the present iteration is the last; None for no limit.
        verbose: whether to print a line for each iteration.

    Attributes:
        losses: of the training data, after each iteration.
        validation_losses: of the validation data, likewise; empty without any.
        best: the lowest loss so far, of the data that the fit is judged by.
        weights: where it was.
        ending: why the fit ended, in words; empty if nothing ended it.
    """

    def __init__(
        self,
        tol: float,
        patience: int,
        validation: Callable[[Floats], float] | None = None,
        max_seconds: float | None = None,
        verbose: bool = False,
    ) -> None:
        self.tol, self.patience, self.validation, self.verbose = tol, patience, validation, verbose
        self.max_seconds, self.began = max_seconds, time.perf_counter()
        self.losses: list[float] = []
        self.validation_losses: list[float] = []
        self.best, self.weights = math.inf, np.zeros(0)
        self.ending = ""
        self._level, self._stalled = math.inf, 0

    def note(self, loss: float, weights: Floats) -> bool:
        """Note an iteration that led to these weights, and to this loss of the training data.

        Returns:
            Whether the fit ends here.
        """
        self.losses.append(loss)
        judged = loss
        if self.validation is not None:
            judged = self.validation(weights)
            self.validation_losses.append(judged)
        if judged < self.best:  # never true for NaN
            self.best, self.weights = judged, np.array(weights, float)
        enough = self._level - self.tol * abs(self._level) if math.isfinite(self._level) else math.inf
        if judged < enough:
            self._level, self._stalled = judged, 0
        else:
            self._stalled += 1
        seconds = time.perf_counter() - self.began
        if self.verbose:
            print(self._line(seconds))
        if self._stalled >= self.patience:
            self.ending = CONVERGED
        elif self.max_seconds is not None and seconds > self.max_seconds:
            self.ending = OUT_OF_TIME
        return bool(self.ending)

    def _line(self, seconds: float) -> str:
        validation = f", validation loss {self.validation_losses[-1]:.4g}" if self.validation_losses else ""
        return f"iteration {len(self.losses)}: loss {self.losses[-1]:.4g}{validation} ({seconds:.1f} s)"
