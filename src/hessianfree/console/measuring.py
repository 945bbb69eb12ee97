"""How long a Gauss-Newton product takes inside the CG loop, and how long its matrix products alone would take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from hessianfree.engine.joining import joinable
from hessianfree.engine.system import Numbers, Plan, solve
from hessianfree.networks.core import NetworkCore

Measure = Callable[[], float]


class Spread(NamedTuple):
    """Seconds: the median of several measurements, the fastest and the slowest."""

    median: float
    fastest: float
    slowest: float


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call, until the arrays it returns are there."""
    start = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - start


def interleaved(rounds: int, measures: Mapping[str, Measure]) -> dict[str, list[float]]:
    """Every measure in turn, this many rounds over: what drifts meets all of them alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def spread(values: Sequence[float]) -> Spread:
    """Median, fastest and slowest.

    Example:
        >>> spread([3.0, 1.0, 2.0])
        Spread(median=2.0, fastest=1.0, slowest=3.0)
    """
    return Spread(statistics.median(values), min(values), max(values))


def product_seconds(net: NetworkCore) -> Measure:
    """A function that times one CG iteration of a real update on the cached examples.

    It takes the difference of a long and a short solve. Everything is compiled before this returns.
    """
    direction = jax.device_put(net.params(np.random.RandomState(1).randn(net.W.size)))
    objective, batch = net.problem().localize(net.params(), net.batch())
    numbers = Numbers(np.float32(1), np.float32(0.95), np.float32(0))
    args = objective, jax.device_put(net.params()), batch, None, direction, numbers
    short, long = (partial(solve, Plan(n, joined=joinable(net.params())), *args) for n in (2, 10))

    def measure() -> float:
        return (seconds(long) - seconds(short)) / 8

    measure()
    return measure


def floor_seconds(shape: Sequence[int], batch: int) -> Measure:
    """A function that times the matrix products of one Gauss-Newton product of a chain of layers, by themselves.

    Each connection but the first takes two products forward, one for the weights and one back; at the first one no
    tangent and no gradient flows through the inputs.
    """
    rng, products = np.random.RandomState(2), []
    for i, (m, n) in enumerate(pairwise(shape)):
        a, w, d = (jax.device_put(rng.randn(*s).astype(np.float32)) for s in ((batch, m), (m, n), (batch, n)))
        kinds = [(1 if i == 0 else 2, forward, a, w), (1, outer, a, d), (0 if i == 0 else 1, back, d, w)]
        products += [(count, repeated_seconds(product, x, y)) for count, product, x, y in kinds if count]
    return lambda: sum(count * measure() for count, measure in products)


def product_flops(shape: Sequence[int], batch: int) -> int:
    """Floating-point operations in these matrix products.

    Example:
        >>> product_flops([3, 4, 2], 10) == 2 * 10 * (2 * 3 * 4 + 4 * 4 * 2)
        True
    """
    return sum((2 if i == 0 else 4) * 2 * batch * m * n for i, (m, n) in enumerate(pairwise(shape)))


def repeated_seconds(product: Callable[[Any, Any], Any], x: Any, y: Any) -> Measure:
    """A function that times one product, as the difference of five and one in a compiled loop."""
    short, long = (partial(_repeat, product, x, y, n) for n in (1, 5))

    def measure() -> float:
        return (seconds(long) - seconds(short)) / 4

    measure()
    return measure


@partial(jax.jit, static_argnums=0)
def _repeat(product: Callable[[Any, Any], Any], a: Any, b: Any, times: Any) -> Any:
    """The same product over and over in one buffer; the tiny shift keeps it inside the loop."""

    def body(carry: Any) -> Any:
        count, out = carry
        return count + 1, product(a, b + out[0, 0] * 1e-30)

    return lax.while_loop(lambda carry: carry[0] < times, body, (0, product(a, b)))[1]


def forward(a: Any, w: Any) -> Any:
    """What enters the next layer."""
    return a @ w


def outer(a: Any, d: Any) -> Any:
    """A gradient of weights."""
    return a.T @ d


def back(d: Any, w: Any) -> Any:
    """What goes back to the layer before."""
    return d @ w.T
