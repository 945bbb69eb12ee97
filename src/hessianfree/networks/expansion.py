"""Whether the recurrent weights of a network make it chaotic over the length of its sequences.

Symbols:
    r    spectral radius of the recurrent weights of a layer
    s    largest slope of its nonlinearity near zero
    T    timesteps, or how far back-propagation goes
A change of an activation grows by up to r s in each step, and by (r s)^T over a sequence; gradients grow alike. Beyond
`EXPANSIVE` no optimizer learns much. Tanh saturates, which bounds activations and not that growth (Sompolinsky et al.
1988, "Chaos in random neural networks"). This is a heuristic: inputs may hold units where their slope is small.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.diagnosis.facts import Said
from hessianfree.networks.arguments import is_built_in
from hessianfree.networks.core import NetworkCore
from hessianfree.networks.parts.interfaces import Nonlinearity, keeps_state

logger = logging.getLogger("hessianfree")

#: Growth over a sequence from which on it is told.
EXPANSIVE = 1e6
#: Where slopes are looked at, and the step of their differences.
NEAR, STEP = np.linspace(-1, 1, 41), 1e-3
#: Products that estimate a spectral radius, to a few percent.
PRODUCTS = 60


def tell(net: NetworkCore, timesteps: int) -> Said | None:
    """Log a warning if recurrent weights are expansive over sequences of this length; returns what `expansive` does."""
    found = expansive(net, timesteps)
    if found is not None:
        logger.warning("%s Draw smaller ones: %s.", *found)
    return found


def expansive(net: NetworkCore, timesteps: int) -> Said | None:
    """What to say of a network whose recurrent weights are expansive over this many timesteps; None if none are."""
    truncation = getattr(net, "truncation", None)
    timesteps = timesteps if truncation is None else min(timesteps, truncation[1])
    for layer in net.recurrent or ():
        nonlinearity = net.layers[layer]
        if not is_built_in(nonlinearity) or keeps_state(nonlinearity):
            continue
        weights = net.get_weights(net.W, (layer, layer))
        assert weights is not None
        radius, slope = spectral_radius(weights[0]), steepest(nonlinearity, net.shape[layer])
        if radius * slope > 1 and timesteps * math.log(radius * slope) > math.log(EXPANSIVE):
            growth = timesteps * math.log10(radius * slope)
            return Said(
                f"The recurrent weights of layer {layer} have a spectral radius of about {radius:.2g}, and "
                f"{type(nonlinearity).__name__} a slope of {slope:.2g}: over {timesteps} timesteps gradients may grow "
                f"by 10^{growth:.0f}, and then nothing is learnt.",
                f"W_rec_params={{'spectral_radius': {1 / slope:.2g}}}, or {{'init_type': 'orthogonal'}}",
            )
    return None


def spectral_radius(matrix: NDArray[Any]) -> float:
    """The largest magnitude of an eigenvalue, estimated by the growth of a vector in some products."""
    matrix, vector = matrix.astype(float), np.random.RandomState(0).randn(len(matrix))
    logarithm = 0.0
    for product in range(PRODUCTS):
        vector = vector @ matrix
        norm = float(np.linalg.norm(vector))
        if norm == 0 or not math.isfinite(norm):
            return 0.0 if norm == 0 else math.inf
        vector = vector / norm
        if product >= PRODUCTS // 2:
            logarithm += math.log(norm)
    return math.exp(logarithm / (PRODUCTS - PRODUCTS // 2))


def steepest(layer: Nonlinearity, units: int) -> float:
    """The largest slope of a nonlinearity near zero, where all its units have the same input."""
    z = np.repeat(NEAR[:, None], units, axis=1)
    above, below = (np.asarray(layer.activation(z + step), float) for step in (STEP, -STEP))
    return float(np.abs(above - below).max() / (2 * STEP))
