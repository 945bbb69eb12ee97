"""Hessian-free optimization for neural networks and other JAX models."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hessianfree import calculus, loss_funcs, nonlinearities, optimizers
    from hessianfree import nonlinearities as nl
    from hessianfree import optimizers as opt
    from hessianfree.networks.diagnosing import diagnose
    from hessianfree.networks.ffnet import FFNet
    from hessianfree.networks.loading import load
    from hessianfree.networks.rnnet import RNNet
    from hessianfree.objective.objective import Objective
    from hessianfree.plotting.drawing import plot
    from hessianfree.squares.batch import BatchResult, least_squares_batch
    from hessianfree.squares.by_residual import ByResidual
    from hessianfree.squares.curve import Curve
    from hessianfree.squares.curve_fit import curve_fit
    from hessianfree.squares.implicit import least_squares_solution
    from hessianfree.squares.result import LeastSquaresResult
    from hessianfree.squares.solve import least_squares
    from hessianfree.squares.sparse import SparseTerm
    from hessianfree.squares.steps import LeastSquares
    from hessianfree.training.fit import fit
    from hessianfree.training.memory import memory

__version__ = "0.1.0"

__all__ = [
    "BatchResult",
    "ByResidual",
    "Curve",
    "FFNet",
    "LeastSquares",
    "LeastSquaresResult",
    "Objective",
    "RNNet",
    "SparseTerm",
    "__version__",
    "calculus",
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
    "memory",
    "nl",
    "nonlinearities",
    "opt",
    "optimizers",
    "plot",
    "tasks",
]


#: Modules that are names of the package themselves, some by a second name.
_MODULES = {
    "calculus": "calculus",
    "callbacks": "callbacks",
    "curvature": "curvature",
    "dataplotter": "dataplotter",
    "demos": "demos",
    "loss_funcs": "loss_funcs",
    "nl": "nonlinearities",
    "nonlinearities": "nonlinearities",
    "opt": "optimizers",
    "optimizers": "optimizers",
    "tasks": "tasks",
}
#: Where the other names come from. All are imported when they are first used: the command line answers `--help` without
#: JAX, and a script that trains a network does not wait for what fits curves.
_NAMES = {
    "BatchResult": "squares.batch",
    "ByResidual": "squares.by_residual",
    "Curve": "squares.curve",
    "FFNet": "networks.ffnet",
    "LeastSquares": "squares.steps",
    "LeastSquaresResult": "squares.result",
    "Objective": "objective.objective",
    "RNNet": "networks.rnnet",
    "SparseTerm": "squares.sparse",
    "curve_fit": "squares.curve_fit",
    "diagnose": "networks.diagnosing",
    "fit": "training.fit",
    "least_squares": "squares.solve",
    "least_squares_batch": "squares.batch",
    "least_squares_solution": "squares.implicit",
    "load": "networks.loading",
    "memory": "training.memory",
    "plot": "plotting.drawing",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used."""
    found: Any
    if name == "gpu_enabled":
        from hessianfree.support.runtime import gpus

        found = bool(gpus())
    elif name in _MODULES:
        found = importlib.import_module(f"hessianfree.{_MODULES[name]}")
    elif name in _NAMES:
        found = getattr(importlib.import_module(f"hessianfree.{_NAMES[name]}"), name)
    else:
        raise AttributeError(f"module 'hessianfree' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
