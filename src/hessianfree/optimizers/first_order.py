"""First-order optimizers: gradient descent, and any transformation of gradients from optax."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from hessianfree.engine import trees
from hessianfree.engine.compilation import jit, precise
from hessianfree.engine.hessian_free import Update
from hessianfree.engine.linearization import linearize, value_and_gradient
from hessianfree.engine.objective import Batch, Problem, TracedObjective
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.objective.objective import TrainedNetwork
from hessianfree.optimizers.base import Floats, Optimizer, check_state

#: Why an update is rejected although loss and gradient are finite.
NOT_FINITE = "the change is not finite, though loss and gradient are: lower the learning rate"


class GradientRecord(NamedTuple):
    """What happened in a first-order update."""

    value: float
    gradient_norm: float
    update_norm: float
    accepted: bool
    reason: str


class GradientState(NamedTuple):
    """What one first-order update hands to the next: the transformation's state, and how many updates were made."""

    transformation: Any
    updates: int


class _Moved(NamedTuple):
    """Parameters after a change, that change in their types, and the norms of gradient and change."""

    params: PyTree
    change: PyTree
    gradient_norm: Array
    update_norm: Array


def _freed(free: PyTree | None, vector: PyTree) -> PyTree:
    """A vector of the parameters, zero where none may change."""
    return vector if free is None else jax.tree.map(lambda f, v: jnp.where(f != 0, v, 0), free, vector)


def _move(params: PyTree, change: PyTree, gradient: PyTree, free: PyTree | None) -> _Moved:
    """Add a change; decay or momentum may have moved what the gradient left alone."""
    change = jax.tree.map(lambda leaf, c: jnp.asarray(c, leaf.dtype), params, _freed(free, change))
    moved = jax.tree.map(jnp.add, params, change)
    return _Moved(moved, change, trees.safe_norm(gradient), trees.safe_norm(change))


_compiled_freed, _compiled_move = jit(_freed), jit(_move)


@precise
def _descend(
    objective: TracedObjective, params: PyTree, batch: Batch, factor: ArrayLike, free: PyTree | None
) -> tuple[Array, _Moved]:
    """A step of gradient descent, the gradient times a negative factor, compiled whole: runs take 10,000 of them."""
    local = linearize(objective, params, batch)
    gradient = _freed(free, local.gradient)
    return local.value, _move(params, trees.scale(factor, gradient), gradient, free)


class _GradientBased(Optimizer):
    """What moves parameters by a change that the gradient gives."""

    keeps_records = True

    def __init__(self, plotting: bool = False) -> None:
        super().__init__(plotting)
        self._state: GradientState | None = None

    def begin(self) -> None:
        """Start with a fresh state."""
        self._state = None

    def _initial(self, params: PyTree) -> Any:
        """The transformation's first state."""
        raise NotImplementedError

    def _moved(
        self, objective: TracedObjective, params: PyTree, batch: Batch, transformation: Any, free: PyTree | None
    ) -> tuple[Array, _Moved, Any]:
        """The loss, where the update leads, and the transformation's new state."""
        raise NotImplementedError

    def init(self, params: PyTree) -> GradientState:
        """The state before the first update of these parameters; see `HessianFree.init`."""
        params = parameters.checked(params)
        parameters.check_finite(params)
        with parameters.computing(params):
            return GradientState(self._initial(params), 0)

    def check_state(self, state: object, params: PyTree) -> None:
        """Refuse the state of another optimizer.

        Raises:
            TypeError: if it is not the state of a first-order optimizer.
        """
        check_state(state, GradientState)

    def update(
        self, problem: Problem, params: PyTree, batch: Batch, state: GradientState, free: PyTree | None = None
    ) -> Update[GradientState, GradientRecord]:
        """One update, unless it is not finite; see `Optimizer.update`."""
        local, data = problem.localize(params, batch)
        value, moved, transformation = self._moved(local, params, data, state.transformation, free)
        scalars = jax.device_get((value, moved.gradient_norm, moved.update_norm))
        loss, gradient_norm, update_norm = map(float, scalars)
        known = math.isfinite(loss) and math.isfinite(gradient_norm)
        accepted = known and math.isfinite(update_norm)
        why = NOT_FINITE if known else "the loss or its gradient is not finite"
        reason = "" if accepted else f"update {state.updates}: {why}"
        record = GradientRecord(loss, gradient_norm, update_norm, accepted, reason)
        after = GradientState(transformation if accepted else state.transformation, state.updates + 1)
        if not accepted:
            return Update(params, None, after, record)
        return Update(moved.params, moved.change, after, record)

    def _state_for(self, net: TrainedNetwork) -> GradientState:
        """The state kept here, a fresh one for a new network and after an update that was not finite."""
        return GradientState(self._initial(net.params()), 0) if self._state is None else self._state

    def _keep(self, net: TrainedNetwork, state: GradientState, change: Floats, accepted: bool) -> None:
        """Keep the state, unless it may not be finite."""
        self._state = state if accepted else None

    def describe(self, record: GradientRecord) -> str:
        """A record in a line."""
        return (
            f"loss {record.value:.4g}, gradient norm {record.gradient_norm:.3g}, update norm {record.update_norm:.3g}"
        )

    def series(self, record: GradientRecord, norm: float) -> dict[str, float]:
        """The loss before the update."""
        return {"training error": record.value}


