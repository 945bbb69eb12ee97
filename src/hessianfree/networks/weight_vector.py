"""What networks share about their weights: ONE flat numpy vector, its views, its mask and its initial values.

Layout: connections by `pre` ascending, then as listed in `conns[pre]`; each is its matrix W (n_pre, n_post) row by
row, then its bias b (n_post).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessianfree.networks.model.wiring import Connection, Params
from hessianfree.support import checks
from hessianfree.support.keys import Unkeyable

Floats = NDArray[Any]

#: Connections drawn to each unit by the sparse initialisation (Martens 2010, section 5).
SPARSE_FAN_IN = 15


class WeightVector(Unkeyable):
    """A network's weights: connections in layout order, recurrent ones (l, l) after all others.

    With `debug`, loaded weights may have another type.
    """

    def __init__(
        self, shape: tuple[int, ...], connections: Sequence[Connection], dtype: np.dtype[Any], rng: Any, debug: bool
    ) -> None:
        self.shape, self.dtype, self.rng, self.debug = shape, dtype, rng, debug
        self.offsets: dict[Connection, tuple[int, int, int]] = {}  # start, end of W, end of b
        end = 0
        for pre, post in connections:
            start, middle = end, end + shape[pre] * shape[post]
            end = middle + shape[post]
            self.offsets[pre, post] = (start, middle, end)
        self._W: Floats = np.zeros(end, dtype)
        self._mask: NDArray[np.bool_] | None = None

    @property
    def W(self) -> Floats:
        """All weights, one flat vector; writable in place and through the views of `get_weights`."""
        return self._W

    @W.setter
    def W(self, value: ArrayLike) -> None:
        array = np.array(checks.numeric("weights", value), self.dtype)
        self._check_length(array)
        checks.finite("weights", array, allow_nan=False)
        self._W[:] = array  # in place: views of the vector stay views of it

    def _check_length(self, array: Floats) -> None:
        if array.shape != self._W.shape:
            raise IndexError(
                f"The weights have shape {array.shape}, but a network of shape {list(self.shape)} has "
                f"{self._W.size} in one flat vector."
            )

    def _fill(self, given: Any, init_params: Mapping[str, Any], recurrent_params: Mapping[str, Any]) -> None:
        """Load the initial weights, or draw them, recurrent ones after all others."""
        if given is not None:
            array = given if isinstance(given, np.ndarray) else _load(given)
            if array.dtype != self.dtype and not self.debug:
                raise TypeError(f"load_weights has dtype {array.dtype}, the network {self.dtype}; convert with astype.")
            self.W = array
            return
        forward = [(self.shape[pre], self.shape[post]) for pre, post in self.offsets if pre != post]
        recurrent = [(self.shape[pre], self.shape[post]) for pre, post in self.offsets if pre == post]
        drawn = self.init_weights(forward, **init_params)
        self.W = np.concatenate([drawn, self.init_weights(recurrent, **recurrent_params)]) if recurrent else drawn

    def init_weights(
        self,
        shapes: Sequence[Connection],
        coeff: float | Sequence[float] = 1.0,
        biases: float | Sequence[float] = 0.0,
        init_type: str = "sparse",
    ) -> Floats:
        """Draw weights for matrices of these shapes, in order; the network itself is not changed.

        Args:
            shapes: (n_pre, n_post) of each matrix.
            coeff: scale, one for all or one per matrix.
            biases: value of the biases, one for all or one per matrix.
            init_type: "sparse", "uniform" or "gaussian".

        Returns:
            One flat vector: each matrix row by row, followed by its bias.

        Raises:
            ValueError: if there is no such `init_type`, or a list has the wrong length.
        """
        if init_type not in _DRAWS:
            raise ValueError(f"init_type is {init_type!r}; the choices are {', '.join(map(repr, _DRAWS))}.")
        coeffs, bias_values = _per_matrix("coeff", coeff, len(shapes)), _per_matrix("biases", biases, len(shapes))
        parts = []
        for (n_pre, n_post), c, b in zip(shapes, coeffs, bias_values, strict=True):
            parts += [_DRAWS[init_type](n_pre, n_post, c, self.rng).ravel(), np.full(n_post, b, float)]
        return np.concatenate(parts).astype(self.dtype)

    def get_weights(self, params: Floats, conn: Connection) -> tuple[Floats, Floats] | None:
        """Matrix and bias of one connection, as views of `params`.

        Args:
            params: a flat vector such as `net.W`.
            conn: (pre, post); (l, l) for the recurrent weights of layer l.

        Returns:
            (W (n_pre, n_post), b (n_post)), or None where there is no such connection.
        """
        return self._views(params, conn) if conn in self.offsets else None

    def _views(self, flat: Floats, conn: Connection) -> tuple[Floats, Floats]:
        start, middle, end = self.offsets[conn]
        return flat[start:middle].reshape(self.shape[conn[0]], self.shape[conn[1]]), flat[middle:end]

    def params(self, flat: ArrayLike | None = None) -> Params:
        """A flat vector, `net.W` by default, as {(pre, post): (W, b)} of views."""
        vector = self.W if flat is None else np.asarray(flat, self.dtype)
        self._check_length(vector)
        return {conn: self._views(vector, conn) for conn in self.offsets}

    def flat(self, params: Params) -> Floats:
        """The flat vector of {(pre, post): (W, b)}."""
        return np.concatenate([np.asarray(part, self.dtype).ravel() for c in self.offsets for part in params[c]])

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Weights that no update may change, (P,) booleans or None; settable by any index of `W`."""
        return self._mask

    @mask.setter
    def mask(self, index: Any) -> None:
        self._mask = None if index is None else checks.mask(index, self.W.size)

    def free(self) -> Params | None:
        """1 where a weight may change, 0 where `mask` holds it; None without a mask."""
        return None if self.mask is None else self.params(~self.mask)


def _load(path: Any) -> NDArray[Any]:
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
