"""Networks in words: the table of their layers, and a line that says what they are."""

from __future__ import annotations

from hessianfree.engine.reprs import brief, cut
from hessianfree.networks.core import NetworkCore
from hessianfree.networks.parts.loss_funcs import flatten
from hessianfree.support.tables import text_table

#: Characters of a list in a line.
_MOST = 60


def summary(net: NetworkCore) -> str:
    """The table of a network's layers; see `FFNet.summary`."""
    header = ("layer", "units", "nonlinearity", "from", "weights")
    return "\n".join([*text_table([header, *_rows(net)], right=(1, 4)), *_notes(net)])


def _rows(net: NetworkCore) -> list[tuple[str, ...]]:
    """A row for each layer."""
    rows: list[tuple[str, ...]] = []
    for layer, units in enumerate(net.shape):
        into = [(pre, post) for pre, post in net.offsets if post == layer]
        weights = sum(end - start for start, _, end in (net.offsets[connection] for connection in into))
        origins = ["itself" if pre == layer else str(pre) for pre, _ in into]
        count = f"{weights:,}" if into else ""
        rows.append((str(layer), f"{units:,}", brief(net.layers[layer]), ", ".join(origins), count))
    return rows


def _notes(net: NetworkCore) -> list[str]:
    """What is said below the table."""
    held = "" if net.mask is None else f" ({int(net.mask.sum()):,} of them held by the mask)"
    losses = " + ".join(map(brief, flatten(net.loss)))
    notes = [f"{net.W.size:,} weights{held}, {net.dtype}; loss {losses}"]
    truncation = getattr(net, "truncation", None)
    if truncation is not None:
        notes.append(f"truncation: a window every {truncation[0]} timesteps, {truncation[1]} long")
    if net.labels is not None:
        whole = ", one label for each sequence" if net.labels.of_sequences else ""
        listed = cut(", ".join(map(repr, net.labels.classes.tolist())), 100)
        notes.append(f"{len(net.labels.classes)} classes{whole}: {listed}")
    return notes


def short(net: NetworkCore) -> str:
    """What a network is, in a line."""
    names = [type(layer).__name__ for layer in net.layers]
    losses = " + ".join(type(loss).__name__ for loss in flatten(net.loss))
    shape, layers = cut(str(list(net.shape)), _MOST), cut("-".join(names), _MOST)
    return f"{type(net).__name__}({shape}, {layers}, {losses}, {net.W.size:,} weights)"
