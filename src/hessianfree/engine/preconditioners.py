"""Preconditioners M ~ B = G + lambda I, applied inside CG as r -> M^-1 r.

A preconditioner is a recipe in three stages, each traced and compiled, so that what is dear is done seldom:
`measure` looks at the data, every few updates; `prepare` adds the damping and factorises, whenever either changed;
`apply` runs once per CG iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Key

from hessianfree.engine import reprs
from hessianfree.engine.chunks import Chunks
from hessianfree.engine.linearization import linearize
from hessianfree.engine.losses import Mean
from hessianfree.engine.models import Layered
from hessianfree.engine.objective import Batch, TracedObjective, over_pieces, with_shares
from hessianfree.engine.trees import PyTree, Vector, zeros


class Operations(NamedTuple):
    """Floating-point operations of the stages of a preconditioner, about."""

    measure: float
    prepare: float
    apply: float


class Preconditioner(Protocol):
    """A hashable recipe; what it measures and prepares are pytrees of arrays.

    For a given outcome of `prepare`, `apply` must be linear, symmetric and positive definite: CG is undefined
    otherwise. The scale of M is free.
    """

    @property
    def every(self) -> int:
        """Updates from one measurement to the next, at least 1."""

    @property
    def decay(self) -> float:
        """Weight of the past in the running average of measurements, in [0, 1); 0 keeps the last one alone."""

    def check(self, objective: TracedObjective) -> None:
        """Raise TypeError for a model it does not serve."""

    def measure(self, objective: TracedObjective, params: Vector, batch: Batch, key: Key[Array, ""]) -> Any:
        """What is needed of the data at params; the batch is the curvature batch, the random key this update's."""

    def prepare(self, measured: Any, damping: ArrayLike) -> Any:
        """What is needed to apply it at this damping; not finite where that damping is too small."""

    def apply(self, objective: TracedObjective, prepared: Any, residual: Vector) -> Vector:
        """M^-1 r."""

    # A recipe may also define `operations(measured, rows)`: `Operations` for so many rows of data.
    #
    # It may define `blank(params, model)`: zeros in the form of what `measure` returns, or None if it cannot
    # say without knowing the model. States then have one structure from the start, which checkpoints need.


def check_recipe(choice: Any) -> None:
    """Raise TypeError for an object that lacks what a preconditioner needs."""
    if isinstance(choice, type):
        raise TypeError(f"preconditioner is the class {choice.__name__}; an instance is expected: {choice.__name__}().")
    missing = [name for name in ("check", "measure", "prepare", "apply", "every", "decay") if not hasattr(choice, name)]
    if missing:
        raise TypeError(
            f"preconditioner is {choice!r}, which has no {', '.join(missing)}; docs/extending.md shows how to "
            "write one."
        )


def check_cadence(name: str, every: int, decay: float) -> None:
    """Raise ValueError for `every` below 1 or a decay outside [0, 1)."""
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"{name}: every is {every!r}; a whole number of updates, at least 1, is needed.")
    if not 0 <= decay < 1:
        raise ValueError(f"{name}: decay is {decay}; it must lie in [0, 1); 0.95 is usual, 0 forgets at once.")


def layered(objective: TracedObjective) -> Layered:
    """Its model, which knows its layers, as has been found before."""
    return cast(Layered, objective.model)


@dataclass(frozen=True)
class Diagonal:
    """The diagonal M = (D + lambda)^exponent, D the mean squared per-example gradient (Martens 2010, section 4.7).

    A heuristic: the squared gradients stand in for the diagonal of G, and the exponent flattens them.

    Args:
        exponent: 0 gives no preconditioning, 1 the full diagonal; 0.75 is the paper's.
        every: updates from one measurement to the next.
        decay: of the running average over measurements, in [0, 1).

    Raises:
        ValueError: for values out of range.

    Example:
        >>> Diagonal().exponent
        0.75
    """

    exponent: float = 0.75
    every: int = 1
    decay: float = 0.0

    def __repr__(self) -> str:
        return reprs.call(self)

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"Diagonal: exponent is {self.exponent}; it must lie in [0, 1]; 0.75 is usual.")
        check_cadence("Diagonal", self.every, self.decay)

    def check(self, objective: TracedObjective) -> None:
        """It serves any model."""

    def measure(self, objective: TracedObjective, params: Vector, batch: Batch, key: Key[Array, ""]) -> PyTree:
        """The mean squared gradient of an example."""
        return squared_gradients(objective, params, batch)

    def blank(self, params: Vector, model: object) -> PyTree:
        """Zeros, one for each parameter."""
        return zeros(params)

    def prepare(self, measured: PyTree, damping: ArrayLike) -> PyTree:
        """1 / M; the damping keeps it away from infinity."""
        return jax.tree.map(lambda d: (d + damping) ** -self.exponent, measured)

    def apply(self, objective: TracedObjective, prepared: PyTree, residual: Vector) -> Vector:
        """The quotient r / M, elementwise."""
        return jax.tree.map(jnp.multiply, residual, prepared)


def squared_gradients(objective: TracedObjective, params: Vector, batch: Batch) -> Vector:
    """The weighted mean over examples of the squared gradient, elementwise: sum_i w_i g_i^2 / sum_i w_i.

    By the layers of a model that knows them, else example by example. An example's gradient of a block is x delta',
    whose squares are those of x times those of delta. Over time it is a sum of such products, whose squares do not
    factorise. Raises TypeError for a loss of the whole batch, which has no gradients of single examples.
    """
    if isinstance(objective.loss, Mean):
        raise TypeError(
            "The diagonal preconditioner needs the gradients of single examples, but the loss returns one number "
            'for the batch; make it return a value for each example, or take preconditioner="nystrom".'
        )
    if not isinstance(objective.model, Layered) or objective.model.has_time:
        return example_by_example(objective, params, batch)

    def of_piece(objective: TracedObjective, params: Vector, part: Batch) -> Vector:
        model, cotangents = layered(objective), lambda outputs: objective.loss.gradients(outputs, part.targets)
        flows = model.flows(params, part.inputs, part.weights, cotangents)
        squares = {name: (x**2).T @ (weights[:, None] * deltas**2) for name, (x, deltas, weights) in flows.items()}
        return model.from_blocks(squares, params)

    return over_pieces(objective, of_piece, params, with_shares(batch))


def example_by_example(objective: TracedObjective, params: Vector, batch: Batch, chunk: int = 32) -> Vector:
    """By the gradients of single examples, `chunk` of them at once: memory is chunk x parameters."""

    def of_piece(objective: TracedObjective, params: Vector, part: Batch) -> Vector:
        """What is cut again here, into parts of a few examples."""

        def squared(example: Batch) -> Vector:
            one = Batch(example.inputs, example.targets, jnp.ones_like(example.weights))
            gradient = linearize(objective, params, jax.tree.map(lambda a: a[None], one)).gradient
            weight = example.weights  # where it is zero, targets and with them the gradient need not be finite
            return jax.tree.map(lambda g: jnp.where(weight == 0, 0, weight * g**2).astype(g.dtype), gradient)

        return jax.tree.map(lambda a: jnp.sum(a, axis=0), jax.vmap(squared)(part))

    few = Chunks(min(chunk, len(batch.weights))) if objective.chunks is None else objective.chunks
    few = few._replace(size=min(few.size, chunk * few.devices))
    return over_pieces(replace(objective, chunks=few), of_piece, params, with_shares(batch))
