"""Sums of squared residuals: f = sum_k c_k mean_i 1/2 |r_k(theta, p_ki) / s_ki|^2, and their Jacobian.

Symbols:
    theta   the parameters, raveled, (P,)
    r_k     residual of term k, a function of the parameters and one point
    p_ki    point i of term k, of N_k
    s_ki    its standard deviation, 1 by default
    c_k     weight of term k
    rho     all residuals, scaled by sqrt(c_k / N_k) / s_ki, so that f = 1/2 |rho|^2; (N,)
    J       Jacobian of rho, (N, P); the gradient is J'rho, and the Gauss-Newton matrix J'J
A robust loss puts other residuals in place of r / s; see robust.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, Int

from hessianfree.engine.blocks import Blocks, Seeing, local_jacobian, split_by_leaf
from hessianfree.engine.linearization import linear_map
from hessianfree.engine.products import with_own_transpose
from hessianfree.engine.robust import Rho, as_residuals
from hessianfree.engine.trees import PyTree

#: r_k(params, point), a number or an array; r_k(params) where there are no points.
Residual: TypeAlias = Callable[..., Array]
#: theta -> params
Unravel: TypeAlias = Callable[[Float[Array, "P"]], PyTree]

#: Numbers that rows of J take together where the whole of J is not kept.
CHUNK = 2**22
#: Points whose rows of J say in which units its products are summed.
UNIT_POINTS = 64
#: Random vectors that stand for the rows of a function without points.
PROBES = 8


class Points(NamedTuple):
    """The points of a term, leaves (N_k, ...). Points of None belong to a function of theta alone."""

    at: PyTree
    weight: ArrayLike  # c_k
    sigma: ArrayLike = 1.0  # s_ki, for all residuals or one for each, (N_k, d_k)
    scale: ArrayLike = 1.0  # of the robust loss

    @property
    def many(self) -> int:
        """N_k; the term has points."""
        return len(jax.tree.leaves(self.at)[0])

    @property
    def deviations(self) -> Array:
        """s_ki."""
        return jnp.asarray(self.sigma)

    @property
    def axis(self) -> int | None:
        """The axis of the deviations to map over."""
        return 0 if jnp.ndim(self.sigma) else None

    def part(self, start: ArrayLike, size: int) -> Points:
        """Some that follow each other; all of a term without points."""
        cut = lambda leaf: jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), start, size)  # noqa: E731
        sigma = self.sigma if self.axis is None else cut(self.sigma)
        return self._replace(at=jax.tree.map(cut, self.at), sigma=sigma)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Residuals:
    """The residuals of several terms."""

    functions: tuple[Residual, ...]  # r_k, one for each term
    robust: Rho | None = None
    forward: tuple[bool, ...] = ()  # whether to differentiate each term in forward mode; empty for none of them
    few: int | None = None  # points that are worked on at once; None for as many as there are, or as `CHUNK` allows

    def outputs(self, params: PyTree, inputs: Sequence[Points]) -> tuple[Float[Array, "_ _"], ...]:
        """rho, one array (N_k, d_k) for each term."""
        pairs = zip(self.functions, inputs, strict=True)
        return tuple(_scaled(points, _mapped(self._term(r, points), params, points, self.few)) for r, points in pairs)

    def flat(self, unravel: Unravel, inputs: Sequence[Points], theta: Float[Array, "P"]) -> Float[Array, "N"]:
        """rho at raveled parameters."""
        return jnp.concatenate([jnp.ravel(part) for part in self.outputs(unravel(theta), inputs)])

    def jacobian(
        self, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> tuple[Float[Array, "N"], Float[Array, "N P"]]:
        """rho and J.

        Rows are gradients at single points, mapped over the points. Each is a reverse pass through a small function.
        The Jacobian of the whole would take a pass through everything for each parameter.
        """
        rows = [
            _scaled(points, self._rows(number, unravel, theta, points)).reshape(-1, theta.size)
            for number, points in enumerate(inputs)
        ]
        return self.flat(unravel, inputs, theta), jnp.concatenate(rows)

    @property
    def sparse(self) -> bool:
        """Whether every residual sees some rows of the parameters only."""
        return all(isinstance(function, Seeing) for function in self.functions)

    def blocks(
        self, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> tuple[Float[Array, "N"], Blocks]:
        """rho, and J by blocks, of residuals that are sparse."""
        params = unravel(theta)
        terms = []
        for number, (seeing, points) in enumerate(zip(self.functions, inputs, strict=True)):
            assert isinstance(seeing, Seeing)
            jacobian = _scaled(points, self._local_rows(number, params, points)[0])
            terms.append(split_by_leaf(seeing, jacobian, params, points.at[0]))
        sizes = tuple(leaf.size for leaf in jax.tree.leaves(params))
        return self.flat(unravel, inputs, theta), Blocks(tuple(terms), sizes)

    def column_norms(
        self,
        unravel: Unravel,
        theta: Float[Array, "P"],
        inputs: Sequence[Points],
        pull: Callable[[Float[Array, "N"]], Float[Array, "P"]],
    ) -> Float[Array, "P"]:
        """The norms of the columns of J, a few rows at a time.

        A function without points has no rows to go through: its share is an estimate, the mean of (J'e)^2 over a few
        fixed vectors e of random signs. The estimate has the unit of its parameter, which is what matters.
        """
        sizes = [part.size for part in jax.tree.leaves(jax.eval_shape(self.outputs, unravel(theta), inputs))]
        squares = jnp.zeros_like(theta)
        for number, points in enumerate(inputs):
            if points.at is None:
                e = jnp.zeros((PROBES, sum(sizes)), theta.dtype)
                signs = jax.random.rademacher(jax.random.key(number), (PROBES, sizes[number]), theta.dtype)
                e = e.at[:, sum(sizes[:number]) : sum(sizes[: number + 1])].set(signs)
                squares += jnp.mean(jax.vmap(pull)(e) ** 2, axis=0)
            else:
                squares += self._column_squares(number, unravel, theta, points)
        return jnp.sqrt(squares)

    def traces(self, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]) -> list[Float[Array, ""]]:
        """The trace of J'J of each term, all of which have points."""
        return [jnp.sum(self._column_squares(k, unravel, theta, points)) for k, points in enumerate(inputs)]

    def _column_squares(
        self, number: int, unravel: Unravel, theta: Float[Array, "P"], points: Points
    ) -> Float[Array, "P"]:
        """The sums of squares of the columns of J of one term with points."""

        def squares(part: Points) -> Float[Array, "P"]:
            return jnp.sum(self._rows(number, unravel, theta, part) ** 2, axis=(0, 1))

        return _share(points, theta) * _over_parts(points, self._few(theta), squares, jnp.zeros_like(theta))

    def gram(
        self, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points]
    ) -> tuple[Float[Array, "P P"], Float[Array, "P"]]:
        """J'J for parameters in some units, a few rows of J at a time, and these units.

        A unit is such that the first rows are about 1 in it, so that squares are numbers of the type.
        """
        units = jnp.zeros_like(theta)
        for number, points in enumerate(inputs):
            few = points.part(0, min(UNIT_POINTS, points.many))
            units = jnp.maximum(units, jnp.max(jnp.abs(self._rows(number, unravel, theta, few)), axis=(0, 1)))
        units = jnp.where((units > 0) & jnp.isfinite(units), units, 1)
        total = jnp.zeros((theta.size, theta.size), theta.dtype)
        for number, points in enumerate(inputs):

            def product(part: Points, number: int = number) -> Float[Array, "P P"]:
                rows = self._rows(number, unravel, theta, part).reshape(-1, theta.size) / units
                return with_own_transpose(rows.T)

            total += _share(points, theta) * _over_parts(points, self._few(theta), product, jnp.zeros_like(total))
        return total, units

    def pulled(
        self, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points], b: Float[Array, "N"]
    ) -> Float[Array, "P"]:
        """The product J'b, a few points at a time."""
        total, place = jnp.zeros_like(theta), 0
        for number, points in enumerate(inputs):
            term = self._term(self.functions[number], points)
            shape = jax.eval_shape(partial(_mapped, term), unravel(theta), points).shape
            own = b[place : place + math.prod(shape)].reshape(shape)
            place += own.size

            def product(part: Points, along: Array, number: int = number, term: Residual = term) -> Float[Array, "P"]:
                if self._goes_forward(number):
                    return jnp.einsum("ndp,nd->p", self._rows(number, unravel, theta, part), along)
                return jax.vjp(lambda at: _mapped(term, unravel(at), part), theta)[1](along)[0]

            sums = _over_parts(points, self._few(theta), product, jnp.zeros_like(theta), own)
            total += jnp.sqrt(_share(points, theta)) * sums
        return total

    def normal(
        self, unravel: Unravel, theta: Float[Array, "P"], inputs: Sequence[Points], v: Float[Array, "P"]
    ) -> Float[Array, "P"]:
        """The product J'Jv, a few points at a time, each linearised in one pass."""
        total = jnp.zeros_like(theta)
        for number, points in enumerate(inputs):
            term = self._term(self.functions[number], points)

            def product(part: Points, term: Residual = term) -> Float[Array, "P"]:
                _, push, pull = linear_map(lambda at: _mapped(term, unravel(at), part), theta)
                return pull(push(v))

            total += _share(points, theta) * _over_parts(points, self._few(theta), product, jnp.zeros_like(theta))
        return total

    def _few(self, theta: Float[Array, "P"]) -> int:
        """Points at once: by default so many that their rows of J take `CHUNK` numbers."""
        return CHUNK // theta.size if self.few is None else self.few

    def _term(self, r: Residual, points: Points) -> Residual:
        """The residuals of a point, divided by their deviations, under the robust loss; raveled."""

        def term(params: PyTree, sigma: Array, *point: PyTree) -> Float[Array, "_"]:
            values = jnp.ravel(r(params, *point))
            values = values / jnp.broadcast_to(sigma, values.shape).astype(values.dtype)
            return values if self.robust is None else as_residuals(self.robust, values, points.scale)

        return term

    def _rows(self, number: int, unravel: Unravel, theta: Float[Array, "P"], points: Points) -> Float[Array, "N d P"]:
        """The rows of J that belong to one term, not scaled."""
        if isinstance(self.functions[number], Seeing):
            rows, places = self._local_rows(number, unravel(theta), points)
            empty = jnp.zeros((*rows.shape[:2], theta.size), theta.dtype)
            return jax.vmap(lambda part, row, place: part.at[:, place].add(row))(empty, rows, places)
        term = self._term(self.functions[number], points)

        def residual(at: Float[Array, "P"], *point: PyTree) -> Float[Array, "_"]:
            return term(unravel(at), *point)

        derivative = jax.jacfwd if self._goes_forward(number) else jax.jacrev
        if points.at is None:
            whole = lambda at: residual(at, points.deviations)  # noqa: E731
            return derivative(whole)(theta)[None]
        return jax.vmap(derivative(residual), (None, points.axis, 0))(theta, points.deviations, points.at)

    def _local_rows(
        self, number: int, params: PyTree, points: Points
    ) -> tuple[Float[Array, "N d p"], Int[Array, "N p"]]:
        """The same of a sparse term by what its points see, and the places of that in theta."""
        seeing = self.functions[number]
        assert isinstance(seeing, Seeing)
        term, axis = self._term(seeing.residual, points), points.axis
        forward = self._goes_forward(number)
        return local_jacobian(seeing, term, forward, params, points.deviations, axis, points.at)

    def _goes_forward(self, number: int) -> bool:
        return bool(self.forward) and self.forward[number]


