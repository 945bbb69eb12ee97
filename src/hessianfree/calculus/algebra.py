"""Truncated Taylor series as an algebra: which products of coefficients make up which coefficient.

Symbols:
    alpha   a multi-index, the order of a derivative along each direction: (2, 0, 1) is d^3 / dx^2 dz
    f_alpha the Taylor coefficient d^alpha f / alpha!; (f g)_gamma is the sum of f_alpha g_beta, alpha + beta = gamma
    sum     one further coefficient, sum_gamma gamma! f_gamma over derivatives that are wanted only together

The set of multi-indices holds the divisors of each of its members: nothing else is needed of f and g for f g. The terms
of the sum are not kept one by one. This is what makes a Laplacian cheap: of d second derivatives one array goes through
the network. It is exact, since what multiplies a term of the sum further is beyond the truncation.

Source: Li et al. 2023, "Forward Laplacian"; Dangel et al. 2025, "Collapsing Taylor mode automatic differentiation".
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

#: The order along each direction.
MultiIndex = tuple[int, ...]


@dataclass(frozen=True)
class Algebra:
    """The nilpotent part of a series, numbered coefficients and their products."""

    indices: tuple[MultiIndex, ...]  # of the coefficients that are kept, by number; the sum is the number after them
    products: tuple[tuple[int, int, int, float], ...]  # (a, b, c, w): f_a g_b adds w times itself to (f g)_c
    order: int  # products of more factors vanish
    mapped: str | None = None  # name of a mapped axis of directions, over which products are added up into the sum

    def place(self, index: MultiIndex) -> int:
        """The number of a coefficient."""
        return self.indices.index(index)

    @property
    def sum(self) -> int:
        """The number of the sum."""
        return len(self.indices)

    @cached_property
    def powers(self) -> tuple[tuple[tuple[int, ...], int, float], ...]:
        """What is in exp(n) = 1 + n + n n / 2 + ...: (factors of n, the coefficient they add to, their weight)."""
        first: list[tuple[tuple[int, ...], int, float]] = [((a,), a, 1.0) for a in range(len(self.indices) + 1)]
        return tuple(self._longer(first))

    def _longer(
        self, shorter: list[tuple[tuple[int, ...], int, float]]
    ) -> Iterator[tuple[tuple[int, ...], int, float]]:
        """Products by number of factors, each with its factors in ascending order and counted once."""
        table: dict[tuple[int, int], list[tuple[int, float]]] = {}
        for a, b, c, weight in self.products:
            table.setdefault((a, b), []).append((c, weight))
        while shorter:
            for factors, c, weight in shorter:
                yield factors, c, weight / math.prod(math.factorial(factors.count(a)) for a in {*factors})
            shorter = [
                ((*factors, a), longer, weight * more)
                for factors, c, weight in shorter
                for a in range(factors[-1], len(self.indices))
                for longer, more in table.get((c, a), ())
            ]


def algebra(wanted: Iterable[MultiIndex], summed: Collection[MultiIndex] = (), mapped: str | None = None) -> Algebra:
    """The smallest algebra with some derivatives one by one, and the sum of others.

    Args:
        wanted: multi-indices of equal length.
        summed: derivatives that are wanted only together; a divisor of another derivative is kept one by one too.
        mapped: name of an axis of `jax.vmap`, if the directions of the sum are mapped and not numbered.
    """
    kept = {alpha for gamma in wanted for alpha in divisors(gamma)}
    kept |= {alpha for gamma in summed for alpha in divisors(gamma) if alpha != gamma}
    indices = sorted((alpha for alpha in kept if any(alpha)), key=lambda alpha: (sum(alpha), alpha[::-1]))
    places = {alpha: place for place, alpha in enumerate(indices)}
    products = []
    for (alpha, a), (beta, b) in itertools.product(places.items(), repeat=2):
        gamma = tuple(i + j for i, j in zip(alpha, beta, strict=True))
        if gamma in places:
            products.append((a, b, places[gamma], 1.0))
        if gamma in summed:
            products.append((a, b, len(indices), float(math.prod(map(math.factorial, gamma)))))
    return Algebra(tuple(indices), tuple(products), max((sum(gamma) for gamma in (*kept, *summed)), default=0), mapped)


def divisors(gamma: MultiIndex) -> Iterator[MultiIndex]:
    """All multi-indices that are at most gamma along each direction."""
    return itertools.product(*(range(order + 1) for order in gamma))
