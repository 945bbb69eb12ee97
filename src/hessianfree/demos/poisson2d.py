"""The poisson2d demo: Poisson's equation on the unit square.

u_xx + u_yy = -2 pi^2 sin(pi x) sin(pi y) inside and u = 0 on the boundary, so that u = sin(pi x) sin(pi y).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from hessianfree import calculus
from hessianfree.demos import pinn
from hessianfree.demos.pinn import tanh_network as network

#: 30 x 30 points inside, and 120 around the edge.
INTERIOR = pinn.grid(np.linspace(0, 1, 32)[1:-1], np.linspace(0, 1, 32)[1:-1]).reshape(-1, 2)
_THERE = np.linspace(0, 1, 31)[:-1]
_ROUND = np.concatenate([_THERE, np.ones(30), 1 - _THERE, np.zeros(30)])
BOUNDARY = np.stack([_ROUND, np.roll(_ROUND, 30)], axis=-1)


def poisson2d(
    seconds: float = 10, steps: int = 100_000, plots: bool = True, compare: bool = True, seed: int = 0
) -> dict[str, pinn.MethodRun]:
    """Solve Poisson's equation by a 2-64-1 network of tanh, with an error of about 1e-8 after ten seconds.

    Minimised is f = mean 1/2 (u_xx + u_yy + 2 pi^2 sin(pi x) sin(pi y))^2 + mean 1/2 u^2, the first over 900 points
    inside, the second over 120 on the boundary; the error is the RMSE on a grid of 9,000 points.

    Args:
        seconds: for each method, compilation included.
        steps: of `hf.least_squares` at most.
        plots: whether to show solution, error and the course of all methods (as a PNG file if there is no display).
        compare: whether to run Adam and L-BFGS from the same start for as long.
        seed: of the weights to start from.

    Returns:
        What each method did, by name.

    Example:
        >>> runs = poisson2d(seconds=5)  # doctest: +SKIP
        2-D Poisson equation, network 2-64-1: 257 parameters, 1020 residuals
        ...

    Source: the problem of Mueller and Zeinhofer 2023, "Achieving high accuracy with PINNs via energy natural gradient
    descent".
    """
    return pinn.race(PROBLEM, seed, seconds, steps, plots, compare)


def interior(params: Any, x: Any) -> Any:
    """Laplacian minus right-hand side."""
    laplacian = calculus.laplacian(partial(network, params))(x)
    return laplacian + 2 * jnp.pi**2 * jnp.sin(jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1])


def boundary(params: Any, x: Any) -> Any:
    """The value u itself."""
    return network(params, x)


def solution(x: Any) -> Any:
    """The exact u(x)."""
    return jnp.sin(jnp.pi * x[0]) * jnp.sin(jnp.pi * x[1])


PROBLEM = pinn.Equation(
    name="poisson2d",
    title="2-D Poisson equation, network 2-64-1",
    terms=[(interior, INTERIOR), (boundary, BOUNDARY)],
    start=partial(pinn.random_params, [2, 64, 1]),
    network=network,
    solution=solution,
    grid=pinn.grid(np.linspace(0, 1, 100), np.linspace(0, 1, 90)),
    labels=("x", "y"),
    measure="RMSE",
)
