"""The user's own model and loss as an objective, checked when it first meets parameters and data."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from hessianfree import parameters
from hessianfree.engine import curvature, losses, trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.models import ModelObjective
from hessianfree.engine.objective import Batch, Linearization, Problem, lacks_forward_mode
from hessianfree.engine.trees import PyTree

logger = logging.getLogger("hessianfree")

#: What a user's loss may return: a value for each example, or one number for the batch.
REDUCTIONS = ("per_example", "mean")
#: Random directions along which the curvature of a user's loss is looked at.
PROBES = 8


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
        TypeError: for a model or a loss that cannot be called.
        ValueError: for an unknown name.

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
            raise ValueError(f"loss is {loss!r}; the names are {', '.join(map(repr, losses.BY_NAME))}.")
        if not isinstance(loss, str) and not callable(loss):
            raise TypeError(f"loss is {loss!r}; a name or a function (outputs, targets) is expected.")
        if reduction not in (None, *REDUCTIONS):
            raise ValueError(f"reduction is {reduction!r}; {', '.join(map(repr, REDUCTIONS))} or None is expected.")
        if isinstance(loss, str) and reduction == "mean":
            raise ValueError(f"The loss {loss!r} gives a value for each example; reduction goes with a function.")
        self.model, self.loss, self.stochastic, self.seed = model, loss, stochastic, seed
        self.reduction = "per_example" if isinstance(loss, str) else reduction
        self._known: dict[Any, losses.Loss] = {}

    def value(self, params: PyTree, batch: Any) -> float:
        """The loss on a batch; a stochastic model is given None for its key.

        Args:
            params: float arrays, any pytree.
            batch: (inputs, targets) or (inputs, targets, weights).

        Raises:
            TypeError, ValueError: for parameters or data that do not fit.
        """
        params = parameters.checked(params)
        with parameters.computing(params):
            batch = parameters.as_batch(batch, parameters.precision(params))
            return self.traced(params, batch, curved=False).value(params, batch)

    def linearize(self, params: PyTree, batch: Any, update: int | None = None) -> Linearization:
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
            # JAX may use numpy's memory as it is: what is changed there later is not to change the products.
            params = jax.tree.map(jnp.array, params)
            batch = jax.tree.map(jnp.array, parameters.as_batch(batch, parameters.precision(params)))
            objective = self.traced(params, batch, update)
            local = curvature.linearized(objective, params, batch)
            value, gradient = parameters.returned((local.value, local.gradient), params)

        def product(v: PyTree) -> PyTree:
            with parameters.computing(params):
                return parameters.returned(curvature.gauss_newton_product(objective, local, batch, v), params)

        return Linearization(value, gradient, product)

    def traced(self, params: PyTree, batch: Batch, update: int | None = None, curved: bool = True) -> ModelObjective:
        """The objective as the engine takes it, with everything checked; to be called inside `parameters.computing`.

        Args:
            params: checked.
            batch: checked.
            update: number of the update whose key a stochastic model is given; None for no key.
            curved: whether its curvature is going to be used, and is to be looked at.

        Raises:
            TypeError, ValueError: for a model or loss that does not fit the data.
        """
        leaves = jax.tree.leaves((params, batch))
        signature = curved, jax.tree.structure((params, batch)), *((np.shape(leaf), leaf.dtype) for leaf in leaves)
        key = None if update is None or not self.stochastic else jax.random.fold_in(jax.random.key(self.seed), update)
        if signature not in self._known:
            self._known[signature] = self._examined(params, batch, curved)
        loss = self._known[signature]
        if isinstance(loss, losses.Mean):
            _check_equal(batch.weights)
        return ModelObjective(self.model, loss, self.stochastic, key)

    # ---- checks --------------------------------------------------------------------------------------------------

    def _examined(self, params: PyTree, batch: Batch, curved: bool) -> losses.Loss:
        """Look at the shapes of everything, and choose the form of the loss."""
        model = ModelObjective(self.model, losses.BY_NAME["squared_error"], self.stochastic)
        outputs = _shapes_of_outputs(self, model, params, batch.inputs)
        _check_outputs(outputs, len(batch.weights))
        if curved:
            self._tell_of_reverse_mode(model, params, batch)
        if isinstance(self.loss, str):
            _check_targets(self.loss, outputs, batch.targets)
            _check_range(self.loss, outputs, batch)
            return losses.BY_NAME[self.loss]
        _check_no_stray_axis(outputs, batch.targets)
        loss = self._form(outputs, batch)
        return self._convex(loss, _outputs(model, params, batch.inputs), batch) if curved else loss

    def _form(self, outputs: PyTree, batch: Batch) -> losses.Loss:
        """A user's loss by the shape of what it returns."""
        shape, size = _shape_of_loss(self.loss, outputs, batch.targets), len(batch.weights)
        name, kind = _name(self.loss), {(size,): "per_example", (): "mean"}.get(shape)
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
            return losses.OwnCurvature(self.loss)
        return losses.PerExample(self.loss) if kind == "per_example" else losses.Mean(self.loss)

    def _convex(self, loss: losses.Loss, outputs: PyTree, batch: Batch) -> losses.Loss:
        """The loss, its curvature made positive where it is not and that is cheap."""
        least, largest = map(float, _range_of_curvature(loss, outputs, batch))
        if largest == 0:
            warnings.warn(
                f"The loss {_name(self.loss)} has no curvature at these outputs (H = 0): what remains of a step is "
                "gradient descent. Let the model return outputs, and the loss compare them smoothly with targets.",
                stacklevel=5,
            )
        if least >= -1e-6 * largest:
            return loss
        size = sum(leaf[0].size for leaf in jax.tree.leaves(outputs))
        replaced = size <= losses.SMALL and not isinstance(loss, losses.Mean)
        used = (
            "in its place the positive part of each example's H is used (negative eigenvalues count as zero)"
            if replaced
            else "it is used as it is: CG stops where it meets such a direction, and damping rises"
        )
        warnings.warn(
            f"The loss {_name(self.loss)} has negative curvature at these outputs, where it is not convex; {used}.",
            stacklevel=5,
        )
        return losses.Convexified(loss) if replaced else loss

    def _tell_of_reverse_mode(self, model: ModelObjective, params: PyTree, batch: Batch) -> None:
        if any(curved for curved, *_ in self._known):
            return  # said before, if it had to be
        found = []

        def look(p: PyTree) -> PyTree:
            outputs, push = jax.linearize(lambda q: model.outputs(q, batch.inputs), p)
            found.append(lacks_forward_mode(push, p))
            return outputs

        jax.eval_shape(look, params)
        if found[0]:
            logger.warning(
                "The model %s has no forward mode (jax.custom_vjp): curvature products go through reverse mode twice.",
                _name(self.model),
            )


