"""Forms of the equations: what u(params, point) is, and which residuals remain.

N is a network of tanh. With the condition u = u0 at t = 0, u = u0 + t N has it exactly; a factor such as 1 - x^2 keeps
the values at the ends; and N of cos(pi x) and sin(pi x) has a period of 2.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.scipy.special import erfc

from hessianfree.calculus import laplacian, partials

from pde.points import Region

#: u(params, point), one number; a point is (d,).
Function = Callable[[Any, Any], Any]


class Condition(NamedTuple):
    """A residual and where it is to vanish."""

    name: str  # "equation" for the differential equation
    residual: Function
    region: Region


class Form(NamedTuple):
    """A way to write a problem down."""

    solution: Function  # u(params, point)
    inputs: int  # of the network
    conditions: list[Condition]


def network(params: Any, inputs: Any) -> Any:
    """N, one number: hidden layers of tanh and a linear one; inputs are (n_in,)."""
    *hidden, (weights, bias) = params
    for w, b in hidden:
        inputs = jnp.tanh(inputs @ w + b)
    return (inputs @ weights + bias)[0]


def _form(u: Function, inputs: int, equation: Callable[..., Any], region: Region, *more: Condition) -> Form:
    """A form with the equation's residual(u, params, point), and other conditions."""
    return Form(u, inputs, [Condition("equation", partial(equation, u), region), *more])


def _initially(u: Function, u0: Callable[[Any], Any], low: float, high: float) -> Condition:
    return Condition("start", lambda params, point: u(params, point) - u0(point[0]), Region((low, 0), (high, 0)))


def _periodic(u: Function, period: float) -> Condition:
    """u(0, t) = u(period, t)."""

    def residual(params: Any, point: Any) -> Any:
        return u(params, point) - u(params, point.at[0].add(period))

    return Condition("period", residual, Region((0, 0), (0, 1)))


# ---- Burgers ---------------------------------------------------------------------------------------------------------


def burgers(nu: float) -> dict[str, Form]:
    """The equation u_t + u u_x = nu u_xx for |x| < 1, with u = -sin(pi x) at t = 0 and u = 0 at the ends.

    "odd" is "hard" with the odd part of N, since u is odd; its points have x > 0. "layer" is "odd" with one more input
    of N, tanh(x / (15 nu)): the shock at x = 0 is as wide as a few nu, and smooth in this coordinate. "periodic" is
    that of Urban et al. 2025, where N has a period of 2, as u has.
    """

    def equation(u: Function, params: Any, point: Any) -> Any:
        value, u_x, u_t, u_xx = partials(partial(u, params), (), 0, 1, (0, 0))(point)
        return u_t + value * u_x - nu * u_xx

    def u0(x: Any) -> Any:
        return -jnp.sin(jnp.pi * x)

    def soft(params: Any, point: Any) -> Any:
        x, t = point
        return network(params, jnp.stack([x, 2 * t - 1]))

    def hard(params: Any, point: Any) -> Any:
        x, t = point
        return u0(x) + t * (1 - x**2) * soft(params, point)

    def of_odd_part(part: Function) -> Function:
        def u(params: Any, point: Any) -> Any:
            x, t = point
            both = part(params, point) - part(params, jnp.stack([-x, t]))
            return u0(x) + 0.5 * t * (1 - x**2) * both

        return u

    def with_layer(params: Any, point: Any) -> Any:
        x, t = point
        return network(params, jnp.stack([x, jnp.tanh(x / (15 * nu)), 2 * t - 1]))

    def periodic(params: Any, point: Any) -> Any:
        x, t = point
        return u0(x) + t * _around(params, point)

    inside, half, ends = Region((-1, 0), (1, 1)), Region((0, 0), (1, 1)), Region((-1, 0), (1, 1), (0,))
    return {
        "hard": _form(hard, 2, equation, inside),
        "periodic": _form(periodic, 3, equation, inside),
        "odd": _form(of_odd_part(soft), 2, equation, half),
        "layer": _form(of_odd_part(with_layer), 3, equation, half),
        "soft": _form(soft, 2, equation, inside, _initially(soft, u0, -1, 1), Condition("edge", soft, ends)),
    }


# ---- period 2 --------------------------------------------------------------------------------------------------------


