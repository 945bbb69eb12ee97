"""What a training run can be told, on the command line and in a TOML file: one table of settings for both.

A key of the file is the name of the option without its dashes: `test-size = 0.2` is `--test-size 0.2`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hessianfree.console.setting import Setting
from hessianfree.console.shell import WrongUsageError
from hessianfree.support.names import unknown_name

OPTIMIZERS = ("hf", "auto", "adam", "adamw", "rmsprop", "momentum", "sgd")
NONLINEARITIES = ("Tanh", "Logistic", "ReLU", "Linear", "Gaussian", "Softmax", "SoftLIF")
LOSSES = ("squared_error", "cross_entropy", "binary_cross_entropy")
INITS = ("uniform", "sparse", "gaussian", "orthogonal")


def _setting(group: str, help: str, value: Any = None, **more: Any) -> Any:
    return field(default=value, metadata={"group": group, "help": help, **more})


_DATA, _NETWORK, _OPTIMIZER, _RUN = "Data", "Network", "Optimizer", "Run"


@dataclass(frozen=True)
class TrainSettings:
    """A training run. None and () leave a choice to the data, or to another setting."""

    data: str = _setting(_DATA, "the file to learn from, .csv or .npz", "", metavar="FILE")
    target: tuple[str, ...] = _setting(
        _DATA,
        "column to predict, by name or number; repeat it for several; of an .npz file an array",
        (),
        several=True,
        repeated=True,
        metavar="COLUMN",
        default="the last column; y or targets",
    )
    inputs: tuple[str, ...] = _setting(
        _DATA,
        "column to predict from; repeat it; of an .npz file an array",
        (),
        several=True,
        repeated=True,
        metavar="COLUMN",
        default="all others; x or inputs",
    )
    ignore: tuple[str, ...] = _setting(
        _DATA,
        "column that is neither, such as an identifier; repeat it",
        (),
        several=True,
        repeated=True,
        metavar="COLUMN",
    )
    one_hot: tuple[str, ...] = _setting(
        _DATA,
        "column of words that becomes one input for each word; repeat it",
        (),
        several=True,
        repeated=True,
        metavar="COLUMN",
    )
    task: str | None = _setting(
        _DATA,
        "predict classes or numbers",
        choices=("classes", "numbers"),
        default="classes for words and for at most 20 different whole numbers",
    )
    test: str | None = _setting(_DATA, "a second file, to test on", metavar="FILE")
    test_size: float | None = _setting(
        _DATA,
        "share of the rows to test on, or below which number of them",
        kind=float,
        least=0,
        above=True,
    )
    split: str = _setting(
        _DATA,
        "which rows those are: drawn by the seed, for classes from each alike; or the last",
        "random",
        choices=("random", "last"),
    )
    scale: str | None = _setting(
        _DATA,
        "inputs to mean 0 and deviation 1, or to the range 0 to 1",
        choices=("standard", "range", "none"),
        default="standard for .csv, none for .npz",
    )
    scale_targets: str | None = _setting(
        _DATA,
        "the same for numbers to predict; results are shown in their own unit",
        choices=("standard", "range", "none"),
        default="as for inputs",
    )
    drop_missing: bool = _setting(
        _DATA, "leave rows out that lack a value, which are refused otherwise", False, kind=bool
    )
    delimiter: str | None = _setting(_DATA, "what stands between cells", metavar="CHARACTER", default="found out")
    header: bool | None = _setting(_DATA, "whether the first row names the columns", kind=bool, default="found out")

    network: str | None = _setting(
        _NETWORK,
        "recurrent networks take sequences, (examples, timesteps, units)",
        choices=("feedforward", "recurrent"),
        default="recurrent for arrays of three axes",
    )
    hidden: tuple[int, ...] = _setting(
        _NETWORK,
        "units of each hidden layer, such as 64,32; 0 for none",
        (32,),
        kind=int,
        several=True,
        least=0,
        metavar="UNITS",
    )
    nonlinearity: tuple[str, ...] = _setting(
        _NETWORK,
        "of the hidden layers, one for all or one for each",
        ("Tanh",),
        several=True,
        choices=NONLINEARITIES,
    )
    output_nonlinearity: str | None = _setting(
        _NETWORK, "of the last layer", choices=NONLINEARITIES, default="Softmax for classes, Linear for numbers"
    )
    loss: str | None = _setting(
        _NETWORK, "what is minimised", choices=LOSSES, default="cross_entropy for classes, squared_error for numbers"
    )
    init: str = _setting(_NETWORK, "how weights are drawn", "uniform", choices=INITS)
    init_scale: float | None = _setting(
        _NETWORK,
        "their scale",
        kind=float,
        least=0,
        above=True,
        default="1.73 for uniform ones, 2.45 with ReLU; else 1",
    )
    recurrent_layers: tuple[int, ...] = _setting(
        _NETWORK,
        "hidden layers, from 1, with recurrent weights",
        (),
        kind=int,
        several=True,
        least=1,
        metavar="LAYERS",
        default="all",
    )
    recurrent_init: str = _setting(_NETWORK, "how recurrent weights are drawn", "orthogonal", choices=INITS)
    spectral_radius: float | None = _setting(
        _NETWORK, "scale recurrent weights to this spectral radius", kind=float, least=0, above=True
    )
    truncation: tuple[int, ...] = _setting(
        _NETWORK, "two numbers n,k: go back k timesteps every n", (), kind=int, several=True, least=1, metavar="N,K"
    )
    dtype: str = _setting(_NETWORK, "precision of all numbers", "float32", choices=("float32", "float64"))
    gpu: bool | None = _setting(_NETWORK, "compute on a GPU, or on the CPU", kind=bool, default="JAX's choice")

    optimizer: str = _setting(
        _OPTIMIZER, "Hessian-free; Adam that hands over to it; or a first-order method", "hf", choices=OPTIMIZERS
    )
    learning_rate: float | None = _setting(
        _OPTIMIZER,
        "of first-order methods",
        kind=float,
        least=0,
        above=True,
        default="0.1 for sgd, 0.01 for momentum, else 0.001",
    )
    cg_iterations: int | None = _setting(
        _OPTIMIZER, "of conjugate gradients in an update, at most", kind=int, least=1, default="250"
    )
    damping: float | None = _setting(
        _OPTIMIZER, "at the start; adapted from then on", kind=float, least=0, above=True, default="1"
    )
    preconditioner: str | None = _setting(
        _OPTIMIZER, "of conjugate gradients", choices=("none", "diagonal", "kfac", "nystrom"), default="none"
    )
    curvature_batch: float | None = _setting(
        _OPTIMIZER,
        "share of the examples that curvature is computed on",
        kind=float,
        least=0,
        above=True,
        default="all",
    )
    averaging: float | None = _setting(
        _OPTIMIZER, "weight of the past in a running average of the weights", kind=float, least=0, below=1, default="0"
    )
    weight_decay: float | None = _setting(
        _OPTIMIZER, "c, which adds c/2 times the squared weights to the loss", kind=float, least=0, default="0"
    )

    epochs: int = _setting(_RUN, "passes over the data, at most", 100, kind=int, least=0)
    minibatch: int | None = _setting(
        _RUN, "examples in an update", kind=int, least=1, default="all for hf and auto, else 32"
    )
    seconds: float | None = _setting(_RUN, "time for training, at most", kind=float, least=0, above=True)
    target_error: float = _setting(_RUN, "test error to stop below", 1e-6, kind=float)
    early_stopping: bool = _setting(_RUN, "stop when the test error rises", True, kind=bool)
    seed: int = _setting(_RUN, "of everything that is drawn", 0, kind=int, least=0)
    checkpoint: bool = _setting(
        _RUN, "keep a checkpoint in the folder, so that the run can be resumed", True, kind=bool
    )
    checkpoint_seconds: float = _setting(_RUN, "from one checkpoint to the next", 60.0, kind=float, least=0, above=True)
    print_every: int = _setting(_RUN, "epochs between printed lines; 0 for none", 10, kind=int, least=0)
    output: str | None = _setting(
        _RUN, "folder for everything that is written", metavar="FOLDER", default="runs/NAME of the data"
    )


def settings_by_name() -> dict[str, Setting]:
    """All settings by name, in their order."""
    found = {}
    for item in dataclasses.fields(TrainSettings):
        described: dict[str, Any] = dict(item.metadata)
        if not described.get("default") and item.default not in (None, (), ""):
            described["default"] = _in_words(item.default)
        name = item.name.replace("_", "-")
        found[name] = Setting(name=name, **described)
    return found


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# ---- files -----------------------------------------------------------------------------------------------------------


def read(path: Path) -> dict[str, Any]:
    """What a TOML file sets: attribute of `TrainSettings` -> checked value.

    Raises:
        FileNotFoundError: if the file does not exist.
        WrongUsageError: if it is not TOML, or has a key or a value that does not exist, with what was meant.
    """
    import tomllib

    try:
        found = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no file {path}; expected the settings of a training run, in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongUsageError(f"{path} is not TOML: {error}") from None
    known, values = settings_by_name(), {}
    for key, value in found.items():
        if key not in known:
            raise WrongUsageError(f"{path}: {unknown_name('key', key, known)}")
        values[known[key].attribute] = known[key].checked(value, f"{path}: ")
    return values


def merged(*parts: Mapping[str, Any]) -> TrainSettings:
    """The settings that several sources make; what comes later counts more."""
    return TrainSettings(**{name: value for part in parts for name, value in part.items()})


def as_toml(settings: TrainSettings, heading: str = "") -> str:
    """Settings as a TOML file, with what their groups are called; what is left to the data is left out.

    Example:
        >>> print(as_toml(TrainSettings(data="irises.csv", hidden=(64, 32))).split("# Network")[0], end="")
        # Data
        data = "irises.csv"
        split = "random"
        drop-missing = false
        <BLANKLINE>
    """
    lines, group = [f"# {line}".rstrip() for line in heading.splitlines()], ""
    for setting in settings_by_name().values():
        value = getattr(settings, setting.attribute)
        if value is None or value == () or value == "":
            continue
        if setting.group != group:
            group = setting.group
            lines += ["", f"# {group}"] if lines else [f"# {group}"]
        lines.append(f"{setting.name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_text(value)
    return repr(value)


def _toml_text(text: str) -> str:
    """Text in quotes: what JSON writes is TOML too, but for one character."""
    import json

    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


# ---- the command line ------------------------------------------------------------------------------------------------


def options_of(settings: TrainSettings) -> list[str]:
    """The words of the command line that make these settings, the data left out.

    Example:
        >>> options_of(TrainSettings(data="irises.csv", target=("species",), hidden=(64, 32), early_stopping=False))
        ['--target=species', '--hidden=64,32', '--no-early-stopping']
    """
    words: list[str] = []
    usual = TrainSettings()
    for setting in settings_by_name().values():
        value = getattr(settings, setting.attribute)
        if setting.name == "data" or value == getattr(usual, setting.attribute) or value is None:
            continue
        if isinstance(value, bool):
            words.append(f"--{setting.name}" if value else f"--no-{setting.name}")
        elif setting.repeated:
            words += [f"--{setting.name}={item}" for item in value]
        else:
            words.append(f"--{setting.name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return words
