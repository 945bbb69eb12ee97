"""K-FAC as a preconditioner: the curvature of each layer as a Kronecker product of two small matrices.

Martens and Grosse 2015. Symbols, for one block of weights (all that leads into one layer, biases included):
    x       what the block multiplies, (m,): activations of the layers before, and 1 for a bias
    delta   derivative of a loss with respect to the layer's input z, (n,)
    A       E[x x'], (m, m)             S   E[delta delta'], (n, n)
The block of G that belongs to weights V (m, n) is about V -> A V S, and with factored Tikhonov damping (section 6.3)
    M V = (A + pi sqrt(lambda) I) V (S + sqrt(lambda) / pi I),    pi^2 = (tr A / m) / (tr S / n).
The deltas are back-propagated from random vectors whose covariance is the curvature of the loss. Targets sampled
from the model's own distribution give such vectors (section 5); normal ones of the same covariance give a less noisy S.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.typing import ArrayLike
from jaxtyping import Key

from hessianfree.engine import reprs
from hessianfree.engine.models import Flow, Layered
from hessianfree.engine.objective import Batch, TracedObjective, by_examples, over_pieces, sample_examples, with_shares
from hessianfree.engine.preconditioners import Operations, check_cadence, layered
from hessianfree.engine.trees import Vector

#: Share of a factor's trace that is added whatever the damping: float32 cannot tell less from singular.
RIDGE = 1e-6


class Factors(NamedTuple):
    """The two factors of one block."""

    A: Array  # (m, m)
    S: Array  # (n, n)


def factors(flow: Flow) -> Factors:
    """The factors of a block. A timestep counts as a further example (Martens, Ba and Johnson 2018, section 3).

    G is about sum_t E[x_t x_t'] times mean_t E[delta_t delta_t'].
    """
    return _mean(*_sums(flow))


def _sums(flow: Flow) -> tuple[Factors, Array]:
    """Sums over examples in place of both factors, and that of their weights."""
    (x, deltas, weights), rows = flow, flow.weights[:, None]
    return Factors(x.T @ (rows * x), deltas.T @ (rows * deltas)), jnp.sum(weights)


def _mean(sums: Factors, weight: Array) -> Factors:
    return sums._replace(S=sums.S / jnp.maximum(weight, jnp.finfo(weight.dtype).tiny))


@dataclass(frozen=True)
class KFAC:
    """Kronecker-factored curvature, block by block (Martens and Grosse 2015).

    Args:
        every: updates from one measurement of the factors to the next.
        decay: of their running average, in [0, 1).

    Raises:
        ValueError: for values out of range.

    Example:
        >>> KFAC(every=5).decay
        0.95
    """

    every: int = 1
    decay: float = 0.95

    def __repr__(self) -> str:
        return reprs.call(self)

    def __post_init__(self) -> None:
        check_cadence("KFAC", self.every, self.decay)

    def check(self, objective: TracedObjective) -> None:
        """Raise TypeError for a model that does not know its layers."""
        if not isinstance(objective.model, Layered):
            raise TypeError(
                "K-FAC needs a model that knows its layers, such as FFNet or RNNet; this one is a function, which does "
                'not. preconditioner="diagonal" and "nystrom" serve any model.'
            )

    def measure(
        self, objective: TracedObjective, params: Vector, batch: Batch, key: Key[Array, ""]
    ) -> dict[Hashable, Factors]:
        """Both factors of every block; where the batch is cut, deltas are drawn for all of it at once."""

        def of_piece(
            objective: TracedObjective, point: tuple[Vector, Any], part: Batch, *deltas: Vector
        ) -> dict[Hashable, Any]:
            model, (params, key) = layered(objective), point

            def cotangents(outputs: Vector) -> Vector:
                return _in_order(model, deltas[0]) if deltas else sample_examples(objective, outputs, part, key)

            flows = model.flows(params, part.inputs, part.weights, cotangents)
            return {name: _sums(flow) for name, flow in flows.items()}

        shares = with_shares(batch)
        drawn = (_all_deltas(objective, params, shares, key),) if objective.cuts(batch) else ()
        sums = over_pieces(objective, of_piece, (params, None if drawn else key), shares, *drawn)
        return {name: _mean(*parts) for name, parts in sums.items()}

    def blank(self, params: Vector, model: object) -> dict[Hashable, Factors] | None:
        """Zeros in place of both factors of every block; None for a model that does not know its layers."""
        if not isinstance(model, Layered):
            return None
        blocks = jax.eval_shape(model.to_blocks, params).items()
        return {name: Factors(*(_zeros(size, V.dtype) for size in V.shape)) for name, V in blocks}

    def prepare(self, measured: Mapping[Hashable, Factors], damping: ArrayLike) -> dict[Hashable, Factors]:
        """Inverses of both damped factors of every block; NaN where one is not positive definite."""
        return {name: _damped_inverses(factors, damping) for name, factors in measured.items()}

    def operations(self, measured: Mapping[Hashable, Factors], rows: float) -> Operations:
        """Of the products and factorizations of matrices."""
        sizes = [(len(A), len(S)) for A, S in measured.values()]
        return Operations(
            sum(2 * rows * (m**2 + n**2) for m, n in sizes),
            sum(10 / 3 * (m**3 + n**3) for m, n in sizes),
            sum(2 * m * n * (m + n) for m, n in sizes),
        )

    def apply(self, objective: TracedObjective, prepared: Mapping[Hashable, Factors], residual: Vector) -> Vector:
        """The product A^-1 r S^-1 in every block."""
        model = layered(objective)
        solved = {name: prepared[name].A @ r @ prepared[name].S for name, r in model.to_blocks(residual).items()}
        return model.from_blocks(solved, residual)


def _all_deltas(objective: TracedObjective, params: Vector, shares: Batch, key: Key[Array, ""]) -> Vector:
    """The deltas of all examples, drawn at once from all outputs, leaves (B, ...)."""
    model = layered(objective)

    def of_piece(objective: TracedObjective, params: Vector, part: Batch) -> Vector:
        return _by_example(model, objective.model.outputs(params, part.inputs), len(part.weights))

    outputs = _in_order(model, by_examples(objective, of_piece, params, shares))
    return _by_example(model, sample_examples(objective, outputs, shares, key), len(shares.weights))


def _by_example(model: Layered, outputs: Vector, count: int) -> Vector:
    """Outputs over time have the examples along their second axis, or each with all its windows; here (B, V, ...)."""
    first = lambda a: jnp.moveaxis(a, int(model.has_time), 0)  # noqa: E731
    return jax.tree.map(lambda a: first(a).reshape(count, -1, *first(a).shape[1:]), outputs)


def _in_order(model: Layered, outputs: Vector) -> Vector:
    """The inverse."""
    return jax.tree.map(lambda a: jnp.moveaxis(a.reshape(-1, *a.shape[2:]), 0, int(model.has_time)), outputs)


def _zeros(size: int, dtype: Any) -> Any:
    return np.zeros((size, size), dtype)


def _damped_inverses(factors: Factors, damping: ArrayLike) -> Factors:
    (A, S), root = factors, jnp.sqrt(jnp.asarray(damping, factors.A.dtype))
    ratio = (jnp.trace(A) / len(A)) / (jnp.trace(S) / len(S))
    # A block that nothing flows through has no curvature: M is lambda I there.
    usable = (ratio > 0) & jnp.isfinite(ratio)
    A, S = jnp.where(usable, A, 0), jnp.where(usable, S, 0)
    pi = jnp.sqrt(jnp.where(usable, ratio, 1))
    trace_A, trace_S = jnp.trace(A), jnp.trace(S)
    return Factors(_inverse(A, pi * root + RIDGE * trace_A), _inverse(S, root / pi + RIDGE * trace_S))


def _inverse(matrix: Array, shift: Array) -> Array:
    """The inverse of a shifted matrix as K'K, K the inverse of its Cholesky factor.

    Symmetric, and positive definite while rounding allows: RIDGE bounds the condition. In the loop of CG one product
    is several times faster than two triangular solves.
    """
    unit = jnp.eye(len(matrix), dtype=matrix.dtype)
    K = solve_triangular(jnp.linalg.cholesky(matrix + shift * unit), unit, lower=True)
    return K.T @ K
