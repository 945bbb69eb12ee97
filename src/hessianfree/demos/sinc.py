"""The sinc demo: regression of y = sinc(10 x) = sin(10 pi x) / (10 pi x), a curve of twenty waves, by twenty units."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from hessianfree.demos import pinn
from hessianfree.demos.pinn import tanh_network as network

INPUTS = np.linspace(-1, 1, 2001)[:, None]
UNITS = 20


def sinc(
    seconds: float = 5, steps: int = 100_000, plots: bool = True, compare: bool = True, seed: int = 0
) -> dict[str, pinn.MethodRun]:
    """Fit a sinc curve by a 1-20-1 network of tanh, to a mean squared error of 1e-9 in fifty steps.

    Minimised is f = mean 1/2 (u(x) - sinc(10 x))^2 over 2,001 points of [-1, 1]; the error is the mean squared error.

    Published, from random weights: 6.6e-4 by Adam after 10,000 epochs of 20 batches, 1.0e-8 by Levenberg-Marquardt
    after 100 of them. All methods here start from weights spread as Nguyen and Widrow do, which helps each of them.

    Args:
        seconds: for each method, compilation included.
        steps: of `hf.least_squares` at most; it ends by itself at the limit of precision.
        plots: whether to show curve, error and the course of all methods (as a PNG file if there is no display).
        compare: whether to run Adam and L-BFGS from the same start.
        seed: of the output weights to start from.

    Returns:
        What each method did, by name.

    Example:
        >>> runs = sinc(steps=20, plots=False, compare=False)  # doctest: +ELLIPSIS
        sinc curve, network 1-20-1: 61 parameters, 2001 residuals
        ...
        >>> bool(runs["least_squares"].errors[-1] < 1e-5)
        True

    Source: the problem and the published errors of https://github.com/fabiodimarco/tf-levenberg-marquardt; Nguyen and
    Widrow 1990.
    """
    return pinn.race(PROBLEM, seed, seconds, steps, plots, compare)


def initial_params(seed: int) -> pinn.Params:
    """Units whose slopes are spread evenly over [-1, 1], each 1 / 14 wide, and small random output weights."""
    steepness = 0.7 * UNITS
    (hidden, _), (output, bias) = pinn.random_params([1, UNITS, 1], seed)
    return [(np.full_like(hidden, steepness), np.linspace(-steepness, steepness, UNITS)), (0.5 * output, bias)]


def misfit(params: Any, x: Any) -> Any:
    """Network minus curve."""
    return network(params, x) - solution(x)


def solution(x: Any) -> Any:
    """The curve."""
    return jnp.sinc(10 * x[0])


PROBLEM = pinn.Equation(
    name="sinc",
    title="sinc curve, network 1-20-1",
    terms=[(misfit, INPUTS)],
    start=initial_params,
    network=network,
    solution=solution,
    grid=INPUTS,
    labels=("x",),
    measure="mean squared error",
    rate=1e-2,
)
