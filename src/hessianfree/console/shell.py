"""What all commands share: help that fits the output, errors in one line, exit codes, and what was probably meant.

Exit codes are 0, 1 for an error at run time, 2 for a command line that is wrong, 130 after Ctrl-C, and 143 after
SIGTERM during a run with checkpoints.
"""

from __future__ import annotations

import gc
import sys
import warnings
from typing import Any, NoReturn, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

#: By convention 128 and the number of the signal.
INTERRUPTED = 130
#: Errors that tell the user what to change; others are shown with their type.
TOLD = (OSError, ValueError, TypeError, RuntimeError, IndexError, OverflowError, ImportError, MemoryError)
# Some versions of typer bring their own copy of click, others need click; this is found in both.
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


class WrongUsageError(Exception):
    """A command line or a configuration that is wrong: the program ends with exit code 2."""


class Command(TyperCommand):
    """A command whose epilog is examples, printed as they are; without a terminal its help is plain text."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help, and the examples below it."""
        examples, self.epilog = self.epilog, None
        try:
            super().format_help(ctx, formatter)
        finally:
            self.epilog = examples
        if examples:
            indented = "".join(f"  {line}\n" if line else "\n" for line in examples.strip().splitlines())
            formatter.write(f"{'' if self.rich_markup_mode else chr(10)}Examples:\n{indented}")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options, each group under its own heading."""
        groups: dict[str, list[Any]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            usual = f"{param.param_type_name.capitalize()}s"
            if record is not None:
                name = record[0].partition(" <")[0] if usual == "Arguments" else record[0]
                groups.setdefault(getattr(param, "rich_help_panel", None) or usual, []).append((name, record[1]))
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class Program(TyperGroup):
    """The whole command line: it turns what goes wrong into one line and an exit code."""

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Run the program and end the process."""
        try:
            self.main(*args, **kwargs)
        finally:
            # Skip the last garbage collection over all of JAX: it takes a quarter of a second.
            gc.freeze()
        raise AssertionError("main ends the process")

    def main(self, args: Any = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run one command; always raises SystemExit with the exit code, unless --traceback shows where an error is."""
        style = "rich" if sys.stdout.isatty() else None
        for command in (self, *self.commands.values()):
            command.rich_markup_mode = style  # type: ignore[attr-defined]
        words = list(sys.argv[1:] if args is None else args)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                code = super().main(words, prog_name, *rest, **{**extra, "standalone_mode": False})
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except WrongUsageError as error:
            code = _fail(str(error), 2)
        except _ClickError as error:
            code = _fail(_reworded(error), getattr(error, "exit_code", 1))
        except Exception as error:
            if words[:1] == ["--traceback"]:
                raise
            code = _fail(str(error) if isinstance(error, TOLD) and str(error) else f"{type(error).__name__}: {error}")
        sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int = 1) -> int:
    """Print a message as one line on stderr, and hand the exit code back."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _reworded(error: Exception) -> str:
    """The message of click, with what was probably meant as a question, and where to read on."""
    meant = getattr(error, "possibilities", None)
    said = str(error.message if meant else error.format_message())  # type: ignore[attr-defined]
    question = f"; did you mean {' or '.join(sorted(meant))}?" if meant else ""
    context = getattr(error, "ctx", None)
    return f"{said.rstrip('.') if meant else said}{question}" + (
        f" (see {context.command_path} --help)" if context else ""
    )


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as one line on stderr, without the line of the program that it comes from."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
