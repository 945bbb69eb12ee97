"""Train networks of many shapes in one process, which must not run out of memory mappings.

    python benchmarks/mappings.py --shapes 300 [--limit 8000]

`--limit` stands in for vm.max_map_count, so that the end is near. Prints the mappings as they go up and down.
"""

from __future__ import annotations

import argparse

import numpy as np

import hessianfree as hf
from hessianfree.support.mappings import count, watch


def main() -> None:
    """Train, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--shapes", type=int, default=300)
    parser.add_argument("--limit", type=int, default=None)
    chosen = parser.parse_args()
    if chosen.limit is not None:
        watch().limit = chosen.limit
    rng, most = np.random.default_rng(0), 0
    for number in range(chosen.shapes):
        examples, width = 3 + number % 20, 2 + number // 20
        x, t = rng.standard_normal((examples, 2)), rng.standard_normal((examples, 1))
        net = hf.FFNet([2, width, 1], layers="Tanh", rng=0)
        net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=5), max_epochs=2, print_period=None)
        most = max(most, count())
        if number % 10 == 9:
            print(f"{number + 1} shapes: {count()} mappings, caches cleared {watch().cleared} times", flush=True)
    print(f"at most {most} mappings, the limit is {watch().limit}; caches cleared {watch().cleared} times")


if __name__ == "__main__":
    main()
