"""How a network arranges its outputs while it works, and how a loss sees them.

A loss sees (B, n), or (B, T, n) over time. A network over time works time-major. Curvature products, many per update,
stay in the network's order: what they multiply by is arranged once instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import jax
import jax.numpy as jnp

from hessianfree.engine.trees import PyTree


class Layout(Protocol):
    """From the order of the losses to that of the network, and back; hashable."""

    def inner(self, tree: PyTree) -> PyTree:
        """In the order of the network."""
        ...

    def outer(self, tree: PyTree) -> PyTree:
        """In the order of the losses."""
        ...


@dataclass(frozen=True)
class ByExample:
    """Both orders are the same: (B, n)."""

    def inner(self, tree: PyTree) -> PyTree:
        """The tree itself."""
        return tree

    def outer(self, tree: PyTree) -> PyTree:
        """The tree itself."""
        return tree


@dataclass(frozen=True)
class TimeMajor:
    """Inside (T, B, n), outside (B, T, n)."""

    def inner(self, tree: PyTree) -> PyTree:
        """(T, B, n)."""
        return swap_time(tree)

    def outer(self, tree: PyTree) -> PyTree:
        """(B, T, n)."""
        return swap_time(tree)


@dataclass(frozen=True)
class Windowed:
    """Inside (L, B V, n), windows of L timesteps as further examples; outside one window after another, (B, V L, n).

    Args:
        length: L.
        batch: B.
    """

    length: int
    batch: int

    def inner(self, tree: PyTree) -> PyTree:
        """(L, B V, n)."""
        return swap_time(jax.tree.map(lambda a: a.reshape(-1, self.length, *a.shape[2:]), tree))

    def outer(self, tree: PyTree) -> PyTree:
        """(B, V L, n)."""
        return jax.tree.map(lambda a: a.reshape(self.batch, -1, *a.shape[2:]), swap_time(tree))


def swap_time(tree: PyTree) -> PyTree:
    """(B, T, ...) <-> (T, B, ...) in every leaf."""
    return jax.tree.map(lambda a: jnp.swapaxes(a, 0, 1), tree)
