"""What `hf.fit` was given: checked, and in words that processes compare."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from hessianfree.devices import placing
from hessianfree.devices.placing import Placer
from hessianfree.engine.objective import Batch
from hessianfree.engine.trees import PyTree
from hessianfree.io.stored import any_stored
from hessianfree.objective import data as data_checks
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.optimizers.base import Optimizer
from hessianfree.training import identity
from hessianfree.training.batches import Arrays, Batches, Given, SplitArrays
from hessianfree.training.stored import StoredArrays, loaded


def check_ready(objective: object, optimizer: object) -> None:
    """Refuse what is not an objective, and an optimizer that cannot train one. Raises TypeError."""
    if not isinstance(objective, Objective):
        raise TypeError(f"objective is {objective!r}; hf.Objective(model, loss) is expected.")
    for_networks_alone = isinstance(optimizer, Optimizer) and type(optimizer).init is Optimizer.init
    has_both = hasattr(optimizer, "init") and hasattr(optimizer, "step")
    if isinstance(optimizer, type) or for_networks_alone or not has_both:
        of_optax = hasattr(optimizer, "update") and not for_networks_alone
        hint = " Wrap a transformation of optax in hf.opt.FirstOrder." if of_optax else ""
        raise TypeError(
            f"optimizer is {optimizer!r}; an object with init and step is expected, such as HessianFree().{hint}"
        )


class FitData(NamedTuple):
    """Checked data: all of them if they are arrays in memory, minibatches of stored ones, or an iterable of batches."""

    whole: Batch | None
    iterable: Iterable[Any]
    objective: Objective
    params: PyTree
    size: int | None
    seed: int
    stored: StoredArrays | None = None

    @property
    def arrays(self) -> Batch | None:
        """All the data if they are arrays, wherever they are."""
        return self.whole if self.stored is None else self.stored.whole

    def batches(self, placer: Placer) -> Batches[Batch]:
        """The batches of the run."""
        if self.stored is not None:
            return self.stored.on(placer)
        if self.whole is None:
            return Given(self.iterable, self.objective, self.params, placer)
        rng = np.random.default_rng(self.seed)
        split = placer.parts is not None and placing.lies_split(placer.parts, self.whole)
        kind = SplitArrays if split else Arrays
        return kind(self.whole, self.size, self.objective, rng, placer)


def checked_data(data: Any, objective: Objective, params: PyTree, size: int | None, seed: int) -> FitData:
    """The data, checked here once and for all if they are arrays."""
    if isinstance(data, list) and any(hasattr(item, "shape") for item in data):
        raise TypeError("data is a list of arrays, and a list is taken as batches; give a tuple (inputs, targets).")
    if isinstance(data, tuple) and any_stored(data):
        found = StoredArrays(data, size, objective, params, np.random.default_rng(seed))
        if found.size < found.examples:
            return FitData(None, (), objective, params, size, seed, found)
        data = loaded(data)
    if isinstance(data, tuple):
        whole = parameters.as_batch(data, params)
        data_checks.check_some_known("data", objective.loss, whole)
        with parameters.computing(params):
            objective.traced(params, whole, curved=False)
        return FitData(whole, (), objective, params, size, seed)
    if not isinstance(data, Iterable) or isinstance(data, (str, dict)) or hasattr(data, "shape"):
        raise TypeError(
            f"data is a {type(data).__name__}; a tuple (inputs, targets) of arrays, or an iterable of such batches, is "
            "expected."
        )
    if size is not None:
        raise ValueError("minibatch_size goes with arrays; an iterable gives the batches as they come.")
    return FitData(None, data, objective, params, size, seed)


def said(params: PyTree, data: Any, size: Any, optimizer: Any, max_epochs: Any, seed: Any, test: Any) -> dict[str, str]:
    """What processes must have been given alike, in words, before anything is checked."""
    return {
        "parameters": _forms(params),
        "shapes of the data": _forms(data),
        "minibatch_size": repr(size),
        "optimizer": identity.of_value(optimizer),
        "max_epochs": repr(max_epochs),
        "seed": repr(seed),
        "test data": _forms(test),
    }


def _forms(tree: Any) -> str:
    """Kind, shapes and types of arrays, and of trees of them; of an iterable, one for each process, the kind alone."""
    leaves = jax.tree.leaves(tree) if isinstance(tree, (tuple, dict)) or hasattr(tree, "shape") else []
    shapes = (f"{getattr(leaf, 'dtype', type(leaf).__name__)} {np.shape(leaf)}" for leaf in leaves)
    return f"{type(tree).__name__} {', '.join(shapes)}"
