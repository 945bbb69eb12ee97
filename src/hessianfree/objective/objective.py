"""The user's own model and loss as an objective, checked when it first meets parameters and data."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from hessianfree.engine import curvature, losses, trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.models import ModelObjective
from hessianfree.engine.objective import Batch, Linearization, Problem, has_forward_mode, mean_weights
from hessianfree.engine.objective import Objective as Traceable
from hessianfree.engine.trees import PyTree
from hessianfree.objective import data as data_checks
from hessianfree.objective import parameters
from hessianfree.objective.data import name_of
from hessianfree.support import checks

logger = logging.getLogger("hessianfree")

#: What a user's loss may return: a value for each example, or one number for the batch.
REDUCTIONS = ("per_example", "mean")
#: Roundings of a loss, in units of eps, that two compiled programs of one model may be apart.
ROUNDINGS = 1e3
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
        TypeError: for a model or a loss that cannot be called, or a loss that cannot be hashed.
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
        try:
            hash(loss)
        except TypeError as error:
            raise TypeError(
                f"loss is {loss!r}, and compiled programs are kept by its hash: {error}. Make its class a "
                "@dataclass(frozen=True) without arrays, or @dataclass(eq=False)."
            ) from error
        if reduction not in (None, *REDUCTIONS):
            raise ValueError(f"reduction is {reduction!r}; {', '.join(map(repr, REDUCTIONS))} or None is expected.")
        if isinstance(loss, str) and reduction == "mean":
            raise ValueError(f"The loss {loss!r} gives a value for each example; reduction goes with a function.")
        checks.at_least("seed", seed, 0)
        self.model, self.loss, self.stochastic, self.seed = model, loss, stochastic, seed
        self.reduction = "per_example" if isinstance(loss, str) else reduction
        self._known: dict[Any, tuple[losses.Loss, PyTree]] = {}  # by shapes: form of the loss, shapes of the outputs
        self._curved = self._not_convex = False

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
            params, batch = parameters.own((params, parameters.as_batch(batch, parameters.precision(params))))
            objective = self.traced(params, batch, update)
            local = curvature.linearized(objective, params, batch)
            value, gradient = parameters.returned((local.value, local.gradient), params)

        def product(v: PyTree) -> PyTree:
            with parameters.computing(params):
                found = curvature.gauss_newton_product(objective, local, batch, parameters.own(v))
                return parameters.returned(found, params)

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
        loss, outputs = self._known[signature]
        if isinstance(self.loss, str):
            data_checks.check_range(self.loss, outputs, batch)
        if isinstance(loss, losses.Mean):
            data_checks.check_equal(batch.weights)
        if self._not_convex and curved and _convexible(loss, outputs):
            loss = losses.Convexified(loss)
        return ModelObjective(self.model, loss, self.stochastic, key)

    def look_again(self, params: PyTree, batch: Batch) -> None:
        """After CG has met negative curvature: look at the loss there, as it was looked at on the first batch.

        Args:
            params: the point.
            batch: the batch.
        """
        if isinstance(self.loss, str) or self._not_convex:
            return
        objective = self.traced(params, batch)
        self._look_at_curvature(objective.loss, outputs_of(objective, params, batch.inputs), batch)

    # ---- checks --------------------------------------------------------------------------------------------------

    def _examined(self, params: PyTree, batch: Batch, curved: bool) -> tuple[losses.Loss, PyTree]:
        """Look at the shapes of everything, and choose the form of the loss."""
        model = ModelObjective(self.model, losses.BY_NAME["squared_error"], self.stochastic)
        shapes = data_checks.shapes_of_outputs(model, params, batch.inputs)
        data_checks.check_outputs(shapes, len(batch.weights), parameters.precision(params))
        if curved:
            self._tell_of_reverse_mode(model, params, batch)
        if isinstance(self.loss, str):
            data_checks.check_targets(self.loss, shapes, batch.targets)
            return losses.BY_NAME[self.loss], shapes
        data_checks.check_no_stray_axis(shapes, batch.targets)
        loss = self._form(shapes, batch)
        if curved and not self._not_convex:
            self._look_at_curvature(loss, outputs_of(model, params, batch.inputs), batch)
        return loss, shapes

    def _form(self, outputs: PyTree, batch: Batch) -> losses.Loss:
        """A user's loss by the shape of what it returns."""
        shape, size = data_checks.shape_of_loss(self.loss, outputs, batch.targets), len(batch.weights)
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
            data_checks.check_own_curvature(self.loss, outputs, batch.targets)
            return losses.OwnCurvature(self.loss)
        return losses.PerExample(self.loss) if kind == "per_example" else losses.Mean(self.loss)

    def _look_at_curvature(self, loss: losses.Loss, outputs: PyTree, batch: Batch) -> None:
        """Warn of a loss without curvature, and of one that is not convex: it is made so where that is cheap."""
        least, largest = map(float, _range_of_curvature(loss, outputs, batch))
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
            if _convexible(loss, outputs)
            else "it is used as it is: CG stops where it meets such a direction, and damping rises"
        )
        warnings.warn(
            f"The loss {name_of(self.loss)} has negative curvature at these outputs, where it is not convex; {used}.",
            stacklevel=6,
        )

    def _tell_of_reverse_mode(self, model: ModelObjective, params: PyTree, batch: Batch) -> None:
        if self._curved:
            return  # said before, if it had to be
        self._curved = True
        if not has_forward_mode(lambda p: model.outputs(p, batch.inputs), params):
            logger.warning(
                "The model %s has no forward mode (jax.custom_vjp): curvature products go through reverse mode twice.",
                name_of(self.model),
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


def check_deterministic(problem: Problem, params: PyTree, batch: Batch, value: float, penalty: float = 0.0) -> None:
    """Tell of a model that gives another loss for the same parameters: curvature would change between CG iterations.

    Args:
        problem: model and loss.
        params: the parameters.
        batch: the batch.
        value: the loss there, from another compiled program, which may round otherwise; with the penalty.
        penalty: the part of it that is not the problem's own, such as weight decay.

    Raises:
        ValueError: if the loss is another one now.
    """
    again = problem.value(params, batch) + penalty
    apart, eps = abs(again - value), float(jnp.finfo(parameters.precision(params)).eps)
    if not np.isfinite(apart) or apart <= ROUNDINGS * eps * max(abs(again), abs(value)):
        return
    # A small loss may be what large numbers have left: what rounding makes of those is computed only for such a case.
    objective, examples = problem.localize(params, batch)
    if apart > ROUNDINGS * eps * float(_effect_of_rounding(objective, params, examples)):
        raise ValueError(
            f"The model is not deterministic: the loss of the same parameters on the same batch was {value:.8g}, then "
            f"{again:.8g}. Curvature products need one function per update. Random numbers of numpy, and state that a "
            "model keeps outside its arguments, do this; for dropout write model(params, inputs, key), and say "
            "hf.Objective(model, loss, stochastic=True): each update has one key."
        )


def why_not_finite(problem: Problem, params: PyTree, batch: Batch) -> str:
    """Where a loss that is not finite comes from: parameters, inputs, outputs or the loss itself, in words."""
    found = parameters.not_finite(params)
    if found:
        return f"the parameters are not finite: {found}"
    if not isinstance(problem, ModelObjective):
        return "the loss or its gradient is not finite"
    looked_at = {
        "inputs": batch.inputs,
        "model's outputs": outputs_of(problem, params, batch.inputs),
        "targets": _that_count(batch, unknown=isinstance(problem.loss, losses.Leafwise)),
    }
    for name, tree in looked_at.items():
        found = parameters.not_finite(tree)
        if found:
            return f"the {name} are not finite: {found}"
    return (
        "the model's outputs are finite, but their loss or its derivatives are not: too large for "
        f"{parameters.precision(params)}, or infinite where the loss is not smooth"
    )


def _that_count(batch: Batch, unknown: bool) -> PyTree:
    """The targets of examples that weigh something, without NaN where it means unknown."""
    targets, weights = jax.device_get((batch.targets, batch.weights))
    known = jax.tree.map(lambda t: t[weights > 0], targets)
    return jax.tree.map(lambda t: np.where(np.isnan(t), 0, t), known) if unknown else known


@jit
def _effect_of_rounding(objective: Traceable, params: PyTree, batch: Batch) -> Array:
    """What the mean loss changes by, at most and to first order, for each eps that outputs and losses are off by.

    That is mean |l_i| + mean |o_i|'|dl_i/do_i|: far more than the mean loss where terms cancel, or near a perfect fit.
    """
    weights, outputs = mean_weights(batch.weights), objective.outputs(params, batch.inputs)
    slopes = objective.weigh(weights, objective.loss_gradients(outputs, batch.targets))
    values = trees.weigh_examples(weights, objective.losses(outputs, batch.targets))
    return trees.dot(jax.tree.map(jnp.abs, outputs), jax.tree.map(jnp.abs, slopes)) + jnp.sum(jnp.abs(values))


@jit
def outputs_of(objective: ModelObjective, params: PyTree, inputs: PyTree) -> PyTree:
    """The model's outputs, compiled."""
    return objective.outputs(params, inputs)


@partial(jit, static_argnums=0)
def _range_of_curvature(loss: losses.Loss, outputs: PyTree, batch: Batch) -> Any:
    """The least curvature of an example that counts, and the largest magnitude.

    Those are eigenvalues of H where it is small, u'Hu along some random directions u where it is not.
    """
    if _convexible(loss, outputs):
        found = jnp.linalg.eigvalsh(losses.blocks(loss, outputs, batch.targets))
        found = jnp.where(batch.weights[:, None] > 0, found, 0)
        return jnp.min(found), jnp.max(jnp.abs(found))
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


def _convexible(loss: losses.Loss, outputs: PyTree) -> bool:
    return not isinstance(loss, losses.Mean) and _size(outputs) <= losses.SMALL


def _size(outputs: PyTree) -> int:
    """Outputs of an example."""
    return sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(outputs))
