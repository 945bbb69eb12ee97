"""Row A1: one Gauss-Newton product inside the CG loop, against hessianfree 0.4.0, PyTorch and bare products.

Run: python benchmarks/a1_product.py
"""

from __future__ import annotations

import numpy as np

import hessianfree as hf
from hessianfree.console.measuring import floor_seconds, product_flops, product_seconds

import arena

SHAPE, BATCH, ROUNDS = [784, 1024, 512, 256, 32, 10], 7500, 7
FLOPS = product_flops(SHAPE, BATCH)


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
    net = network(np.random.RandomState(0))
    ours = product_seconds(net)
    memory = arena.peak_memory_gb()
    peer = arena.Worker("hessianfree-0.4.0", "hf040_product.py")
    torch = arena.Worker("torch", "torch_product.py")
    floor = floor_seconds(SHAPE, BATCH)
    rounds = arena.interleaved(
        ROUNDS,
        {
            "ours": ours,
            "floor": floor,
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
