"""What the demos of `hf.least_squares` share: a network, the race against Adam and L-BFGS, and its figure.

A problem is a function u(x), given by equations r(u)(x) = 0 at points x and known exactly. The network stands for u;
its error, which no method gets to see, is that of its values.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

import hessianfree as hf
from hessianfree.engine.compilation import jit
from hessianfree.engine.numbers import is_positive
from hessianfree.plotting.figures import show_or_save
from hessianfree.support import checks, runtime
from hessianfree.training.results import Epoch, Run

Floats = NDArray[np.float64]
#: Weights (n_in, n_out) and biases (n_out,) of each layer.
Params = list[tuple[Floats, Floats]]
#: A residual r(params, point), and the points it is to vanish at.
Term = tuple[Callable[..., Any], Floats]

OURS = "least_squares"
#: Updates of Adam between looks at the clock, and pairs of vectors that L-BFGS keeps.
CHUNK, PAIRS = 50, 50
#: Seconds after which a line is printed whatever has happened.
SILENCE = 5.0


@dataclass(frozen=True)
class Equation:
    """A problem, its network and what a method is measured by."""

    name: str  # of the demo, and of its figure
    title: str
    terms: list[Term]  # the loss is the sum over terms of the mean of 1/2 r^2
    start: Callable[[int], Params]  # where all methods start, by a seed
    network: Callable[[Any, Any], Any]  # u(params, point)
    solution: Callable[[Any], Any]  # the exact u(point)
    grid: Floats  # points of the figure and of the error, (rows, columns, 2) or (n, 1)
    labels: Sequence[str]  # of the axes
    measure: str = "relative L2 error"  # or "RMSE", or "mean squared error"
    rate: float = 1e-3  # the learning rate of Adam

    def error(self, params: Params) -> float:
        """The distance between network and solution on the grid, by `measure`."""
        exact = values(self.solution, self.grid)
        distance = rms(values(self.network, self.grid, params) - exact)
        if self.measure == "relative L2 error":
            return distance / rms(exact)
        return distance**2 if self.measure == "mean squared error" else distance


class MethodRun(NamedTuple):
    """What a method did: the last parameters, the error against seconds, compilation included, and the steps."""

    params: Params
    seconds: Floats
    errors: Floats
    steps: int
    interrupted: bool = False  # by Ctrl-C


# ---- networks --------------------------------------------------------------------------------------------------------


def random_params(sizes: Sequence[int], seed: int) -> Params:
    """Normal weights of variance 1 / n_in, and biases of zero; `sizes` are the units of all layers."""
    checks.at_least("seed", seed, 0)
    rng = np.random.RandomState(seed)
    return [(rng.randn(m, n) / np.sqrt(m), np.zeros(n)) for m, n in itertools.pairwise(sizes)]


def tanh_network(params: Any, x: Any) -> Any:
    """The output u(x) of a network with hidden layers of tanh, one number; x is (n_in,)."""
    *hidden, (weights, bias) = params
    for w, b in hidden:
        x = jnp.tanh(x @ w + b)
    return (x @ weights + bias)[0]


def grid(first: Floats, second: Floats) -> Floats:
    """All pairs of two coordinates, (len(first), len(second), 2)."""
    return np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)


def values(function: Callable[..., Any], points: Floats, *params: Any) -> Floats:
    """A function of parameters, if any, and a point, at many points (..., d): float64, (...).

    Define the function at the level of a module: it is compiled once.
    """
    with runtime.computing(np.dtype(np.float64), None):
        found = _mapped(function, params, points.reshape(-1, points.shape[-1]))
        return np.asarray(found).reshape(points.shape[:-1])


def rms(differences: Floats) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(differences**2)))


@partial(jit, static_argnums=0)
def _mapped(function: Callable[..., Any], params: Any, points: Any) -> Any:
    return jax.vmap(lambda point: function(*params, point))(points)


# ---- a race ----------------------------------------------------------------------------------------------------------


def race(problem: Equation, seed: int, seconds: float, steps: int, plots: bool, compare: bool) -> dict[str, MethodRun]:
    """Solve a problem by `hf.least_squares`, and by Adam and L-BFGS for comparison; print and draw how they fared.

    The arguments are those of the demos. Raises ValueError for seconds or steps that are not positive.
    """
    checks.at_least("steps", steps, 1)
    if not is_positive(seconds):
        raise ValueError(f"seconds is {seconds!r}; a positive number is expected.")
    start = problem.start(seed)
    size = sum(w.size + b.size for w, b in start)
    print(f"{problem.title}: {size} parameters, {sum(len(points) for _, points in problem.terms)} residuals")
    runs = {OURS: _least_squares(problem, start, seconds, steps)}
    interrupted = runs[OURS].interrupted
    others = {"Adam": _adam, "L-BFGS": _lbfgs} if compare and not interrupted else {}
    try:
        with runtime.computing(np.dtype(np.float64), None), runtime.one_lapack_thread():
            for name, method in others.items():
                runs[name] = method(problem, start, seconds)
    except KeyboardInterrupt:
        interrupted = True
        runs[OURS] = runs[OURS]._replace(interrupted=True)
    if interrupted:
        print("interrupted; this is what there is")
    print(table(problem.measure, runs))
    if plots:
        show_or_save({problem.name: draw(problem, runs)})
    return runs


class _Watch:
    """Times a method and looks at its error now and then, with the clock stopped; a callback of `hf.least_squares`.

    It prints a line whenever the error has fallen below another power of ten, or after some seconds of silence.
    """

    def __init__(self, method: str, problem: Equation, start: Params) -> None:
        self.method, self.problem = method, problem
        first = problem.error(start)  # compiles it before the clock starts
        self.seen = [(0.0, first)]
        self.printed, self.decade = 0.0, _decade(first)
        self.began, self.stopped = time.perf_counter(), 0.0

    def seconds(self) -> float:
        return time.perf_counter() - self.began - self.stopped

    def on_start(self, run: Run) -> None:
        self.live = run

    def on_epoch(self, epoch: Epoch) -> None:
        self.look(epoch.number + 1, lambda: self.live.params)

    def look(self, steps: int, params: Callable[[], Params], always: bool = False) -> None:
        """Take the error down, unless it has been a moment ago."""
        now = self.seconds()
        if not always and now < 1.01 * self.seen[-1][0] + 0.005:
            return
        error = self.problem.error(params())
        self.seen.append((now, error))
        if always or _decade(error) < self.decade or now > self.printed + SILENCE:
            print(f"  {self.method:13}  {now:5.1f} s, {steps:6} steps: {self.problem.measure} {error:.1e}")
            self.printed, self.decade = now, min(self.decade, _decade(error))
        self.stopped += self.seconds() - now

    def run(self, steps: int, params: Params) -> MethodRun:
        self.look(steps, lambda: params, always=True)
        seconds, errors = np.array(self.seen).T
        return MethodRun(params, seconds, errors, steps)


def _decade(error: float) -> float:
    return math.floor(math.log10(error)) if 0 < error < math.inf else math.inf


def _least_squares(problem: Equation, start: Params, seconds: float, steps: int) -> MethodRun:
    watch = _Watch(OURS, problem, start)
    result = hf.least_squares(problem.terms, start, max_steps=steps, max_seconds=seconds, callbacks=[watch])
    run = watch.run(len(result.history["value"]), result.params)
    return run._replace(interrupted=result.interrupted)


def _adam(problem: Equation, start: Params, seconds: float) -> MethodRun:
    import optax

    functions, points = zip(*problem.terms, strict=True)
    watch = _Watch("Adam", problem, start)
    params, state, steps = start, optax.adam(problem.rate).init(start), 0
    while watch.seconds() < seconds:
        params, state = jax.block_until_ready(_adam_updates(functions, problem.rate, params, state, points))
        steps += CHUNK
        watch.look(steps, partial(jax.device_get, params))
    return watch.run(steps, jax.device_get(params))


def _lbfgs(problem: Equation, start: Params, seconds: float) -> MethodRun:
    from scipy.optimize import minimize

    functions, points = zip(*problem.terms, strict=True)
    flat, unravel = ravel_pytree(start)
    watch, steps = _Watch("L-BFGS", problem, start), 0

    def value_and_gradient(theta: Floats) -> tuple[float, Floats]:
        value, gradient = _value_and_gradient(functions, unravel(jnp.asarray(theta)), points)
        return float(value), np.asarray(ravel_pytree(gradient)[0])

    def after_step(theta: Floats) -> None:
        nonlocal steps
        steps += 1
        watch.look(steps, lambda: jax.device_get(unravel(jnp.asarray(theta))))
        if watch.seconds() > seconds:
            raise StopIteration

    limits = {"maxiter": 10**9, "maxfun": 10**9, "maxcor": PAIRS, "ftol": 0, "gtol": 0}
    found = minimize(
        value_and_gradient, np.asarray(flat), jac=True, method="L-BFGS-B", options=limits, callback=after_step
    )
    return watch.run(steps, jax.device_get(unravel(jnp.asarray(found.x))))


def _loss(functions: Sequence[Callable[..., Any]], params: Any, points: Sequence[Any]) -> Any:
    """Of all terms, the sum of the means of 1/2 r^2, as least_squares has it."""
    pairs = zip(functions, points, strict=True)
    return sum(0.5 * jnp.mean(jax.vmap(partial(r, params))(at) ** 2) for r, at in pairs)


_value_and_gradient = jit(jax.value_and_grad(_loss, 1), static_argnums=0)


@partial(jit, static_argnums=(0, 1))
def _adam_updates(
    functions: Sequence[Callable[..., Any]], rate: float, params: Any, state: Any, points: Sequence[Any]
) -> Any:
    """A few updates in one program."""
    import optax

    def update(carry: Any, _: None) -> tuple[Any, None]:
        params, state = carry
        changes, state = optax.adam(rate).update(jax.grad(_loss, 1)(functions, params, points), state)
        return (optax.apply_updates(params, changes), state), None

    return jax.lax.scan(update, (params, state), length=CHUNK)[0]


# ---- what came of it -------------------------------------------------------------------------------------------------


def table(measure: str, runs: dict[str, MethodRun]) -> str:
    """The lowest error of each method, and when ours was as low.

    Example:
        >>> fast = MethodRun([], np.array([0, 1, 2]), np.array([1, 0.1, 1e-6]), 20)
        >>> slow = MethodRun([], np.array([0, 1, 2]), np.array([1, 0.5, 0.2]), 900)
        >>> print(table("RMSE", {"least_squares": fast, "Adam": slow}))
        method          lowest RMSE  seconds  steps  least_squares was there after
        least_squares       1.0e-06      2.0     20
        Adam                2.0e-01      2.0    900  1.0 s
    """
    ours, width = runs[OURS], len(f"lowest {measure}")
    lines = [f"method          lowest {measure}  seconds  steps"]
    lines[0] += f"  {OURS} was there after" if len(runs) > 1 else ""
    for name, run in runs.items():
        lowest = float(np.nanmin(run.errors))
        lines.append(f"{name:14}  {lowest:{width}.1e}  {run.seconds[-1]:7.1f}  {run.steps:5}")
        if name != OURS:
            there = ours.errors <= lowest
            lines[-1] += f"  {ours.seconds[there.argmax()]:.1f} s" if there.any() else "  never"
    return "\n".join(lines)


def draw(problem: Equation, runs: dict[str, MethodRun]) -> Any:
    """A figure of our solution, its error, and the errors of all methods against time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    found, exact = values(problem.network, problem.grid, runs[OURS].params), values(problem.solution, problem.grid)
    if found.ndim == 1:
        _draw_curves(problem, left, {"network": found, "exact": exact})
        _draw_curves(problem, middle, {"network - exact": found - exact})
    else:
        _draw_field(problem, left, found)
        _draw_field(problem, middle, found - exact, "RdBu")
    left.set(title=problem.title)
    middle.set(title=f"error of {OURS}")
    for name, run in runs.items():
        right.plot(run.seconds, run.errors, label=name)
    right.set(title="error over time", xlabel="seconds", ylabel=problem.measure, yscale="log")
    right.legend()
    return figure


def _draw_curves(problem: Equation, axes: Any, curves: dict[str, Floats]) -> None:
    for (name, curve), style in zip(curves.items(), ("-", "--"), strict=False):
        axes.plot(problem.grid[:, 0], curve, style, label=name)
    axes.set(xlabel=problem.labels[0])
    axes.legend()


def _draw_field(problem: Equation, axes: Any, field: Floats, colours: str = "viridis") -> None:
    first, second = problem.grid[..., 0], problem.grid[..., 1]
    span = float(np.percentile(np.abs(field), 99.5)) or 1.0  # so that a corner does not outshine the rest
    limits = {"vmin": -span, "vmax": span} if colours == "RdBu" else {}
    drawn = axes.pcolormesh(first, second, field, cmap=colours, shading="gouraud", **limits)
    axes.figure.colorbar(drawn, ax=axes, extend="both" if limits else "neither")
    axes.set(xlabel=problem.labels[0], ylabel=problem.labels[1])
