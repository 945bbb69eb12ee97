"""Row A4: seconds until the mnist demo, at its default settings, has a given test error, and Adam's beside it.

Run: python benchmarks/a4_mnist.py [--target 0.02] [--seeds 0 1 2] [--adam-seconds 60] [--data mnist.npz]

Adam learns the same network from the same cross-entropy; 0 seconds leave it out.
"""

from __future__ import annotations

import argparse
from typing import Any

import hessianfree as hf

import arena


def demo(target: float, seed: int, data: str, arguments: dict[str, Any]) -> arena.Run:
    """Run the demo from a cold start until an epoch ends below the target."""
    arena.cold()
    result = hf.demos.mnist({"rng": seed}, {"target_err": target, **arguments}, data=data)
    return arena.told(arena.Run("ours", seed, arena.curve_of(result.epochs)))


def main() -> None:
    """Run every seed, then Adam, and report the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", type=float, default=0.02)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="at most, the demo's number by default")
    parser.add_argument("--adam-seconds", type=float, default=60, help="for each of Adam's runs")
    parser.add_argument("--data", default=str(arena.MNIST))
    args = parser.parse_args()
    arguments = {} if args.epochs is None else {"max_epochs": args.epochs}
    runs = [demo(args.target, seed, args.data, arguments) for seed in args.seeds]
    goal = f"{args.target:.1%}"
    seconds = arena.fastest(runs, args.target)
    verdicts: dict[str, Any] = {f"median seconds to {goal} (bar 120)": arena.in_words(seconds)}
    if args.adam_seconds:

        def rank(curve: arena.Curve) -> tuple[float, float]:
            return arena.seconds_to(curve, args.target), arena.last_error(curve)

        adam, best = arena.adam("classifier", args.seeds, rank, args.data, "--seconds", args.adam_seconds)
        chosen = [run for run in adam if run.competitor == best]
        verdicts[f"{best}, the fastest of Adam's sweep, median seconds to {goal}"] = arena.in_words(
            arena.fastest(chosen, args.target)
        )
        errors = [min(point["test error"] for point in run.curve) for run in chosen]
        verdicts[f"its lowest test error in {args.adam_seconds:g} s, median"] = f"{arena.median(errors):.2%}"
        runs += adam
    title = f"MNIST, the demo's defaults: seconds, compilation included, to a test error of {goal}"
    arena.draw("A4", title, runs, args.target)
    arena.report("A4", title, [arena.summary(run, args.target) for run in runs], verdicts, curves=arena.as_json(runs))


if __name__ == "__main__":
    main()
