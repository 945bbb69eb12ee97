"""The command line: `hessianfree demo NAME`."""

from __future__ import annotations

import ast
from typing import Annotated, Any

import typer

app = typer.Typer(help="Hessian-free optimization for neural networks and other JAX models.", no_args_is_help=True)


@app.callback()
def main() -> None:
    """Hessian-free optimization for neural networks and other JAX models."""


@app.command()
def demo(
    name: Annotated[str, typer.Argument(help="xor, crossentropy, connections or mnist")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="arguments of the demo, as VALUE or NAME=VALUE; for example use_hf=False")
    ] = None,
) -> None:
    """Run a demo."""
    keep_compiled_programs()
    from hessianfree import demos

    if name not in demos.ALL:
        raise typer.BadParameter(f"there is no demo {name!r}; the demos are {', '.join(demos.ALL)}")
    positional, named = parse_arguments(arguments or [])
    try:
        demos.ALL[name](*positional, **named)
    except (OSError, ValueError, TypeError) as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from error


def parse_arguments(arguments: list[str]) -> tuple[list[Any], dict[str, Any]]:
    """Split VALUE and NAME=VALUE; values are Python literals, anything else is a string.

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
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache between runs, unless JAX was told otherwise.

    Only the command line does this: a library has no business with global settings.
    """
    import jax
    from platformdirs import user_cache_dir

    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", user_cache_dir("hessianfree"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def run_demo() -> None:
    """Entry of `python -m hessianfree.demos`."""
    typer.run(demo)
