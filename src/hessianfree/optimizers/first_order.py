"""First-order optimizers: gradient descent, and any transformation of gradients from optax."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from hessianfree.engine import trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.linearization import value_and_gradient
from hessianfree.engine.trees import PyTree
from hessianfree.objective import diagnosis, parameters
from hessianfree.objective import objective as objectives
from hessianfree.optimizers.base import Floats, Optimizer, check_state

#: What is said of a change that cannot be added, where loss and gradient are finite.
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


class _GradientBased(Optimizer):
    """What moves parameters by a change that the gradient gives."""

    keeps_records = True

    def _change(self, gradient: PyTree, transformation: Any, params: PyTree) -> tuple[PyTree, Any]:
        """The change, and the transformation's new state."""
        raise NotImplementedError

    def step(
        self, objective: Any, params: PyTree, state: GradientState, batch: Any
    ) -> tuple[PyTree, GradientState, GradientRecord]:
        """One update of any parameters, unless it is not finite; see `HessianFree.step`."""
        check_state(state, GradientState)
        params = parameters.checked(params)
        with parameters.computing(params):
            problem, data = objectives.problem(objective, params, batch, state.updates, curved=False)
            local, data = problem.localize(params, data)
            value, gradient = value_and_gradient(local, params, data)
            change, transformation = self._change(gradient, state.transformation, params)
            if not parameters.same_shapes(change, params):
                raise ValueError(
                    f"The change of the parameters is {parameters.shapes(change)}, and they are "
                    f"{parameters.shapes(params)}; the same structure and shapes are expected."
                )
            moved, norms = _moved(params, change, gradient)
            loss, gradient_norm, update_norm = map(float, jax.device_get((value, *norms)))
            known = math.isfinite(loss) and math.isfinite(gradient_norm)
            finite = known and math.isfinite(update_norm)
            reason = ""
            if not known:
                reason = f"update {state.updates}: {diagnosis.why_not_finite(problem, params, data)}"
            elif not finite:
                reason = f"update {state.updates}: {NOT_FINITE}"
            record = GradientRecord(loss, gradient_norm, update_norm, finite, reason)
            after = GradientState(transformation if finite else state.transformation, state.updates + 1)
            # What was given may be changed in place once this has returned.
            moved = jax.block_until_ready(moved) if finite else params
            return parameters.returned(moved, params), after, record

    @staticmethod
    def to_evaluate(params: PyTree, state: GradientState) -> PyTree:
        """The parameters to judge a run by: those given."""
        return params


class FirstOrder(_GradientBased):
    """Any optax transformation of gradients as an optimizer.

    Args:
        transformation: for example `optax.adam(1e-3)`; one that also wants values (such as optax.lbfgs) is refused.
        plotting: whether to keep series for plots.

    Raises:
        TypeError: for something that is no optax transformation.

    Example:
        >>> import optax
        >>> optimizer = FirstOrder(optax.adam(1e-3))
    """

    def __init__(self, transformation: Any, plotting: bool = False) -> None:
        super().__init__()
        if not (hasattr(transformation, "init") and hasattr(transformation, "update")):
            raise TypeError(
                f"An optax transformation was expected, such as optax.adam(1e-3); given {transformation!r}."
            )
        _check_wants_no_values(transformation)
        self.transformation, self.plotting = transformation, plotting
        self._state: Any = None
        self._compiled = jax.jit(transformation.update)

    def begin(self) -> None:
        """Start with a fresh state of the transformation."""
        self._state = None

    def init(self, params: PyTree) -> GradientState:
        """The state before the first update of these parameters; see `HessianFree.init`."""
        params = parameters.checked(params)
        parameters.check_finite(params)
        with parameters.computing(params):
            return GradientState(self.transformation.init(params), 0)

    def _change(self, gradient: PyTree, transformation: Any, params: PyTree) -> tuple[PyTree, Any]:
        return self._compiled(gradient, transformation, params)

    def compute_update(self, printing: bool = False) -> Floats:
        """The transformation of the gradient on the cached minibatch.

        Args:
            printing: whether to print loss and norms.

        Returns:
            The change of the weights, (P,).
        """
        net = self.net
        with net.computing():
            value, gradient = _loss_and_gradient(net)
            if self._state is None:
                self._state = self.transformation.init(net.W)
            update, self._state = self._compiled(gradient, self._state, net.W)
            update = np.array(update, net.dtype)
        if net.mask is not None:
            update[net.mask] = 0  # decay or momentum may have moved what the gradient left alone
        if self.plotting:
            self.plot(**{"training error": value})
        self.record, finished = _finish(value, gradient, update, printing)
        if not self.record.accepted:
            self._state = None
        return finished


