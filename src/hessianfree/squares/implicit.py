"""`hf.least_squares_solution` is a fit inside `jax.grad`, `jax.jit` and `jax.vmap`."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from hessianfree.engine import implicit, levenberg
from hessianfree.engine.compilation import PRECISION
from hessianfree.engine.implicit import LeastSquaresSolution
from hessianfree.engine.residuals import Points
from hessianfree.engine.trees import PyTree
from hessianfree.objective import parameters
from hessianfree.squares.curve import Curve
from hessianfree.squares.forms import prepare
from hessianfree.squares.options import Options
from hessianfree.squares.sparse import SparseTerm
from hessianfree.squares.terms import by_points, laid_out
from hessianfree.support import checks


def least_squares_solution(
    residuals: Any,
    params: PyTree,
    *,
    bounds: Any = None,
    loss: str | Callable[..., Any] | None = None,
    scale: float = 1.0,
    sigma: Any = None,
    x_scale: Any = "auto",
    solver: str = "auto",
    max_steps: int = 1000,
    gtol: float | None = None,
    ftol: float | None = None,
    xtol: float | None = None,
) -> LeastSquaresSolution:
    """Solve a least-squares problem inside `jax.grad`, `jax.jit` and `jax.vmap`.

    The solution theta* is a function of the points, weights and deviations, and of all that the residuals close over:
    by the implicit function theorem d theta* = -H^-1 (dF/du) du, with F = J'rho the gradient and H its derivative by
    theta. So the derivative holds if the fit has converged, and is exact even where residuals are large. It does not
    depend on the start. There is a single run, without those in other metrics that `hf.least_squares` adds: from a poor
    start run that first, and start from its parameters. Call it inside `jax.jit`, or it is compiled at every call.

    Args:
        residuals: as in `hf.least_squares`. Arrays may be traced; then their values are not checked. They need a
            reverse mode.
        params: where to start, a pytree of float32 arrays, or float64 ones if `jax_enable_x64` is set.
        bounds: as in `hf.least_squares`. Parameters at a bound do not move with the data.
        loss: likewise.
        scale: likewise.
        sigma: likewise.
        x_scale: likewise.
        solver: likewise. Derivatives form the Hessian of up to 1,000 parameters, and use products beyond.
        max_steps: limit on steps.
        gtol: as in `hf.least_squares`.
        ftol: likewise.
        xtol: likewise.

    Returns:
        `params`, the loss `value`, whether the run has `converged`, and its `steps`; look at `converged`.

    Raises:
        TypeError, ValueError: as `hf.least_squares`, but for values that are traced.
        ValueError: if parameters are float64, and JAX computes in float32.

    Example:
        How the rate of a decay depends on the data that it is fitted to.

        >>> import jax, jax.numpy as jnp
        >>> x = np.linspace(0, 3, 20, dtype=np.float32)
        >>> def decay(rate, point):
        ...     return jnp.exp(-rate * point["x"]) - point["y"]
        >>> @jax.jit
        ... def rate(y):
        ...     return least_squares_solution([(decay, {"x": x, "y": y})], np.float32(1)).params
        >>> slopes = jax.grad(rate)(np.exp(-1.5 * x))
        >>> steepest = -x * np.exp(-1.5 * x)
        >>> bool(np.allclose(slopes, steepest / (steepest @ steepest), atol=1e-4))
        True

    Source: Krantz and Parks 2013, "The implicit function theorem"; Blondel et al. 2022, "Efficient and modular implicit
    differentiation".
    """
    checks.at_least("max_steps", max_steps, 0)
    _refuse_traced(bounds=bounds, scale=scale, x_scale=x_scale, gtol=gtol, ftol=ftol, xtol=xtol)
    shadows = parameters.checked(jax.tree.map(_shadow, params))
    parameters.check_finite(shadows)
    dtype = parameters.precision(shadows)
    if dtype == np.float64 and not jax.config.values["jax_enable_x64"]:
        raise ValueError(
            "The parameters are float64, and JAX computes in float32 here; call "
            "jax.config.update('jax_enable_x64', True) first, or pass float32 parameters."
        )
    deviations = jax.tree.map(_shadow, sigma)
    options = Options(solver, None, None, bounds, None, loss, scale, deviations, x_scale, gtol, ftol, xtol)
    terms = [residuals.term] if isinstance(residuals, Curve) else residuals
    several = isinstance(terms, (list, tuple))
    prepared = prepare(options, [_term_shadow(term) for term in terms] if several else terms, shadows, False)
    inputs = list(prepared.inputs)
    for number, term in enumerate(terms if several else ()):
        inputs[number] = _with_traced(inputs[number], term)
    each = sigma if isinstance(sigma, (list, tuple)) and len(inputs) > 1 else [sigma] * len(inputs)
    for number, own in enumerate(each):
        if any(map(_is_traced, jax.tree.leaves(own))):
            whole = laid_out(jnp.asarray(own, dtype), prepared.shapes[number])
            inputs[number] = inputs[number]._replace(sigma=by_points(whole, inputs[number]))
    theta, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params))
    if prepared.box is not None:
        theta = jnp.clip(theta, prepared.box.lower, prepared.box.upper)
    state = levenberg.init(np.ones(theta.shape, dtype), None, prepared.metric, prepared.units)
    state = state._replace(sizes=jnp.abs(theta))
    stated = prepared.box, prepared.tolerances, state, max_steps
    with jax.default_matmul_precision(PRECISION):
        return implicit.solution(prepared.form, prepared.functions, unravel(theta), inputs, *stated)


def _refuse_traced(**options: Any) -> None:
    """Refuse traced arrays where numbers are expected.

    Raises:
        TypeError: if there is one; the message names the option.
    """
    for name, given in options.items():
        if any(map(_is_traced, jax.tree.leaves(given))):
            raise TypeError(
                f"{name} is traced, {reprlib.repr(given)}; numbers are expected that do not depend on what JAX "
                "differentiates or compiles. Points, weights, sigma and what the residuals close over may be traced."
            )


def _is_traced(leaf: Any) -> bool:
    return isinstance(leaf, jax.core.Tracer)


def _shadow(leaf: Any) -> Any:
    """An array of ones in place of a traced one, so that shapes and types can be checked."""
    return np.ones(leaf.shape, leaf.dtype) if _is_traced(leaf) else leaf


def _term_shadow(term: Any) -> Any:
    """A term with ones in place of what is traced."""
    if isinstance(term, SparseTerm):
        return replace(term, points=jax.tree.map(_shadow, term.points), weight=_shadow(term.weight))
    return jax.tree.map(_shadow, term)


def _with_traced(checked: Points, term: Any) -> Points:
    """The points of a checked term with what is traced put back."""
    sparse = isinstance(term, SparseTerm)
    given, weight = (term.points, term.weight) if sparse else (term[1], term[2] if len(term) == 3 else 1.0)
    if _is_traced(weight):
        checked = checked._replace(weight=jnp.asarray(weight, jnp.result_type(checked.weight)))
    if not any(map(_is_traced, jax.tree.leaves(given))):
        return checked
    put_back = lambda leaf, known: jnp.asarray(leaf, known.dtype) if _is_traced(leaf) else known  # noqa: E731
    at = jax.tree.map(put_back, given, checked.at[1] if sparse else checked.at)
    return checked._replace(at=(checked.at[0], at) if sparse else at)