def _around(params: Any, point: Any) -> Any:
    """N of period 2."""
    x, t = point
    return network(params, jnp.stack([jnp.cos(jnp.pi * x), jnp.sin(jnp.pi * x), 2 * t - 1]))


def _evenly_around(params: Any, point: Any) -> Any:
    """N of period 2 and even."""
    x, t = point
    return network(params, jnp.stack([jnp.cos(jnp.pi * x), 2 * t - 1]))


def allen_cahn() -> dict[str, Form]:
    """The equation u_t = 1e-4 u_xx + 5 (u - u^3) of period 2, with u = x^2 cos(pi x) at t = 0.

    This u0 has slopes of -2 and 2 on the two sides of x = 1, and u has no kink for t > 0. "hard", u0 + t N with N of
    period 2, keeps the kink forever: it solves the equation with u_x = -2 at x = 1, and that solution differs from u
    by 3.3e-4 of its size. "layer" adds what the heat equation makes of the kink,
    w = 4 sqrt(nu t / pi) exp(-s^2 / (4 nu t)) - 2 s erfc(s / sqrt(4 nu t)) at the distance s = 1 - |x|, so that
    u0 + w has no kink. There u is about -1 and u + 1 decays as exp(-10 t), so that it is close to
    v = -1 + exp(-10 t) (u0 + w + 1). With z = ((1 - cos(pi x)) / 2)^4, which is 1 there and 0 at x = 0,
    u = (1 - z) u0 + z v + t N. "layer" and "even" take N of cos(pi x) alone, with points of x > 0.
    """
    nu = 1e-4

    def equation(u: Function, params: Any, point: Any) -> Any:
        value, u_t, u_xx = partials(partial(u, params), (), 1, (0, 0))(point)
        return u_t - nu * u_xx - 5 * (value - value**3)

    def u0(x: Any) -> Any:
        return x**2 * jnp.cos(jnp.pi * x)

    def hard(params: Any, point: Any) -> Any:
        x, t = point
        return u0(x) + t * _around(params, point)

    def layer(params: Any, point: Any) -> Any:
        x, t = point
        s, length = 1 - jnp.abs(x), jnp.sqrt(4 * nu * jnp.maximum(t, 1e-30))
        w = 2 * length / jnp.sqrt(jnp.pi) * jnp.exp(-((s / length) ** 2)) - 2 * s * erfc(s / length)
        v = -1 + jnp.exp(-10 * t) * (u0(x) + w + 1)
        z = ((1 - jnp.cos(jnp.pi * x)) / 2) ** 4
        return (1 - z) * u0(x) + z * v + t * _evenly_around(params, point)

    inside, half = Region((-1, 0), (1, 1)), Region((0, 0), (1, 1))
    return {
        "layer": _form(layer, 2, equation, half),
        "even": _form(_evenly_around, 2, equation, half, _initially(_evenly_around, u0, 0, 1)),
        "soft": _form(_around, 3, equation, inside, _initially(_around, u0, -1, 1)),
        "hard": _form(hard, 3, equation, inside),
    }


def korteweg_de_vries(mu: float) -> dict[str, Form]:
    """The equation u_t + u u_x + mu^2 u_xxx = 0 of period 2, with u = cos(pi x) at t = 0.

    "hard" is u0 + t N with N of period 2; in "waves" N has the waves of a half and a third of that period as inputs,
    too, since u becomes a train of narrow ones.
    """

    def equation(u: Function, params: Any, point: Any) -> Any:
        value, u_x, u_t, u_xxx = partials(partial(u, params), (), 0, 1, (0, 0, 0))(point)
        return u_t + value * u_x + mu**2 * u_xxx

    def u0(x: Any) -> Any:
        return jnp.cos(jnp.pi * x)

    def hard(params: Any, point: Any) -> Any:
        x, t = point
        return u0(x) + t * _around(params, point)

    def waves(params: Any, point: Any) -> Any:
        x, t = point
        angles = jnp.pi * x * jnp.arange(1, 4)
        return u0(x) + t * network(params, jnp.concatenate([jnp.cos(angles), jnp.sin(angles), 2 * t[None] - 1]))

    inside = Region((-1, 0), (1, 1))
    return {
        "hard": _form(hard, 3, equation, inside),
        "waves": _form(waves, 7, equation, inside),
        "soft": _form(_around, 3, equation, inside, _initially(_around, u0, -1, 1)),
    }


# ---- Poisson ---------------------------------------------------------------------------------------------------------


