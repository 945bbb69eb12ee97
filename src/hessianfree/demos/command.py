"""Run a demo from the command line."""

from __future__ import annotations

import ast
import gc
from collections.abc import Sequence
from typing import Any

from hessianfree import demos

#: The exit code after Ctrl-C, by convention 128 and the number of the signal.
INTERRUPTED = 130


def run(name: str, arguments: Sequence[str] = ()) -> None:
    """Run a demo by its name in `demos.ALL`; the arguments are VALUE or NAME=VALUE, Python literals or else strings.

    Raises SystemExit with a message of one line if the demo does not exist or an argument is wrong, and with exit code
    130 after Ctrl-C. SIGTERM during a run with checkpoints ends it with exit code 143.
    """
    if name not in demos.ALL:
        raise SystemExit(f"error: there is no demo {name!r}; the demos are {', '.join(demos.ALL)}")
    positional, named = parse_arguments(arguments)
    try:
        found = demos.ALL[name](*positional, **named)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except (OSError, ValueError, TypeError, MemoryError) as error:
        raise SystemExit(f"error: {error}") from error
    # The program ends here. Skip the last garbage collection over all of JAX: it takes a quarter of a second.
    gc.freeze()
    runs = found.values() if isinstance(found, dict) else [found]
    if any(getattr(run, "interrupted", False) for run in runs):
        raise SystemExit(INTERRUPTED)


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
