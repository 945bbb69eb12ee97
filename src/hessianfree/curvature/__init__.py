"""Gauss-Newton, Hessian and Fisher matrices as linear operators; their trace and spectrum: `hf.curvature`."""

from hessianfree.curvature.matrices import Fisher, GaussNewton, Hessian, spectral_density, spectrum
from hessianfree.curvature.operators import Curvature
from hessianfree.curvature.spectra import Eigenpairs, Estimate, SpectralDensity

__all__ = [
    "Curvature",
    "Eigenpairs",
    "Estimate",
    "Fisher",
    "GaussNewton",
    "Hessian",
    "SpectralDensity",
    "spectral_density",
    "spectrum",
]
