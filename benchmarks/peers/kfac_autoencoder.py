"""kfac-jax on row A3's autoencoder; prints one line of JSON with its error over time.

Settings are those of the library's own example of an autoencoder, everything adaptive, but for two: the example takes
all 60,000 images at once, and starts with damping 150 and thousands of updates before it. Here the first 60 updates
reached a test error of 22 from damping 3, of 49 from 150; from Glorot's weights neither left the mean image. Seconds
include compilation; the clock stands still during evaluations.

Run: python kfac_autoencoder.py mnist.npz --batch 2000 --seed 0 --seconds 120
"""

import argparse
import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import jax
import kfac_jax  # type: ignore[import-not-found,unused-ignore]
import numpy as np
import optax
from initial_weights import initial

SHAPE, CODE = [784, 400, 200, 100, 30, 100, 200, 400, 784], 4
#: Training images that the training error is measured on.
MEASURED = 2_000


def logits(params: Any, x: Any) -> Any:
    """The network's output before its last logistic."""
    for layer, (w, b) in enumerate(params, start=1):
        x = x @ w + b
        if layer not in (CODE, len(params)):
            x = jax.nn.sigmoid(x)
    return x


def loss(params: Any, x: Any) -> Any:
    """Cross-entropy summed over pixels, mean over images; tells kfac-jax what the outputs stand for."""
    z = logits(params, x)
    kfac_jax.register_multi_bernoulli_predictive_distribution(z, x)
    return optax.sigmoid_binary_cross_entropy(z, x).sum(axis=-1).mean()


@jax.jit
def error(params: Any, x: Any) -> Any:
    """Squared distance summed over pixels, without a factor 1/2."""
    return ((jax.nn.sigmoid(logits(params, x)) - x) ** 2).sum(axis=-1).mean()


def batches(x: Any, size: int, seed: int) -> Iterator[Any]:
    """Pass after pass over a permutation, without end."""
    rng = np.random.RandomState(seed)
    while True:
        for rows in rng.permutation(len(x))[: len(x) // size * size].reshape(-1, size):
            yield x[rows]


def train(options: argparse.Namespace) -> list[dict[str, float]]:
    """Epochs until the time is over, an evaluation after each."""
    with np.load(options.data) as data:
        x, x_test = (data[key].reshape(-1, 784).astype(np.float32) / 255 for key in ("x_train", "x_test"))
    x, x_test = jax.block_until_ready(jax.device_put((x[: options.images], x_test)))
    curve: list[dict[str, float]] = []
    seconds, updates = 0.0, 0
    start = time.perf_counter()
    optimizer = kfac_jax.Optimizer(
        value_and_grad_func=jax.value_and_grad(loss),
        l2_reg=options.l2,
        use_adaptive_learning_rate=True,
        use_adaptive_momentum=True,
        use_adaptive_damping=True,
        initial_damping=options.damping,
        min_damping=1e-5,
        max_damping=1000.0,
        damping_adaptation_interval=5,
        damping_adaptation_decay=0.95,
        curvature_ema=0.95,
        inverse_update_period=5,
        num_burnin_steps=5,
    )
    stream, params = batches(x, options.batch, options.seed), initial(SHAPE, options.init, options.seed)
    keys, key = jax.random.split(jax.random.PRNGKey(options.seed))
    state = optimizer.init(params, key, next(stream))
    while seconds < options.seconds:
        for _ in range(len(x) // options.batch):
            keys, key = jax.random.split(keys)
            params, state, _ = optimizer.step(params, state, key, data_iterator=stream, global_step_int=updates)
            updates += 1
        jax.block_until_ready(params)
        seconds += time.perf_counter() - start
        point = {"test error": error(params, x_test).item(), "train error": error(params, x[:MEASURED]).item()}
        curve.append({"seconds": seconds, "updates": updates, **point})
        start = time.perf_counter()
    return curve


def main() -> None:
    """Train once."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--batch", type=int, default=2_000)
    parser.add_argument("--damping", type=float, default=3.0, help="initial damping")
    parser.add_argument("--init", choices=["glorot", "sparse"], default="sparse")
    parser.add_argument("--l2", type=float, default=1e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--images", type=int, default=20_000)
    curve = train(parser.parse_args())
    print(json.dumps({"curve": curve, "versions": {name: version(name) for name in ("jax", "jaxlib", "kfac-jax")}}))


main()
