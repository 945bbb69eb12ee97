"""What `hf.least_squares` is compared with: Adam, L-BFGS and the self-scaled Broyden method, on the same terms.

All minimise the sum over terms of weight * mean 1/2 r^2, in float64, from the same start and on the same points.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from pde import quasi_newton
from pde.points import Floats
from pde.problems import Params, Term

#: Adam's updates between looks at the clock; pairs of vectors that L-BFGS keeps.
CHUNK, PAIRS = 50, 100
#: Called with the updates so far and a function that returns the parameters; whether the run is over.
Look = Callable[[int, Callable[[], Params]], bool]
#: New points for every term, from the number of the step and the parameters.
Renew = Callable[[int, Params], Sequence[Floats]]


class Loss:
    """The loss of terms as a function of flat parameters.

    Args:
        terms: residuals, points and weights.
        start: parameters, which give the structure.
    """

    def __init__(self, terms: Sequence[Term], start: Params) -> None:
        functions, points, weights = zip(*terms, strict=True)
        self.points: Any = list(points)
        flat, self.unravel = ravel_pytree(start)
        self.start = np.asarray(flat)
        self.compiled = jax.jit(jax.value_and_grad(partial(_loss, functions, weights, self.unravel)))
        self.updates = jax.jit(partial(_adam_updates, functions, weights, self.unravel), static_argnums=0)

    def __call__(self, x: Floats) -> tuple[float, Floats]:
        """Value and gradient."""
        value, gradient = self.compiled(x, self.points)
        return float(value), np.asarray(gradient)

    def params(self, x: Any) -> Params:
        """The parameters in their structure."""
        return self.unravel(jnp.asarray(x))


def _loss(functions: Any, weights: Any, unravel: Any, x: Any, points: Any) -> Any:
    params = unravel(x)
    found = [jax.vmap(partial(r, params))(at) for r, at in zip(functions, points, strict=True)]
    return sum(0.5 * c * jnp.mean(r**2) for c, r in zip(weights, found, strict=True))


def _adam_updates(functions: Any, weights: Any, unravel: Any, rate: float, x: Any, state: Any, points: Any) -> Any:
    optimizer = _adam(rate)

    def update(carry: Any, _: None) -> tuple[Any, None]:
        x, state = carry
        changes, state = optimizer.update(jax.grad(partial(_loss, functions, weights, unravel))(x, points), state)
        return (optax.apply_updates(x, changes), state), None

    return jax.lax.scan(update, (x, state), length=CHUNK)[0]


def _adam(rate: float) -> Any:
    """Adam at a rate that falls by 2 % every 1,000 updates, as Urban et al. 2025 have it."""
    return optax.adam(optax.exponential_decay(rate, 1000, 0.98))


def adam(loss: Loss, x: Any, rate: float, look: Look, renew: Renew | None, every: int, most: int = 10**9) -> Any:
    """At most so many updates of Adam; new points after every so many steps, never for 0."""
    state, done = _adam(rate).init(jnp.asarray(x)), 0
    while done < most:
        if every and renew and done and done % every < CHUNK:
            loss.points = renew(done, loss.params(x))
        x, state = jax.block_until_ready(loss.updates(rate, x, state, loss.points))
        done += CHUNK
        if look(done, partial(loss.params, x)):
            raise StopIteration
    return np.asarray(x)


def lbfgs(loss: Loss, x: Floats, done: int, look: Look, renew: Renew | None, every: int) -> None:
    """SciPy's L-BFGS-B, begun again where it ends by itself, and with new points."""
    from scipy.optimize import minimize

    def after(at: Floats) -> None:
        nonlocal done
        done += 1
        if look(done, partial(loss.params, at.copy())):
            raise TimeoutError  # SciPy takes a StopIteration for itself

    limits = {"maxiter": every or 10**9, "maxfun": 10**9, "maxcor": PAIRS, "ftol": 0, "gtol": 0}
    while True:
        before = done
        x = minimize(loss, x, jac=True, method="L-BFGS-B", callback=after, options=limits).x
        if done - before < 5:
            return
        if every and renew:
            loss.points = renew(done, loss.params(x))


def ssbroyden(loss: Loss, x: Floats, done: int, look: Look, renew: Renew | None, every: int) -> None:
    """The self-scaled Broyden method."""

    def after(at: Floats) -> None:
        nonlocal done
        done += 1
        if look(done, partial(loss.params, at)):
            raise TimeoutError

    def renewed(step: int, at: Floats) -> bool:
        if not (every and renew and step and step % every == 0):
            return False
        loss.points = renew(done, loss.params(at))
        return True

    quasi_newton.minimise(loss, x, after=after, renew=renewed)


def solve(
    method: str, terms: Sequence[Term], start: Params, look: Look, renew: Renew, how: Mapping[str, float]
) -> None:
    """Run one method until `look` says that it is over, or it ends by itself.

    Args:
        method: "adam", "lbfgs" or "ssbroyden".
        terms: residuals, points and weights.
        start: parameters.
        look: called after each step.
        renew: gives new points.
        how: "rate" of Adam, updates of "warm_up" by Adam before the other two, steps to "renew" points after.
    """
    loss, every = Loss(terms, start), int(how["renew"])
    first = partial(adam, loss, loss.start, how["rate"], look, renew, every)
    try:
        if method == "adam":
            first()
        else:
            warm = int(how["warm_up"])
            x = first(warm) if warm else loss.start
            {"lbfgs": lbfgs, "ssbroyden": ssbroyden}[method](loss, x, warm, look, renew, every)
    except (StopIteration, TimeoutError):
        return