def problem(objective: Any, params: PyTree, batch: Any, update: int, curved: bool = True) -> tuple[Problem, Batch]:
    """What an update minimises, and its batch, checked; to be called inside `parameters.computing`.

    Args:
        objective: an `Objective`, or what the engine takes as it is, such as a network's `net.problem()`.
        params: checked.
        batch: (inputs, targets), (inputs, targets, weights), or a `Batch`.
        update: its number.
        curved: whether curvature is going to be used.

    Raises:
        TypeError: for something that is no objective.
    """
    if isinstance(objective, Objective):
        data = parameters.as_batch(batch, parameters.precision(params))
        return objective.traced(params, data, update, curved), data
    if not (hasattr(objective, "localize") and isinstance(batch, Batch)):
        raise TypeError(
            f"The objective is {objective!r}; hf.Objective(model, loss) is expected, or net.problem() with net.batch()."
        )
    return objective, batch


def check_deterministic(problem: Problem, params: PyTree, batch: Batch, value: float) -> None:
    """Tell of a model that gives another loss for the same parameters: curvature would change between CG iterations.

    Args:
        problem: model and loss.
        params: the parameters.
        batch: the batch.
        value: the loss there, from another compiled program.

    Raises:
        ValueError: if the loss is another one now.
    """
    again = problem.value(params, batch)
    tolerance = 1e3 * float(jnp.finfo(parameters.precision(params)).eps)
    if np.isfinite([again, value]).all() and abs(again - value) > tolerance * max(abs(again), abs(value)):
        raise ValueError(
            f"The model is not deterministic: the loss of the same parameters on the same batch was {value:.8g}, then "
            f"{again:.8g}. Curvature products need one function per update. Random numbers of numpy, and state that a "
            "model keeps outside its arguments, do this; for dropout write model(params, inputs, key), and say "
            "hf.Objective(model, loss, stochastic=True): each update has one key."
        )


