"""Hessian-free optimization for neural networks and other JAX models."""

import importlib
from typing import TYPE_CHECKING, Any

from hessianfree import loss_funcs, nonlinearities, optimizers
from hessianfree import nonlinearities as nl
from hessianfree import optimizers as opt
from hessianfree.networks.ffnet import FFNet
from hessianfree.networks.loading import load
from hessianfree.networks.rnnet import RNNet
from hessianfree.objective.objective import Objective
from hessianfree.training.fit import fit

if TYPE_CHECKING:
    from hessianfree.networks.diagnosing import diagnose
    from hessianfree.plotting.drawing import plot
    from hessianfree.squares.batch import BatchResult, least_squares_batch
    from hessianfree.squares.curve import Curve
    from hessianfree.squares.curve_fit import curve_fit
    from hessianfree.squares.implicit import least_squares_solution
    from hessianfree.squares.result import LeastSquaresResult
    from hessianfree.squares.solve import least_squares
    from hessianfree.squares.sparse import SparseTerm
    from hessianfree.squares.steps import LeastSquares

__version__ = "0.1.0"

__all__ = [
    "BatchResult",
    "Curve",
    "FFNet",
    "LeastSquares",
    "LeastSquaresResult",
    "Objective",
    "RNNet",
    "SparseTerm",
    "__version__",
    "callbacks",
    "curvature",
    "curve_fit",
    "dataplotter",
    "demos",
    "diagnose",
    "fit",
    "gpu_enabled",
    "least_squares",
    "least_squares_batch",
    "least_squares_solution",
    "load",
    "loss_funcs",
    "nl",
    "nonlinearities",
    "opt",
    "optimizers",
    "plot",
    "tasks",
]


#: Where names come from that are imported when they are first used: a script that trains a network does not wait for
#: what fits curves.
_LATER = {
    "BatchResult": "squares.batch",
    "Curve": "squares.curve",
    "LeastSquares": "squares.steps",
    "LeastSquaresResult": "squares.result",
    "SparseTerm": "squares.sparse",
    "curve_fit": "squares.curve_fit",
    "diagnose": "networks.diagnosing",
    "least_squares": "squares.solve",
    "least_squares_batch": "squares.batch",
    "least_squares_solution": "squares.implicit",
    "plot": "plotting.drawing",
}


def __getattr__(name: str) -> Any:
    """Names that take time to import or to look up, and that not every script needs."""
    if name == "gpu_enabled":
        from hessianfree.support.runtime import gpus

        return bool(gpus())
    if name in ("callbacks", "curvature", "dataplotter", "demos", "tasks"):
        return importlib.import_module(f"hessianfree.{name}")
    if name in _LATER:
        return getattr(importlib.import_module(f"hessianfree.{_LATER[name]}"), name)
    raise AttributeError(f"module 'hessianfree' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
