"""The profile demo: see where the time goes."""

from __future__ import annotations

import cProfile
import pstats
from pathlib import Path

import numpy as np

import hessianfree as hf
from hessianfree.demos.integrator import integrator
from hessianfree.demos.mnist import mnist

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
    if cprofile:
        profiler = cProfile.Profile()
        profiler.runcall(demos[func], max_epochs, use_GPU)
        pstats.Stats(profiler).strip_dirs().sort_stats("time").print_stats(20)
        return
    import jax

    with jax.profiler.trace(TRACE, create_perfetto_trace=True):
        demos[func](max_epochs, use_GPU)
    newest = max(Path(TRACE).rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    print(f"trace written to {newest.parent}; open {newest.name} at https://ui.perfetto.dev, or the folder in xprof")


def _mnist(max_epochs: int, use_gpu: bool) -> None:
    model = {"use_GPU": use_gpu, "rng": np.random.RandomState(0)}
    mnist(model, {"max_epochs": max_epochs, "plotting": False, "minibatch_size": 7500, "CG_iter": 10})


def _integrator(max_epochs: int, use_gpu: bool) -> None:
    model = {"shape": [1, 100, 1], "layers": hf.nl.Logistic(), "use_GPU": use_gpu, "rng": np.random.RandomState(0)}
    integrator(model, {"max_epochs": max_epochs, "CG_iter": 10}, n_inputs=500, sig_len=200, plots=False)
