"""The parameters of the estimators: checked, and turned into layers and optimizers."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from hessianfree.engine.numbers import is_number, is_whole
from hessianfree.networks.parts import nonlinearities as nl
from hessianfree.networks.parts.interfaces import Nonlinearity
from hessianfree.optimizers.auto import Auto
from hessianfree.optimizers.base import Optimizer
from hessianfree.optimizers.first_order import SGD, FirstOrder
from hessianfree.optimizers.hessian_free import HessianFree
from hessianfree.sklearn.dense import DenseNetwork
from hessianfree.support import checks
from hessianfree.support.names import unknown_name

#: Nonlinearities of hidden layers: they look at each unit by itself.
ACTIVATIONS = tuple(name for name in nl.BY_NAME if name != "Softmax")
#: Optimizers by name, and the arguments that they have here if they are not given.
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "auto": {},
    "gauss_newton": {},
    "hessian_free": {"plotting": False},
    "adam": {"learning_rate": 3e-3},
    "sgd": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
}
#: Examples in a batch, where `batch_size` is "auto": of first-order steps, and of Hessian-free updates.
SMALL_BATCH, LARGE_BATCH = 200, 50_000
#: What a unit costs in a Gauss-Newton product beside its weights, in weights; and the examples times weights, so
#: counted, up to which "auto" is "gauss_newton": then that takes about as long as compiling. Measured on CPUs.
UNIT, SMALL = 25, 3e7


def hidden_layers(sizes: Any) -> tuple[int, ...]:
    """Units per hidden layer. Raises ValueError if they are not whole numbers >= 1."""
    listed = [sizes] if is_whole(sizes) else sizes
    try:
        found = tuple(listed)
    except TypeError:
        found = (None,)
    if not all(is_whole(size) and size >= 1 for size in found):
        raise ValueError(f"hidden_layer_sizes is {sizes!r}; whole numbers >= 1 are expected, such as (100,).")
    return tuple(int(size) for size in found)


def hidden_activation(name: Any) -> Nonlinearity:
    """The nonlinearity of this name. Raises ValueError for another one."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(unknown_name("activation", str(name), ACTIVATIONS))
    return nl.BY_NAME[name]()


def check_numbers(params: Mapping[str, Any]) -> None:
    """Check the parameters of an estimator that are numbers. Raises ValueError for one out of range."""
    for name in ("max_iter", "n_iter_no_change"):
        checks.at_least(name, params[name], 1)
    for name in ("alpha", "tol"):
        if not is_number(params[name]) or not 0 <= params[name] < math.inf:
            raise ValueError(f"{name} is {params[name]!r}; a finite number >= 0 is expected.")
    fraction = params["validation_fraction"]
    if not is_number(fraction) or not 0 < fraction < 1:
        raise ValueError(f"validation_fraction is {fraction!r}; a number between 0 and 1 is expected.")
    checks.time_limit("max_seconds", params["max_seconds"])
    if params["batch_size"] != "auto":
        if not is_whole(params["batch_size"]):
            raise ValueError(f"batch_size is {params['batch_size']!r}; a whole number >= 1 or 'auto' is expected.")
        checks.at_least("batch_size", params["batch_size"], 1)


def check_optimizer(optimizer: Any, arguments: Any, alpha: float) -> None:
    """Check an optimizer and its arguments.

    Raises:
        TypeError: if it is neither a name nor an optimizer of `hf.opt`, or the arguments are not a dict.
        ValueError: if there is no such name, arguments are given to what takes none, or alpha cannot be used.
    """
    if arguments is not None and not isinstance(arguments, Mapping):
        raise TypeError(f"optimizer_args is {arguments!r}; a dict of the optimizer's arguments or None is expected.")
    if isinstance(optimizer, str):
        if optimizer not in OPTIMIZERS:
            raise ValueError(unknown_name("optimizer", optimizer, OPTIMIZERS))
        if arguments and not OPTIMIZERS[optimizer]:
            raise ValueError(f"optimizer_args is {arguments!r}, but the optimizer {optimizer!r} takes none.")
        return
    if not isinstance(optimizer, Optimizer):
        hint = " Wrap a transformation of optax in hf.opt.FirstOrder." if hasattr(optimizer, "update") else ""
        raise TypeError(
            f"optimizer is {optimizer!r}; one of {', '.join(map(repr, OPTIMIZERS))} or an object such as "
            f"hf.opt.HessianFree() is expected.{hint}"
        )
    if arguments:
        raise ValueError("optimizer_args goes with the name of an optimizer; an object has its arguments already.")
    own, kind = decay_of(optimizer), type(optimizer).__name__
    if alpha and own is None:
        raise ValueError(f"{kind} knows no weight decay; set alpha=0.")
    if alpha and own:
        raise ValueError(f"{kind} has a weight decay of its own, {own:g}; set alpha=0 to use that.")


def decay_of(optimizer: Optimizer) -> float | None:
    """The weight decay of an optimizer; None if it knows none."""
    part = optimizer.second if isinstance(optimizer, Auto) else optimizer
    if isinstance(part, HessianFree):
        return part.settings.weight_decay
    return part.weight_decay if isinstance(part, (FirstOrder, SGD)) else None


def set_decay(optimizer: Optimizer, coefficient: float) -> None:
    """Set the weight decay of an optimizer that knows one, in place."""
    part = optimizer.second if isinstance(optimizer, Auto) else optimizer
    if isinstance(part, HessianFree):
        part.settings = replace(part.settings, weight_decay=coefficient)
    elif isinstance(part, (FirstOrder, SGD)):
        part.weight_decay = coefficient


def chosen(optimizer: Any, arguments: Mapping[str, Any] | None, online: bool) -> Optimizer:
    """The optimizer that the parameters name, or a copy of the one that they hold.

    Args:
        optimizer: a name or an object, checked.
        arguments: of the optimizer with that name.
        online: whether the data come piece by piece.
    """
    if not isinstance(optimizer, str):
        return copy.deepcopy(optimizer)
    if optimizer == "auto" and not online:
        return Auto(second=HessianFree(plotting=False))
    name = "adam" if optimizer == "auto" else optimizer
    given = {**OPTIMIZERS[name], **(arguments or {})}
    if name == "hessian_free":
        return HessianFree(**given)
    return FirstOrder(_transformation(name, tuple(sorted(given.items()))))


@cache
def _transformation(name: str, arguments: tuple[tuple[str, Any], ...]) -> Any:
    """A transformation of optax; one object for equal arguments, so that equal shapes compile once."""
    import optax

    return getattr(optax, name)(**dict(arguments))


def is_small(examples: int, structure: DenseNetwork) -> bool:
    """Whether Gauss-Newton steps take less time than compiling."""
    return examples * (structure.size + UNIT * sum(structure.shape[1:])) <= SMALL


def batch_size(asked: Any, optimizer: Optimizer) -> int:
    """Examples in a batch, at most."""
    return int(asked if asked != "auto" else LARGE_BATCH if optimizer.curved else SMALL_BATCH)