@jit
def _moved(params: PyTree, change: PyTree, gradient: PyTree) -> tuple[PyTree, tuple[Array, Array]]:
    """Parameters after a change, in their own types, and the norms of gradient and change."""
    moved = jax.tree.map(lambda leaf, c: leaf + jnp.asarray(c, leaf.dtype), params, change)
    return moved, (trees.safe_norm(gradient), trees.safe_norm(change))


def _check_wants_no_values(transformation: Any) -> None:
    """Tell of line searches, by trying one update of two numbers; one that wants other parameters is none."""
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
        ValueError: for a learning rate that is no positive, finite number.

    Example:
        >>> SGD(l_rate=0.1).l_rate
        0.1
    """

    def __init__(self, l_rate: float = 1, plotting: bool = False) -> None:
        super().__init__()
        number = isinstance(l_rate, (int, float, np.number)) or getattr(l_rate, "shape", None) == ()
        if isinstance(l_rate, bool) or not number or not 0 < l_rate < math.inf:
            raise ValueError(f"l_rate is {l_rate!r}; a finite number above 0 is expected.")
        self.l_rate, self.plotting = l_rate, plotting

    def init(self, params: PyTree) -> GradientState:
        """The state before the first update of these parameters; see `HessianFree.init`."""
        parameters.check_finite(parameters.checked(params))
        return GradientState(None, 0)

    def _change(self, gradient: PyTree, transformation: Any, params: PyTree) -> tuple[PyTree, Any]:
        return trees.scale(-self.l_rate, gradient), None

    def compute_update(self, printing: bool = False) -> Floats:
        """Minus the learning rate times the gradient on the cached minibatch.

        Args:
            printing: whether to print loss and norms.

        Returns:
            The change of the weights, (P,).
        """
        value, gradient = _loss_and_gradient(self.net)
        if self.plotting:
            self.plot(**{"training error": value})
        self.record, update = _finish(value, gradient, gradient * np.asarray(-self.l_rate, gradient.dtype), printing)
        return update


def _loss_and_gradient(net: Any) -> tuple[float, Floats]:
    """On the cached minibatch, zero where the network's mask holds a weight."""
    with net.computing():
        objective, batch = net.problem().localize(net.params(), net.batch())
        value, gradient = jax.device_get(value_and_gradient(objective, net.params(), batch))
        flat = net.flat(gradient)
    if net.mask is not None:
        flat[net.mask] = 0
    return float(value), flat


def _finish(value: float, gradient: Floats, update: Floats, printing: bool) -> tuple[GradientRecord, Floats]:
    """The record of a first-order update, and the update, zero if it is not finite."""
    known = math.isfinite(value) and bool(np.isfinite(gradient).all())
    finite = known and bool(np.isfinite(update).all())
    norms = float(np.linalg.norm(gradient.astype(float))), float(np.linalg.norm(update.astype(float)))
    reason = "" if finite else NOT_FINITE if known else "the loss or its gradient is not finite"
    record = GradientRecord(value, *norms, finite, reason)
    if printing:
        print(f"loss {value:.4g}, gradient norm {norms[0]:.3g}, update norm {norms[1]:.3g}")
    return record, update if finite else np.zeros_like(update)
