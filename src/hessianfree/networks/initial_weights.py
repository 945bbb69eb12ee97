"""Initial weights of a network: drawn, or read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Connections drawn to each unit by the sparse initialisation (Martens 2010, section 5).
SPARSE_FAN_IN = 15


def load(path: Any) -> NDArray[Any]:
    """Read a flat vector from a `.npy` file; nothing in it can execute."""
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, TypeError) as error:
        raise ValueError(
            f"load_weights: {path!r} is not a .npy file of numbers; write it with np.save(path, net.W)."
        ) from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"load_weights: {path!r} is an archive; one array in a .npy file is expected.")
    return array


def drawn(
    shapes: Sequence[tuple[int, int]],
    coeff: float | Sequence[float],
    biases: float | Sequence[float],
    init_type: str,
    rng: Any,
) -> NDArray[Any]:
    """Each matrix row by row, followed by its bias, in float64; see `FFNet.init_weights`."""
    if init_type not in _DRAWS:
        raise ValueError(f"init_type is {init_type!r}; the choices are {', '.join(map(repr, _DRAWS))}.")
    coeffs, bias_values = _per_matrix("coeff", coeff, len(shapes)), _per_matrix("biases", biases, len(shapes))
    parts = []
    for (n_pre, n_post), c, b in zip(shapes, coeffs, bias_values, strict=True):
        parts += [_DRAWS[init_type](n_pre, n_post, c, rng).ravel(), np.full(n_post, b, float)]
    return np.concatenate(parts)


def _per_matrix(name: str, value: float | Sequence[float], count: int) -> list[float]:
    if np.ndim(value) == 0:
        return [float(value)] * count  # type: ignore[arg-type]
    values = [float(item) for item in value]  # type: ignore[union-attr]
    if len(values) != count:
        raise ValueError(f"{name} lists {len(values)} values, but there are {count} weight matrices; give one each.")
    return values


def _normal(rng: Any, *shape: int) -> NDArray[Any]:
    """Standard normal draws; RandomState and Generator spell them differently."""
    return rng.randn(*shape) if hasattr(rng, "randn") else rng.standard_normal(shape)


def _sparse(n_pre: int, n_post: int, coeff: float, rng: Any) -> NDArray[Any]:
    matrix = np.zeros((n_pre, n_post))
    fan_in = min(SPARSE_FAN_IN, n_pre)
    for post in range(n_post):
        # The order of these two draws is part of the interface: seeds reproduce the weights of 0.4.0.
        chosen = rng.choice(np.arange(n_pre), size=fan_in, replace=False)
        matrix[chosen, post] = _normal(rng, fan_in) * coeff
    return matrix


def _uniform(n_pre: int, n_post: int, coeff: float, rng: Any) -> NDArray[Any]:
    bound = coeff / np.sqrt(n_pre)
    return rng.uniform(-bound, bound, (n_pre, n_post))


def _gaussian(n_pre: int, n_post: int, coeff: float, rng: Any) -> NDArray[Any]:
    return _normal(rng, n_pre, n_post) * coeff


_DRAWS = {"sparse": _sparse, "uniform": _uniform, "gaussian": _gaussian}
