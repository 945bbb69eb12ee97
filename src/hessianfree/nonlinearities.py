"""Layers, and the classes that layers and plants of your own inherit from: `hf.nl`."""

from hessianfree.networks.parts.interfaces import Nonlinearity, Plant
from hessianfree.networks.parts.nonlinearities import (
    BY_NAME,
    Continuous,
    Gaussian,
    Linear,
    Logistic,
    ReLU,
    SoftLIF,
    Softmax,
    Tanh,
)

__all__ = [
    "BY_NAME",
    "Continuous",
    "Gaussian",
    "Linear",
    "Logistic",
    "Nonlinearity",
    "Plant",
    "ReLU",
    "SoftLIF",
    "Softmax",
    "Tanh",
]
