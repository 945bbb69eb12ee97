"""Optimizers: `hf.opt`."""

from hessianfree.first_order import SGD, FirstOrder, GradientRecord, GradientState
from hessianfree.optax_form import as_optax
from hessianfree.optimizer import Optimizer
from hessianfree.second_order import HessianFree, describe

__all__ = ["SGD", "FirstOrder", "GradientRecord", "GradientState", "HessianFree", "Optimizer", "as_optax", "describe"]
