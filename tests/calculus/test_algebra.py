"""The tables of products, beside products of polynomials written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hessianfree.calculus.algebra import algebra

#: Wanted derivatives, those that are summed, and how many coefficients and which order that takes.
CASES = {
    "burgers": ([(1, 0), (0, 1), (2, 0)], [], 3, 2),
    "third order and time": ([(3, 0), (0, 1)], [], 4, 3),
    "mixed": ([(2, 1)], [], 5, 3),
    "laplacian": ([(0, 0, 0)], [(2, 0, 0), (0, 2, 0), (0, 0, 2)], 3, 2),
    "laplacian and time": ([(0, 0, 1)], [(2, 0, 0), (0, 2, 0)], 3, 2),
    "kept and summed": ([(2, 0)], [(2, 0), (0, 2)], 3, 2),
    "biharmonic": ([], [(4, 0), (0, 4), (2, 2)], 9, 4),
}


def multiplied(f, g):
    """The product of two polynomials {exponents: coefficient}."""
    found = {}
    for (alpha, a), (beta, b) in itertools.product(f.items(), g.items()):
        gamma = tuple(np.add(alpha, beta).tolist())
        found[gamma] = found.get(gamma, 0) + a * b
    return found


def vector(polynomial, taken, summed):
    """Its coefficients as the algebra has them."""
    total = sum(math.prod(map(math.factorial, gamma)) * polynomial.get(gamma, 0) for gamma in summed)
    return np.array([*(polynomial.get(alpha, 0) for alpha in taken.indices), total])


def by_table(f, g, taken):
    found = np.zeros(len(f))
    for a, b, c, weight in taken.products:
        found[c] += weight * f[a] * g[b]
    return found


@pytest.mark.parametrize("case", CASES)
def test_products_are_those_of_polynomials(case):
    wanted, summed, size, order = CASES[case]
    taken, rng = algebra(wanted, summed), np.random.RandomState(0)
    assert (len(taken.indices), taken.order) == (size, order)
    dimensions = len((*wanted, *summed)[0])
    exponents = [e for e in itertools.product(range(order + 1), repeat=dimensions) if 0 < sum(e) <= order]
    f, g = ({e: rng.randn() for e in exponents} for _ in range(2))
    expected = vector(multiplied(f, g), taken, summed)
    found = by_table(vector(f, taken, summed), vector(g, taken, summed), taken)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_powers_are_those_of_the_exponential(case):
    wanted, summed, _, order = CASES[case]
    taken = algebra(wanted, summed)
    n = np.random.RandomState(1).randn(len(taken.indices) + 1)
    expected, power = np.zeros(len(n)), n
    for k in range(1, order + 1):
        expected += power / math.factorial(k)
        power = by_table(power, n, taken)
    found = np.zeros(len(n))
    for factors, c, weight in taken.powers:
        found[c] += weight * np.prod(n[list(factors)])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
