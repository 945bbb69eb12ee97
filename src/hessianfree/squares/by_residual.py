"""Points of least squares where the residuals are large.

Symbols as in engine/residuals.py, and
    M     candidates for the N points of a term, with the points that may stay
    s_i   size of the residual at candidate i: the norm of what r returns there, without weight and deviation
    a_i   its chance, s_i^k / mean(s^k) + c

Points are drawn without replacement: the smallest of E_i / a_i, E_i exponential with a mean of 1, are taken
(Efraimidis and Spirakis 2006, "Weighted random sampling with a reservoir").
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np
from jax import Array
from numpy.typing import NDArray

from hessianfree.engine.blocks import Seeing
from hessianfree.engine.compilation import precise
from hessianfree.engine.numbers import is_number
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.shards import Parts
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.terms import Resampling, ResidualTerm, as_points, name_of
from hessianfree.support import checks

Floats = NDArray[np.floating[Any]]


class ByResidual:
    """Points for `resample` of `hf.least_squares`, drawn where the residuals are large.

    Of M candidates the N points of a term are drawn without replacement, candidate i with a chance in proportion to
    |r_i|^k / mean |r|^k + c. The points depend on the seed, the number of the step and the parameters alone, so that a
    run that goes on from a checkpoint sees the same ones.

    Args:
        draw: draw(step, rng) returns candidates for every term in the order of the terms, leaves (M, ...) with M of any
            size that is enough, the same in every step; None for a term that keeps its points. `rng`, a
            `numpy.random.Generator`, depends on the seed and the number of the step.
        k: exponent; with a larger one points gather more closely where residuals are large.
        c: what is added to every chance; with a larger one points are spread more evenly.
        keep: share of the points of a term that stay, from 0 to less than 1. They are drawn by the same chances among
            the present points.
        seed: of the choices, a whole number >= 0.

    Raises:
        TypeError: if draw is not a function.
        ValueError: if a number is out of range.

    Example:
        >>> import hessianfree as hf
        >>> import jax.numpy as jnp
        >>> def front(params, x):
        ...     return params[0] * jnp.exp(-((x - 0.7) / 0.05) ** 2)
        >>> points = ByResidual(lambda step, rng: [rng.random(200)], k=2, c=0.1)
        >>> seen = hf.least_squares([(front, np.linspace(0, 1, 20))], np.ones(1), resample=points, max_steps=1)
        >>> evenly = hf.least_squares([(front, np.linspace(0, 1, 20))], np.ones(1), max_steps=1)
        >>> bool(seen.history["value"][0] > 3 * evenly.history["value"][0])
        True

    Source: Wu et al. 2023, "A comprehensive study of non-adaptive and residual-based adaptive sampling for
    physics-informed neural networks" (RAD: eq. 2); with `keep` in the manner of its RAR-D.
    """

    def __init__(
        self,
        draw: Callable[[int, np.random.Generator], Sequence[Any]],
        k: float = 1.0,
        c: float = 1.0,
        keep: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not callable(draw):
            raise TypeError(f"draw is {reprlib.repr(draw)}; a function draw(step, rng) is expected.")
        for name, value in (("k", k), ("c", c)):
            if not (is_number(value) and 0 <= value < np.inf):
                raise ValueError(f"{name} is {value!r}; a number >= 0 is expected.")
        if not (is_number(keep) and 0 <= keep < 1):
            raise ValueError(f"keep is {keep!r}; a share of the points from 0 to less than 1 is expected.")
        checks.at_least("seed", seed, 0)
        self.draw, self.k, self.c, self.keep, self.seed = draw, float(k), float(c), float(keep), int(seed)

    def __repr__(self) -> str:
        return f"ByResidual(k={self.k:g}, c={self.c:g}, keep={self.keep:g}, seed={self.seed})"


class ResidualSampling:
    """New points for the terms of a fit by their residuals.

    Args:
        given: what the user asked for.
        terms: the terms with their first points.
        few: points at once; None for all.

    Raises:
        ValueError: if no term could have new points.
    """

    def __init__(self, given: ByResidual, terms: Sequence[ResidualTerm], few: int | None = None) -> None:
        if all(term.points.at is None for term in terms):
            raise ValueError("resample needs terms (r, points): a function r(params) has no points to draw again.")
        self.given, self.terms, self.few = given, terms, few

    def __repr__(self) -> str:
        return repr(self.given)

    def points(self, step: int, params: PyTree, inputs: Sequence[Points]) -> tuple[Points, ...]:
        """The points of a step.

        Args:
            step: its number.
            params: now.
            inputs: the points of the last step.

        Raises:
            ValueError: if candidates do not match the terms, are too few, or residuals are not finite there.
        """
        rng = np.random.default_rng([self.given.seed, step])
        with parameters.users_own():
            drawn = self.given.draw(step, rng)
        if not isinstance(drawn, (list, tuple)) or len(drawn) != len(self.terms):
            raise ValueError(
                f"draw returned {reprlib.repr(drawn)}; a list of candidates for {len(self.terms)} terms is expected, "
                "with None for a term that keeps its points."
            )
        found = list(inputs)
        for number, candidates in enumerate(drawn):
            if candidates is not None:
                choices = np.random.default_rng([self.given.seed, step, number])
                found[number] = self._chosen(number, candidates, params, inputs[number], choices)
        return tuple(found)

    def _chosen(
        self, number: int, candidates: Any, params: PyTree, present: Points, rng: np.random.Generator
    ) -> Points:
        """The points of one term: those that stay, and new ones."""
        term = self.terms[number]
        new = self._checked(number, candidates)
        count, many = present.many, len(jax.tree.leaves(new)[0])
        stay = int(self.given.keep * count)
        if many < count - stay:
            raise ValueError(
                f"draw returned {many} candidates for term {number}, which takes {count - stay} of them; return more."
            )
        old = jax.device_get(present.at)
        both = jax.tree.map(lambda a, b: np.concatenate([a, b]), old, new) if stay else new
        sizes = np.asarray(_sizes(Residuals((term.function,), None, (), self.few), params, both), np.float64)
        rest = self._drawn(number, sizes[-many:], count - stay, rng)
        at = jax.tree.map(lambda leaf: leaf[rest], new)
        if stay:
            first = self._drawn(number, sizes[:count], stay, rng)
            at = jax.tree.map(lambda a, b: np.concatenate([a[first], b]), old, at)
        return present._replace(at=at)

    def _drawn(self, number: int, sizes: Floats, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Which candidates to take."""
        chances = chances_of(sizes, self.given.k, self.given.c)
        if (usable := int((chances > 0).sum())) < count:
            name = name_of(self.terms[number].function)
            raise ValueError(
                f"Only {usable} of {len(sizes)} candidates for term {number}, {name}, have a residual that is finite "
                f"and a chance, and {count} points are to be drawn; return more candidates, or take c > 0."
            )
        waits = rng.exponential(size=len(sizes)) / np.where(chances > 0, chances, 1)
        return np.argsort(np.where(chances > 0, waits, np.inf), kind="stable")[:count]

    def _checked(self, number: int, candidates: Any) -> PyTree:
        points = self.terms[number].points
        if points.at is None or isinstance(self.terms[number].function, Seeing):
            raise ValueError(
                f"draw returned candidates for term {number}, whose points are fixed, as those of a function r(params) "
                "and of a SparseTerm are; return None for it."
            )
        if np.ndim(points.sigma):
            raise ValueError(
                f"draw returned candidates for term {number}, whose points have a sigma each; pass one number for the "
                "term, or return None for it."
            )
        new = as_points(f"The candidates of term {number}", candidates, np.result_type(points.weight))
        if not parameters.same_shapes(_point(new), _point(points.at)):
            raise ValueError(
                f"draw returned {parameters.shapes(new)} for term {number}, whose points are "
                f"{parameters.shapes(points.at)}; return the same arrays, of any length."
            )
        return new


