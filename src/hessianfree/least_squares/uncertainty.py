"""How well a fit knows its parameters: covariance, rank, and what the data do not determine.

Symbols as in engine/residuals.py, and
    n, p    numbers of residuals and of parameters that are free
    e       residuals divided by their standard deviations: rows of rho without sqrt(c_k / N_k)
    w       c_k / N_k of each residual
    psi     derivative of the loss of one residual, e itself for squares
    s^2     sum w psi^2 / (n - p) / (mean psi')^2, the variance of unit weight
    C       covariance: s^2 (J'J)^-1; if sigma is absolute (J'J)^-1 (sum w j j') (J'J)^-1, j the rows of J
J and rho are those of squares; the robust loss enters by psi (Huber 1981, "Robust statistics", section 7.6).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from hessianfree.engine.compilation import precise
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.robust import Rho
from hessianfree.engine.trees import PyTree
from hessianfree.least_squares.forms import MEMORY, Prepared
from hessianfree.objective import parameters

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


def uncertainty(prepared: Prepared, params: PyTree, absolute_sigma: bool) -> Uncertainty:
    """What the fit at these parameters knows of them; inside `parameters.computing`.

    Raises:
        ValueError: if the Jacobian does not fit in memory.
    """
    theta = parameters.raveled(params)
    counts = [int(np.prod(shape)) for shape in prepared.shapes]
    _check_memory(sum(counts), theta)
    plain = Residuals(prepared.functions.functions, None, prepared.functions.forward)
    rho, J = jax.device_get(_rows(plain, params, prepared.inputs))
    weights = np.concatenate([np.full(n, w) for n, w in zip(counts, _weights(prepared), strict=True)])
    roots = np.sqrt(np.where(weights > 0, weights, 1))
    psi, bend = _influence(prepared.functions.robust, rho / roots, prepared.inputs[0].scale)
    held = np.zeros(theta.shape, bool)
    if prepared.box is not None:
        held = np.asarray(prepared.box.held(theta, J.T @ (roots * psi)))
    counted = int((weights > 0).sum())
    degrees = counted - int((~held).sum())
    variance = float(np.sum(weights * psi**2)) / degrees if degrees > 0 else np.inf
    inverse, rank, unknown = _inverse(J[:, ~held])
    shrink = float(np.mean(bend[weights > 0])) ** 2
    if absolute_sigma:
        spread = inverse @ (J[:, ~held].T * weights) @ J[:, ~held] @ inverse
        found = spread if prepared.functions.robust is None else spread * float(np.mean(psi**2)) / shrink
    else:
        with np.errstate(invalid="ignore"):
            found = inverse * (variance / shrink)
    found[unknown, :] = found[:, unknown] = np.nan
    found[unknown, unknown] = np.inf
    covariance = np.zeros((len(theta), len(theta)), theta.dtype)
    covariance[np.ix_(~held, ~held)] = found
    undetermined = np.zeros(theta.shape, bool)
    undetermined[~held] = unknown
    return Uncertainty(covariance, rank, held, undetermined, degrees, variance)


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


def _inverse(J: Floats) -> tuple[Floats, int, NDArray[np.bool_]]:
    """The pseudo-inverse of J'J, the rank of J, and which parameters directions without effect move."""
    norms = np.linalg.norm(J, axis=0)
    scales = np.where(norms > 0, norms, 1)
    _, S, Vt = np.linalg.svd(J / scales, full_matrices=True)
    limit = max(J.shape) * float(np.finfo(J.dtype).eps) * (S[0] if S.size else 0)
    rank = int((limit < S).sum())
    lost = np.sum(Vt[rank:] ** 2, axis=0) > UNDETERMINED
    half = Vt[:rank] / S[:rank, None] / scales
    return half.T @ half, rank, lost | (norms == 0)


@precise
def _rows(residuals: Residuals, params: PyTree, inputs: tuple[Points, ...]) -> tuple[Array, Array]:
    theta, unravel = ravel_pytree(params)
    return residuals.jacobian(unravel, theta, inputs)


def _influence(rho: Rho | None, e: Floats, scale: Any) -> tuple[Floats, Floats]:
    """The function psi and its derivative, for every residual."""
    if rho is None:
        return e, np.ones_like(e)
    loss = lambda r: 0.5 * scale**2 * rho((r / scale) ** 2)  # noqa: E731
    slopes = jax.vmap(jax.grad(loss))(jnp.asarray(e))
    return np.asarray(slopes), np.asarray(jax.vmap(jax.grad(jax.grad(loss)))(jnp.asarray(e)))
