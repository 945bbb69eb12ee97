"""What every optimizer is: something that computes an update of a network's weights from its cached minibatch."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from hessianfree.support.keys import Unkeyable

Floats = NDArray[Any]


def check_state(state: Any, kind: type) -> None:
    """Tell of a state that is none of this optimizer's.

    Raises:
        TypeError: for something else than `kind`.
    """
    if not isinstance(state, kind):
        raise TypeError(
            f"The state is a {type(state).__name__}; the one from init(params) or the last step is expected."
        )


class Optimizer(Unkeyable):
    """Base class; an optimizer of your own defines `compute_update`.

    Attributes:
        net: the network, set by `net.optimizer = ...` and by `run_epochs`.
        plots: series for `{prefix}_plots.pkl`, a dict of name -> list.
        record: what happened in the last update, if the optimizer says so.
        keeps_records: whether it does; then `run_epochs` reports from the records, and asks for no printing.
        full_batches: whether every update sees all the data; `run_epochs` and `fit` say so while they run.
    """

    keeps_records = False
    full_batches = True

    def __init__(self) -> None:
        self._net: Any = None
        self.plots: dict[str, list[float]] = {}
        self.record: Any = None

    @property
    def net(self) -> Any:
        """The network whose weights are optimized; setting another one calls `begin`."""
        if self._net is None:
            raise RuntimeError("The optimizer has no network yet; set net.optimizer, or give it to net.run_epochs.")
        return self._net

    @net.setter
    def net(self, net: Any) -> None:
        changed, self._net = net is not self._net, net
        if changed:
            self.begin()

    def begin(self) -> None:
        """Called when there is a new network: forget what belongs to another one."""

    def compute_update(self, printing: bool = False) -> Floats:
        """The change of the weights for the cached minibatch, (P,).

        Args:
            printing: whether to print details.
        """
        raise NotImplementedError(f"{type(self).__name__} must define compute_update(printing).")

    def plot(self, **series: float) -> None:
        """Append one value to each of these series."""
        for name, value in series.items():
            self.plots.setdefault(name, []).append(value)
