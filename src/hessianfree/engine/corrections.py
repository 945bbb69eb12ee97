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

A few directions contract much more slowly than all others. Anderson's mixing finds them: with g the correction, and dY
and dG the differences of the last iterates and of their corrections, in rows,
    y <- y + g - (dY + dG)'w,   w = argmin |g - dG'w|

Rounding ends this. What it makes of rho, small as it is, moves y by that over sqrt(lambda) in directions of little
effect, and as J changes along the step these moves come back as residuals, which beside a small rho are large. The
corrections therefore have a damping mu of their own, at least eps times the largest curvature: with d the step,
    y <- y - (A'A + mu I)^-1 (A'rho(theta + D^-1 y) + lambda d + mu (y - d))
What the bend of the residuals changes lies in directions of more effect, which mu lets pass. For mu = lambda this is
the iteration above.

The contraction grows as lambda falls, in proportion to the bend of the residuals over a step. It says how small lambda
may become; see `change_of_damping`.

Source: chord iterations, Ortega and Rheinboldt 1970, "Iterative solution of nonlinear equations", section 7.1; in
Levenberg-Marquardt steps without the term lambda y: Fan 2012, "The modified Levenberg-Marquardt method for nonlinear
equations with cubic convergence", Mathematics of Computation 81; Anderson 1965; Walker and Ni 2011, "Anderson
acceleration for fixed-point iterations".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.scipy.linalg import cho_solve
from jaxtyping import Bool, Float, Int

from hessianfree.engine.metrics import length_of
from hessianfree.engine.normal_equations import factored
from hessianfree.engine.trees import PyTree, Scalar

#: The function (factor, b, y) -> (A'A + lambda I)^-1 (A'b + lambda y).
Solve: TypeAlias = Callable[[PyTree, Array, Array], Array]

#: Corrections of a step, and differences that are mixed, at most.
MOST, MIXED = 20, 4
#: The length of a correction beside the last, and the loss beside the last, above which there is no point in going on.
SLOW, WORTH = 0.9, 0.9
#: The contraction that the damping aims at, and the least and largest factor by which it changes for that. A heuristic.
AIM, FALL, RISE = 0.3, 0.2, 2.0


class Corrected(NamedTuple):
    """A corrected step."""

    plain: Float[Array, "P"]  # the step before its corrections
    y: Float[Array, "P"]
    squares: Scalar  # |rho|^2 there
    acceleration: Scalar  # 2 |D a| / |D d|; 0 without a, NaN if there is no second derivative and a is left out
    number: Int[Array, ""]  # corrections that were made by evaluations
    contraction: Scalar  # c; NaN if none was made

    @classmethod
    def without(cls, y: Float[Array, "P"]) -> Corrected:
        """The step as it is, not evaluated yet."""
        zero = jnp.zeros((), y.dtype)
        return cls(y, y, zero + jnp.inf, zero, jnp.int32(0), zero + jnp.nan)


class _Iteration(NamedTuple):
    y: Float[Array, "P"]
    rho: Float[Array, "N"]
    squares: Scalar
    factor: PyTree  # of the last lambda or mu
    g: Float[Array, "P"]  # the last correction, before mixing; at first the step itself
    length: Scalar  # of it
    whole: Scalar  # the length of the first one
    moves: Float[Array, "m P"]  # dY, the next one in place k mod m; zero where there is none
    turns: Float[Array, "m P"]  # dG
    best: Corrected
    going: Bool[Array, ""]