class FirstOrder(_GradientBased):
    """Any optax transformation of gradients as an optimizer.

    Args:
        transformation: for example `optax.adam(1e-3)`. It sees the parameters as a pytree, those of a network as
            {(pre, post): (W, b)}.
        plotting: whether to keep the series "training error".

    Raises:
        TypeError: if it is not an optax transformation, or wants the loss's value as well (such as optax.lbfgs).

    Example:
        >>> import optax
        >>> optimizer = FirstOrder(optax.adam(1e-3))
    """

    def __init__(self, transformation: Any, plotting: bool = False) -> None:
        super().__init__(plotting)
        if not (hasattr(transformation, "init") and hasattr(transformation, "update")):
            raise TypeError(
                f"An optax transformation was expected, such as optax.adam(1e-3); given {transformation!r}."
            )
        _check_wants_no_values(transformation)
        self.transformation = transformation
        self._compiled = jax.jit(transformation.update)

    def _initial(self, params: PyTree) -> Any:
        return self.transformation.init(params)

    def _moved(
        self, objective: TracedObjective, params: PyTree, batch: Batch, transformation: Any, free: PyTree | None
    ) -> tuple[Array, _Moved, Any]:
        value, gradient = value_and_gradient(objective, params, batch)
        gradient = gradient if free is None else _compiled_freed(free, gradient)
        change, after = self._compiled(gradient, transformation, params)
        if not parameters.same_shapes(change, params):
            raise ValueError(
                f"The change of the parameters is {parameters.shapes(change)}, and they are "
                f"{parameters.shapes(params)}; the same structure and shapes are expected."
            )
        return value, _compiled_move(params, change, gradient, free), after


def _check_wants_no_values(transformation: Any) -> None:
    """Refuse line searches, found by trying one update of two numbers; other failures on those say nothing."""
    try:
        jax.eval_shape(lambda g: transformation.update(g, transformation.init(g), g)[0], np.zeros(2, np.float32))
    except ValueError:
        return
    except TypeError as error:
        if "keyword-only" not in str(error):
            return
        raise TypeError(
            f"The transformation cannot be called with gradients and parameters alone ({error}): line searches, such "
            "as that of optax.lbfgs, want the loss's value too. Use one such as optax.adam(1e-3)."
        ) from error


class SGD(_GradientBased):
    """Plain gradient descent: update = -l_rate gradient.

    Args:
        l_rate: learning rate, above 0.
        plotting: whether to keep the series "training error".

    Raises:
        ValueError: if the learning rate is not a positive, finite number.

    Example:
        >>> SGD(l_rate=0.1).l_rate
        0.1
    """

    def __init__(self, l_rate: float = 1, plotting: bool = False) -> None:
        super().__init__(plotting)
        number = isinstance(l_rate, (int, float, np.number)) or getattr(l_rate, "shape", None) == ()
        if isinstance(l_rate, bool) or not number or not 0 < l_rate < math.inf:
            raise ValueError(f"l_rate is {l_rate!r}; a finite number above 0 is expected.")
        self.l_rate = l_rate

    def _initial(self, params: PyTree) -> Any:
        return None

    def _moved(
        self, objective: TracedObjective, params: PyTree, batch: Batch, transformation: Any, free: PyTree | None
    ) -> tuple[Array, _Moved, Any]:
        return *_descend(objective, params, batch, -self.l_rate, free), None
