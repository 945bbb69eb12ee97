"""An objective: a model and a loss, with their value, gradient and Gauss-Newton product.

Symbols, used throughout the engine:
    theta   parameters, a pytree
    J       Jacobian of the model's outputs with respect to theta, all examples together
    H       second derivative of the loss with respect to the outputs, block diagonal over examples
    w       per-example weights; the loss is f = sum_i w_i l_i / sum_i w_i
    g       gradient J' (dl/doutputs)
    G       generalised Gauss-Newton matrix J' H J (Schraudolph 2002, eq. 16)
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, Self, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Jaxpr, subjaxprs
from jax.tree_util import Partial

from hessianfree.engine import trees
from hessianfree.engine.compilation import jit
from hessianfree.engine.trees import PyTree

#: Matrix products in full precision everywhere: reduced ones (TF32 on GPUs) put errors of 1e-3 into the curvature.
PRECISION = "highest"


class Batch(NamedTuple):
    """Examples and their weights; every leaf has the same leading axis B.

    A weight of zero makes an example count for nothing, as long as its outputs are finite (its targets need not be):
    the last minibatch of an epoch is padded to the common shape so, and nothing is compiled for remainders.
    """

    inputs: PyTree
    targets: PyTree
    weights: Any  # (B,), numpy or JAX


class Linearization(NamedTuple):
    """The objective around one point: f, g and the product v -> G v."""

    value: Array
    gradient: PyTree
    product: Callable[[PyTree], PyTree]


class Problem(Protocol):
    """What an optimizer minimises: a value that may be computed anywhere, and a traceable local model."""

    def value(self, params: PyTree, batch: Batch) -> float:
        """The loss at params."""
        ...

    def localize(self, params: PyTree, batch: Batch) -> tuple[Objective, Batch]:
        """A traceable objective that agrees with this one to first order around params."""
        ...


class Objective:
    """Interface of a traceable model and loss, itself a pytree.

    What is static (classes, shapes, options) is compared by value, arrays are leaves, so that two objectives of
    one structure share one compilation. A concrete class defines the five methods that raise here; `value` and
    `localize` make every objective a `Problem`.
    """

    def outputs(self, params: PyTree, inputs: PyTree) -> PyTree:
        """The model: everything that some part of the loss looks at, leaves (B, ...) unless `weigh` says otherwise."""
        raise NotImplementedError

    def losses(self, outputs: PyTree, targets: PyTree) -> Array:
        """Loss of each example, (B,)."""
        raise NotImplementedError

    def loss_gradients(self, outputs: PyTree, targets: PyTree) -> PyTree:
        """Derivative of each example's loss with respect to its outputs, shaped like the outputs."""
        raise NotImplementedError

    def loss_curvature(self, outputs: PyTree, targets: PyTree) -> Callable[[PyTree], PyTree]:
        """The product u -> H u, example by example; H must be symmetric, and positive for a convex loss."""
        raise NotImplementedError

    def weigh(self, weights: Array, outputs: PyTree) -> PyTree:
        """Multiply what belongs to example i by weights[i], (B,); for outputs with another leading axis than B."""
        return trees.weigh_examples(weights, outputs)

    def squared_gradients(self, params: PyTree, batch: Batch) -> PyTree:
        """Weighted mean over examples of the squared gradient, shaped like params."""
        raise NotImplementedError

    def value(self, params: PyTree, batch: Batch) -> float:
        """The loss at params, in a compiled function shared by all objectives of one structure."""
        return float(_compiled_value(self, params, batch))

    def localize(self, params: PyTree, batch: Batch) -> tuple[Self, Batch]:
        """A traceable objective is its own local model."""
        return self, batch


def mean_weights(weights: Array) -> Array:
    """Weights divided by their sum; all zero when the sum is zero."""
    total = jnp.sum(weights)
    return weights / jnp.where(total > 0, total, 1)


def mean_loss(objective: Objective, params: PyTree, batch: Batch) -> Array:
    """The weighted mean loss f, traceable."""
    losses = objective.losses(objective.outputs(params, batch.inputs), batch.targets)
    return jnp.sum(trees.weigh_examples(mean_weights(batch.weights), losses))


@jit
def _compiled_value(objective: Objective, params: PyTree, batch: Batch) -> Array:
    with jax.default_matmul_precision(PRECISION):
        return mean_loss(objective, params, batch)


class LinearMap(NamedTuple):
    """A function's value at a point, and its derivative there: v -> Jv and u -> J'u.

    Both are pytrees whose leaves are what they remember of the forward pass: compiled functions may hand them on.
    """

    outputs: PyTree
    push: Partial
    pull: Partial


def linear_map(function: Callable[[PyTree], PyTree], params: PyTree) -> LinearMap:
    """Linearise a function once, in forward mode if it has one.

    Where `jax.custom_vjp` gives the derivative there is none; Jv is then the derivative of u -> J'u, which is linear:
    reverse mode of reverse mode.

    Args:
        function: of the parameters.
        params: the point.

    Returns:
        Its value and both products.
    """
    outputs, push = jax.linearize(function, params)
    if not lacks_forward_mode(push, params):
        return LinearMap(outputs, cast(Partial, push), Partial(_transposed, push, params))
    outputs, reverse = jax.vjp(function, params)
    return LinearMap(outputs, Partial(_reversed_twice, reverse, outputs), Partial(_first, reverse))


def has_forward_mode(function: Callable[[PyTree], PyTree], params: PyTree) -> bool:
    """Whether a function can be linearised in forward mode, found without computing anything."""
    found = []

    def look(p: PyTree) -> PyTree:
        outputs, push = jax.linearize(function, p)
        found.append(not lacks_forward_mode(push, p))
        return outputs

    jax.eval_shape(look, params)
    return found[0]


