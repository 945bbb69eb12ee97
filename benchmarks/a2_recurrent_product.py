"""Row A2: one recurrent Gauss-Newton product inside the CG loop, against hessianfree 0.4.0 and its own matrix products.

Run: python benchmarks/a2_recurrent_product.py [--alone]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

import hessianfree as hf
from hessianfree.console.measuring import forward, outer, product_seconds, repeated_seconds
from hessianfree.demos.integrator import signals

import arena

UNITS, BATCH, STEPS, ROUNDS = 100, 500, 200, 7
#: Two scans of products with the recurrent weights, the hoisted product, and the gradient of those weights.
FLOPS = 4 * 2 * BATCH * STEPS * UNITS**2


def network(rng: np.random.RandomState) -> hf.RNNet:
    """The network of the row with its sequences cached."""
    net = hf.RNNet([1, UNITS, 1], layers=hf.nl.Logistic(), rng=rng)
    net.cache_minibatch(*signals(BATCH, STEPS))
    return net


def _chain(a: Any, w: Any) -> Any:
    """STEPS small products, each of the result of the last."""
    return lax.scan(lambda c, _: (c @ w, None), a, None, length=STEPS)[0]


def floor_products() -> list[tuple[int, Callable[[], float]]]:
    """Two chains of small products, one large and one outer: how many of each, and a function timing one."""
    rng = np.random.RandomState(2)
    small, w = jnp.asarray(rng.randn(BATCH, UNITS), jnp.float32), jnp.asarray(rng.randn(UNITS, UNITS), jnp.float32) / 20
    large = jnp.asarray(rng.randn(BATCH * STEPS, UNITS), jnp.float32)
    return [
        (2, repeated_seconds(_chain, small, w)),
        (1, repeated_seconds(forward, large, w)),
        (1, repeated_seconds(outer, large, large)),
    ]


def _asked(peer: arena.Worker) -> float:
    return float(peer.ask("product")["seconds"])


def main() -> None:
    """Measure all of it in turn, several rounds over, and report medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", action="store_true", help="without peers, ours and the floor")
    alone = parser.parse_args().alone
    ours = product_seconds(network(np.random.RandomState(0)))
    floor = floor_products()
    measures = {"ours": ours, "floor": lambda: sum(count * measure() for count, measure in floor)}
    peers = [] if alone else [arena.Worker("hessianfree-0.4.0", "hf040_recurrent.py")]
    for peer in peers:
        measures["0.4.0"] = partial(_asked, peer)
    rounds = arena.interleaved(ROUNDS, measures)
    for peer in peers:
        peer.close()
    times = {name: arena.median(r[name] for r in rounds) for name in rounds[0]}
    verdicts = {"ours / floor": round(arena.median(r["ours"] / r["floor"] for r in rounds), 2)}
    if peers:
        speed_up = arena.median(r["0.4.0"] / r["ours"] for r in rounds)
        verdicts = {"0.4.0 / ours (bar 2.2, aim 2.6)": round(speed_up, 2), **verdicts}
    arena.report(
        "A2",
        "one G v, RNN 1-100-1 logistic, 500 sequences x 200 steps, float32, inside the CG loop",
        [{"what": name, "ms": 1e3 * t, "GFLOP/s": FLOPS / t / 1e9} for name, t in times.items()],
        verdicts,
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
