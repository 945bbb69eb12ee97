"""Row A1: one Gauss-Newton product inside the CG loop, against hessianfree 0.4.0, PyTorch and bare products.

Run: python benchmarks/a1_product.py [--alone]
"""

from __future__ import annotations

import argparse

import numpy as np

import hessianfree as hf
from hessianfree.console.measuring import floor_seconds, product_flops, product_seconds

import arena

SHAPE, BATCH, ROUNDS = [784, 1024, 512, 256, 32, 10], 7500, 7
FLOPS = product_flops(SHAPE, BATCH)
TORCH = "torch_product.py"


def network(rng: np.random.RandomState) -> hf.FFNet:
    """The network of the row with its examples cached."""
    layers = [hf.nl.Linear(), *[hf.nl.ReLU()] * 4, hf.nl.Softmax()]
    net = hf.FFNet(SHAPE, layers=layers, rng=rng)
    inputs = rng.rand(BATCH, SHAPE[0]).astype(np.float32)
    targets = np.eye(SHAPE[-1], dtype=np.float32)[rng.randint(0, SHAPE[-1], BATCH)]
    net.cache_minibatch(inputs, targets)
    return net


def main() -> None:
    """Measure all of it in turn, several rounds over, and report medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--alone", action="store_true", help="without peers, ours and the floor")
    alone = parser.parse_args().alone
    net = network(np.random.RandomState(0))
    ours = product_seconds(net)
    memory = arena.peak_memory_gb()
    measures = {"ours": ours, "floor": floor_seconds(SHAPE, BATCH)}
    peers = [] if alone else [arena.Worker("hessianfree-0.4.0", "hf040_product.py"), arena.Worker("torch", TORCH)]
    if peers:
        peer, torch = peers
        measures["0.4.0"] = lambda: peer.ask("go")["seconds"]
        measures["PyTorch jvp and vjp"] = lambda: torch.ask("jvp")["seconds"]
        measures["PyTorch linearize and vjp"] = lambda: torch.ask("linearize")["seconds"]
    rounds = arena.interleaved(ROUNDS, measures)
    for worker in peers:
        worker.close()
    times = {name: arena.median(r[name] for r in rounds) for name in rounds[0]}
    over_floor = arena.median(r["ours"] / r["floor"] for r in rounds)
    speed_ups = {name: arena.median(r[name] / r["ours"] for r in rounds) for name in rounds[0]}
    verdicts: dict[str, float] = {"ours / floor (bar 1.10)": round(over_floor, 3)}
    if peers:
        at_floor = arena.median(r["0.4.0"] / r["floor"] for r in rounds)
        verdicts["0.4.0 / ours (bar 2.4)"] = round(speed_ups["0.4.0"], 2)
        verdicts |= {f"{name} / ours": round(speed_ups[name], 2) for name in rounds[0] if "PyTorch" in name}
        verdicts["0.4.0 / floor (what a perfect product would reach here)"] = round(at_floor, 2)
    arena.report(
        "A1",
        "one G v, 784-1024-512-256-32-10, batch 7500, float32, inside the CG loop",
        [{"what": name, "ms": 1e3 * t, "GFLOP/s": FLOPS / t / 1e9} for name, t in times.items()],
        verdicts | {"peak memory of the updates, GB (bar 2.5)": round(memory, 2)},
        rounds=rounds,
    )


if __name__ == "__main__":
    main()
