"""The heat1d demo: heat that flows out of a rod whose ends are kept cold.

u_t = a u_xx for 0 < x < 1 and 0 < t <= 1, u = 0 at x = 0 and x = 1, and u = sin(pi x) + 1/2 sin(3 pi x) at t = 0. Each
wave decays at its own rate: u = exp(-a pi^2 t) sin(pi x) + 1/2 exp(-9 a pi^2 t) sin(3 pi x).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from hessianfree import calculus
from hessianfree.demos import pinn
from hessianfree.demos.pinn import tanh_network as network

#: Diffusivity a.
DIFFUSIVITY = 0.1
#: Closer together at first, when the shorter wave is still there.
TIMES = np.linspace(0, 1, 31)[1:] ** 2
INTERIOR = pinn.grid(np.linspace(0, 1, 32)[1:-1], TIMES).reshape(-1, 2)
ENDS = pinn.grid(np.array([0.0, 1.0]), np.linspace(0, 1, 41)).reshape(-1, 2)
START = pinn.grid(np.linspace(0, 1, 61), np.array([0.0])).reshape(-1, 2)


def heat1d(
    seconds: float = 10, steps: int = 100_000, plots: bool = True, compare: bool = True, seed: int = 0
) -> dict[str, pinn.MethodRun]:
    """Solve the heat equation by a 2-20-20-1 network of tanh to an error of about 1e-6 in ten seconds.

    Minimised is f = mean 1/2 (u_t - a u_xx)^2 + mean 1/2 u(0 or 1, t)^2 + mean 1/2 (u(x, 0) - u_0(x))^2, over 900
    points inside, 82 at the ends and 61 at the start; the error is relative, |u - exact| / |exact| on a grid of
    101 x 101. The network is given x and t as they are.

    Args:
        seconds: for each method, compilation included.
        steps: of `hf.least_squares` at most.
        plots: whether to show solution, error and the course of all methods (as a PNG file if there is no display).
        compare: whether to run Adam and L-BFGS from the same start for as long.
        seed: of the weights to start from.

    Returns:
        What each method did, by name.

    Example:
        >>> runs = heat1d(seconds=5)  # doctest: +SKIP
        heat equation, network 2-20-20-1: 501 parameters, 1043 residuals
        ...

    Source: Raissi, Perdikaris and Karniadakis 2019, "Physics-informed neural networks", for the method.
    """
    return pinn.race(PROBLEM, seed, seconds, steps, plots, compare)


def conduction(params: Any, point: Any) -> Any:
    """u_t - a u_xx."""
    u_t, u_xx = calculus.partials(partial(network, params), 1, (0, 0))(point)
    return u_t - DIFFUSIVITY * u_xx


def ends(params: Any, point: Any) -> Any:
    """u(0 or 1, t)."""
    return network(params, point)


def start(params: Any, point: Any) -> Any:
    """u(x, 0) - u_0(x)."""
    x = point[0]
    return network(params, point) - jnp.sin(jnp.pi * x) - jnp.sin(3 * jnp.pi * x) / 2


def solution(point: Any) -> Any:
    """The exact u(x, t)."""
    x, t = point
    rate = DIFFUSIVITY * jnp.pi**2
    return jnp.exp(-rate * t) * jnp.sin(jnp.pi * x) + jnp.exp(-9 * rate * t) * jnp.sin(3 * jnp.pi * x) / 2


PROBLEM = pinn.Equation(
    name="heat1d",
    title="heat equation, network 2-20-20-1",
    terms=[(conduction, INTERIOR), (ends, ENDS), (start, START)],
    start=partial(pinn.random_params, [2, 20, 20, 1]),
    network=network,
    solution=solution,
    grid=pinn.grid(np.linspace(0, 1, 101), np.linspace(0, 1, 101)),
    labels=("x", "t"),
)
