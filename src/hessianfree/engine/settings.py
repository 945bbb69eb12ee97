"""The settings of Hessian-free updates, checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hessianfree.engine.cg import storage_schedule
from hessianfree.engine.compilation import PRECISION
from hessianfree.engine.damping import LevenbergMarquardt
from hessianfree.engine.numbers import is_whole
from hessianfree.engine.orthogonal import rows_that_fit
from hessianfree.engine.preconditioners import Preconditioner, check_recipe

#: Choices for the precision of matrix products: on a GPU TF32 in three passes and in one; on a CPU all are alike.
PRECISIONS = ("highest", "high", "default")

#: Bytes that CG takes for residuals by default.
CG_BYTES = 2**28

#: Bytes for the iterates of a solve that backtracking goes through, and how many there are in any case.
ITERATE_BYTES, LEAST_ITERATES = 2**28, 4

#: What CG makes of the last solution.
WARM_STARTS = ("decayed", "conjugate")


@dataclass(frozen=True)
class Settings:
    """Everything that stays the same from update to update; hashable.

    The fields are the arguments of `hf.opt.HessianFree`, where each is explained.

    Raises:
        ValueError: if a value is out of range.
        TypeError: if the damping rule or the preconditioner is of the wrong kind.
    """

    cg_iterations: int = 250
    cg_tolerance: float = 5e-4
    warm_start: str = "decayed"
    warm_start_decay: float = 0.95
    cg_memory: int | None = None
    damping_rule: LevenbergMarquardt = field(default_factory=LevenbergMarquardt)
    preconditioner: Preconditioner | None = None
    curvature_batch: float | int | None = None
    weight_decay: float = 0.0
    decay_biases: bool = False
    averaging: float = 0.0
    precision: str = PRECISION
    seed: int = 0

    def __post_init__(self) -> None:
        if not is_whole(self.cg_iterations) or self.cg_iterations < 1:
            raise ValueError(f"CG iterations: given {self.cg_iterations!r}; a whole number >= 1 is needed.")
        if not isinstance(self.damping_rule, LevenbergMarquardt):
            raise TypeError(f"Damping rule: given {self.damping_rule!r}; a LevenbergMarquardt is needed.")
        if self.preconditioner is not None:
            check_recipe(self.preconditioner)
        try:
            hash(self.preconditioner)
        except TypeError:
            raise TypeError(
                f"Preconditioner: given {self.preconditioner!r}, which is not hashable; make it a frozen dataclass."
            ) from None
        if not self.cg_tolerance >= 0:
            raise ValueError(f"CG tolerance: given {self.cg_tolerance}; it must be >= 0, 5e-4 is usual.")
        if self.warm_start not in WARM_STARTS:
            raise ValueError(f"Warm start: given {self.warm_start!r}; the choices are {_listed(WARM_STARTS)}.")
        if not 0 <= self.warm_start_decay <= 1:
            raise ValueError(f"Warm start decay: given {self.warm_start_decay}; it must lie in [0, 1].")
        if self.cg_memory is not None and (not is_whole(self.cg_memory) or self.cg_memory < 0):
            raise ValueError(f"CG memory: given {self.cg_memory!r}; a whole number >= 0 or None is needed.")
        asked = self.curvature_batch
        share = isinstance(asked, (float, np.floating)) and 0 < asked <= 1
        if not (asked is None or share or (is_whole(asked) and asked >= 1)):
            raise ValueError(
                f"Curvature batch: given {asked!r}; a share of the minibatch in (0, 1.0], a number of examples, or "
                "None is needed."
            )
        if not 0 <= self.weight_decay < np.inf:
            raise ValueError(f"Weight decay: given {self.weight_decay}; it must be >= 0 and finite; 1e-5 is usual.")
        if not 0 <= self.averaging < 1:
            raise ValueError(f"Averaging: given {self.averaging}; it must lie in [0, 1); 0.9 is usual, 0 is none.")
        if self.precision not in PRECISIONS:
            raise ValueError(f"Precision: given {self.precision!r}; the choices are {_listed(PRECISIONS)}.")
        if not is_whole(self.seed) or not 0 <= self.seed < 2**31:
            raise ValueError(f"Seed: given {self.seed!r}; a whole number in [0, 2^31) is needed.")

    def curvature_examples(self, usable: NDArray[np.bool_], update: int) -> NDArray[np.intp] | None:
        """The curvature batch of an update: a random choice of the examples that weigh something.

        The examples form a ring, cut at a random place into as many stretches as examples are chosen: one is drawn from
        each. So every example is as likely as another, and devices that hold a part of them each get an equal share of
        the choice, but for a few.

        Args:
            usable: whether each example weighs something, (B,).
            update: number of the update; the choice depends on it and on the seed alone.

        Returns:
            Ascending indices, or None for all examples.

        Raises:
            ValueError: if it is larger than the batch.
        """
        if self.curvature_batch is None:
            return None
        count = self.curvature_count(len(usable))
        if count == len(usable):
            return None
        places = np.flatnonzero(usable)
        # Padding is taken only where there is not enough else to fill the common shape.
        spare = np.flatnonzero(~usable)[: max(count - len(places), 0)]
        rng = np.random.default_rng([self.seed, update])
        return np.sort(np.concatenate([places[_from_stretches(rng, len(places), count)], spare]))

    def curvature_count(self, size: int) -> int:
        """How many of the examples of a batch the curvature batch has.

        Raises:
            ValueError: if that is more than there are.
        """
        asked = self.curvature_batch
        count = size if asked is None else int(asked) if is_whole(asked) else max(1, round(float(asked) * size))
        if count > size:
            raise ValueError(
                f"Curvature batch: given {asked} examples, but the minibatch has {size}; make it at most that, or give "
                "a share of the minibatch such as 0.25."
            )
        return count

    def residuals_kept(self, vector_bytes: int, preconditioned: bool) -> int:
        """How many residuals CG stays orthogonal to, each as large as the parameters, or twice if preconditioned."""
        fitting = rows_that_fit(CG_BYTES, (2 if preconditioned else 1) * vector_bytes) - 1  # one is a spare
        asked = max(fitting, 0) if self.cg_memory is None else int(self.cg_memory)
        return min(asked, self.cg_iterations)

    def iterates_kept(self, vector_bytes: int) -> int | None:
        """How many of its iterates a solve stores at most, each as large as the parameters; None for all."""
        fitting = self._iterates_that_fit(vector_bytes)
        return fitting if fitting < len(storage_schedule(self.cg_iterations)) else None

    def iterates_stored(self, vector_bytes: int) -> int:
        """How many they are."""
        return min(self._iterates_that_fit(vector_bytes), len(storage_schedule(self.cg_iterations)))

    def _iterates_that_fit(self, vector_bytes: int) -> int:
        return max(ITERATE_BYTES // max(vector_bytes, 1), LEAST_ITERATES)


def _from_stretches(rng: np.random.Generator, size: int, count: int) -> NDArray[np.intp]:
    """One number from each of `count` stretches of the ring 0 .. size - 1; all numbers if there are not more."""
    if size <= count:
        return np.arange(size)
    edges = np.arange(count + 1) * size // count
    return (rng.integers(edges[:-1], edges[1:]) + rng.integers(size)) % size


def _listed(choices: tuple[str, ...]) -> str:
    return ", ".join(map(repr, choices))