def corrected(
    rho_at: Callable[[Array], Array],
    factor_of: Callable[[Scalar], PyTree],
    solve: Solve,
    rho: Float[Array, "N"],
    nowhere: Float[Array, "P"],
    damping: Scalar,
    least: Scalar,
) -> Corrected:
    """A step with its corrections.

    The step is the first iterate, so that the program holds the solver and the residuals once.

    Args:
        rho_at: the residuals after a step y.
        factor_of: what `solve` needs of a lambda.
        solve: gives corrections.
        rho: the residuals where it begins.
        nowhere: a step of zero.
        damping: lambda.
        least: the smallest mu.
    """
    mu = jnp.maximum(damping, least)
    factor = jax.tree.map(lambda like: jnp.zeros(like.shape, like.dtype), jax.eval_shape(factor_of, damping))
    far, none = jnp.full_like(damping, jnp.inf), jnp.zeros((MIXED, nowhere.size), nowhere.dtype)
    start = Corrected.without(nowhere)._replace(number=jnp.int32(-1))

    def again(at: _Iteration) -> _Iteration:
        number, d = at.best.number + 1, at.best.plain
        begins = number == 0
        anew = begins | ((number == 1) & (mu > damping))
        factor = lax.cond(anew, lambda: factor_of(jnp.where(begins, damping, mu)), lambda: at.factor)
        g = -solve(factor, at.rho, at.y - (1 - damping / mu) * d)
        length = length_of(g)
        whole = jnp.where(begins, length, at.whole)
        contraction = jnp.where(begins, jnp.nan, (length / whole) ** (1 / number))
        turns = jnp.where(number > 1, at.turns.at[(number - 2) % MIXED].set(g - at.g), at.turns)
        change = g - _mixed(at.moves, turns, g)
        y = at.y + change
        rho = rho_at(y)
        squares = jnp.sum(rho**2)
        lower = squares < at.best.squares
        best = Corrected(
            plain=jnp.where(begins, g, d),
            y=jnp.where(lower, y, at.best.y),
            squares=jnp.where(lower, squares, at.best.squares),
            acceleration=at.best.acceleration,
            number=number,
            contraction=jnp.fmax(at.best.contraction, contraction),
        )
        going = (length <= SLOW * at.length) & (squares < WORTH * at.squares) & (number < MOST)
        moves = jnp.where(begins, at.moves, at.moves.at[(number - 1) % MIXED].set(change))
        return _Iteration(y, rho, squares, factor, g, length, whole, moves, turns, best, going)

    first = _Iteration(nowhere, rho, far, factor, nowhere, far, far, none, none, start, jnp.asarray(True))
    return lax.while_loop(lambda at: at.going, again, first).best


def _mixed(moves: Float[Array, "m P"], turns: Float[Array, "m P"], g: Float[Array, "P"]) -> Float[Array, "P"]:
    """(dY + dG)'w. Rows that are zero have no part in it."""
    lengths = jnp.sqrt(jnp.sum(turns**2, axis=1))
    scale = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)
    unit = turns * scale[:, None]
    ridge = jnp.finfo(g.dtype).eps ** 0.5
    w = cho_solve(factored(unit @ unit.T, ridge), unit @ g) * scale
    return w @ (moves + turns)


def accelerated(rho_at: Callable[[Array], Array], solve: Callable[[Array], Array], y: Float[Array, "P"]) -> Corrected:
    """A step with its acceleration, of residuals that have a forward mode; not evaluated yet."""
    zero = jnp.zeros_like(y)
    bend = jax.jvp(lambda at: jax.jvp(rho_at, (at,), (y,))[1], (zero,), (y,))[1]
    bends = jnp.all(jnp.isfinite(bend))  # |r|^1.5 at 0 has no second derivative, and the step needs none
    a = jnp.where(bends, -0.5 * solve(bend), 0)
    ratio = jnp.where(bends, 2 * length_of(a) / length_of(y), jnp.nan)
    return Corrected.without(y + a)._replace(plain=y, acceleration=ratio)


def change_of_damping(contraction: Scalar, fall: Scalar) -> Scalar:
    """The factor for lambda at which the next step would contract as is aimed at, c being in proportion to 1 / lambda.

    Where the loss fell by less than half of what was predicted, the factor `fall` of the gain ratio counts if it is
    larger: with large residuals their bend matters that A leaves out, of which c says nothing.
    """
    known = jnp.where(jnp.isfinite(contraction), contraction, AIM)
    factor = jnp.clip(known / AIM, FALL, RISE)
    return jnp.where(fall > 1, jnp.maximum(factor, fall), factor)
