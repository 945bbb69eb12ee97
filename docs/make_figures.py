"""Draw the figures of the documentation, and put what the demos print into their pages.

    python docs/make_figures.py              # everything: a quarter of an hour on two cores
    python docs/make_figures.py xor curves   # some of it, by name

Figures of demos go to docs/demos/, the others to docs/figures/. Those of measurements are drawn from the files that
the benchmarks write to docs/arena/.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import hessianfree as hf

DOCS = Path(__file__).resolve().parent
#: Of a figure in bytes: the pictures are in the repository.
LARGEST = 60_000
#: Lines that pages show of a long output, and how many of them are its last.
LONGEST, LAST = 24, 6
#: Looked for in the working directory, as by the demo.
MNIST = "mnist.npz"
Figures = Mapping[str, Figure]


# ---- figures and files -----------------------------------------------------------------------------------------------


def pixels(figure: Figure, dpi: int = 80) -> Any:
    """The figure as a picture of PIL."""
    from PIL import Image

    memory = io.BytesIO()
    figure.savefig(memory, dpi=dpi)
    return Image.open(memory).convert("RGB")


def write(path: Path, figures: Iterable[Figure]) -> None:
    """Write figures beside each other into one PNG of 128 colours."""
    from PIL import Image

    drawn = [pixels(figure) for figure in figures]
    whole = Image.new("RGB", (sum(part.width for part in drawn), max(part.height for part in drawn)), "white")
    left = 0
    for part in drawn:
        whole.paste(part, (left, 0))
        left += part.width
    whole.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"wrote {path.relative_to(DOCS.parent)}, {size / 1000:.0f} kB")
    if size > LARGEST:
        raise SystemExit(f"{path} has {size} bytes, more than {LARGEST}: draw less, or fewer colours.")


def put_output(page: Path, output: str) -> None:
    """Replace the first block of text in a page."""
    lines = [line.rstrip() for line in output.strip("\n").splitlines()]
    if len(lines) > LONGEST:
        lines = [*lines[: LONGEST - LAST], "...", *lines[-LAST:]]
    text, found = re.subn(
        r"```text\n.*?```",
        lambda _: "```text\n" + "\n".join(lines) + "\n```",
        page.read_text(),
        count=1,
        flags=re.DOTALL,
    )
    if not found:
        raise SystemExit(f"{page} has no block of text for the demo's output.")
    page.write_text(text)


# ---- demos -----------------------------------------------------------------------------------------------------------


class Tee(io.StringIO):
    """Keeps what is printed, and prints it."""

    def write(self, text: str) -> int:
        """Print, and keep."""
        sys.__stdout__.write(text)  # type: ignore[union-attr]
        return super().write(text)


def run_demo(name: str, *arguments: Any, **named: Any) -> tuple[Any, Figures, str]:
    """Run a demo in an empty folder: what it returns, the figures that it would show, and what it prints."""
    shown: dict[str, Figure] = {}
    printed, demos = Tee(), hf.demos.ALL
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if Path(MNIST).exists():
            Path(folder, MNIST).symlink_to(Path(MNIST).resolve())
        for module in ("integrator", "adding", "plant", "pinn"):
            where = sys.modules[f"hessianfree.demos.{module}"]
            stack.enter_context(mock.patch.object(where, "show_or_save", lambda figures, *_: shown.update(figures)))
        stack.enter_context(contextlib.redirect_stdout(printed))
        os.chdir(folder)
        stack.callback(os.chdir, here)
        result = demos[name](*arguments, **named)
    return result, shown, printed.getvalue()


def course(result: Any, error: str) -> Figure:
    """The error after each epoch, and the damping of each update."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(result.history["test_error"], marker=".")
    left.set(yscale="log", xlabel="epoch", ylabel=error)
    right.plot(result.history["damping"], marker=".", color="C1")
    right.set(yscale="log", xlabel="update", ylabel="damping")
    return figure


def small(figures: Figures, size: tuple[float, float] = (5, 3.2)) -> list[Figure]:
    """The figures of a demo, smaller, so that they stand beside each other."""
    for figure in figures.values():
        figure.set_size_inches(*size)
        figure.set_layout_engine("constrained")
    return list(figures.values())


def xor() -> tuple[list[Figure], str]:
    """Hessian-free optimization beside gradient descent."""
    newton, _, printed = run_demo("xor")
    descent, _, _ = run_demo("xor", use_hf=False)
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    for name, result in {"HessianFree(CG_iter=2)": newton, "SGD(l_rate=1)": descent}.items():
        axes.plot(np.arange(1, len(result.epochs) + 1), result.test_errors, label=name)
    axes.set(xscale="log", yscale="log", xlabel="epoch", ylabel="error", title="xor")
    axes.legend()
    return [figure], printed