def why_not_finite(problem: Problem, params: PyTree, batch: Batch, update: int) -> str:
    """Where a loss that is not finite comes from: parameters, inputs, outputs or the loss itself, in words."""
    found = parameters.not_finite(params)
    if found:
        return f"update {update}: the parameters are not finite: {found}"
    if not isinstance(problem, ModelObjective):
        return f"update {update}: the loss is not finite"
    for name, tree in (("inputs", batch.inputs), ("model's outputs", _outputs(problem, params, batch.inputs))):
        found = parameters.not_finite(tree)
        if found:
            return f"update {update}: the {name} are not finite: {found}"
    return f"update {update}: the model's outputs are finite, but their loss or its derivatives are not"


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


@jit
def _outputs(objective: ModelObjective, params: PyTree, inputs: PyTree) -> PyTree:
    return objective.outputs(params, inputs)


def _shapes_of_outputs(objective: Objective, model: ModelObjective, params: PyTree, inputs: PyTree) -> PyTree:
    try:
        return jax.eval_shape(model.outputs, params, inputs)
    except (TypeError, ValueError) as error:
        key = ", and None for its key, which means evaluation" if objective.stochastic else ""
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            f"The model {_name(objective.model)} cannot be called with parameters {parameters.shapes(params)} and "
            f"inputs {parameters.shapes(inputs)}{key}: {error}\nIt is given all examples at once; a model of one is "
            "mapped by jax.vmap(model, in_axes=(None, 0))."
        ) from error


def _shape_of_loss(loss: Any, outputs: PyTree, targets: PyTree) -> tuple[int, ...]:
    try:
        result = jax.eval_shape(loss, outputs, targets)
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"The loss {_name(loss)} cannot be called with outputs {parameters.shapes(outputs)} and targets "
            f"{parameters.shapes(targets)}: {error}"
        ) from error
    if not hasattr(result, "shape"):
        raise TypeError(f"The loss {_name(loss)} returned {parameters.shapes(result)}; one array is expected.")
    return tuple(result.shape)


def _check_outputs(outputs: PyTree, size: int) -> None:
    leaves = jax.tree.leaves(outputs)
    if not leaves:
        raise ValueError("The model returned no arrays.")
    for leaf in leaves:
        if leaf.ndim == 0 or leaf.shape[0] != size:
            raise ValueError(
                f"The model returned {parameters.shapes(outputs)} for {size} examples; every leaf needs them along its "
                "first axis. A model of one example is mapped by jax.vmap(model, in_axes=(None, 0)); for residuals "
                "that are no outputs of examples there is hf.least_squares."
            )
        if leaf.dtype not in (jnp.float32, jnp.float64):
            raise TypeError(
                f"The model returned {parameters.shapes(outputs)}; outputs must be real floats, float32 or float64."
            )