#: What gives the points of a step.
Redrawing: TypeAlias = Resampling | ResidualSampling


def how_drawn(given: Any, every: int) -> str:
    """When points are drawn again, and how, in words; empty if they stay.

    Raises:
        TypeError: if `given` is not for `resample`.
        ValueError: if the number of steps is not a whole number >= 1.
    """
    checks.at_least("resample_every", every, 1)
    if not (given is None or callable(given) or isinstance(given, ByResidual)):
        raise TypeError(
            f"resample is {reprlib.repr(given)}; pass a function of the step's number, a hf.ByResidual, or None."
        )
    how = f" by {given!r}" if isinstance(given, ByResidual) else ""
    return "" if given is None else f"drawn again every {every} steps{how}"


def redrawing(
    given: Callable[[int], Sequence[Any]] | ByResidual | None,
    terms: Sequence[ResidualTerm],
    few: int | None,
    parts: Parts | None,
) -> Redrawing | None:
    """What gives new points for `resample`.

    Args:
        given: by the user; None if points stay.
        terms: with their first points.
        few: points at once; None for all.
        parts: devices that points are split over, None for one.

    Raises:
        ValueError: if it cannot be used for these terms, or on these devices.
    """
    if isinstance(given, ByResidual):
        if parts is not None:
            raise ValueError(
                "resample is a hf.ByResidual, which runs on one device; leave devices out, or pass a function of the "
                "step's number."
            )
        return ResidualSampling(given, terms, few)
    return None if given is None else Resampling(given, terms)


def chances_of(sizes: Floats, k: float, c: float) -> Floats:
    """The chances a, not normalised; 0 where a size is not finite."""
    finite = np.isfinite(sizes)
    largest = np.max(sizes, where=finite, initial=0)
    powers = (np.where(finite, sizes, 0) / (largest if largest > 0 else 1)) ** k
    mean = np.mean(powers, where=finite) if finite.any() else 0
    shares = powers / mean if mean > 0 else np.ones_like(powers)
    return np.where(finite, shares + c, 0)


def _point(at: PyTree) -> PyTree:
    """One point."""
    return jax.tree.map(lambda leaf: leaf[0], at)


def _norms(residuals: Residuals, params: PyTree, at: PyTree) -> Array:
    """The norms of the residuals of a term at its points."""
    rho = residuals.outputs(params, (Points(at, 1.0),))[0]
    return jax.numpy.linalg.norm(rho, axis=1) * np.sqrt(len(rho))


_sizes = precise(_norms, static_argnums=0)
