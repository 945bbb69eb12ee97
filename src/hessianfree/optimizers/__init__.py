"""Optimizers: `hf.opt`."""

from hessianfree.optimizers.base import Optimizer
from hessianfree.optimizers.first_order import SGD, FirstOrder, GradientRecord, GradientState
from hessianfree.optimizers.hessian_free import HessianFree, describe
from hessianfree.optimizers.optax_form import as_optax

__all__ = ["SGD", "FirstOrder", "GradientRecord", "GradientState", "HessianFree", "Optimizer", "as_optax", "describe"]
