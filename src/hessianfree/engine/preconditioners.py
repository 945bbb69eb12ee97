"""Preconditioners M ~ B = G + lambda I, applied inside CG as r -> M^-1 r."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import jax
from jax.typing import ArrayLike

from hessianfree.engine.objective import Batch, Objective
from hessianfree.engine.trees import PyTree


class Preconditioner(Protocol):
    """A hashable recipe; `prepare` is traced once per update, what it returns once per CG iteration.

    The function returned must be linear, symmetric and positive definite, and fixed during the update.
    """

    def prepare(
        self, objective: Objective, params: PyTree, batch: Batch, damping: ArrayLike
    ) -> Callable[[PyTree], PyTree]:
        """Build r -> M^-1 r at params."""
        ...


@dataclass(frozen=True)
class Identity:
    """No preconditioning: M = I."""

    def prepare(
        self, objective: Objective, params: PyTree, batch: Batch, damping: ArrayLike
    ) -> Callable[[PyTree], PyTree]:
        """Return r -> r."""
        return lambda residual: residual


@dataclass(frozen=True)
class Diagonal:
    """M = (D + lambda)^exponent, D the mean squared per-example gradient (Martens 2010, section 4.7).

    A heuristic: the squared gradients stand in for the diagonal of G, and the exponent flattens them.

    Args:
        exponent: 0 gives no preconditioning, 1 the full diagonal; 0.75 is the paper's.

    Example:
        >>> Diagonal().exponent
        0.75
    """

    exponent: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.exponent <= 1:
            raise ValueError(f"Diagonal: exponent is {self.exponent}; it must lie in [0, 1]; 0.75 is usual.")

    def prepare(
        self, objective: Objective, params: PyTree, batch: Batch, damping: ArrayLike
    ) -> Callable[[PyTree], PyTree]:
        """Build r -> r / M; the scale of M is free, the damping keeps it away from zero."""
        squares = objective.squared_gradients(params, batch)
        inverse = jax.tree.map(lambda d: (d + damping) ** -self.exponent, squares)
        return lambda residual: jax.tree.map(lambda r, m: r * m, residual, inverse)
