"""`hessianfree train`: train a network on a file of data, and keep all of it in a folder."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hessianfree.console.setting import Setting
from hessianfree.console.settings import TrainSettings, merged, read, settings_by_name
from hessianfree.console.shell import INTERRUPTED, WrongUsageError

if TYPE_CHECKING:
    from hessianfree.console.folder import RunFolder

EXAMPLES = """
hessianfree train irises.csv --target species --test-size 0.2 --output runs/irises
hessianfree train houses.csv --target price --hidden 64,32 --nonlinearity ReLU --one-hot district
hessianfree train digits.npz --optimizer adam --minibatch 100 --epochs 20 --test-size 1000
hessianfree train sequences.npz --hidden 50 --preconditioner kfac --seconds 600
hessianfree train --config run.toml --seed 1 --output runs/seed1
hessianfree train --resume --output runs/seed1 --epochs 500
"""


def train(**given: Any) -> None:
    """Train a network on a .csv or .npz file.

    Everything goes into one folder: the model, its history as CSV, a figure, a report, and the settings as TOML. Every
    option may also be a key of the file that --config names; the command line counts more. Data of three axes,
    (examples, timesteps, inputs), train a recurrent network.
    """
    from hessianfree.console.folder import SETTINGS, RunFolder

    config, force, resume = (given.pop(name) for name in ("config", "force", "resume"))
    if force and resume:
        raise WrongUsageError("--force and --resume exclude each other: replace the run, or go on with it")
    known = settings_by_name()
    words = {setting.attribute: given[setting.attribute] for setting in known.values()}
    options = {
        setting.attribute: setting.parsed(words[setting.attribute], "" if name == "data" else "--")
        for name, setting in known.items()
        if words[setting.attribute] not in (None, [], ())
    }
    of_file = {} if config is None else read(config)
    output = options.get("output", of_file.get("output"))
    earlier = Path(output, SETTINGS) if resume and output is not None else None
    kept = read(earlier) if earlier is not None and earlier.exists() else {}
    settings = merged(kept, of_file, options)
    if not settings.data and resume:
        where = "name its folder by --output" if earlier is None else f"there is no {earlier}"
        raise WrongUsageError(f"no run to go on with: {where}")
    if not settings.data:
        raise WrongUsageError("no data are given: hessianfree train DATA, or a key data in the file of --config")
    _run(settings, force, resume, RunFolder)


def _run(settings: TrainSettings, force: bool, resume: bool, folder_of: Callable[[Path], RunFolder]) -> None:
    """Train and write everything; raises typer.Exit with code 130 after Ctrl-C."""
    from hessianfree.console.training import TrainingRun

    output = Path(settings.output or f"runs/{Path(settings.data).stem}")
    folder = folder_of(output)
    folder.check(force, resume)
    training = TrainingRun(replace(settings, output=str(output)))
    for line in training.introduction():
        typer.echo(line)
    result = training.run(folder, resume)
    for line in training.write(folder):
        typer.echo(line)
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


def rehearsal(path: Path) -> Callable[[], object]:
    """The training run of a TOML file, which writes nothing; its settings are checked now."""
    settings = merged(read(path))
    if not settings.data:
        raise WrongUsageError(f'{path} names no data; add data = "FILE"')

    def work() -> None:
        from hessianfree.console.training import TrainingRun

        TrainingRun(settings).run()

    return work


# ---- the options -----------------------------------------------------------------------------------------------------


def _option(setting: Setting) -> Any:
    """The annotation of the parameter for a setting."""
    starts_with_symbol = setting.help[1] == ","  # which keeps its case
    help = setting.help if starts_with_symbol else setting.help[0].upper() + setting.help[1:]
    if setting.choices:
        help += f": {', '.join(setting.choices)}"
    help += f" (default: {setting.default})." if setting.default else "."
    if setting.name == "data":
        return Annotated[str | None, typer.Argument(metavar="DATA", help=help)]
    flag = f"--{setting.name}/--no-{setting.name}" if setting.kind is bool else f"--{setting.name}"
    metavar = setting.metavar or {int: "N", float: "NUMBER"}.get(setting.kind, "NAME")
    more: dict[str, Any] = {} if setting.kind is bool else {"metavar": metavar}
    option = typer.Option(flag, help=help, rich_help_panel=setting.group, show_default=False, **more)
    kind = bool if setting.kind is bool else list[str] if setting.repeated else str
    return Annotated[kind | None, option]


def _signature() -> dict[str, Any]:
    """Parameters of the command by name, with their annotations: all settings, and where they come from."""
    config = typer.Option(metavar="FILE", help="Settings in TOML, with the names of these options as keys.")
    found = {setting.attribute: _option(setting) for setting in settings_by_name().values()}
    found["config"] = Annotated[Path | None, config]
    found["force"] = Annotated[bool, typer.Option("--force", help="Replace the run in the output folder.")]
    found["resume"] = Annotated[bool, typer.Option("--resume", help="Go on with the run in the output folder.")]
    return found


# typer reads the options from the signature: one that is made from the table of settings cannot differ from it.
_PARAMETERS = _signature()
train.__annotations__ = dict(_PARAMETERS)
train.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=False if name in ("force", "resume") else None,
            annotation=annotation,
        )
        for name, annotation in _PARAMETERS.items()
    ]
)