def of_course(name: str, error: str = "error", **named: Any) -> tuple[list[Figure], str]:
    """A demo that shows no figure: its error and its damping."""
    result, _, printed = run_demo(name, **named)
    return [course(result, error)], printed


def of_shown(name: str, size: tuple[float, float] = (5, 3.2), **named: Any) -> tuple[list[Figure], str]:
    """A demo that shows figures."""
    _, shown, printed = run_demo(name, **named)
    return small(shown, size), printed


def profile() -> tuple[list[Figure], str]:
    """The functions of the profile that take longest."""
    _, _, printed = run_demo("profile", "integrator")
    rows = re.findall(r"^ *[\d/]+ +([\d.]+) +[\d.]+ +[\d.]+ +[\d.]+ +(.+)$", printed, re.MULTILINE)[:8]
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([name[:48] for _, name in rows][::-1], [float(seconds) for seconds, _ in rows][::-1])
    axes.set(xlabel="seconds in the function itself")
    return [figure], printed


DEMOS: dict[str, Callable[[], tuple[list[Figure], str]]] = {
    "xor": xor,
    "crossentropy": lambda: of_course("crossentropy"),
    "connections": lambda: of_course("connections"),
    "mnist": lambda: of_course("mnist", "share of wrong test images"),
    "integrator": lambda: of_shown("integrator", (4, 3)),
    "adding": lambda: of_shown("adding", (7, 3.2)),
    "plant": lambda: of_shown("plant"),
    "poisson2d": lambda: of_shown("poisson2d", (12, 3.4), seconds=30),
    "heat1d": lambda: of_shown("heat1d", (12, 3.4), seconds=40),
    "convection": lambda: of_shown("convection", (12, 3.4), seconds=60),
    "sinc": lambda: of_shown("sinc", (12, 3.4), seconds=15),
    "profile": profile,
}


# ---- how the optimizer works -----------------------------------------------------------------------------------------


def cg() -> Figure:
    """Gradient descent and CG on a quadratic function of two parameters."""
    A, start = np.array([[1.0, 0.5], [0.5, 9.0]]), np.array([2.8, 0.2])
    descent, conjugate = [start], [start]
    for _ in range(12):
        r = -A @ descent[-1]
        descent.append(descent[-1] + r @ r / (r @ A @ r) * r)
    r = -A @ start
    p = r
    for _ in range(2):
        step = r @ r / (p @ A @ p)
        conjugate.append(conjugate[-1] + step * p)
        new = r - step * A @ p
        p, r = new + new @ new / (r @ r) * p, new
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    axes = figure.subplots()
    x, y = np.meshgrid(np.linspace(-0.6, 3, 120), np.linspace(-0.5, 0.5, 120))
    axes.contour(x, y, (A[0, 0] * x**2 + 2 * A[0, 1] * x * y + A[1, 1] * y**2) / 2, 12, colors="0.8", linewidths=0.8)
    axes.plot(*np.transpose(descent), ".-", label="steepest descent, exact steps")
    axes.plot(*np.transpose(conjugate), "o-", label="conjugate gradient")
    axes.plot(0, 0, "k+", markersize=12)
    axes.set(title="two parameters: CG is there after two iterations")
    axes.legend(loc="upper left", fontsize="small")
    return figure


def valley() -> Figure:
    """Steps of both kinds in a narrow, curved valley: f = 1/2 (1 - a)^2 + 1/2 100 (b - a^2)^2."""

    def model(params: Any, scale: Any) -> Any:
        a, b = params["ab"]
        return jnp.stack([1 - a, 10 * (b - a**2)])[None] * scale

    objective = hf.Objective(model, "squared_error")
    data = np.ones((1, 1), np.float32), np.zeros((1, 2), np.float32)
    start = {"ab": np.array([-1.2, 1.0], np.float32)}
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    a, b = np.meshgrid(np.linspace(-1.6, 1.4, 160), np.linspace(-0.6, 2.2, 160))
    value = ((1 - a) ** 2 + 100 * (b - a**2) ** 2) / 2
    left.contour(a, b, value, np.geomspace(0.05, 400, 12), colors="0.8", linewidths=0.8)
    descent, newton = hf.opt.FirstOrder(optax.sgd(1.5e-3)), hf.opt.HessianFree(init_damping=1)
    for name, optimizer, updates in (("gradient descent", descent, 2000), ("Gauss-Newton, damped", newton, 40)):
        params, state = start, optimizer.init(start)
        path, values = [start["ab"]], [objective.value(start, data)]
        for _ in range(updates):
            params, state, _ = optimizer.step(objective, params, state, data)
            path.append(np.asarray(params["ab"]))
            values.append(objective.value(params, data))
        left.plot(*np.transpose(path), ".-", markersize=4, linewidth=1, label=f"{name}, {updates} updates")
        right.plot(np.arange(1, updates + 2), np.maximum(values, 1e-14), label=name)
    left.plot(1, 1, "k+", markersize=12)
    left.set(title="the valley", xlabel="a", ylabel="b")
    left.legend(fontsize="small", loc="upper center")
    right.set(xscale="log", yscale="log", xlabel="update", ylabel="f", title="the loss")
    return figure


