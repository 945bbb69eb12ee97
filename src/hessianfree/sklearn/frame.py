"""What surrounds the weights of a fitted network: its structure, what its outputs mean, and the units of its data."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from hessianfree.networks.ffnet import FFNet
from hessianfree.sklearn.dense import DenseNetwork, DenseObjective
from hessianfree.sklearn.links import Link

Floats = NDArray[Any]


class WeightedData(NamedTuple):
    """Inputs (B, n), targets (B, m) and weights (B,), in the units that the network sees."""

    x: Floats
    t: Floats
    weights: Floats


class DataUnits(NamedTuple):
    """Numbers v are taken as (v - mean) / scale, column by column."""

    mean: Floats
    scale: Floats

    def taken(self, values: Floats) -> Floats:
        """Values (B, n) in these units."""
        return (values - self.mean) / self.scale

    def given_back(self, values: Floats) -> Floats:
        """Values (B, n) from these units."""
        return values * self.scale + self.mean


def units_of(scaler: StandardScaler | None, columns: int) -> DataUnits:
    """The units of a fitted scaler; those that change nothing without one."""
    return DataUnits(np.zeros(columns), np.ones(columns)) if scaler is None else DataUnits(scaler.mean_, scaler.scale_)


class Frame(NamedTuple):
    """What weights belong to; without a scaler, data are taken as they are."""

    structure: DenseNetwork
    link: Link
    x_scaler: StandardScaler | None
    y_scaler: StandardScaler | None

    @property
    def inputs(self) -> DataUnits:
        """The units of inputs."""
        return units_of(self.x_scaler, self.structure.shape[0])

    @property
    def targets(self) -> DataUnits:
        """The units of targets."""
        return units_of(self.y_scaler, self.structure.shape[-1])

    def examples(self, x: Floats, t: Floats, weights: Floats) -> WeightedData:
        """Data in these units."""
        return WeightedData(self.inputs.taken(x), self.targets.taken(t), weights)

    def objective(self, data: WeightedData, decay: float) -> DenseObjective:
        """The loss on data as a function of the weights."""
        return DenseObjective(self.structure, self.link, *data, decay)

    def outputs(self, flat: Floats, x: Floats) -> Floats:
        """What these weights make of inputs before the nonlinearity of the last layer, (B, m)."""
        return self.targets.given_back(self.structure.outputs(flat, self.inputs.taken(x)))

    def network(self, flat: Floats, seed: int = 0) -> FFNet:
        """The network with these weights, in float32, which takes data in these units."""
        layers = ["Linear", *[self.structure.activation] * (len(self.structure.shape) - 2), self.link.layer]
        weights = flat.astype(np.float32)
        return FFNet(self.structure.shape, layers=layers, loss_type=self.link.loss(), load_weights=weights, rng=seed)

    def without_units(self) -> Frame:
        """The frame that takes data as they are."""
        return self._replace(x_scaler=None, y_scaler=None)


def moved(flat: Floats, before: Frame, after: Frame) -> Floats:
    """The weights that compute in the units of one frame what these compute in those of another.

    With u = (v - m) / s and u' = (v - m') / s' the first layer's W, b become W s'/s row by row, b + ((m' - m) / s) W,
    and the last one's W s/s' column by column, (b s + m - m') / s'.
    """
    found = np.array(flat, float)
    layers = before.structure.views(found)
    (m, s), (new_m, new_s) = before.inputs, after.inputs
    W, b = layers[0]
    b += ((new_m - m) / s) @ W
    W *= (new_s / s)[:, None]
    (m, s), (new_m, new_s) = before.targets, after.targets
    W, b = layers[-1]
    W *= s / new_s
    b[:] = (b * s + m - new_m) / new_s
    return found
