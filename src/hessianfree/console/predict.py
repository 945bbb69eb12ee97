"""`hessianfree predict`: what a trained model says of new data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hessianfree.console.evaluate import DataPath, Inputs, ModelPath
from hessianfree.console.shell import WrongUsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = """
hessianfree predict runs/irises new.csv
hessianfree predict runs/irises new.csv --probabilities --output predicted.csv
hessianfree predict runs/sequences new.npz --output predicted.npz
"""


def predict(
    model: ModelPath,
    data: DataPath,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write this .csv or .npz file instead of printing CSV.")
    ] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Add the probability of each class.")] = False,
    inputs: Inputs = None,
) -> None:
    """Predict targets of new data, in the order of their rows.

    Data are read and scaled as in training, and numbers are in the unit of the targets. A column of targets in the data
    does no harm. An .npz file holds the array "predicted", and with --probabilities "probabilities" and "classes".
    """
    if output is not None and output.suffix.lower() not in (".csv", ".npz"):
        raise WrongUsageError(f"--output is {output}; a file that ends in .csv or .npz is expected")
    from hessianfree.console.models import load_model

    found = load_model(model, data, inputs or (), with_targets=False)
    same = [path for path in (model, data) if output is not None and os.path.realpath(path) == os.path.realpath(output)]
    if same:
        raise WrongUsageError(f"--output is {output}, which would be replaced; name another file")
    net, preparation = found
    if probabilities and net.classes is None:
        raise WrongUsageError(f"--probabilities are of classes, and {model} predicts numbers; leave it out")
    examples = replace(preparation.layout, drop_missing=False).read(data, with_targets=False)
    x = preparation.x(examples)
    predicted = net.predict(x) if net.classes is not None else preparation.numbers(net.predict(x))
    chances = net.predict_proba(x) if probabilities else None
    if output is not None and output.suffix.lower() == ".npz":
        _write_arrays(output, predicted, chances, net.classes)
        return
    text = as_csv(predicted, chances, net.classes, preparation.layout.targets)
    if output is None:
        typer.echo(text, nl=False)
        return
    from hessianfree.io.files import write_atomically

    write_atomically(output, lambda file: file.write(text.encode()))


def as_csv(
    predicted: NDArray[Any],
    chances: NDArray[Any] | None,
    classes: NDArray[Any] | None,
    names: Sequence[str],
) -> str:
    """Predictions as the text of a CSV file, with a row for each example; over time for each timestep.

    Args:
        predicted: labels (N,) or (N, T), or numbers (N, k) or (N, T, k).
        chances: the probability of each class, (N, K) or (N, T, K), or None.
        classes: the labels of these, None for numbers.
        names: what is predicted.

    Example:
        >>> import numpy as np
        >>> print(as_csv(np.array([[1.5], [2.0]]), None, None, ["price"]), end="")
        price
        1.5
        2
    """
    import csv
    import io

    values = predicted if classes is None else predicted[..., None]
    width = values.shape[-1]
    header = list(names) if len(names) == width else [f"output {place}" for place in range(width)]
    over_time = values.ndim == 3
    rows: list[list[Any]] = [
        [value if classes is not None else f"{value:.9g}" for value in row]
        for row in values.reshape(-1, width).tolist()
    ]
    if chances is not None and classes is not None:
        header += [f"{header[0]}={label}" for label in classes.tolist()]
        flat = chances.reshape(-1, chances.shape[-1]).tolist()
        rows = [[*row, *(f"{chance:.6g}" for chance in more)] for row, more in zip(rows, flat, strict=True)]
    if over_time:
        header = ["sequence", "timestep", *header]
        rows = [[*divmod(place, values.shape[1]), *row] for place, row in enumerate(rows)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def _write_arrays(
    path: Path, predicted: NDArray[Any], chances: NDArray[Any] | None, classes: NDArray[Any] | None
) -> None:
    import numpy as np

    from hessianfree.io.files import write_atomically

    arrays: dict[str, Any] = {"predicted": predicted}
    if chances is not None and classes is not None:
        arrays |= {"probabilities": chances, "classes": classes}
    write_atomically(path, lambda file: np.savez(file, **arrays))
