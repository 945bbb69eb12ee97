"""PyTorch: time G v of the network of row A1. Answers "jvp" or "linearize" with the median of three products.

What does not depend on v is done beforehand, as a CG loop would: the pullback J' by torch.func.vjp, and for "linearize"
also the forward pass of J v. "jvp" has no other way and computes that pass again in each product.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch  # type: ignore[import-not-found,unused-ignore]

SHAPE, BATCH = [784, 1024, 512, 256, 32, 10], 7500

rng = np.random.RandomState(0)


def tensor(*shape: int) -> Any:
    """Normal numbers."""
    return torch.from_numpy(rng.randn(*shape).astype(np.float32))


def like_weights() -> tuple[Any, ...]:
    """A weight matrix, scaled by its fan-in, and a bias for each connection."""
    return tuple(part for m, n in pairwise(SHAPE) for part in (tensor(m, n) / m**0.5, tensor(n)))


inputs = torch.from_numpy(rng.rand(BATCH, SHAPE[0]).astype(np.float32))
weights, v = like_weights(), like_weights()


def logits(*weights: Any) -> Any:
    """The network's output before its softmax."""
    x = inputs
    for layer, (w, b) in enumerate(zip(weights[::2], weights[1::2], strict=True), start=1):
        x = torch.addmm(b, x, w)
        if layer < len(SHAPE) - 1:
            x = torch.relu(x)
    return x


outputs, pull_back = torch.func.vjp(logits, *weights)
p = torch.softmax(outputs, dim=1)
_, linear = torch.func.linearize(logits, *weights)


def product(push_forward: Callable[..., Any]) -> Any:
    """J' H J v, H the curvature of softmax and cross-entropy at the logits, (diag p - p p') / B."""
    jv = push_forward(*v)
    return pull_back(p * (jv - (p * jv).sum(dim=1, keepdim=True)) / BATCH)


def by_jvp(*v: Any) -> Any:
    """J v, the forward pass included."""
    return torch.func.jvp(logits, weights, v)[1]


PUSH_FORWARDS = {"jvp": by_jvp, "linearize": linear}
both = [product(push_forward) for push_forward in PUSH_FORWARDS.values()]
assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*both, strict=True)), "the products differ"

for line in sys.stdin:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        product(PUSH_FORWARDS[line.strip()])
        times.append(time.perf_counter() - start)
    print(json.dumps({"seconds": statistics.median(times)}), flush=True)
