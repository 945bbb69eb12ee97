"""SPRING on Poisson's equation by the code of its authors; prints one line of JSON with the error over time.

Their script `rla_pinns/train.py` runs with the options that are given. Its optimizer's `step` is replaced from outside
by one that calls it and then looks at the clock. Two of its imports are not there: PyTorchHessianFree, whose optimizer
is not used here, and wandb. Empty stand-ins take their places.

Run: python spring.py CHECKOUT known.npz --seconds 300 --optimizer RNGD --RNGD_damping 1e-8 ...
"""

import argparse
import contextlib
import json
import sys
from types import ModuleType
from typing import Any

from watched import TimeUpError, Watch

#: Modules that are not installed, and what is imported from them.
ABSENT = {"hessianfree": (), "hessianfree.optimizer": ("HessianFree",), "hessianfree.cg": ("cg",), "wandb": ()}


def stand_in(name: str, contents: tuple[str, ...]) -> ModuleType:
    """A module with empty classes."""
    module = ModuleType(name)
    for content in contents:
        setattr(module, content, type(content, (), {}))
    return module


def main() -> None:
    """Run it and print its curve."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("checkout")
    parser.add_argument("known")
    parser.add_argument("--seconds", type=float, default=300)
    options, theirs = parser.parse_known_args()
    sys.path.insert(0, options.checkout)
    sys.modules.update({name: stand_in(name, contents) for name, contents in ABSENT.items()})

    import torch  # type: ignore[import-not-found,unused-ignore]
    from rla_pinns import train  # type: ignore[import-not-found,unused-ignore]

    watch, size, set_up = Watch(options.known, options.seconds), 0, train.set_up_optimizer
    points = torch.from_numpy(watch.points)

    def watched(layers: Any, *arguments: Any, **rest: Any) -> Any:
        nonlocal size
        network = torch.nn.Sequential(*layers)
        size = sum(part.numel() for part in network.parameters())
        optimizer, parsed = set_up(layers, *arguments, **rest)
        step = optimizer.step

        def predict(_: Any) -> Any:
            with torch.no_grad():
                return network(points).numpy()

        def watched_step(*data: Any) -> Any:
            losses = step(*data)
            watch.look(predict)
            return losses

        watch.look(predict, 0)
        optimizer.step = watched_step
        return optimizer, parsed

    train.set_up_optimizer = watched
    sys.argv[:] = ["train.py", *theirs, "--num_seconds", "1e9", "--N_eval", "1000"]
    watch.begin()
    with contextlib.suppress(TimeUpError):
        train.main()
    print(json.dumps(watch.found(size, "torch")))


if __name__ == "__main__":
    main()
