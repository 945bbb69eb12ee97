"""Run a demo from the command line."""

from __future__ import annotations

import ast
import gc
import sys
from collections.abc import Sequence
from typing import Any

from hessianfree import demos
from hessianfree.support.runtime import keep_compiled_programs


def run(name: str, arguments: Sequence[str] = ()) -> None:
    """Run a demo by name. An error in the arguments ends the program with one line.

    Args:
        name: a key of `demos.ALL`.
        arguments: VALUE or NAME=VALUE each, as Python literals; anything else is a string.

    Raises:
        SystemExit: if the demo does not exist or raises an error; with the message.
    """
    if name not in demos.ALL:
        raise SystemExit(f"error: there is no demo {name!r}; the demos are {', '.join(demos.ALL)}")
    keep_compiled_programs()
    positional, named = parse_arguments(arguments)
    try:
        demos.ALL[name](*positional, **named)
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from error
    # The program ends here. Skip the last garbage collection over all of JAX: it takes a quarter of a second.
    gc.freeze()


def parse_arguments(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Split VALUE and NAME=VALUE.

    Example:
        >>> parse_arguments(["50", "plots=False", "data=mnist.npz"])
        ([50], {'plots': False, 'data': 'mnist.npz'})
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.isidentifier():
            named[name] = _literal(value)
        else:
            positional.append(_literal(argument))
    return positional, named


def _literal(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def main() -> None:
    """Entry of `python -m hessianfree.demos NAME [ARGS]`."""
    if len(sys.argv) < 2:
        raise SystemExit(f"usage: python -m hessianfree.demos NAME [ARGS]; the demos are {', '.join(demos.ALL)}")
    run(sys.argv[1], sys.argv[2:])
