"""`hessianfree evaluate`: how good a trained model is on data that have targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hessianfree.console import output

EXAMPLES = """
hessianfree evaluate runs/irises new.csv
hessianfree evaluate runs/digits digits.npz --inputs x_test --target y_test
hessianfree evaluate net.safetensors data.csv --target species --json
"""

ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="A folder that train wrote, or a saved network.")]
DataPath = Annotated[Path, typer.Argument(metavar="DATA", help="A .csv or .npz file, of the kind trained on.")]
Inputs = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Column of inputs, or array, in place of what the model was trained on."),
]
Target = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column of targets, or array, likewise.")]


def evaluate(
    model: ModelPath,
    data: DataPath,
    inputs: Inputs = None,
    target: Target = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how good a model is on data with targets.

    That is loss and score, and the confusion of classes: how often each class (rows) was taken for each (columns). Data
    are read and scaled as in training.
    """
    from hessianfree.console.models import load_model
    from hessianfree.console.scoring import confusion, confusion_rows, measures

    net, preparation = load_model(model, data, inputs or (), target or ())
    examples = preparation.layout.read(data)
    found = measures(net, preparation, examples)
    classes, counts = confusion(net, preparation, examples)
    if json:
        both = {"classes": classes, "confusion": counts.tolist()} if classes else {}
        typer.echo(output.as_json({"examples": len(examples.x), **found, **both}))
        return
    rows = [("examples", f"{len(examples.x):,}"), *((name, output.cell_text(value)) for name, value in found.items())]
    if examples.dropped:
        rows.append(("rows left out, because a value was missing", f"{examples.dropped:,}"))
    typer.echo(output.columns(rows))
    header, table = confusion_rows(classes, counts)
    if table:
        typer.echo(f"\n{output.columns(table, header)}")
