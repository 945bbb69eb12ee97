"""Derivatives of a network by its coordinates, in several ways: what rows of a Jacobian take, and their compilation.

A residual of a differential equation is differentiated by all parameters at every point, as `hf.least_squares` does it.
Ways differ in how the derivatives inside of it are written. The floor is the network's value as the residual.

Run: python benchmarks/derivatives.py
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet
from jax.flatten_util import ravel_pytree

from hessianfree import calculus
from hessianfree.demos.pinn import random_params, tanh_network
from hessianfree.engine.compilation import jit
from hessianfree.engine.linearization import linear_map
from hessianfree.engine.residuals import Points, Residuals

import arena

POINTS, ROUNDS = 900, 9
OURS = "hf.calculus"
Field = Callable[[Any], Any]


# ---- ways ------------------------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How derivatives are written."""

    partials: Callable[[Field, Sequence[tuple[int, ...]], Any], Sequence[Any]]  # u, axes of each derivative, x
    laplacian: Callable[[Field, Any], Any]


def one_by_one(slope: Callable[[Field, int], Field]) -> Callable[[Field, Sequence[tuple[int, ...]], Any], list[Any]]:
    """Each derivative by nesting first ones."""

    def nested(u: Field, axes: tuple[int, ...]) -> Field:
        return nested(slope(u, axes[0]), axes[1:]) if axes else u

    return lambda u, which, x: [nested(u, axes)(x) for axes in which]


def by_grad(u: Field, axis: int) -> Field:
    """The derivative in reverse mode."""
    return lambda x: jax.grad(u)(x)[axis]


def by_jvp(u: Field, axis: int) -> Field:
    """The derivative in forward mode."""
    return lambda x: jax.jvp(u, (x,), (jnp.eye(x.size)[axis],))[1]


def sum_of_seconds(slope: Callable[[Field, int], Field]) -> Callable[[Field, Any], Any]:
    """The Laplacian by second derivatives, one by one."""
    return lambda u, x: sum(slope(slope(u, axis), axis)(x) for axis in range(x.size))


def by_hessian(u: Field, which: Sequence[tuple[int, ...]], x: Any) -> list[Any]:
    """First derivatives from the gradient, second ones from the Hessian matrix, third ones from its derivative."""
    ways = [u, jax.grad(u), jax.hessian(u), jax.jacfwd(jax.hessian(u))]
    return [ways[len(axes)](x)[axes] for axes in which]


def by_jet(u: Field, which: Sequence[tuple[int, ...]], x: Any) -> list[Any]:
    """Taylor mode along each axis, as far as it is needed."""
    orders = {axes[0]: max(len(other) for other in which if other[:1] == axes[:1]) for axes in which if axes}
    along = {axis: taylor(u, x, jnp.eye(x.size)[axis], order) for axis, order in orders.items()}
    return [along[axes[0]][1][len(axes) - 1] * math.factorial(len(axes)) if axes else u(x) for axes in which]


def taylor(u: Field, x: Any, direction: Any, order: int) -> Any:
    """Value and Taylor coefficients along a direction."""
    zero = jnp.zeros_like(direction)
    return jet(u, (x,), ((direction, *[zero] * (order - 1)),), factorial_scaled=False)


def laplacian_by_jet(u: Field, x: Any) -> Any:
    """Taylor mode along all axes, mapped."""
    return jnp.sum(jax.vmap(lambda axis: 2 * taylor(u, x, axis, 2)[1][1])(jnp.eye(x.size)))


WAYS = {
    OURS: Way(lambda u, which, x: calculus.partials(u, *which)(x), lambda u, x: calculus.laplacian(u)(x)),
    "jax.grad of jax.grad": Way(one_by_one(by_grad), sum_of_seconds(by_grad)),
    "jax.hessian": Way(by_hessian, lambda u, x: jnp.trace(jax.hessian(u)(x))),
    "jax.jvp of jax.jvp": Way(one_by_one(by_jvp), sum_of_seconds(by_jvp)),
    "jet": Way(by_jet, laplacian_by_jet),
}


# ---- residuals -------------------------------------------------------------------------------------------------------


def value(way: Way, u: Field, x: Any) -> Any:
    """The floor: no derivative."""
    return u(x)


def burgers(way: Way, u: Field, x: Any) -> Any:
    """u_t + u u_x - 0.01 u_xx."""
    at, u_x, u_t, u_xx = way.partials(u, [(), (0,), (1,), (0, 0)], x)
    return u_t + at * u_x - 0.01 * u_xx


def allen_cahn(way: Way, u: Field, x: Any) -> Any:
    """u_t - 0.001 u_xx + 5 u^3 - 5 u."""
    at, u_t, u_xx = way.partials(u, [(), (1,), (0, 0)], x)
    return u_t - 0.001 * u_xx + 5 * at**3 - 5 * at


