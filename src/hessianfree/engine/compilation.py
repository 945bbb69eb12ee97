"""jax.jit with settings for short compile times: compiling is part of the user's wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from importlib.metadata import version
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

import jax
import numpy as np

#: Matrix products in full precision everywhere: reduced ones (TF32 on GPUs) put errors of 1e-3 into the curvature.
PRECISION = "highest"

#: The error if a function that JAX traces calls a function of the package.
NOT_TRACEABLE = (
    "Hessian-free updates, losses and products with curvature are Python around compiled parts; call them outside "
    "jax.jit, jax.grad and the like. Inside, call your own model and loss."
)

#: What counts: the time to compile, the time to run, or both.
Effort: TypeAlias = Literal["quick", "usual", "full"]

_LEVEL = "xla_backend_optimization_level"
_thread = threading.local()

P = ParamSpec("P")
R = TypeVar("R")


def jit(function: Callable[P, R], effort: Effort = "usual", **options: Any) -> Callable[P, R]:
    """Compile a function with `jax.jit` and its options on first use, when the platform is known.

    With the effort "quick" the time to compile counts more than the time to run; with "full" it is the other way round.
    `.jitted()` of what it returns is the object of `jax.jit`, for inspection.
    """

    @cache
    def jitted() -> Any:
        return jax.jit(function, compiler_options=_compiler_options(effort), **options)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if getattr(_thread, "compiles_only", False):
            return _imagined(jitted().lower(*args, **kwargs))
        try:
            result: R = jitted()(*args, **kwargs)
        except ValueError as error:
            if "compiler_options" not in str(error):
                raise
            raise TypeError(NOT_TRACEABLE) from error
        return result

    call.jitted = jitted  # type: ignore[attr-defined]
    return call


@contextmanager
def compiling_only() -> Iterator[None]:
    """In this thread compile the functions of `jit` without running them: what they return is ones.

    A thread in the background prepares programs so. Later calls with the same shapes find them.
    """
    _thread.compiles_only = True
    try:
        yield
    finally:
        _thread.compiles_only = False


def _imagined(lowered: Any) -> Any:
    """Compile it, and return ones of the shapes that it would return."""
    lowered.compile()
    return jax.tree.map(lambda known: np.ones(known.shape, known.dtype), lowered.out_info)


def precise(function: Callable[P, R], effort: Effort = "usual", **options: Any) -> Callable[P, R]:
    """Compile a function as `jit` does, with matrix products in full precision."""

    @wraps(function)
    def precisely(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision(PRECISION):
            return function(*args, **kwargs)

    return jit(precisely, effort, **options)


def _compiler_options(effort: Effort) -> dict[str, Any] | None:
    """Choose XLA's older code generator and its older library for matrix products on CPUs, but for full effort.

    Measured: the older code generator compiles in half the time, and its code is as fast for curvature products; what
    moves all the parameters, as Adam does, is a third slower. The older library is a third faster at the small products
    of a scan, and as fast at large ones. LLVM's first level of optimization takes three quarters of the time of its
    highest, and programs are as fast. XLA rejects unknown options, so they are set only for versions that are known to
    have them. A level in XLA_FLAGS counts more. LLVM gets one module for each core in place of 32, which takes a
    seventh less time.
    """
    if effort == "full" or not version("jaxlib").startswith("0.10.") or jax.default_backend() != "cpu":
        return None
    chosen: dict[str, Any] = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_experimental_ynn_fusion_type": ""}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    chosen["xla_cpu_parallel_codegen_split_count"] = min(cores, 32)
    if effort == "quick" or _LEVEL not in os.environ.get("XLA_FLAGS", ""):
        chosen[_LEVEL] = 0 if effort == "quick" else 1
    return chosen
