"""Losses of networks, and the class that losses of your own inherit from."""

from hessianfree.networks.parts.loss_funcs import (
    BinaryCrossEntropy,
    ClassificationError,
    CrossEntropy,
    LossFunction,
    LossSet,
    SparseL1,
    SparseL2,
    SquaredError,
    StructuralDamping,
    output_loss,
)

__all__ = [
    "BinaryCrossEntropy",
    "ClassificationError",
    "CrossEntropy",
    "LossFunction",
    "LossSet",
    "SparseL1",
    "SparseL2",
    "SquaredError",
    "StructuralDamping",
    "output_loss",
]
