"""Taylor coefficients of functions of one number, element by element.

Symbols:
    f   an elementwise function
    K   the order of the series
    c   the coefficients f^(k)(x) / k!, k = 0 .. K; None where one is zero everywhere
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from numpy.polynomial import Polynomial

Coefficients: TypeAlias = list[Array | None]


def coefficients(name: str, f: Callable[[Array], Array], x: Array, order: int, power: int = 2) -> Coefficients:
    """The coefficients of the primitive of this name; `power` is the exponent of "integer_pow"."""
    if name in _OWN:
        return _by_own_value(*_OWN[name], f(x), order)
    if name == "exp":
        y = f(x)
        return [y / math.factorial(k) if k > 1 else y for k in range(order + 1)]
    if name in ("sin", "cos"):
        return _of_waves(name, x, order)
    if name in ("integer_pow", "square"):
        return _of_powers(2 if name == "square" else power, x, order)
    if name == "log":
        inverse = 1 / x
        return [f(x), *[(-1) ** (k - 1) / k * inverse**k for k in range(1, order + 1)]]
    return by_forward_mode(f, x, order)


def by_forward_mode(f: Callable[[Array], Array], x: Array, order: int) -> Coefficients:
    """The coefficients of any elementwise function: it is differentiated along ones, again and again."""
    found: Coefficients = [f(x)]
    for k in range(1, order + 1):
        f = _derivative(f)
        found.append(f(x) / math.factorial(k))
    return found


def _derivative(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


#: Functions whose derivative is a polynomial s of their value y: coefficients of s, and s by its factors, which keeps
#: its digits where y is nearly 1.
_OWN: dict[str, tuple[list[float], Callable[[Array], Array]]] = {
    "tanh": ([1, 0, -1], lambda y: (1 - y) * (1 + y)),
    "logistic": ([0, 1, -1], lambda y: y * (1 - y)),
}


def _by_own_value(s: list[float], slope: Callable[[Array], Array], y: Array, order: int) -> Coefficients:
    """The k-th derivative is s(y) q_k(y), where q_1 = 1 and q_{k+1} = q_k' s + q_k s'."""
    found: Coefficients = [y]
    factor, q = slope(y), Polynomial([1.0])
    for k in range(1, order + 1):
        found.append(factor if k == 1 else factor * _horner(q / math.factorial(k), y))
        q = q.deriv() * Polynomial(s) + q * Polynomial(s).deriv()
    return found


def _horner(polynomial: Polynomial, y: Array) -> Array:
    *lower, highest = [float(c) for c in polynomial.coef]
    value: Array | float = highest
    for c in reversed(lower):
        value = value * y + c if c else value * y
    return jnp.asarray(value, y.dtype)


def _of_waves(name: str, x: Array, order: int) -> Coefficients:
    sine, cosine = jnp.sin(x), jnp.cos(x)
    turn = [sine, cosine, -sine, -cosine] if name == "sin" else [cosine, -sine, -cosine, sine]
    return [turn[k % 4] / math.factorial(k) if k > 1 else turn[k] for k in range(order + 1)]


def _of_powers(power: int, x: Array, order: int) -> Coefficients:
    """The coefficient binomial(n, k) x^(n - k), which is zero from k = n + 1 on if n is positive."""
    found: Coefficients = [jax.lax.integer_pow(x, power)]
    binomial = 1.0
    for k in range(1, order + 1):
        binomial *= (power - k + 1) / k
        found.append(binomial * jax.lax.integer_pow(x, power - k) if binomial else None)
    return found
