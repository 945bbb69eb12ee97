"""Memory known beforehand: what an update is going to need, and the refusal of one that cannot fit."""

from __future__ import annotations

from typing import Any

from hessianfree.engine import memory as counting
from hessianfree.engine.memory import Memory
from hessianfree.engine.objective import Batch, Problem, TracedObjective
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.objective.pieces import checked_size, in_pieces
from hessianfree.optimizers.base import Optimizer
from hessianfree.optimizers.hessian_free import HessianFree

#: A batch that is so much smaller than what is free is not looked at: nothing remembers a number a thousand times.
SMALL = 1_000


def memory(
    objective: Any, params: PyTree, batch: Any, optimizer: Any = None, *, chunk_size: int | None = None
) -> Memory:
    """Estimate the memory that one update needs, without computing or compiling anything.

    Args:
        objective: an `Objective`, or a network's `net.problem()`.
        params: float arrays, any pytree; for a network `net.params()`.
        batch: (inputs, targets) or (inputs, targets, weights) of one update; for a network `net.batch()`.
        optimizer: whose update it is; HessianFree() by default. The state of a rule of optax is not counted.
        chunk_size: see `hf.fit`.

    Returns:
        Bytes by part, on each device: vectors of the parameters' size, stored iterates, residuals, preconditioner,
        data and activations; `total` is their sum. That of activations is about what the compiled program
        takes; in a model with loops or of another kind it may be off by a factor of 2.

    Raises:
        TypeError: if the objective is none, or layers or losses of the network run in numpy.
        ValueError: if parameters and data do not fit the model.

    Example:
        >>> import hessianfree as hf
        >>> import numpy as np
        >>> net = hf.FFNet([784, 1000, 10], layers="Tanh", rng=0)
        >>> net.cache_minibatch(np.zeros((500, 784)), np.zeros((500, 10)))
        >>> whole = memory(net.problem(), net.params(), net.batch(), hf.opt.HessianFree(cg_memory=0))
        >>> cut = memory(net.problem(), net.params(), net.batch(), hf.opt.HessianFree(cg_memory=0), chunk_size=50)
        >>> print(whole)
        0.0915 GB (iterates 0.0572, vectors 0.0286, activations 0.00408, data 0.00159)
        >>> whole.activations / cut.activations
        10.0
    """
    size = checked_size(chunk_size)
    params = parameters.checked(params)
    optimizer = HessianFree() if optimizer is None else optimizer
    if isinstance(optimizer, type) or not (hasattr(optimizer, "step") or isinstance(optimizer, Optimizer)):
        raise TypeError(f"optimizer is {optimizer!r}; an optimizer is expected, such as hf.opt.HessianFree().")
    with parameters.computing(params):
        if isinstance(objective, Objective):
            batch = parameters.as_batch(batch, params)
            objective = objective.traced(params, batch, curved=False)
        if not isinstance(objective, TracedObjective) or not isinstance(batch, Batch):
            raise TypeError(
                f"The objective is {objective!r}; hf.Objective(model, loss) is expected, or net.problem() with "
                "net.batch() of a network without layers and losses in numpy."
            )
        problem = in_pieces(objective, size, batch)
        assert isinstance(problem, TracedObjective)
        return counting.of_update(_settings(optimizer), problem, params, batch)


def check_fits(problem: Problem, params: PyTree, batch: Batch, optimizer: Any) -> bool:
    """Refuse an update that cannot fit; to be called where it will be computed. True for one that can.

    Raises:
        MemoryError: if it cannot, with the estimate by parts, and what lowers it.
    """
    settings = _settings(optimizer)
    if not isinstance(problem, TracedObjective) or (settings is None and not optimizer.several):
        return True
    there = counting.free_bytes()
    vector, data = counting.of_arrays(params), counting.of_arrays(batch)
    stored = 0 if settings is None else settings.iterates_stored(vector)
    if there is not None and (2 * counting.VECTORS + stored) * vector + SMALL * data > there:
        counting.check(counting.of_update(settings, problem, params, batch), there)
    return True


def _settings(optimizer: Any) -> Any:
    """Those of the Hessian-free updates that an optimizer makes; None if it makes none."""
    second = getattr(optimizer, "second", optimizer)
    return second.in_use() if isinstance(second, HessianFree) else None
