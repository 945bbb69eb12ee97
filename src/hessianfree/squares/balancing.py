"""Weights of terms that follow the sizes of their Jacobians.

Symbols as in engine/residuals.py, and
    J_k   Jacobian of term k with a weight of 1: the rows of sqrt(1 / N_k) r_k / s_k
    t_k   its size, the trace of J_k'J_k, which is that of the tangent kernel J_k J_k'
    b_k   factor of the weight: the terms have the weights c_k b_k
A weight of 1 / t_k makes the traces of all terms alike, so that no term moves the parameters far more than the others.
The logarithms of b_k follow those of 1 / t_k as a moving average. They are bounded, and sum c_k b_k = sum c_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from hessianfree.engine.compilation import precise
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree
from hessianfree.squares.terms import ResidualTerm
from hessianfree.support import checks

Floats = NDArray[np.float64]

#: Share of the new sizes in the moving average, and how far apart factors may be. Heuristics.
RATE, BOUND = 0.1, 1e4


class Balancing:
    """The factors of the weights of a run, which change every so many steps.

    Args:
        functions: the residuals.
        inputs: points and given weights of each term.
        every: steps between changes.
    """

    def __init__(self, functions: Residuals, inputs: Sequence[Points], every: int) -> None:
        self.functions, self.every = functions, every
        self.given = np.array([float(np.asarray(points.weight)) for points in inputs])
        self.factors = np.ones(len(inputs))
        #: Whether the weights of the last step were not those of the step before.
        self.changed = False

    def inputs(self, step: int, params: PyTree, inputs: Sequence[Points]) -> tuple[Points, ...]:
        """What a step from these parameters is made with, from the points and the given weights."""
        self.changed = step % self.every == 0
        if self.changed:
            ones = tuple(points._replace(weight=np.ones_like(points.weight)) for points in inputs)
            sizes = np.asarray(jax.device_get(_traces(self.functions, params, ones)), np.float64)
            self.factors = averaged(self.factors, sizes, self.given, 1.0 if step == 0 else RATE)
        pairs = zip(inputs, self.factors, strict=True)
        return tuple(p._replace(weight=np.asarray(p.weight * b, np.result_type(p.weight))) for p, b in pairs)


def averaged(factors: Floats, sizes: Floats, given: Floats, rate: float) -> Floats:
    """New factors b.

    Args:
        factors: those before, (K,).
        sizes: the traces t of the terms.
        given: weights c of the terms.
        rate: share of what the sizes ask for.

    Returns:
        (K,). Terms without weight and those whose size is zero or not finite keep their factors.
    """
    usable = (given > 0) & (sizes > 0) & np.isfinite(sizes)
    if usable.sum() < 2:
        return factors
    wanted = -np.log(sizes[usable])
    middle = 0.5 * (wanted.max() + wanted.min())
    half = 0.5 * np.log(BOUND)
    wanted = np.clip(wanted - middle, -half, half)
    before = np.log(factors[usable])
    before -= 0.5 * (before.max() + before.min())
    after = factors.copy()
    after[usable] = np.exp((1 - rate) * before + rate * wanted)
    after[usable] *= np.sum(given[usable]) / np.sum(given[usable] * after[usable])
    return after


def balancing(
    every: int | None, functions: Residuals, terms: Sequence[ResidualTerm], parts: Parts | None
) -> Balancing | None:
    """What balances the weights of a run every so many steps, None for weights that stay.

    Raises:
        ValueError: if there is a single term, one without points, or several devices.
    """
    if every is None:
        return None
    if len(terms) < 2:
        raise ValueError(
            f"balance_every is {every}, but there is a single term; pass several, or leave balance_every out."
        )
    if any(term.points.at is None for term in terms):
        raise ValueError("balance_every needs terms (r, points): a function r(params) has one vector of residuals.")
    if parts is not None:
        raise ValueError(f"balance_every is {every}, but weights are balanced on one device; leave one of them out.")
    return Balancing(functions, [term.points for term in terms], every)


def how_balanced(every: int | None) -> str:
    """When the weights change, in words; empty if they stay.

    Raises:
        ValueError: if it is not a whole number >= 1.
    """
    if every is None:
        return ""
    checks.at_least("balance_every", every, 1)
    return f", weights balanced every {every} steps"


def _sizes(functions: Residuals, params: PyTree, inputs: tuple[Points, ...]) -> Array:
    theta, unravel = ravel_pytree(params)
    return jnp.stack(functions.traces(unravel, theta, inputs))


_traces: Any = precise(_sizes, static_argnums=0)
