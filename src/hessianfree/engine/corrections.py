"""A step of least squares along the curve of its residuals.

Symbols as in levenberg.py, and
    A    J D^-1, the Jacobian where the step begins; y = D d
    c    contraction: (|correction k| / |first iterate|)^(1/k), the largest over the corrections of a step
A Levenberg-Marquardt step minimises |rho + A y|^2 + lambda |y|^2, as if rho were linear. The point that it looks for is
where the true residuals balance the damping,
    A'rho(theta + D^-1 y) + lambda y = 0
with A left as it is. The step is the first iterate from y = 0 of
    y <- y - (A'A + lambda I)^-1 (A'rho(theta + D^-1 y) + lambda y)
and each further one costs an evaluation of rho and a solve with factors that are there already. Where the iteration
contracts its error falls by a factor of c each time, so that a few iterations take in higher and higher derivatives of
rho, none of which is ever formed. With one correction this agrees to second order with the acceleration of Transtrum
and Sethna. Errors of the factors are corrected, too.

The contraction grows as lambda falls, in proportion to the bend of the residuals over a step. It says how small lambda
may become; see `change_of_damping`.

Source: chord iterations, Ortega and Rheinboldt 1970, "Iterative solution of nonlinear equations", section 7.1; in
Levenberg-Marquardt steps without the term lambda y: Fan 2012, "The modified Levenberg-Marquardt method for nonlinear
equations with cubic convergence", Mathematics of Computation 81.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Bool, Float, Int

from hessianfree.engine.metrics import length_of
from hessianfree.engine.normal_equations import Solver
from hessianfree.engine.trees import Scalar

#: Corrections of a step, at most.
MOST = 20
#: The length of a correction beside the last, and the loss beside the last, above which there is no point in going on.
SLOW, WORTH = 0.9, 0.9
#: The contraction that the damping aims at, and the least and largest factor by which it changes for that. A heuristic.
AIM, FALL, RISE = 0.4, 0.2, 2.0


class Corrected(NamedTuple):
    """A corrected step."""

    y: Float[Array, "P"]
    squares: Scalar  # |rho|^2 there
    acceleration: Scalar  # 2 |D a| / |D d|; 0 without a, NaN if there is no second derivative and a is left out
    number: Int[Array, ""]  # corrections that were made by evaluations
    contraction: Scalar  # c; NaN if none was made

    @classmethod
    def without(cls, y: Float[Array, "P"]) -> Corrected:
        """The step as it is, not evaluated yet."""
        zero = jnp.zeros((), y.dtype)
        return cls(y, zero, zero, jnp.int32(0), zero + jnp.nan)


class _Iteration(NamedTuple):
    y: Float[Array, "P"]
    rho: Float[Array, "N"]
    squares: Scalar
    length: Scalar  # of the last correction, the first iterate being one
    best: Corrected
    going: Bool[Array, ""]


def corrected(rho_at: Callable[[Array], Array], solve: Solver, y: Float[Array, "P"]) -> Corrected:
    """Correct a step.

    Args:
        rho_at: the residuals after a step y.
        solve: the solver of the step.
        y: the step.
    """
    rho = rho_at(y)
    squares = jnp.sum(rho**2)
    plain = Corrected.without(y)._replace(squares=squares)
    whole = length_of(y)
    first = _Iteration(y, rho, squares, whole, plain, jnp.isfinite(squares))

    def again(at: _Iteration) -> _Iteration:
        change = solve(at.rho, at.y)
        y, length = at.y - change, length_of(change)
        rho = rho_at(y)
        squares = jnp.sum(rho**2)
        number = at.best.number + 1
        contraction = (length / whole) ** (1 / number)
        lower = squares < at.best.squares
        best = at.best._replace(
            y=jnp.where(lower, y, at.best.y),
            squares=jnp.where(lower, squares, at.best.squares),
            number=number,
            contraction=jnp.fmax(at.best.contraction, contraction),
        )
        going = (length <= SLOW * at.length) & (squares <= WORTH * at.squares) & (number < MOST)
        return _Iteration(y, rho, squares, length, best, going)

    return lax.while_loop(lambda at: at.going, again, first).best


def accelerated(rho_at: Callable[[Array], Array], solve: Solver, y: Float[Array, "P"]) -> Corrected:
    """A step with its acceleration, of residuals that have a forward mode; not evaluated yet."""
    zero = jnp.zeros_like(y)
    bend = jax.jvp(lambda at: jax.jvp(rho_at, (at,), (y,))[1], (zero,), (y,))[1]
    bends = jnp.all(jnp.isfinite(bend))  # |r|^1.5 at 0 has no second derivative, and the step needs none
    a = jnp.where(bends, -0.5 * solve(bend), 0)
    ratio = jnp.where(bends, 2 * length_of(a) / length_of(y), jnp.nan)
    return Corrected.without(y + a)._replace(acceleration=ratio)


def change_of_damping(contraction: Scalar, fall: Scalar) -> Scalar:
    """The factor for lambda at which the next step would contract as is aimed at, c being in proportion to 1 / lambda.

    Where the loss fell by less than half of what was predicted, the factor `fall` of the gain ratio counts if it is
    larger: with large residuals their bend matters that A leaves out, of which c says nothing.
    """
    known = jnp.where(jnp.isfinite(contraction), contraction, AIM)
    factor = jnp.clip(known / AIM, FALL, RISE)
    return jnp.where(fall > 1, jnp.maximum(factor, fall), factor)
