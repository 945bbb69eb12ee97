"""One setting of a training run: what it means, which values it takes, and what is said of others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hessianfree.console.shell import WrongUsageError
from hessianfree.support.names import unknown_name

#: What a value is, in words and with an example, by its kind.
_KINDS: dict[type, tuple[str, str]] = {
    str: ("text", '"text"'),
    int: ("a whole number", "10"),
    float: ("a number", "0.5"),
    bool: ("true or false", "true"),
}


@dataclass(frozen=True)
class Setting:
    """One setting: what it means, and which values it takes.

    Attributes:
        name: of the option without dashes, and of the key in a file.
        group: heading in the help, and comment in the file.
        help: what it means.
        kind: str, int, float or bool.
        several: whether it takes several values; on the command line separated by commas, or by repeating the option.
        repeated: whether it is repeated, because commas may be part of a value.
        choices: the values that there are; the case of letters does not count.
        least: the smallest number, with `above` one that is too small.
        above: see `least`.
        below: a number that is too large.
        metavar: stands for the value in the help.
        default: in words, where it depends on other things.
    """

    name: str
    group: str
    help: str
    kind: type = str
    several: bool = False
    repeated: bool = False
    choices: tuple[str, ...] = ()
    least: float = -math.inf
    above: bool = False
    below: float = math.inf
    metavar: str = ""
    default: str = ""

    @property
    def attribute(self) -> str:
        """Its name in `TrainSettings`."""
        return self.name.replace("-", "_")

    def checked(self, value: Any, where: str) -> Any:
        """A value of the right type and in range; a tuple for several.

        Raises:
            WrongUsageError: if it is not one, naming `where` it is from, what is given and what is expected.
        """
        if self.several:
            values = list(value) if isinstance(value, (list, tuple)) else [value]
            return tuple(self._one(item, where) for item in values)
        return self._one(value, where)

    def parsed(self, text: str | Sequence[str], where: str) -> Any:
        """The value of an option on the command line, checked."""
        if not self.several:
            return self.checked(self._literal(text) if isinstance(text, str) else text, where)
        words = [text] if isinstance(text, str) else list(text)
        if not self.repeated:
            words = [part.strip() for word in words for part in word.split(",")]
        return self.checked([self._literal(word) for word in words], where)

    def _literal(self, word: str) -> Any:
        try:
            return self.kind(word)
        except ValueError:
            return word

    def _one(self, value: Any, where: str) -> Any:
        words, example = _KINDS[self.kind]
        given = type(value)
        if self.kind is float and given is int:
            value, given = float(value), float
        if given is not self.kind or value != value:  # NaN
            example = repr(self.choices[0]) if self.choices else example
            several = f"one or several, such as {f'{example},{example}' if where == '--' else f'[{example}]'}"
            some = several if self.several else f"such as {example}"
            raise WrongUsageError(f"{where}{self.name} is {value!r}; {words} is expected, {some}")
        if self.choices:
            folded = {choice.casefold(): choice for choice in self.choices}
            if value.casefold() not in folded:
                raise WrongUsageError(f"{where}{self.name}: {unknown_name('value', value, self.choices)}")
            return folded[value.casefold()]
        if self.kind in (int, float):
            self._check_range(value, where)
        return value

    def _check_range(self, value: float, where: str) -> None:
        too_small = value <= self.least if self.above else value < self.least
        if too_small or value >= self.below:
            bounds = [f"{'above' if self.above else 'at least'} {self.least:g}"] if math.isfinite(self.least) else []
            bounds += [f"below {self.below:g}"] if math.isfinite(self.below) else []
            raise WrongUsageError(f"{where}{self.name} is {value!r}; it must be {' and '.join(bounds)}")
