"""`hf.load`: a network or a result from the file that `save` wrote."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from hessianfree.io.archives import open_archive
from hessianfree.io.files import FileFormatError
from hessianfree.io.trees import Arrays, NeedsMoreError
from hessianfree.networks.ffnet import FFNet
from hessianfree.networks.parts.loss_funcs import flatten
from hessianfree.networks.parts.saving import by_import_path
from hessianfree.networks.rnnet import RNNet
from hessianfree.networks.saving import arguments_from
from hessianfree.training.results import SAVED, Result, unpacked_result

_CLASSES: dict[str, type[FFNet]] = {"FFNet": FFNet, "RNNet": RNNet}
_REMEDY = "give a file that net.save or result.save wrote, undamaged"


def load(path: str | os.PathLike[str], custom: Iterable[type] = (), like: Any = None) -> FFNet | RNNet | Result:
    """Load a network or a result that `save` wrote.

    Nothing in the file can execute, and nothing is imported because it says so. A network has its weights, layers,
    losses, mask, best weights and classes. The optimizer and the state of `rng` are not in the file.

    Args:
        path: the file.
        custom: the classes of your own, of layers, losses and plants, that the file may use.
        like: for a result whose parameters are of classes of your own, such as an Equinox module: parameters of that
            structure and of these shapes, whose numbers do not matter.

    Returns:
        An `FFNet` or `RNNet`, or a `Result`.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it is damaged, of another kind, or of a newer version.
        TypeError: if the file needs a class that is not in `custom`, or a `like` that is not given or does not fit.

    Example:
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
        >>> net = FFNet([2, 5, 1], layers="Tanh", rng=0)
        >>> net.save(path)
        >>> bool((load(path).W == net.W).all())
        True
    """
    classes = by_import_path(custom)
    archive = open_archive(path, SAVED)
    arrays, description = archive.arrays(), archive.description
    expected = f"a {SAVED.name}"
    try:
        if description["holds"] == "result":
            return unpacked_result(description, arrays, like)
        return _network(description, arrays, classes)
    except NeedsMoreError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        missing = isinstance(error, KeyError)
        found = f"a description without {error}" if missing else f"a description that does not fit: {error}"
        raise FileFormatError(path, found[:300], expected, _REMEDY) from error


def _network(description: dict[str, Any], arrays: Arrays, custom: Mapping[str, type]) -> FFNet:
    if description["holds"] != "network":
        raise ValueError("it holds neither a network nor a result")
    name, given = arguments_from(description, arrays, custom)
    net = _CLASSES[name](**given)
    if len(flatten(net.loss)) == 1:
        net.loss = flatten(net.loss)[0]
    net.mask = arrays.get("mask")
    net.best_W = arrays.get("best_W")
    best = description["best_error"]
    net.best_error = None if best is None or not math.isfinite(best) else float(best)
    net.classes = description.get("classes")  # of labels, in files that know of them
    if net.labels is not None and description.get("of_sequences") is True:
        net.labels = net.labels._replace(of_sequences=True)
    return net
