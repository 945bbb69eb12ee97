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
    spectral_radius: float | Sequence[float] | None = None,
) -> NDArray[Any]:
    """Each matrix row by row, followed by its bias, in float64; see `FFNet.init_weights`."""
    if init_type not in _DRAWS:
        raise ValueError(f"init_type is {init_type!r}; the choices are {', '.join(map(repr, _DRAWS))}.")
    radii = [None] * len(shapes) if spectral_radius is None else _radii(spectral_radius, coeff, shapes)
    coeffs, bias_values = _per_matrix("coeff", coeff, len(shapes)), _per_matrix("biases", biases, len(shapes))
    parts = []
    for (n_pre, n_post), c, b, radius in zip(shapes, coeffs, bias_values, radii, strict=True):
        matrix = _DRAWS[init_type](n_pre, n_post, c, rng)
        parts += [_scaled(matrix, radius).ravel(), np.full(n_post, b, float)]
    return np.concatenate(parts)


def _radii(
    spectral_radius: float | Sequence[float], coeff: float | Sequence[float], shapes: Sequence[tuple[int, int]]
) -> list[float]:
    """The spectral radius of each matrix, checked."""
    if np.ndim(coeff) or coeff != 1:
        raise ValueError(
            f"coeff is {coeff!r} and spectral_radius {spectral_radius!r}; both set the scale of a matrix; give one."
        )
    radii = _per_matrix("spectral_radius", spectral_radius, len(shapes))
    if bad := [radius for radius in radii if not 0 <= radius < np.inf]:
        raise ValueError(f"spectral_radius is {bad[0]!r}; a finite number >= 0 is expected.")
    if wide := [shape for shape in shapes if shape[0] != shape[1]]:
        raise ValueError(
            f"spectral_radius is given for a matrix of shape {wide[0]}, which has no eigenvalues; it goes with "
            "recurrent weights: W_rec_params={'spectral_radius': 1.0}."
        )
    return radii


def _scaled(matrix: NDArray[Any], radius: float | None) -> NDArray[Any]:
    """The matrix with its largest eigenvalue, by magnitude, at the radius."""
    if radius is None:
        return matrix
    found = float(np.abs(np.linalg.eigvals(matrix)).max())
    return matrix * (radius / found) if found > 0 else matrix


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


def _orthogonal(n_pre: int, n_post: int, coeff: float, rng: Any) -> NDArray[Any]:
    """Orthonormal rows or columns, of which there are fewer, uniformly distributed (Mezzadri 2007)."""
    Q, R = np.linalg.qr(_normal(rng, max(n_pre, n_post), min(n_pre, n_post)))
    Q = Q * np.sign(np.diag(R))
    return coeff * (Q if n_pre >= n_post else Q.T)


_DRAWS = {"sparse": _sparse, "uniform": _uniform, "gaussian": _gaussian, "orthogonal": _orthogonal}
