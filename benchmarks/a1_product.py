"""Row A1: one Gauss-Newton product inside the CG loop, against hessianfree 0.4.0, PyTorch and bare products.

Run: python benchmarks/a1_product.py
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import jax
import numpy as np
from jax import lax

import hessianfree as hf
from hessianfree.engine.joining import joinable
from hessianfree.engine.system import Numbers, Plan, solve

import arena

SHAPE, BATCH, ROUNDS = [784, 1024, 512, 256, 32, 10], 7500, 7
FLOPS = sum((2 if i == 0 else 4) * 2 * BATCH * m * n for i, (m, n) in enumerate(pairwise(SHAPE)))


def network(rng: np.random.RandomState) -> hf.FFNet:
    """The network of the row with its examples cached."""
    layers = [hf.nl.Linear(), *[hf.nl.ReLU()] * 4, hf.nl.Softmax()]
    net = hf.FFNet(SHAPE, layers=layers, rng=rng)
    inputs = rng.rand(BATCH, SHAPE[0]).astype(np.float32)
    targets = np.eye(SHAPE[-1], dtype=np.float32)[rng.randint(0, SHAPE[-1], BATCH)]
    net.cache_minibatch(inputs, targets)
    return net


def cg_seconds(net: hf.FFNet) -> Callable[[], float]:
    """Seconds per CG iteration of a real update: the difference of a long and a short solve."""
    direction = jax.device_put(net.params(np.random.RandomState(1).randn(net.W.size)))
    objective, batch = net.problem().localize(net.params(), net.batch())
    numbers = Numbers(np.float32(1), np.float32(0.95), np.float32(0))
    args = objective, jax.device_put(net.params()), batch, None, direction, numbers
    short, long = (partial(solve, Plan(n, joined=joinable(net.params())), *args) for n in (2, 10))

    def measure() -> float:
        return (arena.seconds(long) - arena.seconds(short)) / 8

    measure()
    return measure


@partial(jax.jit, static_argnums=0)
def _repeat(product: Callable[[Any, Any], Any], a: Any, b: Any, times: Any) -> Any:
    """The same product over and over in one buffer; the tiny shift keeps it inside the loop."""

    def body(carry: Any) -> Any:
        count, out = carry
        return count + 1, product(a, b + out[0, 0] * 1e-30)

    return lax.while_loop(lambda carry: carry[0] < times, body, (0, product(a, b)))[1]


def _forward(a: Any, w: Any) -> Any:
    return a @ w


def _outer(a: Any, d: Any) -> Any:
    return a.T @ d


def _back(d: Any, w: Any) -> Any:
    return d @ w.T


def floor_products() -> list[tuple[int, Callable[[], float]]]:
    """The 18 matrix products of one G v: how many of each kind, and a function timing one."""
    rng, products = np.random.RandomState(2), []
    for i, (m, n) in enumerate(pairwise(SHAPE)):
        a, w, d = (jax.device_put(rng.randn(*s).astype(np.float32)) for s in ((BATCH, m), (m, n), (BATCH, n)))
        # At the first connection no tangent and no gradient flows through the inputs.
        kinds = [(1 if i == 0 else 2, _forward, a, w), (1, _outer, a, d), (0 if i == 0 else 1, _back, d, w)]
        products += [(count, timer(product, x, y)) for count, product, x, y in kinds if count]
    return products


def timer(product: Callable[[Any, Any], Any], x: Any, y: Any) -> Callable[[], float]:
    """A function that times one product."""
    short, long = (partial(_repeat, product, x, y, n) for n in (1, 5))

    def measure() -> float:
        return (arena.seconds(long) - arena.seconds(short)) / 4

    measure()
    return measure


def main() -> None:
    """Measure all of it in turn, several rounds over, and report medians."""
    net = network(np.random.RandomState(0))
    ours = cg_seconds(net)
    memory = arena.peak_memory_gb()
    peer = arena.Worker("hessianfree-0.4.0", "hf040_product.py")
    torch = arena.Worker("torch", "torch_product.py")
    floor = floor_products()
    rounds = arena.interleaved(
        ROUNDS,
        {
            "ours": ours,
            "floor": lambda: sum(count * measure() for count, measure in floor),
            "0.4.0": lambda: peer.ask("go")["seconds"],
            "PyTorch jvp and vjp": lambda: torch.ask("jvp")["seconds"],
            "PyTorch linearize and vjp": lambda: torch.ask("linearize")["seconds"],
        },
    )
    peer.close()
    torch.close()
    times = {name: arena.median(r[name] for r in rounds) for name in rounds[0]}
    over_floor = arena.median(r["ours"] / r["floor"] for r in rounds)
    speed_ups = {name: arena.median(r[name] / r["ours"] for r in rounds) for name in rounds[0]}
    at_floor = arena.median(r["0.4.0"] / r["floor"] for r in rounds)
    arena.report(
        "A1",
        "one G v, 784-1024-512-256-32-10, batch 7500, float32, inside the CG loop",
        [{"what": name, "ms": 1e3 * t, "GFLOP/s": FLOPS / t / 1e9} for name, t in times.items()],
        {
            "ours / floor (bar 1.10)": round(over_floor, 3),
            "0.4.0 / ours (bar 2.4)": round(speed_ups["0.4.0"], 2),
            **{f"{name} / ours": round(speed_ups[name], 2) for name in rounds[0] if "PyTorch" in name},
            "0.4.0 / floor (what a perfect product would reach here)": round(at_floor, 2),
            "peak memory of the updates, GB (bar 2.5)": round(memory, 2),
        },
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
