"""The program `hessianfree`: its commands, in the order of the help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from hessianfree import __version__
from hessianfree.console import bench, demo, evaluate, info, plot, predict, profile, train
from hessianfree.console.shell import Command, Program

app = typer.Typer(cls=Program, pretty_exceptions_enable=False, add_completion=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hessianfree {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def hessianfree(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show where in the program an error comes from.")
    ] = False,
) -> None:
    """Hessian-free optimization for neural networks and other JAX models.

    Every command has its own help: hessianfree COMMAND --help.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


def _add(function: Callable[..., None], examples: str, own_help: bool = False) -> None:
    """Add a command of that function's name; `own_help` for one that has its own option --help."""
    app.command(cls=Command, epilog=examples, add_help_option=not own_help)(function)


_add(demo.demo, demo.EXAMPLES, own_help=True)
_add(train.train, train.EXAMPLES)
_add(evaluate.evaluate, evaluate.EXAMPLES)
_add(predict.predict, predict.EXAMPLES)
_add(plot.plot, plot.EXAMPLES)
_add(profile.profile, profile.EXAMPLES)
_add(bench.bench, bench.EXAMPLES)
_add(info.info, info.EXAMPLES)