def _check_targets(loss: str, outputs: PyTree, targets: PyTree) -> None:
    """Shapes agree: nothing is broadcast silently."""
    structures: list[Any] = [jax.tree.structure(outputs), jax.tree.structure(targets)]
    if structures[0] == structures[1]:
        pairs = zip(jax.tree.leaves(outputs), jax.tree.leaves(targets), strict=True)
        if all(_fits(loss, o, t) for o, t in pairs):
            return
    hint = ", or labels without the last axis," if loss == "softmax_cross_entropy" else ""
    raise ValueError(
        f"Outputs and targets differ: the model returned {parameters.shapes(outputs)}, the targets are "
        f"{parameters.shapes(targets)}; the same structure and shapes{hint} are expected."
    )


def _fits(loss: str, output: Any, target: Any) -> bool:
    labels = loss == "softmax_cross_entropy" and target.shape == output.shape[:-1] and output.ndim > 1
    return labels or target.shape == output.shape


def _check_range(loss: str, outputs: PyTree, batch: Batch) -> None:
    """Tell of targets that the loss cannot mean, where they are at hand in numpy and count."""
    for output, target in zip(jax.tree.leaves(outputs), jax.tree.leaves(batch.targets), strict=True):
        if loss == "softmax_cross_entropy" and output.shape[-1] == 1:
            raise ValueError(
                f"softmax_cross_entropy of one logit, outputs {output.shape}, is always zero; for two classes return "
                "two logits, or one logit with binary_cross_entropy."
            )
        if not isinstance(target, np.ndarray) or not isinstance(batch.weights, np.ndarray):
            continue
        known = target[batch.weights > 0]
        known = known[~np.isnan(known)]
        if loss == "softmax_cross_entropy" and target.ndim < output.ndim:
            bad = (known >= output.shape[-1]) | (known % 1 != 0)
            expected = f"labels from 0 to {output.shape[-1] - 1}, or -1 for unknown ones"
        elif loss == "binary_cross_entropy":
            bad, expected = (known < 0) | (known > 1), "targets from 0 to 1"
        elif loss == "poisson":
            bad, expected = known < 0, "counts of zero or more"
        else:
            continue
        if bad.any():
            raise ValueError(f"{loss} expects {expected}; given {known[bad][0]} among {int(bad.sum())} such targets.")


def _check_no_stray_axis(outputs: PyTree, targets: PyTree) -> None:
    """(B,) against (B, 1) broadcasts to (B, B) in a user's own loss, silently."""
    leaves = jax.tree.leaves(outputs), jax.tree.leaves(targets)
    if len(leaves[0]) == len(leaves[1]) == 1:
        a, b = leaves[0][0].shape, leaves[1][0].shape
        if (*a, 1) == b or (*b, 1) == a:
            raise ValueError(f"The model returned shape {a}, the targets have {b}: give both the same number of axes.")


def _check_equal(weights: Any) -> None:
    found = np.asarray(weights)
    if len(found) and not (found == found[0]).all():
        raise ValueError(
            "The loss returns one number for the batch, so that examples cannot be weighted; make it return a value "
            "for each example, or leave the weights out."
        )


@partial(jit, static_argnums=0)
def _range_of_curvature(loss: losses.Loss, outputs: PyTree, batch: Batch) -> Any:
    """The least u'Hu of an example that counts along random directions, and the largest magnitude."""
    product = loss.curvature(outputs, batch.targets)

    def probe(key: Any) -> Any:
        u = trees.random_normal(key, outputs)
        Hu = product(u)
        if isinstance(loss, losses.Mean):
            return trees.dot(u, Hu)[None]
        each = jax.vmap(lambda a, b: jnp.dot(ravel_pytree(a)[0], ravel_pytree(b)[0]))(u, Hu)
        return jnp.where(batch.weights > 0, each, 0)

    found = jax.vmap(probe)(jax.random.split(jax.random.key(0), PROBES))
    return jnp.min(found), jnp.max(jnp.abs(found))
