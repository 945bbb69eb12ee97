"""The command line: `hessianfree demo NAME`, `hessianfree plot FILE`."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"hessianfree {version('hessianfree-jax')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")] = False,
) -> None:
    """Hessian-free optimization for neural networks and other JAX models."""


@app.command()
def demo(
    name: Annotated[
        str,
        typer.Argument(
            help="xor, crossentropy, connections, mnist, integrator, adding, plant, poisson2d, heat1d, convection, "
            "sinc or profile"
        ),
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="arguments of the demo, each VALUE or NAME=VALUE, such as use_hf=False")
    ] = None,
) -> None:
    """Run a demo."""
    from hessianfree.demos import command

    command.run(name, arguments or ())


@app.command()
def plot(
    file: Annotated[
        str,
        typer.Argument(help="what training with plotting=True writes (HF_plots.pkl), a checkpoint or a saved result"),
    ],
    save: Annotated[str | None, typer.Option(help="write this PNG file instead of opening a window")] = None,
    interval: Annotated[float, typer.Option(help="seconds between two reads of the file")] = 1.0,
    web: Annotated[bool, typer.Option("--web", help="show them in a browser, also on another machine by ssh")] = False,
    port: Annotated[int, typer.Option(help="for --web: where to listen")] = 8988,
) -> None:
    """Show the plots of a training run, live until the window is closed."""
    from hessianfree.plotting import live
    from hessianfree.plotting.web import serve

    if web and save is not None:
        raise typer.BadParameter("--web shows the plots, and --save writes them to a file; give one of them.")
    try:
        if web:
            serve(file, port, interval)
        else:
            live.run(file, save=save, interval=interval)
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
