"""Steps of least squares from a part of the points, which all of the points judge.

Symbols as in normal_equations.py, and
    S    the rows that a step is made from: of term k those of its first m_k points of N_k, times sqrt(N_k / m_k), so
         that |S rho|^2 is an estimate of |rho|^2; (n, N)
The step solves (A'S'S A + lambda I) y = -A'S'S rho with any other method. Rows, products and factors take the time of n
rows. Residuals are evaluated at all points, which costs little beside that: they say whether the step is taken, how
often it is corrected, and how lambda goes on. So lambda rises where a step fits its own points alone.

The first points stand for all if their order is random, and other ones in each step.

Source: with S for the curvature alone, Byrd et al. 2011, "On the use of stochastic Hessian information in optimization
methods for machine learning". That all points judge the step is a heuristic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from hessianfree.engine.normal_equations import Equations, Linearized, Method
from hessianfree.engine.residuals import Points, Residuals, Unravel
from hessianfree.engine.trees import PyTree


class FirstRows(NamedTuple):
    """The part of a term that a step is made from."""

    points: int  # m_k
    taken: int  # residuals of these points
    all: int  # residuals of the term

    @classmethod
    def of(cls, share: float, shape: tuple[int, ...], has_points: bool) -> FirstRows:
        """About this share of the points of a term whose residuals have this shape, (N_k, ...) with points."""
        count = shape[0] if has_points else 1
        points = max(1, round(share * count)) if has_points else 1
        size = math.prod(shape)
        return cls(points, size // count * points, size)


@dataclass(frozen=True)
class Subsampled:
    """Another method for the first points of each term."""

    method: Method
    shares: tuple[FirstRows, ...]

    @property
    def least(self) -> float:
        """The smallest useful lambda, as a power of eps."""
        return self.method.least

    def linearize(
        self, residuals: Residuals, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> Linearized:
        """All residuals; norms and Jacobian of those that are taken."""
        some = [points.part(0, share.points) for points, share in zip(inputs, self.shares, strict=True)]
        linear = self.method.linearize(residuals, unravel, theta, some)
        return linear._replace(rho=residuals.flat(unravel, inputs, theta))

    def pull(self, linear: Linearized, b: Float[Array, "N"]) -> Float[Array, "P"]:
        """The product J'S'S b."""
        return self.method.pull(linear, self.rows(b))

    def equations(
        self, linear: Linearized, inverse: Float[Array, "P"], gradient: Float[Array, "P"], damping: ArrayLike
    ) -> Equations:
        """Those of the other method."""
        return self.method.equations(linear._replace(rho=self.rows(linear.rho)), inverse, gradient, damping)

    def factor(self, equations: Equations, damping: ArrayLike) -> PyTree:
        """That of the other method."""
        return self.method.factor(equations, damping)

    def solve(
        self, equations: Equations, factor: PyTree, b: Float[Array, "N"], y: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """The solution of the other method, for S b."""
        return self.method.solve(equations, factor, self.rows(b), y)

    def rows(self, b: Float[Array, "N"]) -> Float[Array, "n"]:
        """The product S b."""
        parts, place = [], 0
        for share in self.shares:
            parts.append(b[place : place + share.taken] * (share.all / share.taken) ** 0.5)
            place += share.all
        return jnp.concatenate(parts)
