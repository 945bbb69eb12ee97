"""Row A4: seconds until the mnist demo, at its default settings, has a given test error.

Run: python benchmarks/a4_mnist.py [--target 0.03] [--seeds 0 1 2] [--data mnist.npz]
"""

from __future__ import annotations

import argparse
import math

import hessianfree as hf

import arena


def seconds_to(target: float, seed: int, data: str) -> tuple[float, list[dict[str, float]]]:
    """Run the demo until an epoch ends below the target: seconds from its start, infinite if it never does."""
    result = hf.demos.mnist({"rng": seed}, {"target_err": target}, data=data)
    curve = [{"seconds": epoch.seconds, "test error": epoch.test_error} for epoch in result.epochs]
    return min((p["seconds"] for p in curve if p["test error"] < target), default=math.inf), curve


def main() -> None:
    """Run every seed and report the median."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=float, default=0.03)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", default=str(arena.MNIST))
    args = parser.parse_args()
    runs = {seed: seconds_to(args.target, seed, args.data) for seed in args.seeds}
    arena.report(
        "A4",
        f"MNIST, the demo's defaults: seconds, compilation included, to a test error of {args.target:.1%}",
        [
            {"seed": seed, "seconds": seconds, "best test error": min(p["test error"] for p in curve)}
            for seed, (seconds, curve) in runs.items()
        ],
        {f"median seconds to {args.target:.1%} (bar 300)": round(arena.median(s for s, _ in runs.values()), 1)},
        curves={seed: curve for seed, (_, curve) in runs.items()},
    )


if __name__ == "__main__":
    main()
