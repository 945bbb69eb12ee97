"""Derivatives of a function at a point, for residuals of differential equations: `hf.calculus`."""

from hessianfree.calculus.operators import (
    SecondOrder,
    biharmonic,
    divergence,
    gradient,
    hessian,
    laplacian,
    value_gradient_laplacian,
)
from hessianfree.calculus.partials import derivatives, directional, partials

__all__ = [
    "SecondOrder",
    "biharmonic",
    "derivatives",
    "directional",
    "divergence",
    "gradient",
    "hessian",
    "laplacian",
    "partials",
    "value_gradient_laplacian",
]
