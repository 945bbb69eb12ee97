"""The convection demo: a wave that crosses its domain six times, on which first-order training is known to fail.

u_t + 40 u_x = 0 for 0 < x < 2 pi and 0 < t < 1, u = sin x at t = 0, and u the same at x = 0 and x = 2 pi; so that
u = sin(x - 40 t).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hessianfree.demos import pinn

#: Velocity beta.
VELOCITY = 40.0
TURN = 2 * np.pi
INTERIOR = pinn.grid((np.arange(24) + 0.5) / 24 * TURN, (np.arange(48) + 0.5) / 48).reshape(-1, 2)
START = pinn.grid(np.linspace(0, TURN, 101), np.array([0.0])).reshape(-1, 2)
TIMES = np.linspace(0, 1, 101)[:, None]


def convection(
    seconds: float = 20, steps: int = 100_000, plots: bool = True, compare: bool = True, seed: int = 0
) -> dict[str, pinn.MethodRun]:
    """Solve the convection equation by a 2-20-20-1 network of tanh, to an error of about 1e-6 in 20 seconds.

    Minimised is f = mean 1/2 (u_t / 40 + u_x)^2 + mean 1/2 (u(x, 0) - sin x)^2 + mean 1/2 (u(0, t) - u(2 pi, t))^2,
    over 1,152 points inside, 101 at the start and 101 times. The network is given x / pi - 1 and 6 t - 3, which fit
    how fast u changes along each; nothing tells it that u is periodic. The error is relative, |u - exact| / |exact|
    on a grid of 101 x 101. Training is on velocity 40 from the start.

    Published, with larger networks that are given x and t as they are: 4.2e-3 by Adam and L-BFGS, and 1.9e-3 with a
    second-order method to finish.

    Args:
        seconds: for each method, compilation included.
        steps: of `hf.least_squares` at most.
        plots: whether to show solution, error and the course of all methods (as a PNG file if there is no display).
        compare: whether to run Adam and L-BFGS from the same start for as long.
        seed: of the weights to start from.

    Returns:
        What each method did, by name.

    Example:
        >>> runs = convection(seconds=15, compare=False)  # doctest: +SKIP
        convection, network 2-20-20-1: 501 parameters, 1354 residuals
        ...

    Source: the problem and the published errors of Rathore et al. 2024, "Challenges in training PINNs: a loss landscape
    perspective".
    """
    return pinn.race(PROBLEM, seed, seconds, steps, plots, compare)


def network(params: Any, point: Any) -> Any:
    """u(x, t), one number."""
    x, t = point
    return pinn.tanh_network(params, jnp.stack([x / jnp.pi - 1, 6 * t - 3]))


def transport(params: Any, point: Any) -> Any:
    """u_t / beta + u_x: both as large as u, and so as the other residuals."""
    u_x, u_t = jax.grad(partial(network, params))(point)
    return u_t / VELOCITY + u_x


def start(params: Any, point: Any) -> Any:
    """u(x, 0) - sin x."""
    return network(params, point) - jnp.sin(point[0])


def period(params: Any, time: Any) -> Any:
    """u(0, t) - u(2 pi, t)."""
    (t,) = time
    return network(params, jnp.stack([0 * t, t])) - network(params, jnp.stack([0 * t + TURN, t]))


def solution(point: Any) -> Any:
    """The exact u(x, t)."""
    x, t = point
    return jnp.sin(x - VELOCITY * t)


PROBLEM = pinn.Equation(
    name="convection",
    title="convection, network 2-20-20-1",
    terms=[(transport, INTERIOR), (start, START), (period, TIMES)],
    start=partial(pinn.random_params, [2, 20, 20, 1]),
    network=network,
    solution=solution,
    grid=pinn.grid(np.linspace(0, TURN, 101), np.linspace(0, 1, 101)),
    labels=("x", "t"),
)
