"""Optimizers and what they are made of: `hf.opt`."""

from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.kfac import KFAC
from hessianfree.engine.nystrom import Nystrom
from hessianfree.engine.preconditioners import Diagonal, squared_gradients
from hessianfree.optimizers.auto import Auto, AutoRecord, AutoState
from hessianfree.optimizers.base import Optimizer
from hessianfree.optimizers.first_order import SGD, FirstOrder, GradientRecord, GradientState
from hessianfree.optimizers.hessian_free import HessianFree, describe
from hessianfree.optimizers.optax_form import as_optax

__all__ = [
    "KFAC",
    "SGD",
    "Auto",
    "AutoRecord",
    "AutoState",
    "Diagonal",
    "FirstOrder",
    "GradientRecord",
    "GradientState",
    "HessianFree",
    "LevenbergMarquardt",
    "Nystrom",
    "Optimizer",
    "as_optax",
    "describe",
    "squared_gradients",
]
