"""Hessian-free optimization for neural networks and other JAX models."""

from typing import Any

from hessianfree import loss_funcs, nonlinearities, optimizers
from hessianfree import nonlinearities as nl
from hessianfree import optimizers as opt
from hessianfree.least_squares.batch import BatchResult, least_squares_batch
from hessianfree.least_squares.curve import Curve
from hessianfree.least_squares.curve_fit import curve_fit
from hessianfree.least_squares.drawing import plot
from hessianfree.least_squares.result import LeastSquaresResult
from hessianfree.least_squares.solve import least_squares
from hessianfree.least_squares.steps import LeastSquares
from hessianfree.networks.ffnet import FFNet
from hessianfree.networks.rnnet import RNNet
from hessianfree.objective.objective import Objective
from hessianfree.training.fit import fit

__version__ = "0.1.0"

__all__ = [
    "BatchResult",
    "Curve",
    "FFNet",
    "LeastSquares",
    "LeastSquaresResult",
    "Objective",
    "RNNet",
    "__version__",
    "curvature",
    "curve_fit",
    "dataplotter",
    "demos",
    "fit",
    "gpu_enabled",
    "least_squares",
    "least_squares_batch",
    "loss_funcs",
    "nl",
    "nonlinearities",
    "opt",
    "optimizers",
    "plot",
    "tasks",
]


def __getattr__(name: str) -> Any:
    """Names that cost something to look up, or few need: demos, plots, tasks, and whether JAX sees a GPU."""
    if name == "gpu_enabled":
        from hessianfree.support.runtime import gpus

        return bool(gpus())
    if name in ("curvature", "dataplotter", "demos", "tasks"):
        import importlib

        return importlib.import_module(f"hessianfree.{name}")
    raise AttributeError(f"module 'hessianfree' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
