"""What products with a symmetric matrix tell of it: trace, diagonal, largest eigenvalues and their density.

Symbols:
    A   the matrix, (P, P), known by the function `times`: columns V (P, k) -> A V, in float64
    z   vectors of random signs (Rademacher vectors)
    Q   orthonormal columns          T   the tridiagonal matrix Q'AQ of Lanczos
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[Any]
Times = Callable[[Floats], Floats]


class Estimate(NamedTuple):
    """An estimate from random vectors, and its standard error."""

    value: float
    standard_error: float


class Eigenpairs(NamedTuple):
    """Eigenvalues (k,), the largest first, and their eigenvectors, the columns of a matrix (P, k)."""

    values: Floats
    vectors: Floats


class SpectralDensity(NamedTuple):
    """Density (n,) of the eigenvalues over a grid (n,), made of bumps of this width; and the largest of them, (k,)."""

    grid: Floats
    density: Floats
    largest: Floats  # descending
    width: float  # standard deviation of a bump


class Rule(NamedTuple):
    """Nodes and weights, which sum to one, of a quadrature."""

    theta: Floats
    tau: Floats


def signs(rng: np.random.Generator, size: int, count: int) -> Floats:
    """Columns of random signs, (P, count)."""
    return 2.0 * rng.integers(0, 2, (size, count)) - 1


def trace(times: Times, size: int, samples: int, rng: np.random.Generator) -> Estimate:
    """The sum tr Q'AQ + mean of x'Ax, x = (I - QQ') z, Q an orthonormal basis of A S for random signs S.

    Args:
        times: V -> A V.
        size: P.
        samples: products in all, at least 6; a third each for A S, A Q and A x.
        rng: source of the signs.
    """
    third = samples // 3
    Q, _ = np.linalg.qr(times(signs(rng, size, min(third, size))))
    z = signs(rng, size, third)
    x = z - Q @ (Q.T @ z)
    rest = np.sum(x * times(x), axis=0)
    value = np.sum(Q * times(Q)) + rest.mean()
    return Estimate(float(value), float(rest.std(ddof=1) / np.sqrt(third)))


def diagonal(times: Times, size: int, samples: int, rng: np.random.Generator) -> Floats:
    """Mean of z * (A z), elementwise, (P,); z * z, by which it would be divided, is one."""
    total = np.zeros(size)
    for _ in range(samples):
        z = signs(rng, size, 1)
        total += (z * times(z))[:, 0]
    return total / samples


def density(rules: list[Rule], width: float) -> tuple[Floats, Floats, float]:
    """Grid, mean over rules of sum_k tau_k N(t; theta_k, sigma^2), and sigma.

    Args:
        rules: one per probe.
        width: sigma as a share of the range of theta.
    """
    theta = np.concatenate([rule.theta for rule in rules])
    tau = np.concatenate([rule.tau for rule in rules]) / len(rules)
    # Eigenvalues that are all alike, but for rounding, still get a bump that can be seen.
    sigma = width * (max(np.ptp(theta), 1e-2 * np.abs(theta).max()) or 1.0)
    ends = theta.min() - 6 * sigma, theta.max() + 6 * sigma
    grid = np.linspace(*ends, int(5 * (ends[1] - ends[0]) / sigma) + 1)
    height = np.zeros(len(grid))
    for at, share in zip(theta, tau, strict=True):
        height += share * np.exp(-0.5 * ((grid - at) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return grid, height, float(sigma)


def quadrature(times: Times, start: Floats, steps: int, eps: float) -> Rule:
    """The Gauss rule that Lanczos gives for the eigenvalues as seen from a vector.

    Each vector is orthogonalised against all before it, twice: without, eigenvalues that are found are found again.

    Args:
        times: V -> A V.
        start: the vector, (P,).
        steps: at most P; it ends before where the vectors span a space that A does not leave, and the rule is exact.
        eps: relative accuracy of the products.
    """
    basis, v = np.empty((steps, len(start))), start / np.linalg.norm(start)
    T = np.zeros((steps, steps))
    for j in range(steps):
        basis[j] = v
        w = times(v[:, None])[:, 0]
        T[j, j] = v @ w
        for _ in range(2):
            w = w - basis[: j + 1].T @ (basis[: j + 1] @ w)
        beta = np.linalg.norm(w)
        if j + 1 == steps or beta <= eps * np.abs(T).max():
            break
        T[j, j + 1] = T[j + 1, j] = beta
        v = w / beta
    theta, vectors = np.linalg.eigh(T[: j + 1, : j + 1])
    return Rule(theta, vectors[0] ** 2)


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
