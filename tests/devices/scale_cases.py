"""Runs that must not depend on the number of devices and processes, by name; each returns flat weights.

As a program: `python scale_cases.py PROCESSES RANK PORT DEVICES FILE NAME...` makes the runs on as many devices for each
process, and writes the weights to a file.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

#: Updates of each run, and the largest differences between weights after them that rounding may make.
UPDATES, TOLERANCES = 20, {"float32": 1e-5, "float64": 1e-11}
STEADY = {"CG_iter": 8, "init_damping": 3, "weight_decay": 1e-2}


def _data(dtype: str, examples: int = 90) -> tuple[Any, Any]:
    rng = np.random.RandomState(0)
    x = rng.randn(examples, 6)
    return x.astype(dtype), np.tanh(x @ rng.randn(6, 2)).astype(dtype)


def ffnet(dtype: str, devices: Any) -> Any:
    """Minibatches with a remainder, K-FAC and a curvature batch."""
    import hessianfree as hf

    x, t = _data(dtype)
    net = hf.FFNet([6, 8, 2], layers=["Linear", "Tanh", "Linear"], rng=0, dtype=np.dtype(dtype).type)
    rule = hf.opt.LevenbergMarquardt(minimum=1)
    optimizer = hf.opt.HessianFree(**STEADY, preconditioner="kfac", curvature_batch=0.5, damping_rule=rule)
    net.run_epochs(x, t, optimizer, max_epochs=5, minibatch_size=27, print_period=None, devices=devices, target_err=0)
    return net.W


def rnnet(dtype: str, devices: Any) -> Any:
    """Sequences, 21 of them, all at once."""
    import hessianfree as hf

    rng = np.random.RandomState(1)
    x = rng.randn(21, 5, 2)
    weak = {"coeff": 0.3}
    layers = ["Linear", "Tanh", "Linear"]
    net = hf.RNNet([2, 6, 1], layers=layers, rng=0, dtype=np.dtype(dtype).type, W_rec_params=weak)
    optimizer = hf.opt.HessianFree(**STEADY, damping_rule=hf.opt.LevenbergMarquardt(minimum=1))
    t = np.cumsum(x, axis=1)[:, :, :1]
    net.run_epochs(x, t, optimizer, max_epochs=UPDATES, print_period=None, devices=devices, target_err=0)
    return net.W


def objective(dtype: str, devices: Any) -> Any:
    """A model of the user's own, with minibatches and a curvature batch."""
    import jax.numpy as jnp

    import hessianfree as hf

    rng = np.random.RandomState(2)
    params = {"W": (0.5 * rng.randn(6, 5)).astype(dtype), "V": (0.5 * rng.randn(5, 2)).astype(dtype)}
    model = hf.Objective(lambda p, x: jnp.tanh(x @ p["W"]) @ p["V"])
    rule = hf.opt.LevenbergMarquardt(minimum=1)
    optimizer = hf.opt.HessianFree(**STEADY, curvature_batch=10, damping_rule=rule)
    options = {"minibatch_size": 24, "max_epochs": 5, "print_period": None, "target_err": 0}
    result = hf.fit(model, params, _data(dtype), optimizer, devices=devices, **options)
    return np.concatenate([np.ravel(leaf) for leaf in result.params.values()])


def squares(dtype: str, devices: Any) -> Any:
    """Two terms, of 91 points and of 2; the solution is the only one, and conditioned well."""
    import jax.numpy as jnp

    import hessianfree as hf

    orders = np.arange(40)

    def value(p: Any, x: Any) -> Any:
        linear = p["c"] @ jnp.cos(orders.astype(dtype) * x)
        return linear + 0.1 * linear**2

    terms = [
        (lambda p, point: value(p, point["x"]) - point["y"], _curve(dtype)),
        (lambda p, x: value(p, x) - 1, np.zeros(2, dtype), 10.0),
    ]
    start = {"c": np.zeros(40, dtype)}
    options = {"max_steps": UPDATES, "solver": "dense", "x_scale": 1.0, "ftol": 0.0, "gtol": 0.0}
    found = hf.least_squares(terms, start, devices=devices, **options).params
    return np.asarray(found["c"])


def _curve(dtype: str) -> dict[str, Any]:
    x = np.linspace(0, np.pi, 91)
    return {"x": x.astype(dtype), "y": np.exp(-x).astype(dtype)}


CASES: dict[str, Callable[[str, Any], Any]] = {case.__name__: case for case in (ffnet, rnnet, objective, squares)}


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many devices, made of one CPU."""
    return {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}


def join(processes: int, rank: int, port: str) -> None:
    """Become one process of several."""
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, rank, heartbeat_timeout_seconds=20)


def main() -> None:
    """See the head of the file."""
    processes, rank, port, devices, file, *names = sys.argv[1:]
    if int(processes) > 1:
        join(int(processes), int(rank), port)
    import jax

    found = {}
    for name in names:
        case, dtype = name.split("-")
        mesh = jax.sharding.Mesh(np.array(jax.devices()[: int(processes) * int(devices)]), ("examples",))
        found[name] = np.asarray(CASES[case](dtype, mesh))
    if int(rank) == 0:
        np.savez(file, **found)


if __name__ == "__main__":
    main()
