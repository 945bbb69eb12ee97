"""Initial weights of the peers' networks."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np


def glorot(rng: np.random.RandomState, fan_in: int, fan_out: int) -> Any:
    """Uniform weights of Glorot and Bengio 2010."""
    return rng.uniform(-1, 1, (fan_in, fan_out)) * math.sqrt(6 / (fan_in + fan_out))


def he(rng: np.random.RandomState, fan_in: int, fan_out: int) -> Any:
    """Uniform weights of He et al. 2015."""
    return rng.uniform(-1, 1, (fan_in, fan_out)) * math.sqrt(6 / fan_in)


def sparse(rng: np.random.RandomState, fan_in: int, fan_out: int) -> Any:
    """Weights of Martens 2010: 15 connections to each unit, drawn from N(0, 1)."""
    weights = np.zeros((fan_in, fan_out))
    for unit in range(fan_out):
        chosen = rng.permutation(fan_in)[:15]
        weights[chosen, unit] = rng.randn(len(chosen))
    return weights


INITS = {"glorot": glorot, "he": he, "sparse": sparse}


def initial(shape: list[int], init: str, seed: int) -> Any:
    """Weights drawn by one of INITS, biases of zero."""
    rng = np.random.RandomState(seed)
    return [(jnp.asarray(INITS[init](rng, m, n), jnp.float32), jnp.zeros(n, jnp.float32)) for m, n in pairwise(shape)]
