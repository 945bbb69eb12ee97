"""What networks share about their weights: ONE flat numpy vector, its views, its mask and its initial values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hessianfree.networks.model import weights
from hessianfree.networks.model.weights import Connection, Offsets, Params, RandomSource
from hessianfree.support import checks
from hessianfree.support.keys import Unkeyable

Floats = NDArray[Any]


class WeightVector(Unkeyable):
    """A network's weights: connections in layout order, recurrent ones (l, l) after all others.

    Args:
        shape: units per layer.
        connections: (pre, post) pairs in layout order.
        dtype: of the weights.
        rng: source of random numbers.
        debug: whether loaded weights may have another type.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        connections: Sequence[Connection],
        dtype: np.dtype[Any],
        rng: RandomSource,
        debug: bool,
    ) -> None:
        self.shape, self.dtype, self.rng, self.debug = shape, dtype, rng, debug
        self.offsets: Offsets = weights.layout(shape, connections)
        self._W: Floats = np.zeros(max(end for _, _, end in self.offsets.values()), dtype)
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

    def _fill(self, load: Any, init_params: Mapping[str, Any], recurrent_params: Mapping[str, Any]) -> None:
        """Load the initial weights, or draw them."""
        self.W = self._drawn_weights(init_params, recurrent_params) if load is None else self._loaded_weights(load)

    def _loaded_weights(self, load: Any) -> Floats:
        array = load if isinstance(load, np.ndarray) else weights.load(load)
        if array.dtype != self.dtype and not self.debug:
            raise TypeError(f"load_weights has dtype {array.dtype}, the network {self.dtype}; convert with astype.")
        return array

    def _drawn_weights(self, init_params: Mapping[str, Any], recurrent_params: Mapping[str, Any]) -> Floats:
        """Initial weights; recurrent ones are drawn after all others."""
        forward = [(self.shape[pre], self.shape[post]) for pre, post in self.offsets if pre != post]
        recurrent = [(self.shape[pre], self.shape[post]) for pre, post in self.offsets if pre == post]
        drawn = self.init_weights(forward, **init_params)
        return np.concatenate([drawn, self.init_weights(recurrent, **recurrent_params)]) if recurrent else drawn

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
        drawn = weights.draw(shapes, self.rng, coeff, biases, init_type)
        return np.concatenate([part.ravel() for pair in drawn for part in pair]).astype(self.dtype)

    def get_weights(self, params: Floats, conn: Connection) -> tuple[Floats, Floats] | None:
        """Matrix and bias of one connection, as views of `params`.

        Args:
            params: a flat vector such as `net.W`.
            conn: (pre, post); (l, l) for the recurrent weights of layer l.

        Returns:
            (W (n_pre, n_post), b (n_post)), or None where there is no such connection.
        """
        if conn not in self.offsets:
            return None
        return weights.views(params, self.shape, {conn: self.offsets[conn]})[conn]

    def params(self, flat: ArrayLike | None = None) -> Params:
        """A flat vector, `net.W` by default, as {(pre, post): (W, b)} of views."""
        vector = self.W if flat is None else np.asarray(flat, self.dtype)
        self._check_length(vector)
        return weights.views(vector, self.shape, self.offsets)

    def flat(self, params: Params) -> Floats:
        """The flat vector of {(pre, post): (W, b)}."""
        return weights.flatten(params, self.offsets, self.dtype)

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """Weights that no update may change, (P,) booleans or None; settable by any index of `W`."""
        return self._mask

    @mask.setter
    def mask(self, index: Any) -> None:
        self._mask = None if index is None else checks.mask(index, self.W.size)

    def free(self) -> Params | None:
        """1 where a weight may change, 0 where `mask` holds it; None without a mask."""
        if self.mask is None:
            return None
        return self.params(~self.mask)
