"""Load a model for use: the folder of a run, or the file of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hessianfree.console import folder, preparation
from hessianfree.console.examples import INPUT_NAMES, TARGET_NAMES, FileLayout, array_name, is_table
from hessianfree.console.preparation import Preparation
from hessianfree.console.scaling import fitted
from hessianfree.io.arrays import read_arrays
from hessianfree.io.tables import read_table
from hessianfree.networks.ffnet import FFNet
from hessianfree.networks.loading import load


class LoadedModel(NamedTuple):
    """A network, and what is done to data for it."""

    net: FFNet
    preparation: Preparation


def load_model(
    path: Path, data: Path, inputs: Sequence[str] = (), target: Sequence[str] = (), with_targets: bool = True
) -> LoadedModel:
    """Load the model of a run, or a network that `net.save` wrote, whose data are taken as they are.

    Args:
        path: a folder that `hessianfree train` wrote, the model in it, or the file of a network.
        data: the file that it will be used on.
        inputs: columns or the array, in place of those that the model was trained on.
        target: likewise.
        with_targets: whether targets will be read.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if the file holds a result, or the data lack columns or arrays.
    """
    file = path / folder.MODEL if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise FileNotFoundError(
            f"{path} has no {folder.MODEL}: it is no folder of a run, or the run has not ended (train --resume goes on)"
        )
    net = load(file)
    if not isinstance(net, FFNet):
        raise ValueError(f"{file} holds the result of a run; give its folder, or the file of the network.")
    beside = file.parent / folder.PREPARATION
    if file.name != folder.MODEL or not beside.exists():
        return LoadedModel(net, _as_it_is(net, data, inputs, target, with_targets))
    found = preparation.load(beside)
    layout = found.layout
    layout = replace(layout, inputs=tuple(inputs) or layout.inputs, targets=tuple(target) or layout.targets)
    return LoadedModel(net, replace(found, layout=layout))


def _as_it_is(net: FFNet, data: Path, inputs: Sequence[str], target: Sequence[str], with_targets: bool) -> Preparation:
    """The preparation that changes nothing, for a network without one: the last columns are its targets."""
    table, flat = is_table(data), net.recurrent is None
    if table:
        read = read_table(data)
        outputs = net.shape[-1] if net.classes is None else 1
        targets = [read.column(name) for name in target] or (list(read.columns)[-outputs:] if with_targets else [])
        given = [read.column(name) for name in inputs] or [name for name in read.columns if name not in targets]
    else:
        arrays = read_arrays(data)
        given = [array_name(data, arrays, inputs, INPUT_NAMES, "inputs")]
        targets = [array_name(data, arrays, target, TARGET_NAMES, "target")] if with_targets else []
    task = "numbers" if net.classes is None else "classes"
    whole = net.classes is not None and net.classes.dtype.kind == "i"
    layout = FileLayout(table, tuple(given), tuple(targets), {}, task, whole, flat)
    scalings = [fitted("none", np.zeros((0, units))) for units in (net.shape[0], net.shape[-1])]
    return Preparation(layout, scalings[0], None if task == "classes" else scalings[1])
