"""What `devices` meets beside the plain case, on eight devices made of one CPU; prints a line of JSON: name -> found.

A number is the largest difference from one device, and a text is the message of the refusal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import hessianfree as hf

RNG = np.random.RandomState(0)
X, T = RNG.randn(16, 3), RNG.rand(16, 2)
START = {"W": 0.5 * RNG.randn(3, 8), "V": 0.5 * RNG.randn(8, 2)}


@cache
def mesh() -> jax.sharding.Mesh:
    """Eight devices with explicit axes; made when it is needed, for there may be fewer where the file is only read."""
    return jax.make_mesh((4, 2), ("e", "m"), axis_types=(AxisType.Explicit,) * 2)


def model(p: Any, x: Any) -> Any:
    return jnp.tanh(x @ p["W"]) @ p["V"]


def dropout(p: Any, x: Any, key: Any) -> Any:
    hidden = jnp.tanh(x @ p["W"])
    return (hidden if key is None else hidden * jax.random.bernoulli(key, 0.9, hidden.shape)) @ p["V"]


def normalized(p: Any, x: Any) -> Any:
    return model(p, x - x.mean(axis=0))


def residual(p: Any, point: Any) -> Any:
    return p["a"] * jnp.exp(-p["k"] * point[0]) - point[1]


def split(tree: Any, *axes: Any) -> Any:
    return jax.device_put(tree, NamedSharding(mesh(), PartitionSpec(*axes)))


def fitted(objective: hf.Objective, devices: Any, data: Any = (X, T), start: Any = START) -> Any:
    optimizer = hf.opt.HessianFree(CG_iter=5)
    return hf.fit(objective, start, data, optimizer, max_epochs=2, print_period=None, devices=devices).params


def known(points: Any, devices: Any) -> Any:
    result = hf.least_squares([(residual, points)], {"a": np.float64(1), "k": np.float64(1)}, devices=devices)
    return result.params, result.covariance(), result.residuals()


def apart(run: Callable[..., Any], other: Callable[..., Any]) -> float:
    pairs = zip(jax.tree.leaves(run()), jax.tree.leaves(other()), strict=True)
    return max(float(np.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)


def refusal(run: Callable[..., Any]) -> str:
    try:
        run()
    except ValueError as error:
        return str(error)
    return "none"


def main() -> None:
    """See the head of the file."""
    jax.config.update("jax_enable_x64", True)
    plain, points = hf.Objective(model), (X[:, 0] ** 2, T[:, 0])
    drops = hf.Objective(dropout, stochastic=True)
    found = {
        "dropout": apart(lambda: fitted(drops, "all"), lambda: fitted(drops, None)),
        "another mesh": apart(lambda: fitted(plain, "all", split((X, T), "e")), lambda: fitted(plain, None)),
        "both axes": apart(lambda: fitted(plain, None, split((X, T), ("e", "m"))), lambda: fitted(plain, None)),
        "split points": apart(lambda: known(split(points, "e"), None), lambda: known(points, None)),
        "split parameters": refusal(lambda: fitted(plain, "all", start=split(START, None, "m"))),
        "normalization": refusal(lambda: fitted(hf.Objective(normalized), "all")),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