def poisson(d: int) -> dict[str, Form]:
    """The equation -Laplace u = pi^2 sum_i cos(pi x_i) in the unit cube, with u = sum_i cos(pi x_i) at its faces."""

    def exact(point: Any) -> Any:
        return jnp.cos(jnp.pi * point).sum()

    def equation(u: Function, params: Any, point: Any) -> Any:
        return laplacian(partial(u, params))(point) + jnp.pi**2 * exact(point)

    def edge(params: Any, point: Any) -> Any:
        return network(params, point) - exact(point)

    cube = Region((0,) * d, (1,) * d)
    faces = Condition("edge", edge, cube._replace(faces=tuple(range(d))))
    return {"soft": _form(network, d, equation, cube, faces)}


# ---- convection, reaction, waves -------------------------------------------------------------------------------------


def _turn(params: Any, point: Any) -> Any:
    """N for 0 < x < 2 pi."""
    x, t = point
    return network(params, jnp.stack([x / jnp.pi - 1, 2 * t - 1]))


def _around_turn(params: Any, point: Any) -> Any:
    """N of period 2 pi."""
    x, t = point
    return network(params, jnp.stack([jnp.cos(x), jnp.sin(x), 2 * t - 1]))


def _of_turn(equation: Callable[..., Any], soft: Function, u0: Callable[[Any], Any]) -> dict[str, Form]:
    """The forms of an equation of period 2 pi."""
    inside = Region((0, 0), (2 * jnp.pi, 1))
    conditions = _initially(soft, u0, 0, 2 * jnp.pi), _periodic(soft, 2 * jnp.pi)

    def hard(params: Any, point: Any) -> Any:
        x, t = point
        return u0(x) + t * _around_turn(params, point)

    return {"soft": _form(soft, 2, equation, inside, *conditions), "hard": _form(hard, 3, equation, inside)}


def convection(velocity: float) -> dict[str, Form]:
    """The equation u_t + velocity u_x = 0 of period 2 pi, with u = sin x at t = 0.

    The residual is divided by the velocity, which makes it as large as u. "soft" gives N three times the time.
    """

    def equation(u: Function, params: Any, point: Any) -> Any:
        u_x, u_t = partials(partial(u, params), 0, 1)(point)
        return u_t / velocity + u_x

    def soft(params: Any, point: Any) -> Any:
        x, t = point
        return network(params, jnp.stack([x / jnp.pi - 1, 6 * t - 3]))

    return _of_turn(equation, soft, jnp.sin)


def reaction(rate: float) -> dict[str, Form]:
    """The equation u_t = rate u (1 - u) of period 2 pi, with u = exp(-(x - pi)^2 / (2 (pi / 4)^2)) at t = 0."""

    def equation(u: Function, params: Any, point: Any) -> Any:
        value, u_t = partials(partial(u, params), (), 1)(point)
        return u_t - rate * value * (1 - value)

    return _of_turn(equation, _turn, lambda x: jnp.exp(-8 * (x / jnp.pi - 1) ** 2))


def wave(beta: float) -> dict[str, Form]:
    """The equation u_tt = 4 u_xx, at rest from u = sin(pi x) + 1/2 sin(beta pi x), with u = 0 at x = 0 and 1."""

    def equation(u: Function, params: Any, point: Any) -> Any:
        u_xx, u_tt = partials(partial(u, params), (0, 0), (1, 1))(point)
        return u_tt - 4 * u_xx

    def u0(x: Any) -> Any:
        return jnp.sin(jnp.pi * x) + 0.5 * jnp.sin(beta * jnp.pi * x)

    def soft(params: Any, point: Any) -> Any:
        return network(params, 2 * point - 1)

    def hard(params: Any, point: Any) -> Any:
        x, t = point
        return u0(x) + t**2 * x * (1 - x) * soft(params, point)

    def at_rest(params: Any, point: Any) -> Any:
        return partials(partial(soft, params), 1)(point)[0]

    inside = Region((0, 0), (1, 1))
    rest = Condition("rest", at_rest, Region((0, 0), (1, 0)))
    edge = Condition("edge", soft, inside._replace(faces=(0,)))
    return {
        "soft": _form(soft, 2, equation, inside, _initially(soft, u0, 0, 1), rest, edge),
        "hard": _form(hard, 2, equation, inside),
    }
