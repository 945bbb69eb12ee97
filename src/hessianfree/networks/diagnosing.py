"""`hf.diagnose`: what may be wrong with a run, and what to try."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

import numpy as np

from hessianfree.diagnosis.advice import findings
from hessianfree.diagnosis.course import RunCourse
from hessianfree.diagnosis.data import ROWS, every_so_often, inputs_of
from hessianfree.diagnosis.facts import Facts, Units
from hessianfree.diagnosis.findings import Findings
from hessianfree.io import stored
from hessianfree.networks import expansion, facts
from hessianfree.networks.core import Floats, NetworkCore
from hessianfree.networks.parts.interfaces import Plant
from hessianfree.networks.sources import GivenExamples, source
from hessianfree.networks.stored import StoredExamples
from hessianfree.squares.doubts import doubts
from hessianfree.squares.result import LeastSquaresResult
from hessianfree.support import checks
from hessianfree.training.results import Result

#: Timesteps of all examples together that the layers are run over, in numpy.
STEPS = 2000


def diagnose(result: Result, net: NetworkCore | None = None, data: Any = None) -> Findings:
    """Say what may be wrong with a run, and what to try; all rules are heuristics with thresholds.

    The records of the run say how it went: whether the loss rose, stayed at chance or was still falling, whether CG was
    cut off or steps were rejected. What the run knew of its data and layers is in the result, too: a sample of the
    inputs, the range of the targets, the loss of the best constant outputs. With network and data more is looked at.
    A run that reached its target error, or converged, has no findings, but for undetermined parameters of a fit.

    Args:
        result: of `run_epochs`, `hf.fit` or `hf.least_squares`, also one that `hf.load` has read.
        net: the network that was trained; its layers are run on the data, with `result.params`.
        data: (inputs, targets) that it was trained on, as `run_epochs` takes them; by default the last batch that the
            network has seen. Without a network, inputs alone are looked at.

    Returns:
        A list of findings, the most likely cause first, that prints as text. Each has `kind`, `seen`, `remedy`, and
        `strong`, which says whether it explains a run that went wrong.

    Raises:
        TypeError: if the result, the network or the data are of another kind.
        ValueError: if the network is not the one that was trained, or the data do not fit it.

    Example:
        >>> import hessianfree as hf
        >>> x = np.linspace(-1, 1, 50, dtype=np.float32)[:, None]
        >>> net = hf.FFNet([1, 5, 1], layers="Tanh", rng=0)
        >>> result = net.run_epochs(x, 5 * x, hf.opt.HessianFree(), max_epochs=10, print_period=None)
        >>> diagnose(result)
        1 finding:
        1. targets out of range: The targets go from -5 to 5, and outputs of Tanh from -1 to 1: 80% of them
           are out of reach.
           Try: a Linear output layer, layers=[..., 'Linear'], or targets scaled to -1 to 1
    """
    if not isinstance(result, Result):
        hint = " Read a file with hf.load(path)." if isinstance(result, (str, os.PathLike)) else ""
        raise TypeError(
            f"result is a {type(result).__name__}; what run_epochs, hf.fit or hf.least_squares returned is expected."
            f"{hint}"
        )
    if net is not None and not isinstance(net, NetworkCore):
        raise TypeError(f"net is a {type(net).__name__}; the FFNet or RNNet that was trained is expected.")
    known = _looked_at(result, net, data).filled(result.facts) if net is not None or data is not None else result.facts
    found = findings(RunCourse.of(result, known))
    if isinstance(result, LeastSquaresResult):
        named = doubts(result)  # in place of what the records say of them
        kinds = [finding.kind for finding in named]
        return Findings([*named, *(finding for finding in found if finding.kind not in kinds)])
    return found


def _looked_at(result: Result, net: NetworkCore | None, data: Any) -> Facts:
    """What a network and data say, looked at in full."""
    if data is not None and (not isinstance(data, (tuple, list)) or len(data) != 2 or isinstance(data[0], Plant)):
        raise TypeError(f"data is a {type(data).__name__}; a pair (inputs, targets) of arrays is expected.")
    if net is None:
        given = data[0] if data is not None else np.zeros(0)
        x = checks.numeric("inputs", stored.spread(given, ROWS) if stored.is_stored(given) else given)
        return Facts(inputs=inputs_of(x, len(x)) if x.ndim in (2, 3) and x.dtype.kind == "f" else None)
    W = np.asarray(result.params) if not isinstance(result.params, (dict, list, tuple)) else np.zeros(0)
    if W.shape != net.W.shape:
        raise ValueError(
            f"The result has parameters of shape {W.shape}, and the network {net.W.shape}; pass the network that was "
            "trained."
        )
    if data is None and (net.inputs is None or net.targets is None):
        return Facts()
    given = (net.inputs, net.targets) if data is None else data
    examples = source(net, *given)
    if isinstance(examples, StoredExamples):
        part = examples.spread(ROWS)
        return _of_network(net, part.x, part.t, W)
    assert isinstance(examples, GivenExamples)
    return _of_network(net, examples.x, examples.t, W)


def _of_network(net: NetworkCore, x: Floats, t: Floats, W: Floats) -> Facts:
    """What layers and data say; the loss of constant outputs is known better from the run, with all its weights."""
    found = facts.of_data(net, x, t, None, len(x))
    some = every_so_often(x, max(STEPS // (1 if net.recurrent is None else x.shape[1]), 1))
    layers: tuple[Units, ...] = ()
    with suppress(OverflowError):  # of a run that diverged
        layers = facts.units_of(net, some, W)
    told = expansion.expansive(net, found.timesteps or 1)
    return found._replace(examples=None, constant_loss=None, commonest=None, layers=layers, expansive=told)
