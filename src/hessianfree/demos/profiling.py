"""The profile demo: see where the time goes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

import hessianfree as hf
from hessianfree.demos.integrator import integrator
from hessianfree.demos.mnist import mnist
from hessianfree.support.profiling import profiled, traced

#: Where a trace is written, in the working directory.
TRACE = "HF_trace"


def profile(func: str, max_epochs: int = 1, use_GPU: bool = False, cprofile: bool = True) -> None:
    """Profile a demo: nearly all of its time goes into curvature products, inside the compiled solve.

    Args:
        func: "mnist" (a feedforward network) or "integrator" (a recurrent one with 100 units, 500 sequences of 200
            timesteps).
        max_epochs: epochs to run.
        use_GPU: whether to run on a GPU.
        cprofile: whether to print the Python functions that take longest. If not, the demo writes a trace of what JAX
            runs to the folder HF_trace.

    Raises:
        ValueError: if `func` has another value.
        RuntimeError: if use_GPU is True and there is no GPU.
    """
    demos = {"mnist": _mnist, "integrator": _integrator}
    if func not in demos:
        raise ValueError(f"func is {func!r}; the choices are {', '.join(map(repr, demos))}.")
    work = partial(demos[func], max_epochs, use_GPU)
    if cprofile:
        print(profiled(work).functions(20))
        return
    print(traced(work, Path(TRACE)))


def _mnist(max_epochs: int, use_gpu: bool) -> None:
    model = {"use_GPU": use_gpu, "rng": np.random.RandomState(0)}
    mnist(model, {"max_epochs": max_epochs, "plotting": False, "minibatch_size": 7500, "CG_iter": 10})


def _integrator(max_epochs: int, use_gpu: bool) -> None:
    model = {"shape": [1, 100, 1], "layers": hf.nl.Logistic(), "use_GPU": use_gpu, "rng": np.random.RandomState(0)}
    integrator(model, {"max_epochs": max_epochs, "CG_iter": 10}, n_inputs=500, sig_len=200, plots=False)
