"""`hessianfree profile`: where the time of a demo or of a training run goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from hessianfree.console import demo, output
from hessianfree.console.pages import pages
from hessianfree.console.shell import WrongUsageError
from hessianfree.support.names import unknown_name

EXAMPLES = """
hessianfree profile integrator plots=False
hessianfree profile mnist "run_args={'max_epochs': 1}"
hessianfree profile run.toml
hessianfree profile run.toml --trace trace
"""


def profile(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A demo, or the TOML file of a training run.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Arguments of the demo.")] = None,
    top: Annotated[int, typer.Option(min=0, help="Python functions to list.")] = 15,
    trace: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a trace of what JAX runs, in place of the tables.")
    ] = None,
) -> None:
    """Show where the time of a demo or a training run goes.

    Time is that of the main thread, importing and compilation included. A run of a TOML file writes no files.
    """
    work = _work(what, arguments or ())
    from hessianfree.support.profiling import profiled, traced

    if trace is not None:
        typer.echo(traced(work, trace))
        return
    found = profiled(work)
    rows: list[tuple[object, ...]] = []
    for work_done, seconds in [*found.shares, ("all", found.seconds)]:
        rows.append((work_done, round(seconds, 2), f"{seconds / found.seconds:.0%}"))
    typer.echo("")
    typer.echo(output.columns(rows, ["where the time went", "seconds", "share"]))
    if top:
        typer.echo(f"\n{found.functions(top)}")


def _work(what: str, arguments: Sequence[str]) -> Callable[[], object]:
    """What to run, checked as far as it can be without running it."""
    if what.endswith(".toml"):
        if arguments:
            raise WrongUsageError(f"{what} is a training run and takes no arguments; given: {arguments[0]}")
        from hessianfree.console.train import rehearsal

        return rehearsal(Path(what))
    demos = {name: page for name, page in pages().items() if name != "profile"}
    if what not in demos:
        raise WrongUsageError(f"{unknown_name('demo', what, demos)} A training run is a file that ends in .toml.")
    page, (positional, named) = demos[what], demo.parse_arguments(arguments)
    demo.check(page, positional, named)
    return lambda: demo.run(page, positional, named)