def damping() -> Figure:
    """Loss, damping and reduction ratio over a run of an autoencoder of small digits."""
    from hessianfree.io.datasets import load_digits

    offline = mock.patch.dict(os.environ, HESSIANFREE_OFFLINE="1")
    with offline, tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        images = load_digits().train_images[:500]
    layers = ["Linear", "Logistic", "Linear", "Logistic", "Linear"]
    net = hf.FFNet([images.shape[1], 40, 8, 40, images.shape[1]], layers=layers, rng=0)
    result = net.run_epochs(images, images, hf.opt.HessianFree(init_damping=1e-4), max_epochs=60, print_period=None)
    history = result.history
    figure = Figure(figsize=(10, 2.9), layout="constrained")
    for axes, name in zip(figure.subplots(1, 3), ("new_value", "damping", "reduction_ratio"), strict=True):
        axes.plot(history[name])
        axes.set(xlabel="update", title=name)
    figure.axes[0].set(yscale="log", title="loss")
    figure.axes[1].set(yscale="log")
    for bound in (1 / 4, 3 / 4):
        figure.axes[2].axhline(bound, color="0.6", linestyle=":")
    figure.axes[2].set(title="reduction ratio", ylim=(-0.5, 2))
    return figure


def first_model() -> Figure:
    """The figure of the page First model, by the page's own code."""
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block in re.findall(
            r"^```python\n(.*?)^```", (DOCS / "first_model.md").read_text(), re.MULTILINE | re.DOTALL
        ):
            if "figure" not in names:
                exec(compile(block, "first_model.md", "exec"), names)
    figure: Figure = names["figure"]
    return figure


# ---- measurements ----------------------------------------------------------------------------------------------------


def curves() -> Figure:
    """The figure of the README: error against seconds on two rows of the arena."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    for axes, (row, shown, title, label) in zip(figure.subplots(1, 2), ROWS, strict=True):
        found = json.loads((DOCS / "arena" / f"{row}.json").read_text())["curves"]
        for i, (competitor, name) in enumerate(shown.items()):
            seeds = [competitor] if isinstance(competitor, str) else competitor
            runs = [run for one in seeds for run in found[one].values()]
            for run in runs:
                points = [[point[key] for point in run] for key in ("seconds", "test error")]
                axes.plot(*points, color=f"C{i}", linewidth=1.2, label=name if run is runs[0] else None)
        axes.set(xscale="log", yscale="log", xlabel="seconds, on two cores", ylabel=label, title=title)
        axes.grid(visible=True, alpha=0.2)
        axes.legend(fontsize="small")
    return figure


#: Rows of the arena, what is shown of them by which name, a title, and what the error is.
ROWS: tuple[tuple[str, dict[Any, str], str, str], ...] = (
    (
        "a3",
        {
            "ours": "Hessian-free, with K-FAC",
            tuple(
                f"Adam {rate}, batch {batch}" for rate in (0.001, 0.003) for batch in (200, 1000)
            ): "Adam, four settings",
            "kfac-jax": "kfac-jax",
        },
        "deep autoencoder of MNIST",
        "squared error per test image",
    ),
    (
        "a6",
        {
            "auto": "hf.least_squares",
            tuple(f"Adam {rate}" for rate in (0.001, 0.003, 0.01)): "Adam, three settings",
            "L-BFGS": "L-BFGS",
        },
        "Poisson's equation by a network",
        "root mean square error",
    ),
)

FIGURES: dict[str, Callable[[], Figure]] = {
    "cg": cg,
    "valley": valley,
    "damping": damping,
    "first_model": first_model,
    "curves": curves,
}


def main(names: list[str]) -> None:
    """Draw what is named, or everything."""
    unknown = [name for name in names if name not in DEMOS | FIGURES]
    if unknown:
        raise SystemExit(f"there is no figure {unknown[0]!r}; the figures are {', '.join(DEMOS | FIGURES)}")
    for name in names or [*FIGURES, *DEMOS]:
        if name in FIGURES:
            write(DOCS / "figures" / f"{name}.png", [FIGURES[name]()])
        else:
            figures, printed = DEMOS[name]()
            write(DOCS / "demos" / f"{name}.png", figures)
            put_output(DOCS / "demos" / f"{name}.md", printed)


if __name__ == "__main__":
    main(sys.argv[1:])
