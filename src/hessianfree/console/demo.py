"""`hessianfree demo`: list the demos, say what one does, or run it."""

from __future__ import annotations

import ast
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hessianfree.console.pages import DemoPage, pages
from hessianfree.console.shell import INTERRUPTED, WrongUsageError
from hessianfree.support.names import unknown_name

EXAMPLES = """
hessianfree demo                        what there is
hessianfree demo xor --help             the arguments of one demo
hessianfree demo xor use_hf=False
hessianfree demo adding T=100 plots=False
hessianfree demo mnist data=mnist.npz checkpoint=mnist.ckpt
"""


def demo(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Which demo to run.")] = None,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME=VALUE", help="Arguments of the demo: numbers, True, False, text, Python literals."
        ),
    ] = None,
    wants_help: Annotated[bool, typer.Option("--help", help="Show this, or the arguments of the demo NAME.")] = False,
) -> None:
    """Run a demo; without a name, list them all."""
    if name is None:
        typer.echo(context.get_help() if wants_help else _listing())
        return
    if name not in pages():
        raise WrongUsageError(unknown_name("demo", name, pages()))
    if wants_help:
        typer.echo(_manual(pages()[name]))
        return
    run(pages()[name], *parse_arguments(arguments or ()))


def run(page: DemoPage, positional: Sequence[Any], named: dict[str, Any]) -> None:
    """Run a demo, once its arguments are known to fit.

    Raises typer.Exit with code 130 after Ctrl-C. SIGTERM during a run with checkpoints ends the process with code 143.
    """
    check(page, positional, named)
    from hessianfree import demos

    found = demos.ALL[page.name](*positional, **named)
    runs = found.values() if isinstance(found, dict) else [found]
    if any(getattr(run, "interrupted", False) for run in runs):
        raise typer.Exit(INTERRUPTED)


def check(page: DemoPage, positional: Sequence[Any], named: dict[str, Any]) -> None:
    """Refuse arguments that the demo does not have, two values for one, and the lack of one that it needs."""
    names = [argument.name for argument in page.arguments]
    help_at = f"hessianfree demo {page.name} --help"
    if wrong := [name for name in named if name not in names]:
        if not names:
            raise WrongUsageError(f"{page.name} takes no arguments; given: {wrong[0]}")
        raise WrongUsageError(f"{page.name}: {unknown_name('argument', wrong[0], names)} See {help_at}.")
    if len(positional) > len(names):
        raise WrongUsageError(
            f"{page.name} takes {len(names)} arguments, and {len(positional)} are given (see {help_at})"
        )
    filled = names[: len(positional)]
    if twice := [name for name in filled if name in named]:
        raise WrongUsageError(
            f"{page.name}: {twice[0]} is given twice, as {positional[filled.index(twice[0])]!r} and by name"
        )
    given = {**dict(zip(filled, positional, strict=True)), **named}
    for argument in page.arguments:
        value = given.get(argument.name)
        if value in names and argument.name in filled:
            raise WrongUsageError(f"{page.name}: {value} has no value; write {value}=VALUE (see {help_at})")
        if argument.default in ("True", "False") and argument.name in given and not isinstance(value, bool):
            raise WrongUsageError(f"{page.name}: {argument.name} is {value!r}; True or False is expected")
    needed = [argument.name for argument in page.arguments if argument.default is None]
    if lacking := [name for name in needed if name not in filled and name not in named]:
        raise WrongUsageError(f"{page.name} needs a value for {lacking[0]}: {lacking[0]}=VALUE (see {help_at})")


def parse_arguments(arguments: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Split VALUE and NAME=VALUE; values are Python literals, or else text.

    Example:
        >>> parse_arguments(["50", "plots=False", "data=mnist.npz"])
        ([50], {'plots': False, 'data': 'mnist.npz'})
    """
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if equals and name.isidentifier():
            if name in named:
                raise WrongUsageError(f"{name} is given twice, as {named[name]!r} and {value!r}")
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


def _listing() -> str:
    """Each demo with what it does, in a line each."""
    width = shutil.get_terminal_size().columns - 15 if sys.stdout.isatty() else sys.maxsize
    lines = [
        f"{name:<14} {textwrap.shorten(page.summary, width, placeholder=' ...')}" for name, page in pages().items()
    ]
    ways = ["run one:       hessianfree demo NAME", "its arguments: hessianfree demo NAME --help"]
    return "\n".join([*lines, "", *ways])


def _manual(page: DemoPage) -> str:
    """Everything about one demo: what it does, and each argument with its default."""
    width = max(60, min(shutil.get_terminal_size().columns, 100))
    takes = " ".join(f"{a.name}=VALUE" if a.default is None else f"[{a.name}={a.default}]" for a in page.arguments)
    usage = f"Usage: hessianfree demo {page.name} {takes}".rstrip()
    parts = [textwrap.fill(usage, width, subsequent_indent=" " * 7, break_long_words=False)]
    # Indented paragraphs are programs.
    paragraphs = [page.summary, *page.description.split("\n\n")]
    parts += [text if text.startswith(" ") else textwrap.fill(text, width) for text in paragraphs if text]
    if not page.arguments:
        return "\n\n".join([*parts, "It takes no arguments."])
    lines = ["Arguments, each NAME=VALUE:"]
    for argument in page.arguments:
        default = "needed" if argument.default is None else f"default: {argument.default}"
        text, column = f"{argument.meaning} [{default}]".strip(), " " * 17
        lines.append(textwrap.fill(text, width, initial_indent=f"  {argument.name:<15}", subsequent_indent=column))
    return "\n\n".join([*parts, "\n".join(lines)])
