"""Estimates from products with a symmetric matrix: trace, diagonal, largest eigenvalues and their density.

Symbols:
    A   the matrix, (P, P), known by the function `times`: columns V (P, k) -> A V, in float64
    z   vectors of random signs (Rademacher vectors)
    Q   orthonormal columns          T   the tridiagonal matrix Q'AQ of Lanczos
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from hessianfree.engine import lanczos
from hessianfree.engine.compilation import jit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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


class SpectralDensity(NamedTuple):
    """Density of the eigenvalues over a grid, as a sum of bumps, and the largest eigenvalues."""

    grid: Float[np.ndarray, "n"]
    density: Float[np.ndarray, "n"]
    largest: Float[np.ndarray, "k"]  # descending
    width: float  # standard deviation of a bump


class Rule(NamedTuple):
    """Nodes and weights of a quadrature; the weights sum to one."""

    theta: Float[np.ndarray, "k"]
    tau: Float[np.ndarray, "k"]


def signs(rng: np.random.Generator, size: int, count: int) -> Float[np.ndarray, "P count"]:
    """Columns of random signs."""
    return 2.0 * rng.integers(0, 2, (size, count)) - 1


def trace(times: Times, size: int, samples: int, rng: np.random.Generator) -> Estimate:
    """The sum of tr Q'AQ and the mean of x'Ax, x = (I - QQ') z, Q an orthonormal basis of A S for random signs S.

    Args:
        times: V -> A V.
        size: P.
        samples: products in all, at least 6; a third each for A S, A Q and A x.
        rng: random generator for the signs.
    """
    third = samples // 3
    Q, _ = np.linalg.qr(times(signs(rng, size, min(third, size))))
    z = signs(rng, size, third)
    x = z - Q @ (Q.T @ z)
    rest = np.sum(x * times(x), axis=0)
    value = np.sum(Q * times(Q)) + rest.mean()
    return Estimate(float(value), float(rest.std(ddof=1) / np.sqrt(third)))


def diagonal(times: Times, size: int, samples: int, rng: np.random.Generator) -> Float[np.ndarray, "P"]:
    """Mean of z * (A z), elementwise. There is no division by z * z, which is one."""
    total = np.zeros(size)
    for _ in range(samples):
        z = signs(rng, size, 1)
        total += (z * times(z))[:, 0]
    return total / samples


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


def drawn(found: SpectralDensity, size: int, title: str) -> Figure:
    """The density on a logarithmic axis, and the largest eigenvalues as marks below it.

    Args:
        found: what to draw.
        size: P.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    # A tenth of the height of a single eigenvalue's bump.
    floor = 0.1 / (size * found.width * np.sqrt(2 * np.pi))
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    panel = figure.subplots()
    panel.semilogy(found.grid, np.maximum(found.density, 1e-3 * floor), label="density")
    panel.plot(
        found.largest,
        np.full(len(found.largest), floor),
        color="C3",
        marker="|",
        markersize=10,
        linestyle="none",
        clip_on=False,
        label="largest",
    )
    panel.set_ylim(bottom=floor)
    panel.set_xlabel("eigenvalue")
    panel.set_ylabel("density")
    panel.set_title(title)
    panel.grid(alpha=0.3)
    panel.legend()
    return figure
