"""What a callback is: any object with at least one of four methods."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

from hessianfree.training.results import Epoch, Result, Run


class OnStart(Protocol):
    """A callback that is called before the first update."""

    def on_start(self, run: Run) -> object:
        """Begin to follow a run.

        Args:
            run: a live view of it, with `params`, `best_params`, `best_error`, `epochs` and `begun`, the records of the
                epoch under way. Keep it, and look at the parameters later on. A run that is resumed has epochs already.
        """


class OnUpdate(Protocol):
    """A callback that is called after each update."""

    def on_update(self, epoch_number: int, update: int, updates: int | None, record: Any) -> object:
        """Follow an update.

        A callback with an attribute `records_only = True` says that this method looks at its arguments alone, and
        computes nothing with JAX. First-order updates are then still made many in one compiled call, and the method is
        called for all of them after it.

        Args:
            epoch_number: of its epoch, from 0.
            update: its number within the epoch, from 0.
            updates: updates in the epoch, None where the data do not know it.
            record: what the optimizer says of it; `hessianfree.callbacks` lists the fields.

        Returns:
            True to end the run.
        """


class OnEpoch(Protocol):
    """A callback that is called after each epoch."""

    def on_epoch(self, epoch: Epoch) -> object:
        """Follow an epoch; one that Ctrl-C or `max_seconds` ended within is in the result only.

        Args:
            epoch: its `number`, `test_error`, `seconds` and `updates`, the records.

        Returns:
            True to end the run.
        """


class OnEnd(Protocol):
    """A callback that is called once, however the run ended, unless by an exception."""

    def on_end(self, result: Result) -> object:
        """See how the run ended.

        Args:
            result: what the run returns.
        """


Callback: TypeAlias = OnStart | OnUpdate | OnEpoch | OnEnd
