"""DSGNAR on Burgers' equation by the code of its authors; prints one line of JSON with the error over time.

The equation, the network and the settings are those of cells in their notebook examples/burgers_double_precision.ipynb,
which run as they stand; `train64` of their package `pinn` then runs as the notebook has it. Two things are replaced
from outside: the class that draws figures during the run, by one that draws nothing, and the optimizer's `step`, by one
that calls it and then looks at the clock. The run does without its own computations of the error, too.

Seconds include compilation, of which nothing is kept between runs. `train64` takes three steps in each of two
precisions before it counts time, so as to compile. They change the parameters, and their time and updates count here.

Run: python dsgnar.py CHECKOUT known.npz --seconds 360 --settings '{"n_pde": 8192}'
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from watched import TimeUpError, Watch

NOTEBOOK = "examples/burgers_double_precision.ipynb"


class NoFigures:
    """Takes the place of a class that draws: all of its methods do nothing."""

    def __init__(self, reference: Any, **_: Any) -> None:
        self.channels = reference.channels

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def cells(notebook: dict[str, Any]) -> Iterator[str]:
    """The code of a notebook up to its settings, `cfg`; lines for IPython alone are left out.

    Raises:
        ValueError: if no cell sets `cfg`.
    """
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            lines = "".join(cell["source"]).splitlines()
            yield "\n".join(line for line in lines if not line.startswith("%"))
            if any(line.startswith("cfg =") for line in lines):
                return
    raise ValueError("The notebook has no cell with `cfg = ...`; take the commit that pde_published.py names.")


def main() -> None:
    """Run it and print its curve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("checkout", type=Path)
    parser.add_argument("known")
    parser.add_argument("--seconds", type=float, default=360)
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON: changes of their RunConfig")
    options = parser.parse_args()
    sys.path.insert(0, str(options.checkout / "src"))

    import equinox as eqx  # type: ignore[import-not-found,unused-ignore]
    import jax
    from pinn import trainer64  # type: ignore[import-not-found,unused-ignore]

    theirs: dict[str, Any] = {}
    for code in cells(json.loads((options.checkout / NOTEBOOK).read_text())):
        exec(compile(code, NOTEBOOK, "exec"), theirs)
    watch, size = Watch(options.known, options.seconds), 0
    step, values = trainer64.Optimiser.step, eqx.filter_jit(lambda network, points: jax.vmap(network)(points))

    def watched(self: Any, params: Any, static: Any, **rest: Any) -> Any:
        nonlocal size
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        if not watch.curve:
            watch.look(lambda points: values(eqx.combine(params, static), points), 0)
        found = jax.block_until_ready(step(self, params=params, static=static, **rest))
        watch.look(lambda points: values(eqx.combine(found[1], static), points))
        return found

    trainer64.Optimiser.step, trainer64.Plotter = watched, NoFigures
    with tempfile.TemporaryDirectory() as cache:
        changes = {"cache_dir": cache, "log_every": sys.maxsize, **options.settings}
        for name, value in changes.items():
            setattr(theirs["cfg"], name, value)
        watch.begin()
        with contextlib.suppress(TimeUpError):
            trainer64.train(theirs["BurgersProblem"], theirs["cfg"])
    print(json.dumps(watch.found(size, "jax", "equinox")))


if __name__ == "__main__":
    main()