def _mapped(term: Residual, params: PyTree, points: Points, few: int | None = None) -> Float[Array, "_ _"]:
    """Residuals of one term, (N_k, d_k), a few points at a time. A function without points counts as one point."""
    if points.at is None:
        return term(params, points.deviations)[None]
    sigma = points.deviations
    if few is None or few >= points.many:
        return jax.vmap(term, (None, points.axis, 0))(params, sigma, points.at)
    if points.axis is None:
        return jax.lax.map(lambda at: term(params, sigma, at), points.at, batch_size=few)
    return jax.lax.map(lambda pair: term(params, *pair), (sigma, points.at), batch_size=few)


def _over_parts(
    points: Points, few: int, of_part: Callable[..., Array], zero: Array, *along: Float[Array, "N d"]
) -> Array:
    """The sum over all points of what a function makes of a few of them, and of the same rows of other arrays."""
    count = points.many
    few = max(1, min(count, few))
    whole = count // few * few

    def share(start: ArrayLike, number: int) -> Array:
        rest = [jax.lax.dynamic_slice_in_dim(array, start, number) for array in along]
        return of_part(points.part(start, number), *rest)

    def add(total: Array, start: Array) -> tuple[Array, None]:
        return total + share(start, few), None

    total = jax.lax.scan(add, zero, jnp.arange(0, whole, few))[0]
    return total + share(whole, count - whole) if whole < count else total


def _share(points: Points, theta: Float[Array, "P"]) -> Float[Array, ""]:
    """The factor c / N of a term with points."""
    return jnp.asarray(points.weight, theta.dtype) / points.many


def _scaled(points: Points, residuals: Float[Array, "N d *rest"]) -> Float[Array, "N d *rest"]:
    """The residuals, or rows of their Jacobian, times sqrt(c / N); without points N counts the residuals."""
    count = residuals.shape[1] if points.at is None else residuals.shape[0]
    return residuals * jnp.sqrt(jnp.asarray(points.weight, residuals.dtype) / count)
