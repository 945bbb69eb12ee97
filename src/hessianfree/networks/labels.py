"""Class labels as targets: what labels are, which outputs take them, and the ones and zeros that they stand for.

Labels are whole numbers, booleans or strings, one for each example, (N,); over time one for each timestep, (N, T), or
one for the whole sequence, (N,), which counts at the last timestep alone. A network with Softmax outputs has one class
per unit, one with a single Logistic unit has two: the unit gives the probability of the second.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hessianfree.engine.numbers import is_number, is_whole
from hessianfree.networks.parts.interfaces import Nonlinearity
from hessianfree.networks.parts.nonlinearities import Continuous, Logistic, Softmax

Floats = NDArray[Any]
_FORMS = {"i": "whole numbers", "b": "booleans", "U": "strings"}
#: Classes that a message lists at most.
_LISTED = 10


class Labels(NamedTuple):
    """What the outputs of a network stand for.

    Attributes:
        classes: the labels in the order of the outputs, (K,).
        of_sequences: whether there is one label for a whole sequence, which counts at its last timestep.
    """

    classes: NDArray[Any]
    of_sequences: bool = False


class OutputLayer(NamedTuple):
    """The last layer of a network: its nonlinearity, its units, and whether the network works on sequences."""

    layer: Nonlinearity
    units: int
    over_time: bool

    @property
    def nonlinearity(self) -> Nonlinearity:
        """What is applied last."""
        return self.layer.base if isinstance(self.layer, Continuous) else self.layer

    @property
    def is_softmax(self) -> bool:
        """Whether the outputs are the probabilities of classes that exclude each other."""
        return isinstance(self.nonlinearity, Softmax)

    @property
    def is_logistic(self) -> bool:
        """Whether each output is the probability of a yes."""
        return isinstance(self.nonlinearity, Logistic)

    @property
    def n_classes(self) -> int:
        """How many classes the outputs tell apart; 0 if they take no labels."""
        if self.is_softmax:
            return self.units
        return 2 if self.is_logistic and self.units == 1 else 0

    @property
    def words(self) -> str:
        """The layer in words."""
        return f"{type(self.layer).__name__} with {self.units} unit{'s' * (self.units != 1)}"


# ---- what labels are -------------------------------------------------------------------------------------------------


def labels_among(targets: Any, output: OutputLayer) -> NDArray[Any] | None:
    """Targets as an array of labels, of booleans, int64 or strings; None if they are numbers for each output.

    Raises:
        TypeError: if labels are of several kinds, or for an output layer that takes none.
        ValueError: if some are missing, they have too many axes, or they are floats.
    """
    if isinstance(targets, np.ma.MaskedArray):
        return None  # which the checks of numbers refuse
    array = np.asarray(targets)
    if array.size == 0:
        return None
    if array.dtype.kind == "U" and isinstance(targets, (list, tuple)):
        array = np.asarray(targets, object)  # numpy makes strings of numbers beside them
    as_labels = array.ndim == 1 or (output.over_time and array.ndim == 2)
    if array.dtype.kind == "f" and as_labels and output.n_classes:
        raise ValueError(_of_floats(array, output))
    in_column = array.ndim == 2 + output.over_time and array.shape[-1] == 1 < output.n_classes == output.units
    if array.dtype.kind in "biu":
        found = _whole(array) if as_labels or in_column else None
    else:
        found = _of_objects(array, as_labels) if array.dtype.kind in "OUST" else None
    if found is None:
        return None
    if not as_labels:
        expected = "(examples,) or (examples, timesteps)" if output.over_time else "(examples,)"
        raise ValueError(
            f"The targets are labels of shape {array.shape}; {expected} is expected"
            + (": targets[..., 0]." if array.shape[-1] == 1 else ".")
        )
    if not output.n_classes:
        raise _not_for(found, output)
    return found


def _whole(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "b":
        return array
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"The targets are labels up to {array.max()}; they must fit into int64.")
    return array.astype(np.int64)


def _of_objects(array: NDArray[Any], as_labels: bool) -> NDArray[Any] | None:
    """Labels among strings and objects; None for objects that are none, which the checks of numbers refuse."""
    values = array.astype(object).ravel().tolist()
    if not as_labels and not any(isinstance(value, str) for value in values):
        return None
    if missing := [place for place, value in enumerate(values) if _is_missing(value)]:
        raise ValueError(
            f"{len(missing)} of the {len(values)} labels are missing, the first at {missing[0]}; leave these examples "
            "out, or give targets of ones and zeros with NaN where nothing is known."
        )
    kinds = {_kind(value): value for value in reversed(values)}
    if len(kinds) > 1:
        given = ", ".join(f"{value!r} ({type(value).__name__})" for value in list(kinds.values())[:3])
        raise TypeError(f"The labels are of several kinds: {given}; give all as strings or all as whole numbers.")
    kind = next(iter(kinds))
    if kind == "bytes":
        raise TypeError(f"The labels are bytes, {values[0]!r} the first; decode them: np.char.decode(labels).")
    return np.array(values, {"U": str, "b": bool, "i": np.int64}[kind]).reshape(array.shape) if kind in "Ubi" else None


def _kind(value: Any) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "b"
    if is_whole(value):
        return "i"
    return "U" if isinstance(value, str) else type(value).__name__


def _is_missing(value: Any) -> bool:
    """None, NaN, and what pandas writes for a missing value, which is not even equal to itself."""
    if value is None or (is_number(value) and value != value):
        return True
    return type(value).__name__ in ("NAType", "NaTType")


def _of_floats(array: NDArray[Any], output: OutputLayer) -> str:
    """What to do about floats in the shape of labels."""
    known = array[~np.isnan(array)]
    given = f"The targets are {array.dtype} of shape {array.shape}"
    column = _in_column(array, output)
    if (known % 1 != 0).any():
        width = "(examples, timesteps, " if output.over_time else "(examples, "
        return (
            f"{given}. Labels are whole numbers, booleans or strings, and targets of numbers have one for each output, "
            f"{width}{output.units}).{column}"
        )
    if len(known) < array.size:
        return (
            f"{given}, {array.size - len(known)} of them NaN. Labels have no gaps: leave these examples out, and make "
            f"the others whole numbers by array.astype(int).{column}"
        )
    return f"{given}. As labels make them whole numbers by array.astype(int), or strings.{column}"


def _in_column(array: NDArray[Any], output: OutputLayer) -> str:
    """How an array in the shape of labels becomes targets of numbers."""
    if output.units != 1 or array.ndim != 1 + output.over_time:
        return ""
    return f" As numbers in a column give array[{':, ' * array.ndim}None]."


def _not_for(labels: NDArray[Any], output: OutputLayer) -> Exception:
    """What to do about labels for an output layer that takes none."""
    form = _FORMS[labels.dtype.kind]
    numbers = _in_column(labels, output) if form != "strings" else ""
    message = (
        f"The targets are {form} of shape {labels.shape}, as labels are, but the output layer is {output.words}. "
        f"Softmax outputs, one unit per class, or one Logistic unit take labels.{numbers}"
    )
    return TypeError(message) if form == "strings" else ValueError(message)


# ---- classes ---------------------------------------------------------------------------------------------------------


def given_classes(classes: Any, output: OutputLayer) -> NDArray[Any]:
    """Classes that a user sets, checked.

    Raises TypeError if they are not labels, or the output layer takes none, ValueError if there is not one for each
    output, or two are equal.
    """
    found = labels_among(classes, output) if np.ndim(classes) == 1 else None
    if found is None:
        raise TypeError(f"classes is {str(classes)[:100]}; a list of whole numbers, booleans or strings is expected.")
    if len(np.unique(found)) != len(found):
        raise ValueError(f"classes lists a label twice: {_listed(found)}.")
    if len(found) != output.n_classes:
        raise ValueError(f"classes lists {len(found)} labels, {_listed(found)}; {_expected_count(output)}.")
    return found


def classes_among(pieces: Iterable[Any], output: OutputLayer) -> NDArray[Any]:
    """The classes of labels that come in pieces, as `read` finds them in all of them."""
    found = (labels_among(piece, output) for piece in pieces)
    return _inferred(np.unique(np.concatenate([np.unique(piece) for piece in found if piece is not None])), output)


def _inferred(labels: NDArray[Any], output: OutputLayer) -> NDArray[Any]:
    """The classes of the first labels: those that appear, sorted; whole numbers from 0 also if some do not appear."""
    found, count = np.unique(labels), output.n_classes
    if len(found) == count:
        return found
    if labels.dtype.kind == "b" and count == 2:
        return np.array([False, True])
    if labels.dtype.kind == "i" and found[0] >= 0 and found[-1] < count:
        return np.arange(count)
    if len(found) < count:
        advice = f"set net.classes to all {count} in the order of the outputs, or give the network fewer outputs"
    else:
        advice = f"let the network end with {len(found)} Softmax units, one per class"
    raise ValueError(
        f"The targets have {len(found)} class{'es' * (len(found) != 1)}, {_listed(found)}, but "
        f"{_expected_count(output)}; {advice}."
    )


def _expected_count(output: OutputLayer) -> str:
    stands = "one for each unit" if output.is_softmax else "for no and yes"
    return f"the output layer, {output.words}, has {output.n_classes}, {stands}"


def _listed(classes: NDArray[Any]) -> str:
    shown = ", ".join(map(repr, classes[:_LISTED].tolist()))
    return shown if len(classes) <= _LISTED else f"{shown}, ... ({len(classes)} in all)"


# ---- ones and zeros --------------------------------------------------------------------------------------------------


class Read(NamedTuple):
    """Targets as numbers for each output, and the labels that they were, None where they were numbers."""

    targets: Any
    labels: Labels | None


def read(targets: Any, output: OutputLayer, steps: int, known: Labels | None, dtype: DTypeLike) -> Read:
    """Targets as numbers for each output: those given, or ones and zeros for labels.

    Args:
        targets: labels or numbers.
        output: the last layer.
        steps: timesteps of a sequence.
        known: the classes, if they are known.
        dtype: of the ones and zeros.

    Raises:
        TypeError, ValueError: if labels do not fit the output layer or the classes that are known; see `labels_among`.

    Example:
        >>> read(["no", "yes", "no"], OutputLayer(Softmax(), 2, False), 1, None, float).targets
        array([[1., 0.],
               [0., 1.],
               [1., 0.]])
    """
    labels = labels_among(targets, output)
    if labels is None:
        return Read(targets, None)
    classes = _inferred(labels, output) if known is None else known.classes
    places = _places(labels, classes)
    ones = np.eye(len(classes), dtype=dtype)[:, -output.units :][places]  # one Logistic unit says the second class
    whole = output.over_time and labels.ndim == 1
    if whole:
        last, ones = ones, np.full((len(ones), steps, output.units), np.nan, dtype)
        ones[:, -1] = last
    return Read(ones, Labels(classes, whole))


def _places(labels: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.intp]:
    """Where each label is among the classes; raises ValueError if some are not there."""
    both = {labels.dtype.kind, classes.dtype.kind}
    if both == {"b", "i"}:
        return _places(labels.astype(np.int64), classes.astype(np.int64))
    order = np.argsort(classes)
    if len(both) == 1:
        sorted_classes = classes[order]
        near = np.minimum(np.searchsorted(sorted_classes, labels), len(classes) - 1)
        unknown = np.unique(labels[sorted_classes[near] != labels])
    else:
        unknown = np.unique(labels)
    if unknown.size:
        raise ValueError(
            f"Among the labels are {_listed(unknown)}, but the classes of the network are {_listed(classes)}; before a "
            "run on other labels, net.classes = None makes it forget them."
        )
    return order[near]


def places_of(outputs: Floats) -> NDArray[np.intp]:
    """The class of the largest output of each row; of one output, the second class above 1/2.

    Example:
        >>> places_of(np.array([[0.2, 0.8], [0.6, 0.4]])), places_of(np.array([[0.2], [0.6]]))
        (array([1, 0]), array([0, 1]))
    """
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > 0.5).astype(np.intp)
    return outputs.argmax(axis=-1)