def lacks_forward_mode(push: Callable[[PyTree], PyTree], params: PyTree) -> bool:
    """Whether v -> Jv was given by `jax.custom_vjp`: such a function can be traced and transposed, but not run."""
    return _contains(jax.make_jaxpr(push)(params).jaxpr, "custom_lin")


def _contains(program: Jaxpr, primitive: str) -> bool:
    """Whether a program holds this primitive, in a loop or a called function too."""
    here = any(equation.primitive.name == primitive for equation in program.eqns)
    return here or any(_contains(inner, primitive) for inner in subjaxprs(program))


def _transposed(push: Partial, params: PyTree, cotangents: PyTree) -> PyTree:
    return jax.linear_transpose(push, params)(cotangents)[0]


def _first(reverse: Callable[..., Any], cotangents: PyTree) -> PyTree:
    return reverse(cotangents)[0]


def _reversed_twice(reverse: Callable[..., Any], outputs: PyTree, vector: PyTree) -> PyTree:
    _, push = jax.vjp(partial(_first, reverse), jax.tree.map(jnp.zeros_like, outputs))
    return push(vector)[0]


def linearize(objective: Objective, params: PyTree, batch: Batch) -> Linearization:
    """Linearise once; every product v -> Jv -> HJv -> J'HJv after that costs two passes, not three.

    The model is evaluated once, here. A product holds four matrix multiplications per weight matrix, and two
    for one that starts at the inputs, through which no tangent flows.

    Args:
        objective: model and loss.
        params: the point.
        batch: examples and weights.

    Returns:
        f, g and v -> G v there, all of them weighted means over examples.
    """
    weights = mean_weights(batch.weights)
    outputs, push, pull = linear_map(lambda p: objective.outputs(p, batch.inputs), params)
    curvature = objective.loss_curvature(outputs, batch.targets)  # u -> Hu

    def pull_mean(cotangents: PyTree) -> PyTree:
        return pull(objective.weigh(weights, cotangents))

    return Linearization(
        value=jnp.sum(trees.weigh_examples(weights, objective.losses(outputs, batch.targets))),
        gradient=pull_mean(objective.loss_gradients(outputs, batch.targets)),
        product=lambda v: pull_mean(curvature(push(v))),
    )


@jit
def value_and_gradient(objective: Objective, params: PyTree, batch: Batch) -> tuple[Array, PyTree]:
    """The loss and its gradient, compiled.

    Args:
        objective: model and loss.
        params: the point.
        batch: examples and weights.

    Returns:
        f, a scalar, and g, shaped like params.
    """
    with jax.default_matmul_precision(PRECISION):
        local = linearize(objective, params, batch)
        return local.value, local.gradient


@jit
def curvature_product(objective: Objective, params: PyTree, batch: Batch, vector: PyTree) -> PyTree:
    """One product G v, compiled; inside CG the linearisation is shared between products instead.

    Args:
        objective: model and loss.
        params: the point.
        batch: examples and weights.
        vector: v, shaped like params.

    Returns:
        G v, shaped like params.
    """
    with jax.default_matmul_precision(PRECISION):
        return linearize(objective, params, batch).product(vector)


def autodiff_gradients(losses: Callable[[PyTree], Array], outputs: PyTree) -> PyTree:
    """Per-example loss gradients by reverse mode; examples do not mix, so one pull of ones gives them all."""
    return jax.grad(lambda o: jnp.sum(losses(o)))(outputs)


def autodiff_curvature(losses: Callable[[PyTree], Array], outputs: PyTree) -> Callable[[PyTree], PyTree]:
    """U -> H u by forward over reverse mode, linearised once."""
    return jax.linearize(lambda o: autodiff_gradients(losses, o), outputs)[1]


def mean_squared_gradients(objective: Objective, params: PyTree, batch: Batch, chunk: int = 32) -> PyTree:
    """Weighted mean of the squared per-example gradients, for a model without known structure.

    Args:
        objective: model and loss.
        params: the point.
        batch: examples and weights.
        chunk: examples whose gradients are held at once; memory is chunk x parameters.

    Returns:
        sum_i w_i g_i^2 / sum_i w_i, elementwise, shaped like params.
    """

    def squared(example: Batch) -> PyTree:
        single = jax.tree.map(lambda a: a[None], Batch(example.inputs, example.targets, jnp.ones_like(example.weights)))
        gradient = linearize(objective, params, single).gradient
        weight = example.weights  # where it is zero, targets and with them the gradient need not be finite
        return jax.tree.map(lambda g: jnp.where(weight == 0, 0, weight * g**2).astype(g.dtype), gradient)

    size = batch.weights.shape[0]
    chunk = min(chunk, size)
    whole = size - size % chunk
    head = jax.tree.map(lambda a: a[:whole].reshape((-1, chunk, *a.shape[1:])), batch)

    def total(examples: Batch) -> PyTree:
        return jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.vmap(squared)(examples))

    def accumulate(carry: PyTree, examples: Batch) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, carry, total(examples)), None

    zero = jax.tree.map(jnp.zeros_like, params)
    summed, _ = jax.lax.scan(
        accumulate, zero, head._replace(weights=mean_weights(batch.weights)[:whole].reshape(-1, chunk))
    )
    if whole == size:
        return summed
    tail = jax.tree.map(lambda a: a[whole:], batch._replace(weights=mean_weights(batch.weights)))
    return jax.tree.map(jnp.add, summed, total(tail))
