"""What a run knew of its data and its network: kept in its result, so that the result alone tells what was wrong."""

from __future__ import annotations

from typing import Any, NamedTuple


class Inputs(NamedTuple):
    """The columns of the inputs, over the rows that were looked at. A range is the largest value less the smallest."""

    rows: int
    columns: int
    constant: int  # columns that hold one value
    widest: float  # the largest range
    widest_column: int
    narrowest: float  # the smallest range of a column that is not constant
    narrowest_column: int
    offset: float  # the largest distance of a column's middle from zero, in units of its range
    offset_column: int
    largest: float  # the largest magnitude
    largest_column: int


class Targets(NamedTuple):
    """The targets beside the values that the output layer can have."""

    layer: str  # the class of the output layer
    lowest: float
    highest: float
    lower: float | None  # bound of the outputs, None where there is none
    upper: float | None
    outside: float  # share of the targets clearly beyond the bounds


class Units(NamedTuple):
    """How much slope the units of a hidden layer have left, over the examples that were looked at."""

    layer: int
    name: str  # the class of the layer
    units: int
    examples: int
    idle: int  # units without slope at any example
    flat: float  # share of all units and examples without slope


class Said(NamedTuple):
    """What another check has found, in words, and what it advises."""

    seen: str
    remedy: str


class Facts(NamedTuple):
    """What is known of a run besides its records; None where it is not known."""

    network: bool = False  # whether a network was trained
    tested: bool | None = None  # whether test errors are those of separate data
    examples: int | None = None
    batch: int | None = None  # examples in an update
    timesteps: int | None = None  # of a recurrent network
    constant_loss: float | None = None  # the training loss of the best outputs that are the same for all examples
    commonest: float | None = None  # share of the commonest class
    inputs: Inputs | None = None
    targets: Targets | None = None
    layers: tuple[Units, ...] = ()
    expansive: Said | None = None

    def filled(self, other: Facts) -> Facts:
        """These facts, completed by those of another look."""
        known = {name: value for name, value in self._asdict().items() if value not in (None, ())}
        return other._replace(**known)


def plain(facts: Facts) -> dict[str, Any]:
    """Facts as dicts and tuples of numbers and text.

    Example:
        >>> from_plain(plain(Facts(tested=True, expansive=Said("large", "draw smaller")))).expansive.remedy
        'draw smaller'
    """
    found = facts._asdict()
    for name in _RECORDS:
        found[name] = None if found[name] is None else found[name]._asdict()
    found["layers"] = tuple(units._asdict() for units in facts.layers)
    return found


_RECORDS: dict[str, type[Any]] = {"inputs": Inputs, "targets": Targets, "expansive": Said}


def from_plain(found: dict[str, Any]) -> Facts:
    """The facts of these dicts; raises TypeError if a field is missing or unknown."""
    given = dict(found)
    for name, kind in _RECORDS.items():
        given[name] = None if given.get(name) is None else kind(**given[name])
    given["layers"] = tuple(Units(**units) for units in given.get("layers", ()))
    return Facts(**given)
