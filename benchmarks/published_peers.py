"""The optimizers of others that published.py runs: Adam, and SOFO."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from published_tasks import Row, plain_loss

#: Parameters, state and random key -> parameters and state.
Step = Callable[[Any, Any, Any], tuple[Any, Any]]


class Adam(NamedTuple):
    """A transformation of optax, on new examples for each update.

    Args:
        transformation: of gradients.
        batch: examples in an update.
        penalised: whether on the loss of the authors; if not, on the plain mean squared error.
    """

    transformation: optax.GradientTransformation
    batch: int
    penalised: bool = True

    def initial(self, params: Any) -> Any:
        """Its first state."""
        return self.transformation.init(params)

    def compiled(self, row: Row) -> Step:
        """One update, which draws its examples."""
        loss = row.loss if self.penalised else partial(plain_loss, row.outputs)

        @jax.jit
        def step(params: Any, state: Any, key: Any) -> tuple[Any, Any]:
            x, t = row.sample(key, self.batch)
            change, state = self.transformation.update(jax.grad(loss)(params, x, t), state, params)
            return optax.apply_updates(params, change), state

        return step


class Sofo(NamedTuple):
    """Second-order steps on random tangents by forward mode (Yu, Xia, Ma, Lengyel and Hennequin 2024).

    V are orthonormal random directions, K of them, and J the Jacobian of the outputs. One forward pass gives J V, and
    with it the slope V'g and the Gauss-Newton matrix V'GV = U S U' in their span. The step is
    -rate V U (S + damping s_1)^-1 U' V'g, s_1 the largest of S. No pass goes back, so that memory does not grow with
    time: tangents of the outputs are all that is kept here.
    """

    rate: float
    batch: int
    tangents: int = 128
    damping: float = 1e-5

    def initial(self, _: Any) -> Any:
        """The number of updates so far."""
        return jnp.zeros((), int)

    def compiled(self, row: Row) -> Step:
        """One update, which draws its examples and tangents; the loss is the mean squared error."""

        @jax.jit
        def step(params: Any, updates: Any, key: Any) -> tuple[Any, Any]:
            of_data, of_tangents = jax.random.split(key)
            x, t = row.sample(of_data, self.batch)
            flat, unflatten = ravel_pytree(params)
            V, _ = jnp.linalg.qr(jax.random.normal(of_tangents, (len(flat), self.tangents)))

            def along(v: Any) -> Any:
                return jax.jvp(lambda p: row.outputs(unflatten(p), x), (flat,), (v,))

            outputs, changes = jax.vmap(along, in_axes=1, out_axes=(None, 0))(V)
            J = changes.reshape(self.tangents, -1)
            slopes, G = 2 / t.size * J @ (outputs - t).ravel(), 2 / t.size * J @ J.T
            S, U = jnp.linalg.eigh(G)
            weights = U @ (U.T @ slopes / (jnp.maximum(S, 0) + self.damping * S[-1]))
            return unflatten(flat - self.rate * V @ weights), updates + 1

        return step
