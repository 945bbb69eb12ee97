"""Choose device and precision without touching any global setting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import jax
import numpy as np

from hessianfree.support.mappings import watch

#: Seconds to compile from which on a program is kept: it takes a hundredth of a second to load one.
WORTH_KEEPING = 0.03


def gpus() -> list[jax.Device]:
    """The GPUs that JAX sees."""
    try:
        return jax.devices("gpu")
    except RuntimeError:  # no such backend
        return []


def device_for(use_gpu: bool | None) -> jax.Device | None:
    """The device to use: False gives the CPU, True a GPU, None leaves the choice to JAX.

    Raises RuntimeError if you ask for a GPU and there is none.
    """
    if use_gpu is None:
        return None
    devices = gpus() if use_gpu else jax.devices("cpu")
    if not devices:
        raise RuntimeError(
            "use_GPU=True, but JAX sees no GPU. Install the package with its `cuda` extra (hessianfree-jax[cuda]) on a "
            "machine with an NVIDIA GPU, or leave use_GPU at None."
        )
    return devices[0]


@contextmanager
def computing(dtype: np.dtype[Any], device: jax.Device | None) -> Iterator[None]:
    """Compute in this precision on this device. Convert results to numpy before the context closes.

    Old compiled programs are let go first, where the process runs out of memory mappings.
    """
    watch().relieve()
    precision = jax.enable_x64(dtype == np.float64)
    place = jax.default_device(device) if device is not None else nullcontext()
    # The user may have set stricter rules of promotion, for their own code.
    with precision, jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"), place:
        yield


@contextmanager
def one_lapack_thread() -> Iterator[None]:
    """Let LAPACK use a single thread.

    On CPUs JAX factorizes dense matrices with SciPy's OpenBLAS. Its threads wait busily and take the cores from XLA's:
    with few cores, steps of small systems then take 200 ms instead of 6.
    """
    with _linear_algebra_of("scipy").limit(limits=1):
        yield


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let numpy's matrix products use a single thread.

    Two threads win little at products of some hundred rows, and lose much where other processes want the cores: they
    wait busily for each other.
    """
    with _linear_algebra_of("numpy").limit(limits=1):
        yield


@cache
def _linear_algebra_of(package: str) -> Any:
    """The controller of the BLAS and LAPACK that NumPy or SciPy brings along, or of all where they share one.

    The search looks at every library of the process, so it is made once.
    """
    import scipy.linalg  # noqa: F401  # loads the libraries, so that the search finds them
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController()
    own = [library.filepath for library in found.lib_controllers if package in library.filepath]
    return found.select(filepath=own) if own else found.select(user_api="blas")


def keep_compiled_programs() -> None:
    """Keep compiled programs in the user's cache folder, so that the next process need not compile them again.

    That is JAX's own persistent cache, for all programs of the process. Nothing happens if the user has configured it,
    or switched it off (JAX_ENABLE_COMPILATION_CACHE=0), or if the folder cannot be written to.
    """
    from platformdirs import user_cache_path

    if (
        jax.config.values["jax_compilation_cache_dir"] is not None
        or not jax.config.values["jax_enable_compilation_cache"]
    ):
        return
    folder = user_cache_path("hessianfree") / "programs"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if os.access(folder, os.W_OK):
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", WORTH_KEEPING)
