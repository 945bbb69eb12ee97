"""What estimates of a symmetric matrix are, and the density of its eigenvalues from products with it.

Symbols:
    A   the matrix, (P, P), known by the function `times`: columns V (P, k) -> A V, in float64
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hessianfree.engine import lanczos, reprs
from hessianfree.engine.compilation import jit

Floats = Float[np.ndarray, "P k"]
Times = Callable[[Floats], Floats]


class Estimate(NamedTuple):
    """An estimate from random vectors, with its standard error."""

    value: float
    standard_error: float


class Eigenpairs(NamedTuple):
    """Eigenvalues, the largest first, and their eigenvectors in columns."""

    values: Float[np.ndarray, "k"]
    vectors: Float[np.ndarray, "P k"]

    def __repr__(self) -> str:
        return reprs.fields(self)


class SpectralDensity(NamedTuple):
    """Density of the eigenvalues over a grid, as a sum of bumps, and the largest eigenvalues."""

    grid: Float[np.ndarray, "n"]
    density: Float[np.ndarray, "n"]
    largest: Float[np.ndarray, "k"]  # descending
    width: float  # standard deviation of a bump

    def __repr__(self) -> str:
        return reprs.fields(self)


class Rule(NamedTuple):
    """Nodes and weights of a quadrature; the weights sum to one."""

    theta: Float[np.ndarray, "k"]
    tau: Float[np.ndarray, "k"]


def signs(rng: np.random.Generator, size: int, count: int) -> Float[np.ndarray, "P count"]:
    """Columns of random signs."""
    return 2.0 * rng.integers(0, 2, (size, count)) - 1


def density(rules: list[Rule], width: float) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], float]:
    """Grid, mean over rules of sum_k tau_k N(t; theta_k, sigma^2), and sigma.

    Args:
        rules: one per probe.
        width: sigma as a share of the range of theta.
    """
    theta = np.concatenate([rule.theta for rule in rules])
    tau = np.concatenate([rule.tau for rule in rules]) / len(rules)
    # Eigenvalues that differ only by rounding still get a visible bump.
    sigma = width * (max(np.ptp(theta), 1e-2 * np.abs(theta).max()) or 1.0)
    ends = theta.min() - 6 * sigma, theta.max() + 6 * sigma
    grid = np.linspace(*ends, int(5 * (ends[1] - ends[0]) / sigma) + 1)
    height = np.zeros(len(grid))
    for at, share in zip(theta, tau, strict=True):
        height += share * np.exp(-0.5 * ((grid - at) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return grid, height, float(sigma)


def quadrature(times: Times, start: Float[np.ndarray, "P"], steps: int, eps: float) -> Rule:
    """The Gauss rule that Lanczos gives for the eigenvalues as seen from a vector.

    It has fewer nodes than steps if the vectors span a space that A does not leave; it is then exact.

    Args:
        times: V -> A V.
        start: the vector.
        steps: at most P.
        eps: relative accuracy of the products.
    """
    with jax.enable_x64(True):
        state = lanczos.begun(jnp.asarray(start, jnp.float64), steps)
    largest = 0.0
    for j in range(steps):
        product = times(np.asarray(state.q)[:, None])[:, 0]
        with jax.enable_x64(True):
            state = _extended(state, jnp.asarray(product))
            largest = max(largest, abs(float(state.space.diagonal[j])))
        beta = float(state.beta)
        if beta <= eps * largest:
            break
        largest = max(largest, beta)
    diagonal, beside = np.asarray(state.space.diagonal)[: j + 1], np.asarray(state.space.beside)[:j]
    theta, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return Rule(theta, vectors[0] ** 2)


_extended = jit(lanczos.extended, donate_argnums=0)
