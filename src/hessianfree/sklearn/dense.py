"""A feedforward network in numpy: outputs, loss, gradient and Gauss-Newton products, without compilation.

For networks and data so small that compiling takes longer than training. Weights are the flat vector of `FFNet`: each
matrix row by row, then its bias.

Symbols:
    theta   all weights, (P,)                   w_i  weight of example i, divided by the sum of all
    z, a    input and output of a layer         s    slope da/dz
    f       sum_i w_i l_i + c/2 sum W^2, the sum over matrices; biases do not decay
    G       sum_i w_i J_i' H_i J_i + c on the diagonal of matrices, J_i = do_i/dtheta
Examples are taken in blocks whose arrays stay in a core's cache, which makes a product of some thousand examples five
times faster than arrays of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hessianfree.networks.initial_weights import drawn
from hessianfree.networks.parts.interfaces import Nonlinearity
from hessianfree.sklearn.links import Link

Floats = NDArray[Any]

#: Numbers in the largest array of a block, about.
BLOCK = 2**16


class DenseNetwork:
    """The structure of a network: a chain of layers, all hidden ones with the same nonlinearity.

    Args:
        shape: units per layer, the input layer first.
        activation: of the hidden layers, elementwise.
    """

    def __init__(self, shape: Sequence[int], activation: Nonlinearity) -> None:
        self.shape, self.activation = tuple(shape), activation
        self._pairs = list(zip(self.shape, self.shape[1:], strict=False))
        self.size = sum((n + 1) * m for n, m in self._pairs)

    def initial(self, rng: Any) -> Floats:
        """Weights of deviation 1 / sqrt(n), n units below; biases of hidden layers from -1 to 1, so that units differ.

        Args:
            rng: numpy RandomState.
        """
        flat = drawn(self._pairs, [1 / np.sqrt(n) for n, _ in self._pairs], 0.0, "gaussian", rng)
        for _, b in self.views(flat)[:-1]:
            b[:] = rng.uniform(-1, 1, b.shape)
        return flat

    def views(self, flat: Floats) -> list[tuple[Floats, Floats]]:
        """Matrix (n, m) and bias (m,) of each layer, as views of a flat vector."""
        found, start = [], 0
        for n, m in self._pairs:
            middle = start + n * m
            found.append((flat[start:middle].reshape(n, m), flat[middle : middle + m]))
            start = middle + m
        return found

    def matrices(self) -> Floats:
        """One where a flat vector holds a number of a matrix, zero where one of a bias."""
        flat = np.zeros(self.size)
        for W, _ in self.views(flat):
            W[:] = 1
        return flat

    def blocks(self, examples: int) -> Iterator[slice]:
        """Slices of so many examples."""
        rows = max(1, BLOCK // max(self.shape[1:]))
        return (slice(start, start + rows) for start in range(0, examples, rows))

    def forward(self, flat: Floats, x: Floats) -> tuple[list[Floats], list[Floats]]:
        """Inputs z of all layers but the first, and outputs a of all but the last, of some examples x (B, n)."""
        a = [x]
        z: list[Floats] = []
        for W, b in self.views(flat):
            if z:
                a.append(self.activation.activation(z[-1]))
            z.append(a[-1] @ W + b)
        return z, a

    def outputs(self, flat: Floats, x: Floats) -> Floats:
        """The outputs o (B, m), before any nonlinearity of the last layer."""
        return np.concatenate([self.forward(flat, x[block])[0][-1] for block in self.blocks(len(x))])


class _Linearized(NamedTuple):
    """What products need of each block of examples."""

    flat: Floats
    a: list[list[Floats]]
    slopes: list[list[Floats]]
    predictions: list[Floats]


class DenseObjective:
    """The function f of the weights of a network on given examples, with its gradient and Gauss-Newton products.

    Args:
        network: its structure.
        link: what its outputs mean.
        x: inputs, (B, n).
        t: targets, (B, m).
        weights: of the examples, (B,), not all zero.
        decay: the coefficient c.

    Gradient and products keep what they know of the weights they were last asked for; values keep nothing, so that
    trial steps do not disturb it.
    """

    def __init__(self, network: DenseNetwork, link: Link, x: Floats, t: Floats, weights: Floats, decay: float) -> None:
        self.network, self.link = network, link
        w = (weights / weights.sum())[:, None]
        self._examples = [(x[block], t[block], w[block]) for block in network.blocks(len(x))]
        self._decays = decay * network.matrices()
        self._linearized: _Linearized | None = None

    def value(self, flat: Floats) -> float:
        """The loss f."""
        total = 0.5 * float(self._decays @ (flat * flat))
        for x, t, w in self._examples:
            total += float(w[:, 0] @ self.link.losses(self.network.forward(flat, x)[0][-1], t))
        return total

    def gradient(self, flat: Floats) -> Floats:
        """The gradient of f, (P,)."""
        local, found = self._at(flat), self._decays * flat
        for (_, t, w), a, slopes, p in zip(self._examples, local.a, local.slopes, local.predictions, strict=True):
            self._pull(flat, a, slopes, w * (p - t), found)
        return found

    def product(self, flat: Floats, v: Floats) -> Floats:
        """The product G v, (P,)."""
        local, found = self._at(flat), self._decays * v
        for (_, _, w), a, slopes, p in zip(self._examples, local.a, local.slopes, local.predictions, strict=True):
            u = self._push(flat, a, slopes, v)
            self._pull(flat, a, slopes, w * self.link.curved(p, u), found)
        return found

    def _at(self, flat: Floats) -> _Linearized:
        """Activations, slopes and predictions at these weights."""
        if self._linearized is not None and np.array_equal(self._linearized.flat, flat):
            return self._linearized
        derivative, link = self.network.activation.d_activation, self.link
        local = _Linearized(flat.copy(), [], [], [])
        for x, _, _ in self._examples:
            z, a = self.network.forward(flat, x)
            local.a.append(a)
            local.slopes.append([derivative(*pair) for pair in zip(z[:-1], a[1:], strict=True)])
            local.predictions.append(link.predicted(z[-1]))
        self._linearized = local
        return local

    def _push(self, flat: Floats, a: list[Floats], slopes: list[Floats], v: Floats) -> Floats:
        """The product J v, (B, m)."""
        above: Floats | None = None
        for layer, ((W, _), (dW, db)) in enumerate(zip(self.network.views(flat), self.network.views(v), strict=True)):
            change = a[layer] @ dW + db
            if above is not None:
                change += above @ W
            above = change if layer == len(slopes) else change * slopes[layer]
        assert above is not None
        return above

    def _pull(self, flat: Floats, a: list[Floats], slopes: list[Floats], deltas: Floats, found: Floats) -> None:
        """Add J' deltas to a flat vector."""
        layers = list(zip(self.network.views(flat), self.network.views(found), strict=True))
        for layer, ((W, _), (dW, db)) in reversed(list(enumerate(layers))):
            dW += a[layer].T @ deltas
            db += deltas.sum(axis=0)
            if layer:
                deltas = (deltas @ W.T) * slopes[layer - 1]
