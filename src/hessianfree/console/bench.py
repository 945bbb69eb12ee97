"""`hessianfree bench`: how fast this machine is at what the package does, in less than a minute."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hessianfree.console import output
from hessianfree.console.info import versions

if TYPE_CHECKING:
    from hessianfree.console.measuring import Measure
    from hessianfree.networks.ffnet import FFNet

EXAMPLES = """
hessianfree bench
hessianfree bench --json > bench.json
"""

SHAPE = (784, 1024, 512, 256, 32, 10)
BATCH = 1000
CG_ITER = 10
#: Of the recurrent network: units, sequences and timesteps.
UNITS, SEQUENCES, STEPS = 30, 100, 50
#: Rounds of all measurements, unless these seconds are over.
ROUNDS, SECONDS = 5, 40.0


def bench(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Measure how fast this machine is, in less than a minute.

    Measured are one Gauss-Newton product beside its matrix products alone, and updates of two networks. Networks and
    data are drawn from fixed seeds. Compilation is timed apart, and all else is measured several times in turn: the
    median is shown, and the fastest and the slowest. Let nothing else run.
    """
    found = measured()
    if json:
        typer.echo(output.as_json(found))
        return
    rows = [(what, *(round(1e3 * value, 1) for value in times)) for what, times in found["seconds"].items()]
    typer.echo(output.columns(rows, ["milliseconds", "median", "fastest", "slowest"]))
    typer.echo("")
    rest = {name: value for name, value in found.items() if name not in ("seconds", "versions")}
    typer.echo(output.columns([*rest.items(), *found["versions"].items()]))


def measured() -> dict[str, Any]:
    """Compile and measure everything."""
    import jax

    from hessianfree.console import measuring
    from hessianfree.support.runtime import keep_compiled_programs

    keep_compiled_programs()
    begun = time.perf_counter()
    classifier, recurrent = _classifier(), _recurrent()
    product, floor = f"one product G v of {'-'.join(map(str, SHAPE))}, batch {BATCH}", "its matrix products alone"
    measures: dict[str, Measure] = {
        product: measuring.product_seconds(classifier),
        floor: measuring.floor_seconds(SHAPE, BATCH),
        f"an update of this network, {CG_ITER} CG iterations": _update(classifier),
        f"an update of an RNN 1-{UNITS}-1, {SEQUENCES} sequences x {STEPS} steps": _update(recurrent),
    }
    compiled = time.perf_counter() - begun
    times: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, values in measuring.interleaved(1, measures).items():
            times[name] += values
        if time.perf_counter() - begun > SECONDS:
            break
    spreads = {name: measuring.spread(values) for name, values in times.items()}
    ratios = [ours / bare for ours, bare in zip(times[product], times[floor], strict=True)]
    return {
        "seconds": {name: list(found) for name, found in spreads.items()},
        "product / its matrix products": measuring.spread(ratios).median,
        "GFLOP/s of the product": measuring.product_flops(SHAPE, BATCH) / spreads[product].median / 1e9,
        "rounds": len(ratios),
        "seconds to prepare and compile": compiled,
        "device": str(jax.devices()[0].device_kind),
        "cores": os.cpu_count(),
        "versions": versions(),
    }


def _classifier() -> FFNet:
    """The network of the mnist demo with random examples cached, and its optimizer."""
    import numpy as np

    import hessianfree as hf
    from hessianfree.demos.mnist import classifier

    net, rng = classifier(SHAPE[0]), np.random.RandomState(0)
    targets = np.eye(SHAPE[-1], dtype=np.float32)[rng.randint(0, SHAPE[-1], BATCH)]
    net.cache_minibatch(rng.rand(BATCH, SHAPE[0]).astype(np.float32), targets)
    net.optimizer = hf.opt.HessianFree(CG_ITER)
    return net


def _recurrent() -> FFNet:
    """A network of logistic units with the sequences of the integrator demo cached, and its optimizer."""
    import hessianfree as hf
    from hessianfree.demos.integrator import signals

    net = hf.RNNet([1, UNITS, 1], rng=0)
    net.cache_minibatch(*signals(SEQUENCES, STEPS))
    net.optimizer = hf.opt.HessianFree(CG_ITER)
    return net


def _update(net: FFNet) -> Callable[[], float]:
    """A function that times the first update of a network, over and over again."""
    weights = net.W.copy()

    def measure() -> float:
        net.W = weights
        net.optimizer.begin()
        start = time.perf_counter()
        net.optimizer.compute_update()
        return time.perf_counter() - start

    measure()
    return measure
