"""Hessian-free optimization behind the interface of optax, for programs that are written around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from hessianfree.engine import hessian_free
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import Objective
from hessianfree.optimizers.base import check_state
from hessianfree.optimizers.hessian_free import HessianFree

if TYPE_CHECKING:
    import optax


class OptaxState(NamedTuple):
    """What one update hands to the next, and the record of the last one, None before the first."""

    state: hessian_free.State
    info: hessian_free.Record | None


def as_optax(objective: Objective, optimizer: HessianFree | None = None) -> optax.GradientTransformationExtraArgs:
    """An optax transformation whose updates are Hessian-free steps.

    `update(gradients, state, params, batch=batch)` returns the change of the parameters, to be applied by
    `optax.apply_updates`. It ignores the gradients it is given, and computes value, gradient and curvature together
    from the objective on the batch. It decides in Python, so call it outside `jax.jit`.

    Args:
        objective: model and loss.
        optimizer: HessianFree() by default; for minibatches HessianFree(cg_memory=0,
            damping_rule=LevenbergMarquardt(hindsight=True)), see there.

    Returns:
        The transformation; its state's `info` is the record of the last update.

    Raises:
        TypeError: if the objective is not an Objective or the optimizer not a HessianFree; by `update`, if params or
            batch are missing, or it is called inside `jax.jit`.

    Example:
        >>> import optax
        >>> line = Objective(lambda params, x: x * params)
        >>> x = np.arange(4, dtype=np.float32)
        >>> params = np.zeros(1, np.float32)
        >>> optimizer = as_optax(line, HessianFree(init_damping=1e-6))
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(None, state, params, batch=(x, 3 * x))
        >>> round(float(optax.apply_updates(params, updates)[0]), 3)
        3.0
    """
    import optax  # here: it costs a tenth of a second that not everyone needs

    if not isinstance(objective, Objective):
        raise TypeError(f"objective is {objective!r}; hf.Objective(model, loss) is expected.")
    chosen = HessianFree() if optimizer is None else optimizer
    if not isinstance(chosen, HessianFree):
        raise TypeError(f"optimizer is {chosen!r}; a HessianFree, made by hf.opt.HessianFree(...), is expected.")

    def init(params: PyTree) -> OptaxState:
        if parameters.precision(parameters.checked(params)) == np.float64 and not jax.config.values["jax_enable_x64"]:
            raise TypeError(
                "optax.apply_updates rounds float64 parameters to float32 unless jax_enable_x64 is set; set it, or use "
                "HessianFree.step, which needs no flag."
            )
        return OptaxState(chosen.init(params), None)

    def update(
        gradients: PyTree, state: OptaxState, params: PyTree = None, *, batch: Any = None, **extra: Any
    ) -> tuple[PyTree, OptaxState]:
        if params is None or batch is None:
            raise TypeError(
                "Hessian-free updates need more than gradients: call update(g, state, params, batch=batch)."
            )
        check_state(state, OptaxState)
        moved, after, info = chosen.step(objective, params, state.state, batch)
        return jax.tree.map(np.subtract, moved, params), OptaxState(after, info)

    return optax.GradientTransformationExtraArgs(init, update)
