"""Adam (optax) and L-BFGS (SciPy) on the Poisson problem of row A6, in float64; prints the curve as JSON.

Their clocks include compilation and stand still during evaluations.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

jax.config.update("jax_enable_x64", True)

#: Adam's updates between evaluations.
CHUNK = 200


def network(params: Any, x: Any) -> Any:
    """Tanh layers and a linear one."""
    for W, b in params[:-1]:
        x = jnp.tanh(x @ W + b)
    W, b = params[-1]
    return (x @ W + b)[0]


def exact(x: Any) -> Any:
    """sin(pi x) sin(pi y)."""
    return jnp.prod(jnp.sin(jnp.pi * x))


def interior(params: Any, x: Any) -> Any:
    """Laplacian of u + 2 pi^2 sin(pi x) sin(pi y)."""
    return laplacian(params, x) + 2 * jnp.pi**2 * exact(x)


def laplacian(params: Any, x: Any) -> Any:
    """The Laplacian of the network, in one pass as `hf.calculus` has it: activity, its slopes, and its Laplacian."""
    slopes, bend = list(jnp.eye(x.size)), jnp.zeros(x.size)
    for W, b in params[:-1]:
        x, slopes, bend = jnp.tanh(x @ W + b), [slope @ W for slope in slopes], bend @ W
        rise = (1 - x) * (1 + x)  # tanh' = rise, and tanh'' = -2 tanh rise
        bend = rise * (bend - 2 * x * sum(slope**2 for slope in slopes))
        slopes = [rise * slope for slope in slopes]
    return (bend @ params[-1][0])[0]


def main() -> None:
    """Run one method and print its curve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("method", choices=("adam", "l-bfgs"))
    parser.add_argument("problem", help="npz file: weights w0, b0, w1, ..., points inside, edge, test")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seconds", type=float, default=60)
    options = parser.parse_args()
    with np.load(options.problem) as given:
        layers = sum(name.startswith("w") for name in given.files)
        start, unravel = ravel_pytree(
            [(jnp.asarray(given[f"w{k}"]), jnp.asarray(given[f"b{k}"])) for k in range(layers)]
        )
        inside, edge, test = (jnp.asarray(given[name]) for name in ("inside", "edge", "test"))

    def loss(flat: Any) -> Any:
        params = unravel(flat)
        r = jax.vmap(interior, (None, 0))(params, inside)
        b = jax.vmap(network, (None, 0))(params, edge)
        return 0.5 * jnp.mean(r**2) + 0.5 * jnp.mean(b**2)

    @jax.jit
    def rmse(flat: Any) -> Any:
        found = jax.vmap(network, (None, 0))(unravel(flat), test)
        return jnp.sqrt(jnp.mean((found - jax.vmap(exact)(test)) ** 2))

    curve = Recorder(rmse, options.seconds)
    if options.method == "adam":
        run_adam(loss, start, options.rate, curve)
    else:
        run_lbfgs(loss, start, curve)
    print(json.dumps({"curve": curve.points}))


class Recorder:
    """The curve, its clock stopped while errors are computed."""

    def __init__(self, rmse: Any, seconds: float) -> None:
        self.rmse, self.limit, self.points = rmse, seconds, []  # type: ignore[var-annotated]
        self.evaluating, self.began = 0.0, time.perf_counter()

    def add(self, flat: Any, updates: int) -> bool:
        """Add a point; whether the time is over."""
        now = time.perf_counter()
        seconds = now - self.began - self.evaluating
        self.points.append({"seconds": seconds, "updates": updates, "test error": float(self.rmse(flat))})
        self.evaluating += time.perf_counter() - now
        return seconds > self.limit


def run_adam(loss: Any, flat: Any, rate: float, curve: Recorder) -> None:
    """Full-batch Adam, `CHUNK` updates in one compiled loop."""
    optimizer = optax.adam(rate)

    @jax.jit
    def chunk(flat: Any, state: Any) -> Any:
        def update(carry: Any, _: None) -> Any:
            flat, state = carry
            change, state = optimizer.update(jax.grad(loss)(flat), state)
            return (optax.apply_updates(flat, change), state), None

        return jax.lax.scan(update, (flat, state), length=CHUNK)[0]

    state, updates = optimizer.init(flat), 0
    while True:
        flat, state = jax.block_until_ready(chunk(flat, state))
        updates += CHUNK
        if curve.add(flat, updates):
            return


def run_lbfgs(loss: Any, flat: Any, curve: Recorder) -> None:
    """SciPy's L-BFGS-B, started again where it ends by itself before the time is over."""
    value_and_grad = jax.jit(jax.value_and_grad(loss))
    count = 0

    def function(x: Any) -> tuple[float, Any]:
        value, gradient = value_and_grad(x)
        return float(value), np.asarray(gradient)

    def after(x: Any) -> None:
        nonlocal count
        count += 1
        if count % 20 == 0 and curve.add(x, count):
            raise TimeoutError

    x = np.asarray(flat)
    try:
        for _ in range(1000):
            before = count
            options = {"maxiter": 1_000_000, "maxfun": 10_000_000, "maxcor": 50, "ftol": 0, "gtol": 0}
            x = minimize(function, x, jac=True, method="L-BFGS-B", callback=after, options=options).x
            if count - before < 5:
                break
    except TimeoutError:
        return
    curve.add(x, count)


if __name__ == "__main__":
    main()
