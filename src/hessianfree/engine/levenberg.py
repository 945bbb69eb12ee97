"""Levenberg-Marquardt steps by dense algebra, for problems with few parameters or few residuals.

Symbols as in residuals.py, and
    d       the step, (J'J + lambda I) d = -J'rho. Where residuals are fewer than parameters the same d comes from
            (J J' + lambda I) z = rho, d = -J'z; one of the two matrices is factored by Cholesky
    a       its acceleration, (J'J + lambda I) a = -1/2 J' rho_dd, rho_dd the second derivative of rho along d:
            theta + d + a follows the curved valley that theta + d leaves
A step is taken if it lowers f and 2 |a| / |d| < 3/4 (Transtrum and Sethna 2012, eq. 15, "Improvements to the
Levenberg-Marquardt algorithm for nonlinear least-squares minimization"). Small steps down, large steps up: lambda falls
by a third after a step and is tripled after a failed attempt, so that the valley is entered slowly ("delayed
gratification" there; the factors are heuristics, chosen on row A6 of the arena).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.scipy.linalg import cho_solve
from jax.typing import ArrayLike

from hessianfree.engine.compilation import jit
from hessianfree.engine.objective import PRECISION
from hessianfree.engine.residuals import Points, ResidualObjective
from hessianfree.engine.trees import PyTree

#: Factors on lambda after a step and after a failed attempt, and its first value relative to the largest entry of J'J.
LOWER_BY, RAISE_BY, FIRST = 2 / 3, 3.0, 1e-3
#: Largest 2 |a| / |d|.
ACCELERATION = 0.75
#: Failed attempts in a row after which no step is to be found: lambda has grown by 3^ATTEMPTS.
ATTEMPTS = 40


class Form(NamedTuple):
    """How steps are computed; static.

    Args:
        dual: whether the matrix is J J' in place of J'J.
        accelerated: whether to correct steps by their acceleration; needs models with forward mode.
    """

    dual: bool
    accelerated: bool = True


class System(NamedTuple):
    """Everything about a point that does not depend on lambda."""

    value: Array
    gradient_norm: Array
    largest: Array  # diagonal entry of J'J
    rho: Array
    jacobian: Array
    matrix: Array  # J'J or J J'


class Attempt(NamedTuple):
    """Where a step leads."""

    params: PyTree
    value: Array
    predicted: Array  # q(d) = -1/2 (d'J'Jd + lambda d'd)
    size: Array
    acceleration: Array  # 2 |a| / |d|


class Step(NamedTuple):
    """What happened in one step; `reason` says in words why there was none."""

    value: float
    new_value: float
    damping: float
    gradient_norm: float
    reduction_ratio: float
    acceleration: float
    attempts: int
    update_norm: float
    accepted: bool
    reason: str


@partial(jit, static_argnums=0)
def assemble(form: Form, objective: ResidualObjective, params: PyTree, inputs: Sequence[Points]) -> System:
    """Residuals, Jacobian and the matrix at a point.

    Args:
        form: see Form (static).
        objective: the residuals.
        params: the point.
        inputs: where residuals are taken.
    """
    with jax.default_matmul_precision(PRECISION):
        rho, J = objective.jacobian(params, inputs)
        return System(
            value=0.5 * rho @ rho,
            gradient_norm=jnp.linalg.norm(J.T @ rho),
            largest=jnp.max(jnp.sum(J**2, axis=0)),
            rho=rho,
            jacobian=J,
            matrix=J @ J.T if form.dual else J.T @ J,
        )


@partial(jit, static_argnums=0)
def attempt(
    form: Form,
    objective: ResidualObjective,
    params: PyTree,
    inputs: Sequence[Points],
    system: System,
    damping: ArrayLike,
) -> Attempt:
    """The step for one lambda, and the loss there.

    Args:
        form: see Form (static).
        objective: the residuals.
        params: the point.
        inputs: where residuals are taken.
        system: of `assemble`.
        damping: lambda.

    Returns:
        See Attempt; NaN where the matrix is not positive definite in this precision.
    """
    J, matrix = system.jacobian, system.matrix
    flat, unravel = ravel_pytree(params)

    def residuals(theta: Array) -> Array:
        return jnp.concatenate([jnp.ravel(part) for part in objective.outputs(unravel(theta), inputs)])

    with jax.default_matmul_precision(PRECISION):
        factor = jnp.linalg.cholesky(matrix + damping * jnp.eye(len(matrix), dtype=matrix.dtype)), True

        def solved(b: Array) -> Array:
            """(J'J + lambda I)^-1 J'b."""
            return J.T @ cho_solve(factor, b) if form.dual else cho_solve(factor, J.T @ b)

        d = -solved(system.rho)
        step, ratio = d, jnp.zeros_like(system.value)
        if form.accelerated:
            _, along = jax.jvp(lambda t: jax.jvp(residuals, (t,), (d,))[1], (flat,), (d,))
            a = -0.5 * solved(along)
            step, ratio = d + a, 2 * jnp.linalg.norm(a) / jnp.linalg.norm(d)
        there = residuals(flat + step)
        Jd = J @ d
        return Attempt(
            params=unravel(flat + step),
            value=0.5 * there @ there,
            predicted=-0.5 * (Jd @ Jd + damping * (d @ d)),
            size=jnp.linalg.norm(step),
            acceleration=ratio,
        )


class Levenberg:
    """Step after step, each keeping what the next needs.

    Args:
        form: see Form.
        objective: the residuals.
        damping: the first lambda, relative to the problem by default.
    """

    def __init__(self, form: Form, objective: ResidualObjective, damping: float | None = None) -> None:
        self.form, self.objective, self.damping = form, objective, damping

    def step(self, params: PyTree, inputs: Sequence[Points]) -> tuple[PyTree, Step]:
        """One step; parameters that are returned have a finite loss lower than before, or are the ones given.

        Args:
            params: where to start.
            inputs: where residuals are taken.

        Returns:
            New parameters, and what happened.
        """
        system = assemble(self.form, self.objective, params, inputs)
        value, gradient_norm, largest = map(float, jax.device_get((system.value, system.gradient_norm, system.largest)))
        if self.damping is None:
            self.damping = FIRST * largest if largest > 0 and math.isfinite(largest) else 1.0
        if math.isfinite(largest):
            # Less does nothing in this precision, and would have to be raised all the way back before a step is found.
            self.damping = max(self.damping, float(jnp.finfo(system.value.dtype).eps) * largest)
        reason = _unusable(value, gradient_norm)
        new, tried, attempts, first = params, None, 0, self.damping
        while not reason and tried is None:
            used, attempts = self.damping, attempts + 1
            found = attempt(self.form, self.objective, params, inputs, system, used)
            numbers = jax.device_get(found._replace(params=None))
            if math.isfinite(numbers.size) and numbers.value < value and numbers.acceleration < ACCELERATION:
                new, tried, self.damping = found.params, numbers, used * LOWER_BY
            elif attempts == ATTEMPTS:
                reason, self.damping = "no step lowers the loss: at the limit of precision", first
            else:
                self.damping = used * RAISE_BY
        taken = tried is not None
        record = Step(
            value=value,
            new_value=float(tried.value) if tried else value,
            damping=used if attempts else self.damping,
            gradient_norm=gradient_norm,
            reduction_ratio=float((tried.value - value) / tried.predicted) if tried else math.nan,
            acceleration=float(tried.acceleration) if tried else math.nan,
            attempts=attempts,
            update_norm=float(tried.size) if tried else 0.0,
            accepted=taken,
            reason=reason,
        )
        return new, record


def _unusable(value: float, gradient_norm: float) -> str:
    if not (math.isfinite(value) and math.isfinite(gradient_norm)):
        return f"the loss is {value}, its gradient's norm {gradient_norm}"
    return "the gradient is zero: nothing left to improve" if gradient_norm == 0 else ""