def korteweg_de_vries(way: Way, u: Field, x: Any) -> Any:
    """u_t + u u_x + 0.0025 u_xxx."""
    at, u_x, u_t, u_xxx = way.partials(u, [(), (0,), (1,), (0, 0, 0)], x)
    return u_t + at * u_x + 0.0025 * u_xxx


def poisson(way: Way, u: Field, x: Any) -> Any:
    """The Laplacian, and a right-hand side."""
    return way.laplacian(u, x) + jnp.sum(jnp.sin(x))


def plate(way: Way, u: Field, x: Any) -> Any:
    """The Laplacian of the Laplacian."""
    return way.laplacian(lambda x: way.laplacian(u, x), x)


SMALL, MIDDLE, WIDE = (2, 20, 20, 20, 1), (2, 64, 64, 64, 1), (5, 64, 64, 48, 48, 1)
CASES = {
    "Burgers": (burgers, SMALL),
    "Burgers, wider": (burgers, MIDDLE),
    "Allen-Cahn": (allen_cahn, SMALL),
    "Korteweg-de Vries": (korteweg_de_vries, SMALL),
    "Poisson, 2 coordinates": (poisson, SMALL),
    "Poisson, wider": (poisson, MIDDLE),
    "Poisson, 5 coordinates": (poisson, WIDE),
    "plate": (plate, SMALL),
}


# ---- measuring -------------------------------------------------------------------------------------------------------


def compiled(residual: Callable[..., Any], way: Way, sizes: tuple[int, ...]) -> dict[str, Any]:
    """The programs of rows and of one product J'Jv, each compiled now, the seconds of both, and the rows."""
    params = random_params(sizes, 0)
    theta, unravel = ravel_pytree(params)
    at = np.random.RandomState(1).rand(POINTS, sizes[0])
    terms = Residuals((lambda params, x: residual(way, partial(tanh_network, params), x),))
    found: dict[str, Any] = {}

    def rows(theta: Any, at: Any) -> Any:
        return terms.jacobian(unravel, theta, (Points(at, 1.0),))[1]

    def products(theta: Any, at: Any) -> Any:
        """Ten products after another, linearised once."""
        _, push, pull = linear_map(lambda theta: terms.flat(unravel, (Points(at, 1.0),), theta), theta)
        return jax.lax.fori_loop(0, 10, lambda _, v: pull(push(v)) / jnp.linalg.norm(v), theta)

    for name, function in (("rows", rows), ("products", products)):
        began = time.perf_counter()
        program = jit(function).jitted().lower(theta, at).compile()  # type: ignore[attr-defined]
        found[f"{name}, compile s"] = time.perf_counter() - began
        found[name] = partial(program, theta, at)
        found[f"{name}, result"] = np.asarray(found[name]())
    return found


def measure(case: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """The row of each table, and how many times as long as ours the fastest other way takes."""
    residual, sizes = CASES[case]
    programs = {"value alone": compiled(value, WAYS[OURS], sizes)}
    programs |= {name: compiled(residual, way, sizes) for name, way in WAYS.items()}
    for name, kind in itertools.product(WAYS, ("rows, result", "products, result")):
        np.testing.assert_allclose(programs[name][kind], programs[OURS][kind], rtol=1e-6, atol=1e-8)
    head = {"residual": case, "network": "-".join(map(str, sizes))}
    tables, ratios = [], {}
    for kind in ("rows", "products"):
        timings = arena.interleaved(
            ROUNDS, {name: partial(arena.seconds, found[kind]) for name, found in programs.items()}
        )
        table: dict[str, Any] = dict(head)
        for name in programs:
            table[f"{name}, ms"] = 1e3 * arena.median(timing[name] for timing in timings)
        for name in WAYS:
            table[f"{name}, compile s"] = programs[name][f"{kind}, compile s"]
        tables.append(table)
        others = [arena.median(t[name] / t[OURS] for t in timings) for name in WAYS if name != OURS]
        ratios[kind] = min(others)
        ratios[f"{kind}, compile"] = min(
            programs[name][f"{kind}, compile s"] / programs[OURS][f"{kind}, compile s"] for name in WAYS if name != OURS
        )
    return tables[0], tables[1], ratios


def main() -> None:
    """Measure all residuals in all ways."""
    jax.config.update("jax_enable_x64", True)
    arena.cold()
    compiled(value, WAYS[OURS], SMALL)  # what is imported and started on the way
    measured = [measure(case) for case in CASES]
    verdicts = {}
    for kind, title in (("rows", "rows of J"), ("products", "ten products J'Jv")):
        for what, key in (("time", kind), ("compilation", f"{kind}, compile")):
            ratios = [ratio[key] for _, _, ratio in measured]
            verdicts[f"{title}, {what} of the fastest other way over ours"] = f"{min(ratios):.2f} to {max(ratios):.2f}"
    arena.report(
        "derivatives",
        f"{POINTS} points, float64; rows of J (above) and ten products J'Jv (below)",
        [rows for rows, _, _ in measured],
        verdicts,
        [products for _, products, _ in measured],
    )


if __name__ == "__main__":
    main()
