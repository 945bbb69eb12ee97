"""What is computed of a network's activations when it is judged: losses, metrics of the user's own, the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from hessianfree.networks import arguments
from hessianfree.networks.core import Floats
from hessianfree.networks.parts.loss_funcs import BY_NAME, ClassificationError, LossFunction, named
from hessianfree.networks.scores import accuracy
from hessianfree.training.judging import Evaluated, checked_metrics, read_only, value_of


class Measure(NamedTuple):
    """A number that is computed of activations.

    Attributes:
        of: from the activations of all layers, targets, and weights of the examples or None.
        hidden: whether it looks at other activations than the outputs; if not, the others may be None.
    """

    of: Callable[[Sequence[Any], Floats, Floats | None], float]
    hidden: bool = False


#: Flat weights, the network's own for None -> error and metrics.
Evaluation = Callable[[ArrayLike | None], Evaluated]
Measures = Mapping[str, Measure]
NONE: Measures = {}


class LookedAt(NamedTuple):
    """Which activations an evaluation looks at: the outputs, and those of all layers."""

    output: bool
    hidden: bool


def looked_at(loss: LossFunction | None, measures: Measures) -> LookedAt:
    """What a loss, if any, and measures look at."""
    return LookedAt(bool(measures), loss is not None or any(measure.hidden for measure in measures.values()))


def mean_loss(loss: LossFunction, activities: Sequence[Any], t: Floats, weights: Floats | None) -> float:
    """The loss, averaged over the examples by their weights."""
    if weights is None:
        return float(loss.batch_loss(activities, t))
    terms = [np.asarray(term, float) for term in loss.loss(activities, t) if term is not None]
    values = sum((term.reshape(len(t), -1).sum(axis=1) for term in terms), np.zeros(len(t)))
    return float(np.average(values, weights=weights))


def measures_of(metrics: Any, labelled: bool, units: int) -> dict[str, Measure]:
    """The argument `metrics` of a run, after the accuracy where targets are labels.

    Raises TypeError or ValueError if a metric is neither a function nor a loss that outputs of so many units can have.
    """
    found = {"accuracy": Measure(lambda a, t, weights: accuracy(a[-1], t, weights))} if labelled else {}
    return found | {name: _measure(name, metric, units) for name, metric in checked_metrics(metrics).items()}


def _measure(name: str, metric: Any, units: int) -> Measure:
    if isinstance(metric, (LossFunction, str)):
        loss = arguments.test_loss(f"The metric {name!r}", metric, units)
        return Measure(partial(mean_loss, loss), hidden=not getattr(type(loss).loss, "output_only", False))
    if isinstance(metric, type) or not callable(metric):
        hint = " (give an instance: write its parentheses)" if isinstance(metric, type) else ""
        raise TypeError(
            f"The metric {name!r} is {metric!r}{hint}; a function (outputs, targets) -> number is expected, or a loss "
            f"or its name: {', '.join(map(repr, BY_NAME))}."
        )
    return Measure(lambda a, t, weights: value_of(name, metric, read_only(a[-1]), read_only(t)))


def shares_of(test_err: LossFunction | None, metrics: Any, labelled: bool, one_each: bool) -> tuple[str, ...]:
    """The names of what is a share of the examples, see `Judged`: the error may be one.

    A classification error is, if each example counts once at most; over time it counts the mistakes of a sequence.
    """
    given: Mapping[str, Any] = checked_metrics(metrics)
    kinds = {"error": test_err, **given}
    mistakes = [name for name, kind in kinds.items() if isinstance(named(kind), ClassificationError)]
    return (*(mistakes if one_each else []), *(["accuracy"] if labelled and "accuracy" not in given else []))
