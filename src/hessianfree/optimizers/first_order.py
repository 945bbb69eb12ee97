"""First-order optimizers: gradient descent, and any transformation of gradients from optax."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike

from hessianfree.engine import reprs, trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.descent import IndexedBatches, Rule, compiled_descend, compiled_several
from hessianfree.engine.hessian_free import Update
from hessianfree.engine.numbers import is_number
from hessianfree.engine.objective import Batch, Problem, TracedObjective
from hessianfree.engine.system import decay_coefficients
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

    def __repr__(self) -> str:
        return reprs.fields(self)


class GradientState(NamedTuple):
    """What one first-order update hands to the next: the transformation's state, and how many updates were made."""

    transformation: Any
    updates: int

    def __repr__(self) -> str:
        return reprs.fields(self)


class _GradientBased(Optimizer):
    """What moves parameters by a change that the gradient gives."""

    keeps_records = several = True

    def __init__(self, plotting: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(plotting)
        if not is_number(weight_decay) or not 0 <= weight_decay < math.inf:
            raise ValueError(f"weight_decay is {weight_decay!r}; a finite number >= 0 is expected.")
        self.weight_decay = float(weight_decay)
        self._state: GradientState | None = None

    def begin(self) -> None:
        """Start with a fresh state."""
        self._state = None

    def _initial(self, params: PyTree) -> Any:
        """The transformation's first state."""
        raise NotImplementedError

    @property
    def _rule(self) -> Rule:
        """What makes a change of a gradient, hashable."""
        raise NotImplementedError

    @property
    def _numbers(self) -> Any:
        """What the rule needs besides."""
        return None

    def rule_for(self, params: PyTree, weight_decay: float, decay_biases: bool = False) -> tuple[Rule, Any]:
        """The rule with this weight decay, and the numbers that it needs."""
        if not weight_decay:
            return self._rule, self._numbers
        coefficients = decay_coefficients(weight_decay, decay_biases, params)
        return _Decaying(self._rule), (coefficients, self._numbers)

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
        rule, numbers = self.rule_for(params, self.weight_decay)
        made = compiled_descend(rule, local, params, data, state.transformation, numbers, free)
        record = _record(state.updates, *jax.device_get((made.value, made.gradient_norm, made.update_norm)))
        after = GradientState(made.state if record.accepted else state.transformation, state.updates + 1)
        if not record.accepted:
            return Update(params, None, after, record)
        return Update(made.params, made.change, after, record)

    def update_several(
        self,
        objective: TracedObjective,
        params: PyTree,
        minibatches: IndexedBatches,
        start: int,
        count: int,
        state: GradientState,
        free: PyTree | None = None,
    ) -> tuple[PyTree, GradientState, list[GradientRecord]]:
        """Make so many updates in one program, on the minibatches from number `start` on; see `update`."""
        where = minibatches, np.int32(start), np.int32(count)
        rule, numbers = self.rule_for(params, self.weight_decay)
        made = compiled_several(rule, objective, params, *where, state.transformation, numbers, free)
        columns = jax.device_get((made.values, made.gradient_norms, made.update_norms))
        numbered = enumerate(zip(*(column[:count] for column in columns), strict=True), state.updates)
        records = [_record(number, *scalars) for number, scalars in numbered]
        return made.params, GradientState(made.state, state.updates + count), records

    def _state_for(self, net: TrainedNetwork) -> GradientState:
        """The state kept here, a fresh one for a new network and after an update that was not finite."""
        return GradientState(self._initial(net.params()), 0) if self._state is None else self._state

    def _keep(self, net: TrainedNetwork, state: GradientState, change: Floats, accepted: bool) -> None:
        """Keep the state, unless it may not be finite."""
        self._state = state if accepted else None

    def compute_several(
        self, minibatches: IndexedBatches, start: int, count: int
    ) -> tuple[Floats | None, list[GradientRecord]]:
        """The weights of the network after so many updates in one program, None if one is rejected, and the records."""
        net: TrainedNetwork = self.net
        with net.computing():
            where, weights = (minibatches, start, count), net.params()
            objective, _ = net.problem().localize(weights, net.batch())
            params, state, records = self.update_several(objective, weights, *where, self._state_for(net), net.free())
            if not all(record.accepted for record in records):
                return None, records
            self._state, self.record = state, records[-1]
            return net.flat(jax.device_get(params)), records

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
        weight_decay: c; the gradient of c/2 times the sum of the squared weights is added to that of the loss. Biases
            do not decay, and errors do not count it.

    Raises:
        TypeError: if it is not an optax transformation, or wants the loss's value as well (such as optax.lbfgs).
        ValueError: if the weight decay is not a finite number >= 0.

    Example:
        >>> import optax
        >>> optimizer = FirstOrder(optax.adam(1e-3))
    """

    def __init__(self, transformation: Any, plotting: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(plotting, weight_decay)
        if not (hasattr(transformation, "init") and hasattr(transformation, "update")):
            raise TypeError(
                f"An optax transformation was expected, such as optax.adam(1e-3); given {transformation!r}."
            )
        _check_wants_no_values(transformation)
        self.transformation = transformation
        self._transform = _Transform(transformation.update)

    def _initial(self, params: PyTree) -> Any:
        try:
            return _begun(self.transformation.init, params)
        except jax.errors.JAXTypeError:  # it looks at numbers
            return self.transformation.init(params)

    @property
    def _rule(self) -> Rule:
        return self._transform


def _state_of(init: Callable[[PyTree], Any], params: PyTree) -> Any:
    return init(params)


#: One program: of its own operations each would be compiled by itself.
_begun = jit(_state_of, "quick", static_argnums=0)


@dataclass(frozen=True)
class _Transform:
    """The update of an optax transformation as a rule."""

    update: Callable[..., tuple[PyTree, Any]]

    def __call__(self, gradient: PyTree, state: Any, params: PyTree, numbers: None) -> tuple[PyTree, Any]:
        change, after = self.update(gradient, state, params)
        if not parameters.same_shapes(change, params):
            raise ValueError(
                f"The change of the parameters is {parameters.shapes(change)}, and they are "
                f"{parameters.shapes(params)}; the same structure and shapes are expected."
            )
        return change, after


@dataclass(frozen=True)
class _Decaying:
    """A rule with weight decay: its numbers are the coefficients, and those of the rule itself."""

    rule: Rule

    def __call__(self, gradient: PyTree, state: Any, params: PyTree, numbers: Any) -> tuple[PyTree, Any]:
        decay, others = numbers
        decayed = jax.tree.map(lambda g, c, p: g + (c * p).astype(g.dtype), gradient, decay, params)
        return self.rule(decayed, state, params, others)


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
        weight_decay: c; the gradient of c/2 times the sum of the squared weights is added to that of the loss. Biases
            do not decay, and errors do not count it.

    Raises:
        ValueError: if the learning rate is not a positive, finite number, or the weight decay not one >= 0.

    Example:
        >>> SGD(l_rate=0.1).l_rate
        0.1
    """

    def __init__(self, l_rate: float = 1, plotting: bool = False, weight_decay: float = 0.0) -> None:
        super().__init__(plotting, weight_decay)
        number = isinstance(l_rate, (int, float, np.number)) or getattr(l_rate, "shape", None) == ()
        if isinstance(l_rate, bool) or not number or not 0 < l_rate < math.inf:
            raise ValueError(f"l_rate is {l_rate!r}; a finite number above 0 is expected.")
        self.l_rate = l_rate

    def _initial(self, params: PyTree) -> Any:
        return None

    @property
    def _rule(self) -> Rule:
        return _downhill

    @property
    def _numbers(self) -> Any:
        return -self.l_rate


def _downhill(gradient: PyTree, state: None, params: PyTree, factor: ArrayLike) -> tuple[PyTree, None]:
    """Gradient descent: the gradient times a negative factor."""
    return trees.scale(factor, gradient), None


def _record(number: int, value: Any, gradient_norm: Any, update_norm: Any) -> GradientRecord:
    """The record of an update, with the reason if it is rejected."""
    scalars = float(value), float(gradient_norm), float(update_norm)
    known = math.isfinite(scalars[0]) and math.isfinite(scalars[1])
    accepted = known and math.isfinite(scalars[2])
    why = NOT_FINITE if known else "the loss or its gradient is not finite"
    return GradientRecord(*scalars, accepted, "" if accepted else f"update {number}: {why}")
