"""The user's own model and loss as an objective, checked when it first meets parameters and data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jax import Array
from numpy.typing import ArrayLike, NDArray

from hessianfree.engine import losses, reprs
from hessianfree.engine.linearization import gauss_newton_product, has_forward_mode, linearized
from hessianfree.engine.models import FunctionModel, held
from hessianfree.engine.objective import Batch, Loss, Problem, TracedObjective
from hessianfree.engine.trees import PyTree
from hessianfree.objective import data as checks_of_data
from hessianfree.objective import parameters
from hessianfree.objective.data import name_of
from hessianfree.objective.diagnosis import is_convexible, outputs_of, range_of_curvature
from hessianfree.support import checks
from hessianfree.support.names import unknown_name

logger = logging.getLogger("hessianfree")

#: What a user's loss may return: a value for each example, or one number for the batch.
REDUCTIONS = ("per_example", "mean")


class LocalModel(NamedTuple):
    """An objective around one point: f, g and the product v -> G v."""

    value: Array
    gradient: PyTree
    product: Callable[[PyTree], PyTree]

    def __repr__(self) -> str:
        return reprs.fields(self)


class Objective:
    """Any JAX model with a loss: what is minimised is the mean loss of the examples, f = sum_i w_i l_i / sum_i w_i.

    Curvature is the Gauss-Newton matrix G = J'HJ, J the Jacobian of the model's outputs and H the second derivative of
    the loss with respect to them; no Jacobian is ever formed. Nothing is known of the model but that it is a function.

    Args:
        model: `model(params, inputs) -> outputs`; inputs and outputs are pytrees with the examples along the first
            axis of every leaf. Written with jax.numpy. Equal functions share a compilation: define it once.
        loss: a name, "squared_error" (1/2 sum (o - t)^2), "softmax_cross_entropy" (logits, and labels or
            probabilities), "binary_cross_entropy" (logits) or "poisson" (logarithms of rates), each summed over an
            example's entries, NaN targets counting for nothing; or a function (outputs, targets), as in optax, that
            returns a value for each example, shape (B,), or one number for the batch; or an object that can be called
            likewise and also has `curvature(outputs, targets)`, returning the function u -> H u.
        reduction: what a function returns: "per_example" (averaged, weights honoured), or "mean" (taken as it is;
            examples cannot be weighted). None to tell by the shape.
        stochastic: whether the model takes a random key as third argument, for dropout and the like: one key for
            all passes of an update, another for the next, and None in its place wherever `value` evaluates.
        seed: of these keys.

    Raises:
        TypeError: if the model or the loss cannot be called, or not hashed.
        ValueError: if there is no loss of that name.

    Example:
        >>> import numpy as np
        >>> line = Objective(lambda params, x: x * params["slope"], "squared_error")
        >>> line.value({"slope": np.float32(2)}, (np.ones(4, np.float32), np.zeros(4, np.float32)))
        2.0

    Source: Schraudolph 2002, "Fast curvature matrix-vector products for second-order gradient descent".
    """

    def __init__(
        self,
        model: Callable[..., PyTree],
        loss: Any = "squared_error",
        *,
        reduction: str | None = None,
        stochastic: bool = False,
        seed: int = 0,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model is {model!r}; a function (params, inputs) -> outputs is expected.")
        if isinstance(loss, str) and loss not in losses.BY_NAME:
            raise ValueError(unknown_name("loss", loss, losses.BY_NAME))
        if not isinstance(loss, str) and not callable(loss):
            raise TypeError(f"loss is {loss!r}; a name or a function (outputs, targets) is expected.")
        try:
            self._model, self._loss = held(model), None if isinstance(loss, str) else held(loss)
        except TypeError as error:
            raise TypeError(
                f"The model is {model!r} and the loss {loss!r}; compiled programs are kept by their hash, and there is "
                f"none: {error}. Make the class a @dataclass(frozen=True) without arrays or a @dataclass(eq=False), or "
                "register it as a pytree with jax.tree_util.register_dataclass: its arrays are then traced."
            ) from error
        if reduction not in (None, *REDUCTIONS):
            raise ValueError(f"reduction is {reduction!r}; {', '.join(map(repr, REDUCTIONS))} or None is expected.")
        if isinstance(loss, str) and reduction == "mean":
            raise ValueError(f"The loss {loss!r} gives a value for each example; reduction goes with a function.")
        checks.at_least("seed", seed, 0)
        self.model, self.loss, self.stochastic, self.seed = model, loss, stochastic, seed
        self.reduction = "per_example" if isinstance(loss, str) else reduction
        self._known: dict[Any, tuple[Loss, PyTree]] = {}  # by shapes: form of the loss, shapes of the outputs
        self._curved = self._not_convex = False

    def __repr__(self) -> str:
        return reprs.call(self, {**vars(self), "reduction": None})

    def value(self, params: PyTree, batch: Any) -> float:
        """The loss on a batch; a stochastic model is given None for its key.

        Args:
            params: float arrays, any pytree.
            batch: (inputs, targets) or (inputs, targets, weights).

        Raises:
            TypeError, ValueError: if parameters or data do not fit.
        """
        params = parameters.checked(params)
        with parameters.computing(params):
            data = parameters.as_batch(batch, params)
            return self.traced(params, data, curved=False).value(params, data)

    def linearize(self, params: PyTree, batch: Any, update: int | None = None) -> LocalModel:
        """Value, gradient and the product v -> G v; the model is linearised once, here.

        Args:
            params: float arrays, any pytree.
            batch: (inputs, targets) or (inputs, targets, weights).
            update: whose key a stochastic model is given, None for no key.

        Returns:
            f, g (shaped like params) and a function of vectors shaped like params.
        """
        params = parameters.checked(params)
        with parameters.computing(params):
            params, batch = parameters.own((params, parameters.as_batch(batch, params)))
            objective = self.traced(params, batch, update)
            local = linearized(objective, params, batch)
            value, gradient = parameters.returned((local.value, local.gradient), params)

        def product(v: PyTree) -> PyTree:
            with parameters.computing(params):
                found = gauss_newton_product(objective, local, batch, parameters.own(v))
                return parameters.returned(found, params)

        return LocalModel(value, gradient, product)

    def traced(
        self, params: PyTree, batch: Batch, update: int | None = None, curved: bool = True, new_data: bool = True
    ) -> TracedObjective:
        """The objective as the engine takes it, with everything checked; to be called inside `parameters.computing`.

        Args:
            params: checked.
            batch: checked.
            update: number of the update whose key a stochastic model is given; None for no key.
            curved: whether its curvature is going to be used, and is to be looked at.
            new_data: whether to look at targets and weights; False for data that were looked at before.

        Raises:
            TypeError, ValueError: if the model or the loss does not fit the data.
        """
        leaves = jax.tree.leaves((params, batch))
        signature = curved, jax.tree.structure((params, batch)), *((np.shape(leaf), leaf.dtype) for leaf in leaves)
        key = None if update is None or not self.stochastic else jax.random.fold_in(jax.random.key(self.seed), update)
        if signature not in self._known:
            self._known[signature] = self._examined(params, batch, curved)
        loss, outputs = self._known[signature]
        if new_data and isinstance(self.loss, str):
            checks_of_data.check_range(self.loss, outputs, batch)
        if new_data and isinstance(loss, losses.Mean):
            checks_of_data.check_equal(batch.weights)
        if self._not_convex and curved and is_convexible(loss, outputs):
            loss = losses.Convexified(loss)
        return TracedObjective(FunctionModel(self._model, self.stochastic, key), loss)

    def look_again(self, params: PyTree, batch: Batch) -> None:
        """After CG has met negative curvature: look at the loss there, as it was looked at on the first batch.

        Args:
            params: the point.
            batch: the batch.
        """
        if isinstance(self.loss, str) or self._not_convex:
            return
        objective = self.traced(params, batch)
        self._look_at_curvature(objective.loss, outputs_of(objective.model, params, batch.inputs), batch)

    # ---- checks --------------------------------------------------------------------------------------------------

    def _examined(self, params: PyTree, batch: Batch, curved: bool) -> tuple[Loss, PyTree]:
        """Look at the shapes of everything, and choose the form of the loss."""
        model = FunctionModel(self._model, self.stochastic)
        shapes = checks_of_data.shapes_of_outputs(model, params, batch.inputs)
        checks_of_data.check_outputs(shapes, len(batch.weights), parameters.precision(params))
        if curved:
            self._tell_of_reverse_mode(model, params, batch)
        if isinstance(self.loss, str):
            checks_of_data.check_targets(self.loss, shapes, batch.targets)
            return losses.BY_NAME[self.loss], shapes
        checks_of_data.check_no_stray_axis(shapes, batch.targets)
        loss = self._form(shapes, batch)
        if curved and not self._not_convex:
            self._look_at_curvature(loss, outputs_of(model, params, batch.inputs), batch)
        return loss, shapes

    def _form(self, outputs: PyTree, batch: Batch) -> Loss:
        """A user's loss by the shape of what it returns."""
        assert self._loss is not None, "a loss with a name has its form"
        shape, size = checks_of_data.shape_of_loss(self.loss, outputs, batch.targets), len(batch.weights)
        name, kind = name_of(self.loss), {(size,): "per_example", (): "mean"}.get(shape)
        if kind is None:
            raise ValueError(
                f"The loss {name} returned shape {shape} for {size} examples; a value for each, ({size},), or one "
                "number, (), is expected: sum or average over the other axes."
            )
        if self.reduction not in (None, kind):
            raise ValueError(f"reduction is {self.reduction!r}, but the loss {name} returned shape {shape}: {kind!r}.")
        if self.reduction is None:
            meaning = {
                "per_example": "a value for each example: they are averaged, and weights honoured",
                "mean": "one number for the batch: it is taken as it is, and examples cannot be weighted",
            }
            logger.info("The loss %s returns %s.", name, meaning[kind])
        self.reduction = kind
        if hasattr(self.loss, "curvature"):
            if kind == "mean":
                raise ValueError(f"The loss {name} brings its own curvature; it must return a value for each example.")
            checks_of_data.check_own_curvature(self.loss, outputs, batch.targets)
        return losses.PerExample(self._loss) if kind == "per_example" else losses.Mean(self._loss)

    def _look_at_curvature(self, loss: Loss, outputs: PyTree, batch: Batch) -> None:
        """Warn of a loss without curvature, and of one that is not convex: it is made so where that is cheap."""
        least, largest = map(float, range_of_curvature(loss, outputs, batch))
        if largest == 0:
            warnings.warn(
                f"The loss {name_of(self.loss)} has no curvature at these outputs (H = 0): what remains of a step is "
                "gradient descent. Let the model return outputs, and the loss compare them smoothly with targets.",
                stacklevel=6,
            )
        if not least < -1e-6 * largest:  # nor where they are NaN: that says nothing of the loss
            return
        self._not_convex = True
        used = (
            "in its place the positive part of each example's H is used (negative eigenvalues count as zero)"
            if is_convexible(loss, outputs)
            else "it is used as it is: CG stops where it meets such a direction, and damping rises"
        )
        warnings.warn(
            f"The loss {name_of(self.loss)} has negative curvature at these outputs, where it is not convex; {used}.",
            stacklevel=6,
        )

    def _tell_of_reverse_mode(self, model: FunctionModel, params: PyTree, batch: Batch) -> None:
        if self._curved:
            return  # said before, if it had to be
        self._curved = True
        if not has_forward_mode(lambda p: model.outputs(p, batch.inputs), params):
            logger.warning(
                "The model %s has no forward mode (jax.custom_vjp): curvature products go through reverse mode twice.",
                name_of(self.model),
            )


@runtime_checkable
class TrainedNetwork(Protocol):
    """What optimizers and operators need of a network: flat weights, and the problem on its cached minibatch."""

    W: NDArray[Any]
    dtype: np.dtype[Any]

    def computing(self) -> AbstractContextManager[None]:
        """The context in which everything of the network is computed."""

    def problem(self) -> Problem:
        """The network and its loss."""

    def batch(self) -> Batch:
        """The cached minibatch."""

    def params(self, flat: ArrayLike | None = None) -> PyTree:
        """A flat vector, W by default, as a pytree of views."""

    def flat(self, params: PyTree) -> NDArray[Any]:
        """The flat vector of such a pytree."""

    def free(self) -> PyTree | None:
        """1 where a weight may change and 0 where not; None where all may."""
