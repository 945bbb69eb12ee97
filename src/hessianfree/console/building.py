"""From settings to a network and an optimizer, with every choice that was left to the data made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import hessianfree as hf
from hessianfree.console.examples import FoundData
from hessianfree.console.settings import TrainSettings
from hessianfree.console.shell import WrongUsageError
from hessianfree.networks.ffnet import FFNet

#: Learning rates of the first-order methods, unless the user says another.
RATES = {"sgd": 0.1, "momentum": 0.01, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-3, "auto": 1e-3}
#: Examples in an update of theirs.
MINIBATCH = 32
#: Settings that belong to some optimizers only.
_HESSIAN_FREE = ("hf", "auto")
_BELONGS = {
    "learning_rate": tuple(RATES),
    **dict.fromkeys(("cg_iterations", "damping", "preconditioner", "curvature_batch", "averaging"), _HESSIAN_FREE),
    "weight_decay": (*_HESSIAN_FREE, "adamw"),
}
_RECURRENT_ONLY = ("recurrent_layers", "spectral_radius", "truncation")


def resolved(settings: TrainSettings, found: FoundData) -> TrainSettings:
    """Settings with every choice made that they leave to the data.

    Raises:
        WrongUsageError: if one does not go with the others.
    """
    layout, classes = found.layout, found.layout.task == "classes"
    recurrent = found.examples.x.ndim == 3
    hidden = () if settings.hidden == (0,) else settings.hidden
    _check(settings, recurrent, len(hidden))
    scale = settings.scale or ("standard" if layout.table else "none")
    first_order = settings.optimizer not in _HESSIAN_FREE
    all_relu = settings.nonlinearity == ("ReLU",)
    usual_scale = {"uniform": 6**0.5 if all_relu else 3**0.5}.get(settings.init, 1.0)
    loss = settings.loss or ("cross_entropy" if classes else "squared_error")
    output = {"cross_entropy": "Softmax", "binary_cross_entropy": "Logistic"}.get(loss, "Linear")
    return replace(
        settings,
        target=layout.targets,
        task=layout.task,
        scale=scale,
        scale_targets=None if classes else settings.scale_targets or scale,
        network="recurrent" if recurrent else "feedforward",
        output_nonlinearity=settings.output_nonlinearity or ("Softmax" if classes else output),
        loss=loss,
        init_scale=settings.init_scale or round(usual_scale, 3),
        learning_rate=settings.learning_rate or RATES.get(settings.optimizer),
        minibatch=settings.minibatch or (MINIBATCH if first_order else None),
        output=settings.output or f"runs/{Path(settings.data).stem}",
    )


def _check(settings: TrainSettings, recurrent: bool, hidden: int) -> None:
    """Refuse settings that do not go with each other."""
    for name, optimizers in _BELONGS.items():
        if getattr(settings, name) is not None and settings.optimizer not in optimizers:
            option = name.replace("_", "-")
            raise WrongUsageError(
                f"{option} belongs to {', '.join(optimizers)}, and the optimizer is {settings.optimizer}; leave it out"
            )
    if given := [name for name in _RECURRENT_ONLY if getattr(settings, name) not in (None, ())]:
        if not recurrent:
            option = given[0].replace("_", "-")
            raise WrongUsageError(f"{option} is for recurrent networks, and the inputs are no sequences; leave it out")
        if settings.truncation and len(settings.truncation) != 2:
            raise WrongUsageError(f"truncation takes two numbers n,k; given: {','.join(map(str, settings.truncation))}")
    if 0 in settings.hidden and hidden:
        raise WrongUsageError("hidden: a layer of 0 units; give 0 alone for a network without hidden layers")
    if len(settings.nonlinearity) not in (1, hidden):
        named = f"nonlinearity names {len(settings.nonlinearity)} for {hidden} hidden layers"
        raise WrongUsageError(f"{named}; give one for all or one for each")
    if beyond := [layer for layer in settings.recurrent_layers if layer > hidden]:
        raise WrongUsageError(f"recurrent-layers names layer {beyond[0]}; the hidden layers are 1 to {hidden}")


# ---- networks --------------------------------------------------------------------------------------------------------


def network(settings: TrainSettings, inputs: int, targets: NDArray[Any]) -> FFNet:
    """The network of resolved settings; for classes it knows their labels.

    Args:
        settings: resolved.
        inputs: how many.
        targets: labels, or numbers (..., k).
    """
    labels = np.unique(targets) if settings.task == "classes" else None
    if labels is not None and len(labels) < 2:
        raise ValueError(f"The targets are all {labels[0]!r}; two classes at least are expected.")
    outputs = targets.shape[-1] if labels is None else len(labels)
    if labels is not None and settings.output_nonlinearity == "Logistic":
        if len(labels) > 2:
            raise ValueError(f"Logistic outputs tell two classes apart, and there are {len(labels)}; use Softmax.")
        outputs = 1
    hidden = () if settings.hidden == (0,) else settings.hidden
    names = settings.nonlinearity * len(hidden) if len(settings.nonlinearity) == 1 else settings.nonlinearity
    given: dict[str, Any] = {
        "shape": [inputs, *hidden, outputs],
        "layers": ["Linear", *names[: len(hidden)], settings.output_nonlinearity],
        "loss_type": settings.loss,
        "W_init_params": {"init_type": settings.init, "coeff": settings.init_scale},
        "use_GPU": settings.gpu,
        "rng": settings.seed,
        "dtype": np.dtype(settings.dtype),
    }
    net = FFNet(**given) if settings.network == "feedforward" else hf.RNNet(**given, **_recurrent(settings))
    if labels is not None:
        net.classes = labels
    return net


def _recurrent(settings: TrainSettings) -> dict[str, Any]:
    weights: dict[str, Any] = {"init_type": settings.recurrent_init}
    if settings.spectral_radius is not None:
        weights["spectral_radius"] = settings.spectral_radius
    return {
        "rec_layers": list(settings.recurrent_layers) or None,
        "W_rec_params": weights,
        "truncation": settings.truncation or None,
    }


# ---- optimizers ------------------------------------------------------------------------------------------------------


def optimizer(settings: TrainSettings) -> Any:
    """The optimizer of resolved settings; a Hessian-free one keeps the series for plots.

    First-order methods keep none, so that many of their updates are made in one compiled call.
    """
    if settings.optimizer == "hf":
        return _hessian_free(settings)
    if settings.optimizer == "sgd":
        return hf.opt.SGD(_rate(settings))
    if settings.optimizer == "auto":
        return hf.opt.Auto(_first_order("adam", settings), _hessian_free(settings), seed=settings.seed)
    return _first_order(settings.optimizer, settings)


def _hessian_free(settings: TrainSettings) -> Any:
    names: Mapping[str, str] = {
        "cg_iterations": "CG_iter",
        "damping": "init_damping",
        "preconditioner": "preconditioner",
        "curvature_batch": "curvature_batch",
        "averaging": "averaging",
        "weight_decay": "weight_decay",
    }
    given = {theirs: getattr(settings, ours) for ours, theirs in names.items() if getattr(settings, ours) is not None}
    if given.get("preconditioner") == "none":
        given["preconditioner"] = None
    share = given.get("curvature_batch")
    if share is not None and share > 1:
        given["curvature_batch"] = int(share)
    return hf.opt.HessianFree(**given, seed=settings.seed)


def _first_order(name: str, settings: TrainSettings) -> Any:
    import optax

    rate = _rate(settings)
    made = {
        "adam": lambda: optax.adam(rate),
        "adamw": lambda: optax.adamw(
            rate, weight_decay=1e-4 if settings.weight_decay is None else settings.weight_decay
        ),
        "rmsprop": lambda: optax.rmsprop(rate),
        "momentum": lambda: optax.sgd(rate, momentum=0.9, nesterov=True),
    }
    return hf.opt.FirstOrder(made[name]())


def _rate(settings: TrainSettings) -> float:
    return RATES[settings.optimizer] if settings.learning_rate is None else settings.learning_rate
