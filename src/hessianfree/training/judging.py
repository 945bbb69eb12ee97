"""How a run is judged: what its errors are of, what its numbers are called, and metrics beside the error.

A metric is a number computed from outputs and targets after each epoch: a function (outputs, targets) -> number, or a
loss. Metrics are shown and recorded; they decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.numbers import is_number
from hessianfree.objective import parameters

#: What the error is called, by what it is of.
_NAMES = {"test": "test error", "training": "training error", "updates": "mean training loss", "": "error"}
#: Characters of the name of a metric at most.
_LONGEST = 40


class Evaluated(NamedTuple):
    """What an evaluation found: the error, and the metrics by their names."""

    error: float
    metrics: Mapping[str, float]


class Judged(NamedTuple):
    """What the errors of a run are of, and which of its numbers are shares of the examples.

    Attributes:
        on: "test" for separate data, "training" for the data that it is trained on, "updates" for the mean loss of an
            epoch's updates; empty if that is not known.
        shares: "error", if the error is a share of the examples, and the names of metrics that are.

    Example:
        >>> Judged("test", ("error",)).error(0.021), Judged("training").error(0.021)
        ('test error 2.1 %', 'training error 0.021')
    """

    on: str = ""
    shares: tuple[str, ...] = ()

    @property
    def tested(self) -> bool:
        """Whether errors are those of separate data, so that overfitting shows."""
        return self.on == "test"

    def error(self, value: float) -> str:
        """The error with its name."""
        return self.numbers(value, {})

    def numbers(self, error: float, metrics: Mapping[str, float]) -> str:
        """The error and metrics with their names."""
        return ", ".join(f"{name} {text}" for name, text in self.named(error, metrics))

    def named(self, error: float, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        """Names and texts of the error and the metrics."""
        found = [(_NAMES[self.on], self._written("error", error))]
        return found + [(name, self._written(name, value)) for name, value in metrics.items()]

    def _written(self, name: str, value: float) -> str:
        return percent(value) if name in self.shares else f"{value:.4g}"


def percent(share: float) -> str:
    """A share of the examples, in words that no loss is mistaken for.

    Example:
        >>> percent(0.0195)
        '1.95 %'
    """
    return f"{100 * share:.4g} %"


def checked_metrics(metrics: Any) -> Mapping[str, Any]:
    """The argument `metrics` as a mapping; none for None.

    Raises:
        TypeError: if it is not a mapping from names to something that can be called, a loss or a name.
        ValueError: if a name is "error", empty, long, or has characters that cannot be printed.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise TypeError(
            f"metrics is {str(metrics)[:100]}; a dict is expected, name -> function(outputs, targets) or loss."
        )
    for name in metrics:
        if not isinstance(name, str):
            raise TypeError(f"metrics has the name {name!r}; text is expected.")
        if not 0 < len(name) <= _LONGEST or not name.isprintable() or name == "error":
            raise ValueError(
                f"metrics has the name {name[:100]!r}; 1 to {_LONGEST} characters are expected, and not 'error', which "
                "the test error goes by."
            )
    return metrics


def value_of(name: str, function: Any, outputs: Any, targets: Any) -> float:
    """What a user's function says of outputs and targets, which it cannot change.

    Raises:
        TypeError: if it does not return a number.
    """
    with parameters.users_own():
        found = function(outputs, targets)
    if not is_number(found):
        shown = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else repr(found)[:100]
        raise TypeError(f"The metric {name!r} returned {shown}; one number is expected.")
    return float(found)


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """A view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view
