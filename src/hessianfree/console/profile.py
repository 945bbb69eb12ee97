"""`hessianfree profile`: where the time of a demo goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from hessianfree.console import demo, output
from hessianfree.console.pages import pages
from hessianfree.console.shell import WrongUsageError, unknown

EXAMPLES = """
hessianfree profile integrator
hessianfree profile mnist "run_args={'max_epochs': 1}"
hessianfree profile xor --trace trace
"""


def profile(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="A demo.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="NAME=VALUE", help="Arguments of the demo.")] = None,
    top: Annotated[int, typer.Option(min=0, help="Python functions to list.")] = 15,
    trace: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a trace of what JAX runs, in place of the tables.")
    ] = None,
) -> None:
    """Show where the time of a demo goes.

    Time is that of the main thread, importing and compilation included.
    """
    work = _work(what, arguments or ())
    from hessianfree.support.profiling import profiled, traced

    if trace is not None:
        typer.echo(traced(work, trace))
        return
    found = profiled(work)
    rows: list[tuple[object, ...]] = [
        (share.work, round(share.seconds, 2), f"{share.seconds / found.seconds:.0%}") for share in found.shares
    ]
    rows.append(("all", round(found.seconds, 2), ""))
    typer.echo("")
    typer.echo(output.columns(rows, ["where the time went", "seconds", "share"]))
    if top:
        typer.echo(f"\n{found.functions(top)}")


def _work(what: str, arguments: Sequence[str]) -> Callable[[], object]:
    """What to run, checked as far as it can be without running it."""
    demos = {name: page for name, page in pages().items() if name != "profile"}
    if what not in demos:
        raise WrongUsageError(unknown("demo", what, demos))
    page, (positional, named) = demos[what], demo.parse_arguments(arguments)
    demo.check(page, positional, named)
    return lambda: demo.run(page, positional, named)
