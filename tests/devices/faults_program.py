"""One process of several that run the same fit, in which something goes wrong; prints how it ended.

`python faults_program.py PROCESSES RANK PORT CASE FOLDER`
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scale_cases import join


class _AtUpdate:
    """A callback that does something at the fourth update."""

    def __init__(self, act: Any) -> None:
        self.act, self.updates = act, 0

    def on_update(self, epoch: int, update: int, updates: int | None, record: Any) -> None:
        self.updates += 1
        if self.updates == 4:
            self.act()


def _fail() -> None:
    raise RuntimeError("the disk is full")


def _parts(rank: int, batches: int, failing: bool) -> Iterator[tuple[Any, Any]]:
    """Batches of 6 examples, of which this process gives a half."""
    for number in range(batches):
        if failing and rank == 1 and number == 2:
            raise OSError("no such file")
        rng = np.random.RandomState(number)
        x = rng.randn(6, 3).astype("f")[3 * rank : 3 * rank + 3]
        yield x, x.sum(axis=1, keepdims=True)


def arrays() -> tuple[Any, Any]:
    """Inputs and targets."""
    x = np.random.RandomState(0).randn(50, 3).astype("f")
    return x, np.tanh(x.sum(axis=1, keepdims=True))


def main() -> None:
    """See the head of the file."""
    processes, rank, port, case, folder = sys.argv[1:]
    number = int(rank)
    if int(processes) > 1:
        join(int(processes), number, port)
    import hessianfree as hf

    x, t = arrays()
    data: Any = (x, t)
    model = hf.Objective(lambda p, x: x @ p["w"] + p["b"])
    params = {"w": np.zeros((3, 1), "f"), "b": np.zeros(1, "f")}
    options: dict[str, Any] = {
        "max_epochs": 5,
        "minibatch_size": 12,
        "print_period": 1,
        "devices": "all",
        "target_err": 0,
    }
    if case == "settings":
        options["seed"] = number
    elif case == "shapes":
        data = (x[: 50 - number], data[1][: 50 - number])
    elif case == "values":
        data[0][3, 1] += number
    elif case == "stored":
        data = tuple(np.load(Path(folder) / f"{name}.npy", mmap_mode="r") for name in "xt")
    elif case == "bad" and number:
        data = (data[0], data[1] * np.nan)
    elif case == "callback" and number:
        options["callbacks"] = [_AtUpdate(_fail)]
    elif case == "interrupt" and number:
        options["callbacks"] = [_AtUpdate(lambda: os.kill(os.getpid(), signal.SIGINT))]
    elif case == "dies" and number:
        options["callbacks"] = [_AtUpdate(lambda: os.kill(os.getpid(), signal.SIGKILL))]
    elif case in ("iterable", "uneven"):
        options["minibatch_size"] = None
        data = _Loader(number, 4 - (case == "uneven" and number), case == "iterable")
    elif case in ("first", "again", "whole"):
        options |= {"checkpoint": str(Path(folder) / "run.ckpt"), "checkpoint_every": 1, "resume": True}
        if case == "first":
            options["callbacks"] = [_AtUpdate(lambda: os.kill(os.getpid(), signal.SIGKILL))]
        if case == "whole":
            options |= {"checkpoint": None, "resume": False}
    try:
        result = hf.fit(model, params, data, **options)
    except Exception as error:
        print(f"ended by {type(error).__name__}: {error}", flush=True)
        sys.exit(3)
    weights = [float(w) for leaf in result.params.values() for w in np.ravel(np.asarray(leaf))]
    print(f"ended well: {result.reason}; {sum(len(e.updates) for e in result.epochs)} updates; {weights}", flush=True)


class _Loader:
    def __init__(self, rank: int, batches: int, failing: bool) -> None:
        self.given = rank, batches, failing

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return _parts(*self.given)


if __name__ == "__main__":
    main()
