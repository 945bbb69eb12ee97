"""How well a fit knows its parameters: covariance, rank, and what the data do not determine.

Symbols as in engine/residuals.py, and
    n, p    numbers of residuals and of parameters that are free
    e       residuals divided by their standard deviations: rows of rho without sqrt(c_k / N_k)
    w       c_k / N_k of each residual
    psi     derivative of the loss of one residual, e itself for squares
    s^2     sum w psi^2 / (n - p) / (mean psi')^2, the variance of unit weight
    C       covariance: s^2 (J'J)^-1; if sigma is absolute (J'J)^-1 (sum w j j') (J'J)^-1, j the rows of J
Where some terms alone are measured data and the others hold exactly, the noise of data moves the parameters, and the
other terms only say where they can go:
    h       effect of the data on what they are fitted by, the trace of J_d (J'J)^-1 J_d', J_d the rows of the data
    s^2     sum w psi^2 / (n_d - h) / (mean psi')^2 over the data, whose number is n_d
    C       (J'J)^-1 (sum over the data s^2 j j') (J'J)^-1; with absolute sigma w in place of s^2
J and rho are those of squares; the robust loss enters by psi (Huber 1981, "Robust statistics", section 7.6).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from hessianfree.engine.compilation import precise
from hessianfree.engine.numbers import is_whole
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.robust import Rho
from hessianfree.engine.searching import Box
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.forms import MEMORY, Prepared

Floats = NDArray[np.floating[Any]]

#: Squared share of a parameter in directions that change no residual, above which it is undetermined.
UNDETERMINED = 1e-4


class Uncertainty(NamedTuple):
    """What a fit knows of its raveled parameters."""

    covariance: Floats  # (P, P); 0 for parameters that are held, infinite on the diagonal for undetermined ones
    rank: int  # of the Jacobian in the free parameters
    held: NDArray[np.bool_]  # fixed, or at a bound that the gradient pushes against
    undetermined: NDArray[np.bool_]
    degrees: int  # of freedom, n - p
    variance: float  # s^2


class Slopes(NamedTuple):
    """What uncertainty is made of, at the end of a fit; of many fits with one more axis in front."""

    J: Floats  # (N, P)
    weights: Floats  # w, (N,); the same for all fits
    psi: Floats  # (N,)
    bend: Floats  # psi', (N,)


def uncertainty(
    prepared: Prepared, params: PyTree, absolute_sigma: bool, data: tuple[int, ...] | None = None
) -> Uncertainty:
    """What the fit at these parameters knows of them; inside `parameters.computing`.

    Args:
        prepared: the residuals.
        params: where the fit ended.
        absolute_sigma: whether deviations are those of the noise.
        data: numbers of the terms that are measured, None for all.

    Raises:
        ValueError: if the Jacobian does not fit in memory.
    """
    theta = parameters.raveled(params)
    _check_memory(sum(int(np.prod(shape)) for shape in prepared.shapes), theta)
    rho, J = jax.device_get(_rows(_plain(prepared), params, prepared.inputs))
    return estimated(slopes(prepared, rho, J), theta, prepared.box, absolute_sigma, _measured(prepared, data))


def checked_data(data: int | Sequence[int] | None, count: int) -> tuple[int, ...] | None:
    """Numbers of the terms that are measured, None for all.

    Raises:
        ValueError: if there is no such term.
    """
    if data is None:
        return None
    numbers: Any = (data,) if is_whole(data) else data
    listed = isinstance(numbers, (tuple, list)) and len(numbers) > 0
    if not listed or not all(is_whole(number) and 0 <= number < count for number in numbers):
        raise ValueError(
            f"data is {data!r}; the number of a term, or a list of numbers, from 0 to {count - 1} is expected, or None "
            "if the residuals of all terms are measured."
        )
    return tuple(sorted({int(number) for number in numbers}))


def _measured(prepared: Prepared, data: tuple[int, ...] | None) -> NDArray[np.bool_] | None:
    """Which residuals are measured, None for all."""
    if data is None or len(data) == len(prepared.shapes):
        return None
    return np.concatenate([np.full(int(np.prod(shape)), k in data) for k, shape in enumerate(prepared.shapes)])


def uncertainties(
    prepared: Prepared, params: PyTree, inputs: tuple[Points, ...], axes: Any, boxes: Sequence[Box | None]
) -> Iterator[Callable[[bool], Uncertainty]]:
    """For each of many fits a function of absolute_sigma; params have the fits in front, inputs where axes say so."""
    rho, J = jax.device_get(_rows_of_many(_plain(prepared), axes, params, inputs))
    found = slopes(prepared, rho, J)
    thetas = np.concatenate([np.asarray(leaf).reshape(len(boxes), -1) for leaf in jax.tree.leaves(params)], axis=1)
    for J_m, psi, bend, theta, box in zip(found.J, found.psi, found.bend, thetas, boxes, strict=True):
        yield partial(estimated, Slopes(J_m, found.weights, psi, bend), theta, box)


def slopes(prepared: Prepared, rho: Floats, J: Floats) -> Slopes:
    """These, from residuals and Jacobian of squares."""
    counts = [int(np.prod(shape)) for shape in prepared.shapes]
    weights = np.concatenate([np.full(n, w) for n, w in zip(counts, _weights(prepared), strict=True)])
    e = rho / np.sqrt(np.where(weights > 0, weights, 1))
    return Slopes(J, weights, *_influence(prepared.functions.robust, e, prepared.inputs[0].scale))


def estimated(
    found: Slopes,
    theta: Floats,
    box: Box | None,
    absolute_sigma: bool,
    measured: NDArray[np.bool_] | None = None,
) -> Uncertainty:
    """What one fit knows of its parameters; in double precision: squares of float32 may leave its range."""
    with np.errstate(over="ignore", invalid="ignore"):
        return _estimated(found, theta, box, absolute_sigma, measured)


def _estimated(
    found: Slopes, theta: Floats, box: Box | None, absolute_sigma: bool, measured: NDArray[np.bool_] | None
) -> Uncertainty:
    eps, size = float(np.finfo(found.J.dtype).eps), len(theta)
    J, weights, psi, bend = (np.asarray(array, np.float64) for array in found)
    held = np.zeros(size, bool)
    if box is not None:
        held = np.asarray(box.held(theta, J.T @ (np.sqrt(weights) * psi)))
    degrees = int((weights > 0).sum()) - int((~held).sum())
    counted = weights > 0 if measured is None else (weights > 0) & measured
    shrink = float(np.mean(bend[counted])) ** 2 if counted.any() else 0.0
    # A fit that failed, or a robust loss that takes every residual for an outlier.
    if not (np.isfinite(J).all() and np.isfinite(psi).all()) or shrink == 0:
        return Uncertainty(np.where(np.eye(size), np.inf, np.nan), 0, held, ~held, degrees, np.inf)
    left, half, unknown = _factors(J[:, ~held], eps)
    rank, effects = len(half), left[counted]
    if measured is not None:
        degrees = round(int(counted.sum()) - float(np.sum(effects**2)))
    variance = float(np.sum((weights * psi**2)[counted])) / degrees if degrees > 0 else np.inf
    covariance: Floats
    if absolute_sigma:
        spread = half.T @ ((effects.T * weights[counted]) @ effects) @ half
        covariance = spread * float(np.mean(psi[counted] ** 2)) / shrink if (bend != 1).any() else spread
    else:
        covariance = half.T @ (half if measured is None else effects.T @ effects @ half) * (variance / shrink)
    covariance[unknown, :] = covariance[:, unknown] = np.nan
    covariance[unknown, unknown] = np.inf
    whole = np.zeros((size, size), theta.dtype)
    whole[np.ix_(~held, ~held)] = covariance
    undetermined = np.zeros(size, bool)
    undetermined[~held] = unknown
    return Uncertainty(whole, rank, held, undetermined, degrees, variance)


def _plain(prepared: Prepared) -> Residuals:
    """The residuals without their robust loss."""
    return Residuals(prepared.functions.functions, None, prepared.functions.forward)


def _check_memory(count: int, theta: Floats) -> None:
    needed = theta.itemsize * (2 * count * theta.size + 3 * theta.size**2)
    if needed > 16 * MEMORY:
        raise ValueError(
            f"The covariance of {theta.size} parameters from {count} residuals takes about {needed / 2**30:.0f} GiB; "
            "fix the parameters that you do not ask about (fixed=...), or use fewer points."
        )


def _weights(prepared: Prepared) -> list[float]:
    """w of each term."""
    sizes = [shape[0] for shape in prepared.shapes]  # points, or residuals where there are no points
    return [float(np.asarray(term.points.weight)) / size for term, size in zip(prepared.terms, sizes, strict=True)]


def _factors(J: Floats, eps: float) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Factors L (N, rank) and H (rank, P), and which parameters directions without effect move.

    The pseudo-inverse of J'J is H'H, that of J is H'L', and L has orthonormal columns. Entries of J are known to a
    relative precision eps.
    """
    norms = np.linalg.norm(J, axis=0)
    scales = np.where(norms > 0, norms, 1)
    wide = J.shape[0] < J.shape[1]  # then some directions have no singular value, and Vt must hold them nevertheless
    U, S, Vt = np.linalg.svd(J / scales, full_matrices=wide)
    limit = max(J.shape) * eps * (S[0] if S.size else 0)
    rank = int((limit < S).sum())
    lost = np.sum(Vt[rank:] ** 2, axis=0) > UNDETERMINED
    return U[:, :rank], Vt[:rank] / S[:rank, None] / scales, lost | (norms == 0)


def _with_rows(residuals: Residuals, params: PyTree, inputs: tuple[Points, ...]) -> tuple[Array, Array]:
    theta, unravel = ravel_pytree(params)
    return residuals.jacobian(unravel, theta, inputs)


def _with_rows_of_many(
    residuals: Residuals, axes: Any, params: PyTree, inputs: tuple[Points, ...]
) -> tuple[Array, Array]:
    return jax.vmap(partial(_with_rows, residuals), (0, axes))(params, inputs)


_rows, _rows_of_many = precise(_with_rows), precise(_with_rows_of_many, static_argnums=1)


def _influence(rho: Rho | None, e: Floats, scale: Any) -> tuple[Floats, Floats]:
    """The function psi and its derivative, for every residual."""
    if rho is None:
        return e, np.ones_like(e)
    loss = lambda r: 0.5 * scale**2 * rho((r / scale) ** 2)  # noqa: E731
    flat = jnp.ravel(jnp.asarray(e))
    first, second = jax.vmap(jax.grad(loss))(flat), jax.vmap(jax.grad(jax.grad(loss)))(flat)
    return np.asarray(first).reshape(e.shape), np.asarray(second).reshape(e.shape)
