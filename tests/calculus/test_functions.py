"""Functions of every kind, beside nested derivatives of JAX's own."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf

W = np.array([[0.4, -1.3, 0.8], [1.1, 0.5, -0.6]])
V = np.array([0.7, -1.2, 0.9])
POINTS = np.array([[0.3, -0.7], [-0.4, 0.9]])
DIRECTION = np.array([1.0, 2.0])


@jax.custom_jvp
def rough(x):
    """A function whose derivative is chosen by its author."""
    return jnp.floor(x)


rough.defjvps(lambda t, ans, x: t * jnp.cos(x))


@jax.custom_jvp
def mixed(x):
    """The same, of all elements together."""
    return jnp.sum(jnp.sort(x))


mixed.defjvps(lambda t, ans, x: jnp.sum(t * x**2))

FUNCTIONS = {
    "tanh": lambda x: jnp.tanh(x @ W) @ V,
    "silu": lambda x: jax.nn.silu(x @ W) @ V,
    "softplus": lambda x: jax.nn.softplus(x @ W) @ V,
    "softplus at zero": lambda x: jax.nn.softplus(x - jax.lax.stop_gradient(x)) @ W @ V * x[0],
    "gelu": lambda x: jax.nn.gelu(x @ W, approximate=False) @ V,
    "relu cubed": lambda x: (jax.nn.relu(x @ W) ** 3) @ V,
    "elu": lambda x: jax.nn.elu(x @ W) @ V,
    "sin exp": lambda x: jnp.sin(3 * x[0]) * jnp.exp(x[1]),
    "cos sinh": lambda x: jnp.cos(x[0]) * jnp.sinh(x[1]) * jnp.cosh(x[1]) * jnp.tan(x[0]),
    "log sqrt": lambda x: jnp.log(4 + x[0] * x[1]) + jnp.sqrt(2 + x[0]) + jax.lax.rsqrt(3 + x[1]) + jnp.log1p(x[0]),
    "where": lambda x: jnp.where(x[0] > 0, x[0] ** 3, jnp.sin(x[1]) * x[0]),
    "division": lambda x: jnp.sin(x[0]) / (2 + jnp.cos(x[1]) * x[0]) + x[0] / 3 - (1 / (x @ W + 9)) @ V,
    "powers": lambda x: (x[0] ** 2 + 1) ** 1.5 * x[1] ** -3 + x[0] ** 0 * x[1] ** 1 + x[0] ** 2.0,
    "power of both": lambda x: (2 + x[0]) ** x[1],
    "square and cube root": lambda x: jnp.square(x[0]) * jnp.cbrt(x[1]),
    "max min abs": lambda x: jnp.maximum(x[0], x[1]) ** 3 + jnp.minimum(x[0], 0.1) * jnp.abs(x[1]),
    "clip": lambda x: jnp.clip(x, -0.5, 0.5).sum() * x[0],
    "norm": lambda x: jnp.linalg.norm(x) * x[0],
    "arctan2": lambda x: jnp.arctan2(x[0], x[1]),
    "sinc": lambda x: jnp.sinc(x[0] * x[1]),
    "erf": lambda x: jax.scipy.special.erf(x @ W) @ V,
    "logsumexp": lambda x: jax.nn.logsumexp(x @ W),
    "softmax": lambda x: jax.nn.softmax(x @ W) @ V,
    "variance": lambda x: (x - x.mean()).var() * x[0],
    "three factors": lambda x: jnp.einsum("i,j,ij", x, x, jnp.outer(x, x)),
    "cumulative": lambda x: jnp.cumsum(x * x)[1] ** 2,
    "places": lambda x: (jnp.arange(4.0) * x[0])[2] * x[::-1][0] + x[jnp.array([1, 0, 1])] @ V + x.at[0].add(x[1]) @ x,
    "shapes": lambda x: (
        jnp.pad(jnp.concatenate([x, x * x]).reshape(2, 2).T, 1, constant_values=2.0).sum(0) @ jnp.ones(4)
    ),
    "sorted": lambda x: jnp.sort(x**3)[0],
    "linear system": lambda x: jnp.linalg.solve(3 * jnp.eye(2) + jnp.outer(x, x), x)[0],
    "scan": lambda x: jax.lax.scan(lambda c, _: (jnp.sin(c) * x[0] + x[1], c), x[1], None, length=3)[0],
    "while": lambda x: jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] * x[0]), (0, x[1]))[1],
    "cond": lambda x: jax.lax.cond(x[0] > 0, lambda x: x[0] ** 3, lambda x: x[1] ** 2 * x[0], x),
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(x @ W) @ V),
    "jit": jax.jit(lambda x: jnp.sin(x @ W) @ V),
    "gradient inside": lambda x: jax.grad(lambda y: jnp.sin(y[0]) * y[1] ** 3)(x)[0],
    "mapped inside": lambda x: jax.vmap(lambda w: jnp.tanh(w @ x))(W.T) @ V,
    "stopped": lambda x: jax.lax.stop_gradient(x[0]) * jnp.sin(x[1]),
    "whole numbers": lambda x: jnp.floor(3 * x[0]) * x[1] ** 2 + x.astype(jnp.int32)[0] * x[1],
    "own derivative": lambda x: rough(x @ W) @ V,
    "own derivative of all": lambda x: mixed(x) * x[0],
    "constant": lambda x: jnp.full((), 2.0),
    "linear": lambda x: x @ W @ V - 1,
    "array": lambda x: jnp.stack([x[0] * x[1], jnp.cos(x[0]) * x[1] ** 3, x.sum()]).reshape(1, 3),
}


def nested(f, x):
    """Gradient, Hessian matrix, Laplacian and d^3/ds^3 f(x + s v), in forward mode throughout."""
    slope = jax.jacfwd(f)
    bend, gradient = jax.jacfwd(lambda x: (slope(x),) * 2, has_aux=True)(x)
    along = lambda s: f(x + s * jnp.asarray(DIRECTION))
    third = jax.jacfwd(jax.jacfwd(jax.jacfwd(along)))(jnp.zeros(()))
    return gradient, bend, jnp.trace(bend, axis1=-2, axis2=-1), third


def ours(f, x):
    _, gradient, laplacian = hf.calculus.value_gradient_laplacian(f)(x)
    return gradient, hf.calculus.hessian(f)(x), laplacian, hf.calculus.directional(f, DIRECTION, 3)(x)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_are_those_of_nested_forward_mode(name):
    f = FUNCTIONS[name]
    with jax.enable_x64(True):
        found, expected = jax.jit(jax.vmap(lambda x: (ours(f, x), nested(f, x))))(POINTS)
        for ours_, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(ours_, theirs, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["tanh", "softplus", "norm"])
def test_so_are_their_gradients(name):
    """By what they are made of, in reverse mode, as rows of a Jacobian take them."""
    f = FUNCTIONS[name]

    def total(way, scale, x):
        return sum(jnp.sum(jnp.sin(part)) for part in way(lambda x: f(scale * x), x))

    with jax.enable_x64(True):
        rows = [jax.jit(jax.vmap(jax.grad(partial(total, way)), (None, 0)))(1.2, POINTS) for way in (ours, nested)]
        np.testing.assert_allclose(*rows, rtol=1e-10)
