"""The flat weight vector: where each connection lives in it, and how it is drawn.

Layout: connections by `pre` ascending, then as listed in `conns[pre]`; each is its matrix W (n_pre, n_post) row by
row, then its bias b (n_post).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike, NDArray

Connection = tuple[int, int]
Offsets = dict[Connection, tuple[int, int, int]]
Params = dict[Connection, tuple[Any, Any]]
RandomSource = np.random.RandomState | np.random.Generator

#: Connections drawn to each unit by the sparse initialisation (Martens 2010, section 5).
SPARSE_FAN_IN = 15


def layout(shape: Sequence[int], connections: Sequence[Connection]) -> Offsets:
    """Place every connection in the flat vector.

    Args:
        shape: units per layer.
        connections: (pre, post) pairs in layout order.

    Returns:
        For each pair (start, end of W, end of b).

    Example:
        >>> layout([2, 3, 1], [(0, 1), (1, 2)])
        {(0, 1): (0, 6, 9), (1, 2): (9, 12, 13)}
    """
    offsets, start = {}, 0
    for pre, post in connections:
        middle = start + shape[pre] * shape[post]
        offsets[pre, post] = (start, middle, middle + shape[post])
        start = middle + shape[post]
    return offsets


def views(flat: NDArray[Any], shape: Sequence[int], offsets: Offsets) -> Params:
    """Every connection's (W, b) as views of the flat vector: writing to them writes to it."""
    return {
        (pre, post): (flat[start:middle].reshape(shape[pre], shape[post]), flat[middle:end])
        for (pre, post), (start, middle, end) in offsets.items()
    }


def to_blocks(params: Params) -> dict[int, Any]:
    """The weights into each layer as one matrix: [W; b] of its connections, stacked."""
    into: dict[int, list[Any]] = {}
    for (_, post), (W, b) in params.items():
        into.setdefault(post, []).extend([W, b[None]])
    return {post: jnp.concatenate(parts) for post, parts in into.items()}


def from_blocks(blocks: Mapping[int, Any], like: Params) -> Params:
    """The inverse of `to_blocks`, for connections as in `like`."""
    used, params = dict.fromkeys(blocks, 0), {}
    for (pre, post), (W, _) in like.items():
        start = used[post]
        middle = start + len(W)
        params[pre, post] = blocks[post][start:middle], blocks[post][middle]
        used[post] = middle + 1
    return params


def load(path: Any) -> NDArray[Any]:
    """Read a flat vector from a `.npy` file; nothing in it can execute.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it does not hold one numpy array of numbers.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, TypeError) as error:
        raise ValueError(
            f"load_weights: {path!r} is not a .npy file of numbers; write it with np.save(path, net.W)."
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"load_weights: {path!r} is an archive; one array in a .npy file is expected.")
    return array


def flatten(params: Mapping[Connection, tuple[Any, Any]], offsets: Offsets, dtype: DTypeLike) -> NDArray[Any]:
    """The flat vector of per-connection (W, b), in layout order."""
    parts = [np.asarray(part, dtype).ravel() for connection in offsets for part in params[connection]]
    return np.concatenate(parts)


def draw(
    shapes: Sequence[Connection],
    rng: RandomSource,
    coeff: float | Sequence[float] = 1.0,
    biases: float | Sequence[float] = 0.0,
    init_type: str = "sparse",
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Draw one matrix and bias per shape, in order.

    Args:
        shapes: (n_pre, n_post) of each matrix.
        rng: numpy RandomState or Generator.
        coeff: scale, one for all or one per matrix.
        biases: value of the biases, one for all or one per matrix.
        init_type: "sparse" (15 connections per unit, normal), "uniform" (within coeff / sqrt(n_pre)) or "gaussian".

    Returns:
        Pairs (W, b), float64.

    Raises:
        ValueError: if there is no such `init_type`, or a list has the wrong length.

    Example:
        >>> W, b = draw([(2, 3)], np.random.RandomState(0), init_type="uniform")[0]
        >>> W.shape, b.shape
        ((2, 3), (3,))
    """
    if init_type not in _DRAWS:
        raise ValueError(f"init_type is {init_type!r}; the choices are {', '.join(map(repr, _DRAWS))}.")
    coeffs, bias_values = _per_matrix("coeff", coeff, len(shapes)), _per_matrix("biases", biases, len(shapes))
    drawn = []
    for (n_pre, n_post), c, b in zip(shapes, coeffs, bias_values, strict=True):
        drawn.append((_DRAWS[init_type](n_pre, n_post, c, rng), np.full(n_post, b, float)))
    return drawn


def _per_matrix(name: str, value: float | Sequence[float], count: int) -> list[float]:
    if np.ndim(value) == 0:
        return [float(value)] * count  # type: ignore[arg-type]
    values = [float(item) for item in value]  # type: ignore[union-attr]
    if len(values) != count:
        raise ValueError(f"{name} lists {len(values)} values, but there are {count} weight matrices; give one each.")
    return values


def _normal(rng: RandomSource, *shape: int) -> NDArray[Any]:
    """Standard normal draws; RandomState and Generator spell them differently."""
    return rng.randn(*shape) if isinstance(rng, np.random.RandomState) else rng.standard_normal(shape)


def _sparse(n_pre: int, n_post: int, coeff: float, rng: RandomSource) -> NDArray[Any]:
    matrix = np.zeros((n_pre, n_post))
    fan_in = min(SPARSE_FAN_IN, n_pre)
    for post in range(n_post):
        # The order of these two draws is part of the interface: seeds reproduce the weights of 0.4.0.
        chosen = rng.choice(np.arange(n_pre), size=fan_in, replace=False)
        matrix[chosen, post] = _normal(rng, fan_in) * coeff
    return matrix


def _uniform(n_pre: int, n_post: int, coeff: float, rng: RandomSource) -> NDArray[Any]:
    bound = coeff / np.sqrt(n_pre)
    return rng.uniform(-bound, bound, (n_pre, n_post))


def _gaussian(n_pre: int, n_post: int, coeff: float, rng: RandomSource) -> NDArray[Any]:
    return _normal(rng, n_pre, n_post) * coeff


_DRAWS = {"sparse": _sparse, "uniform": _uniform, "gaussian": _gaussian}
