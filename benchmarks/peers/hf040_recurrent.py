"""hessianfree 0.4.0: recurrent work, one command per line: "product", "integrator SEED" or "plant SEED".

Its demos are run as they are, with the seed put in place of their random numbers.
"""

import json
import statistics
import sys
import time
from typing import Any

import numpy as np

import hessianfree as hf

RNNet: Any = hf.RNNet
caught: dict[str, Any] = {}


def catch(seed: int) -> None:
    """Let the demos build networks from this seed, and keep what they build and train on."""

    class Caught(RNNet):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.update(rng=np.random.RandomState(seed), use_GPU=False)
            RNNet.__init__(self, *args, **kwargs)
            caught["net"] = self

        def run_epochs(self, inputs: Any, targets: Any, *args: Any, **kwargs: Any) -> Any:
            caught["inputs"], caught["targets"] = inputs, targets
            return RNNet.run_epochs(self, inputs, targets, *args, **dict(kwargs, print_period=None))

    np.random.seed(seed)  # noqa: NPY002 - what the demos draw from
    setattr(hf, "RNNet", Caught)  # noqa: B010


def product() -> dict[str, Any]:
    """Seconds of one G v of the network of row A2."""
    if "product" not in caught:
        rng = np.random.RandomState(0)
        net = RNNet([1, 100, 1], layers=hf.nl.Logistic(), use_GPU=False, rng=rng)
        net.optimizer = hf.opt.HessianFree()
        levels = np.linspace(0.1, 0.9, 500)
        inputs = np.outer(levels, np.ones(200))[:, :, None].astype(np.float32)
        targets = np.outer(levels, np.linspace(0, 1, 200))[:, :, None].astype(np.float32)
        net.cache_minibatch(inputs, targets)
        v = rng.randn(net.W.size).astype(np.float32)
        net.calc_G(v)
        caught["product"] = net, v
    net, v = caught["product"]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        net.calc_G(v)
        times.append(time.perf_counter() - start)
    return {"seconds": statistics.median(times)}


def integrator(seed: int) -> dict[str, Any]:
    """Error of the demo's network at its end."""
    catch(seed)
    start = time.perf_counter()
    hf.demos.integrator(plots=False)
    net = caught["net"]
    error = net.error(net.W, caught["inputs"], caught["targets"])
    return {"error": float(error), "seconds": time.perf_counter() - start}


def plant(seed: int) -> dict[str, Any]:
    """Cost of a run with the plant, with the last and with the best weights."""
    catch(seed)
    start = time.perf_counter()
    hf.demos.plant(plots=False)
    net, system = caught["net"], caught["inputs"]

    def cost(weights: Any) -> float:
        path = net.forward(system, weights)[-1]
        return float(0.5 * np.nansum((path - system.targets) ** 2) / len(path))

    seconds = time.perf_counter() - start
    return {"error": cost(net.W), "best": cost(net.best_W), "starts": system.init_state.tolist(), "seconds": seconds}


def main() -> None:
    """Answer line after line."""
    commands: dict[str, Any] = {"product": product, "integrator": integrator, "plant": plant}
    for line in sys.stdin:
        name, *arguments = line.split()
        print(json.dumps(commands[name](*map(int, arguments))), flush=True)


main()
