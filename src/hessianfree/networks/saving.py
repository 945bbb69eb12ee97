"""A network in a file: what is written, and the arguments of the constructor that come of it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from hessianfree.io.archives import write_archive
from hessianfree.io.files import write_atomically
from hessianfree.io.trees import Arrays
from hessianfree.networks.core import NetworkCore
from hessianfree.networks.parts.loss_funcs import flatten
from hessianfree.networks.parts.saving import Describer, Maker
from hessianfree.support import checks
from hessianfree.training.results import SAVED

#: Layers of a network in a file at most.
MAX_LAYERS = 4096


def save(net: NetworkCore, path: str | os.PathLike[str]) -> None:
    """Write a network, see `FFNet.save`."""
    arrays: Arrays = {}
    description = {"holds": "network", **_described(net, arrays)}
    write_atomically(path, lambda file: write_archive(file, SAVED, arrays, description))


def _described(net: NetworkCore, arrays: Arrays) -> dict[str, Any]:
    """What a network is, as JSON; the arrays are added to those given."""
    if type(net).__module__.partition(".")[0] != "hessianfree":
        raise TypeError(
            f"The network is a {type(net).__name__}, a class of your own, and only FFNet and RNNet can be saved whole; "
            "save the weights alone: np.save(path, net.W)."
        )
    describer = Describer(arrays)
    layers = [describer.part(f"layer {i}", layer) for i, layer in enumerate(net.layers)]
    losses = [describer.part(f"loss {i}", loss) for i, loss in enumerate(flatten(net.loss))]
    arrays["W"] = net.W
    for name, array in (("mask", net.mask), ("best_W", net.best_W)):
        if array is not None:
            arrays[name] = array
    truncation = getattr(net, "truncation", None)
    best = net.best_error
    return {
        "class": type(net).__name__,
        "shape": [int(units) for units in net.shape],
        "conns": [[pre, posts] for pre, posts in net.conns.items()],
        "recurrent": None if net.recurrent is None else list(net.recurrent),
        "truncation": None if truncation is None else [int(steps) for steps in truncation],
        "dtype": net.dtype.name,
        "debug": bool(net.debug),
        "layers": layers,
        "losses": losses,
        "objects": describer.objects,
        "best_error": None if best is None or not math.isfinite(best) else float(best),
        "classes": None if net.labels is None else net.labels.classes.tolist(),
        "of_sequences": net.labels is not None and net.labels.of_sequences,
    }


def arguments_from(
    description: dict[str, Any], arrays: Arrays, custom: Mapping[str, type]
) -> tuple[str, dict[str, Any]]:
    """The class name of a network and the arguments of its constructor.

    The number of weights is compared with the file before anything is made.

    Raises:
        TypeError: if a class of the user's own is needed and was not passed.
        ValueError: if the description is not one of a network.
    """
    shape = checks.network_shape(_whole_numbers(description["shape"]))
    if len(shape) > MAX_LAYERS:
        raise ValueError(f"it has {len(shape)} layers, and {MAX_LAYERS} are possible")
    conns = checks.connections({pre: _whole_numbers(posts) for pre, posts in description["conns"]}, len(shape))
    recurrent = description["recurrent"]
    rec_layers = [] if recurrent is None else list(checks.recurrent_layers(_whole_numbers(recurrent), len(shape)))
    pairs = [(pre, post) for pre, posts in conns.items() for post in posts] + [(layer, layer) for layer in rec_layers]
    expected = sum((shape[pre] + 1) * shape[post] for pre, post in pairs)
    for name in {"W", "best_W", "mask"} & set(arrays) | {"W"}:
        if name not in arrays or arrays[name].shape != (expected,):
            raise ValueError(f"it has not the {expected:,} entries of {name} that its layers need")
    maker = Maker(description["objects"], arrays, custom)
    layers, losses = ([maker.part(item["object"]) for item in description[name]] for name in ("layers", "losses"))
    debug, dtype = description["debug"] is True, np.dtype(description["dtype"])
    found = {"shape": list(shape), "layers": layers, "conns": conns, "loss_type": losses, "debug": debug}
    found |= {"load_weights": arrays["W"].astype(dtype), "dtype": dtype}
    if recurrent is not None:
        truncation = description["truncation"]
        found |= {"rec_layers": rec_layers, "truncation": None if truncation is None else tuple(truncation)}
    return str(description["class"]), found


def _whole_numbers(value: Any) -> list[int]:
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        raise ValueError(f"it has {str(value)[:40]} where whole numbers are expected")
    return value
