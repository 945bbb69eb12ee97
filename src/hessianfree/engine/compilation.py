"""jax.jit with settings for short compile times: compiling is part of the user's wait."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from importlib.metadata import version
from typing import Any, ParamSpec, TypeVar

import jax

#: Matrix products in full precision everywhere: reduced ones (TF32 on GPUs) put errors of 1e-3 into the curvature.
PRECISION = "highest"

#: The error if a function that JAX traces calls a function of the package.
NOT_TRACEABLE = (
    "Hessian-free updates, losses and products with curvature are Python around compiled parts; call them outside "
    "jax.jit, jax.grad and the like. Inside, call your own model and loss."
)

P = ParamSpec("P")
R = TypeVar("R")


def jit(function: Callable[P, R], quick: bool = False, **options: Any) -> Callable[P, R]:
    """Compile a function with `jax.jit` and its options on first use, when the platform is known.

    With `quick`, the time to compile counts more than the time to run. `.jitted()` of what it returns is the object of
    `jax.jit`, for inspection.
    """

    @cache
    def jitted() -> Any:
        return jax.jit(function, compiler_options=_compiler_options(quick), **options)

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result: R = jitted()(*args, **kwargs)
        except ValueError as error:
            if "compiler_options" not in str(error):
                raise
            raise TypeError(NOT_TRACEABLE) from error
        return result

    call.jitted = jitted  # type: ignore[attr-defined]
    return call


def precise(function: Callable[P, R], quick: bool = False, **options: Any) -> Callable[P, R]:
    """Compile a function as `jit` does, with matrix products in full precision."""

    @wraps(function)
    def precisely(*args: P.args, **kwargs: P.kwargs) -> R:
        with jax.default_matmul_precision(PRECISION):
            return function(*args, **kwargs)

    return jit(precisely, quick, **options)


def _compiler_options(quick: bool) -> dict[str, Any] | None:
    """Choose XLA's older code generator and its older library for matrix products on CPUs.

    Measured: the older code generator compiles in half the time, and its code is as fast. The older library is a third
    faster at the small products of a scan, and as fast at large ones. XLA rejects unknown options, so they are set only
    for versions that are known to have them.
    """
    if not version("jaxlib").startswith("0.10.") or jax.default_backend() != "cpu":
        return None
    chosen = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_experimental_ynn_fusion_type": ""}
    return {**chosen, "xla_backend_optimization_level": 0} if quick else chosen
