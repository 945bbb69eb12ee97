"""Checkpoints of a run: when they are taken, what they hold, how they are written, and how a run goes on from one.

A checkpoint is taken between two updates. What it holds does not change any more, so that a thread can write it while
the run goes on. If the disk is slower than the updates, a newer checkpoint takes the place of one that waits.
"""

from __future__ import annotations

import logging
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from hessianfree.devices.fetching import fetched, to_host
from hessianfree.devices.processes import ALONE, Processes
from hessianfree.engine.trees import PyTree
from hessianfree.io import checkpoints as files
from hessianfree.io.archives import Archive, open_archive
from hessianfree.io.files import FileFormatError
from hessianfree.io.locks import Lock
from hessianfree.io.trees import Arrays, pack, unpack
from hessianfree.support import checks
from hessianfree.training import records
from hessianfree.training.leaves import OtherRunError as OtherRunError
from hessianfree.training.leaves import pack_leaves, size_of, unpack_leaves
from hessianfree.training.results import Epoch
from hessianfree.training.writing import Snapshot, Writer

logger = logging.getLogger("hessianfree")
#: Bytes of records and notes at most: about ten million updates.
MOST_NOTES = 1 << 30
_OTHERWISE = "contents that do not fit together", "a checkpoint of this run", "give another file"


class Kept(NamedTuple):
    """What the rest of a run depends on.

    Attributes:
        trees: pytrees of arrays and numbers, whose structure stays the same; nothing changes these arrays in place.
        notes: plain values and arrays: numbers, text, lists, tuples and dicts.
    """

    trees: dict[str, PyTree]
    notes: dict[str, Any]


class Resumable(Protocol):
    """What can be kept and restored."""

    def kept(self) -> Kept:
        """All that the rest of the run depends on."""

    def restore(self, kept: Kept, begun: bool) -> None:
        """Go on from there; `begun` says whether within an epoch."""


@dataclass
class Progress:
    """How far a run has come: complete epochs, records of one that is not complete, seconds, and why it ended."""

    epochs: list[Epoch] = field(default_factory=list)
    begun: list[Any] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""

    @property
    def updates(self) -> int:
        """Updates made."""
        return sum(len(epoch.updates) for epoch in self.epochs) + len(self.begun)


@dataclass(frozen=True)
class CheckpointSettings:
    """Where and when checkpoints are written, and whether to go on from one; see `FFNet.run_epochs`.

    Raises:
        TypeError: if a path is not a path, or `resume` neither a path nor a boolean.
        ValueError: if a number is out of range, or `resume` is True without a path.
        OSError: if there is a folder at a path, or none around it.
    """

    path: Any = None
    every: int | None = None
    seconds: float | None = 60.0
    resume: Any = False

    def __post_init__(self) -> None:
        if self.path is not None:
            files.check_place(self.path)
        if self.every is not None:
            checks.at_least("checkpoint_every", self.every, 1)
        checks.time_limit("checkpoint_seconds", self.seconds)
        if self.resume is True and self.path is None:
            raise ValueError("resume is True, but there is no path; pass checkpoint='run.ckpt', or resume='run.ckpt'.")
        if not isinstance(self.resume, bool):
            files.check_place(self.resume, "resume")

    def due(self, updates: int, seconds: float) -> bool:
        """Whether it is time, so many updates and seconds after the last checkpoint."""
        by_count = self.every is not None and updates >= self.every
        return by_count or (self.seconds is not None and seconds >= self.seconds)


# ---- a run that keeps checkpoints ------------------------------------------------------------------------------------


class Checkpoints:
    """Takes the checkpoints of one run, and restores it from one. Make it by `keeping`.

    Args:
        settings: where and when.
        trainee: what is trained.
        identity: what the run is of, by names that messages use: a checkpoint of another run is refused.
        plots: series that grow with the run.
        processes: those that share the run. All read a checkpoint, and the first one writes.
    """

    def __init__(
        self,
        settings: CheckpointSettings,
        trainee: Resumable,
        identity: Mapping[str, Callable[[], str]],
        plots: dict[str, list[float]],
        processes: Processes = ALONE,
    ) -> None:
        self.settings, self.trainee, self.plots, self.processes = settings, trainee, plots, processes
        self.identity = {name: said() for name, said in identity.items()}
        writes = settings.path is not None and processes.first
        self._writer = Writer(settings.path) if writes else None
        self._taken, self._taken_at = 0, time.perf_counter()

    def begin(self) -> Progress:
        """Restore the run if it is to go on; else write the first checkpoint, which shows that it can be written.

        Several processes find the same checkpoint: they share the folder.

        Raises:
            FileExistsError: if there is a checkpoint already, and the run is not to go on from it.
            FileNotFoundError: if `resume` names a file that does not exist.
            ValueError: if the checkpoint is of another network, optimizer or data, naming the first difference.
            OSError: if it cannot be written.
        """
        with self.processes.settling():
            found = self._found()
        self.processes.check_same(lambda: {"checkpoint": _which(found)})
        with self.processes.settling():
            progress = Progress() if found is None else self._restored(found)
        snapshot = self._snapshot(progress) if self.settings.path is not None else None
        with self.processes.settling():
            if self._writer is not None and snapshot is not None:
                self._write_first(self._writer, snapshot, found)
        self._taken, self._taken_at = progress.updates, time.perf_counter()
        return progress

    def _found(self) -> files.Found | None:
        """The checkpoint to go on from, None to begin."""
        path, resume = self.settings.path, self.settings.resume
        elsewhere = not isinstance(resume, bool)
        source = resume if elsewhere else path
        found = files.newest(source, self._accept) if resume is not False else None
        if elsewhere and found is None:
            raise FileNotFoundError(f"resume is {os.fspath(source)!r}, but there is no checkpoint.")
        return found

    def _write_first(self, writer: Writer, snapshot: Snapshot, found: files.Found | None) -> None:
        path, resume = self.settings.path, self.settings.resume
        source = path if isinstance(resume, bool) else resume
        if found is not None and os.path.realpath(source) == path:
            return
        if any(map(_holds_updates, (path, files.previous(path)))):
            raise FileExistsError(
                f"There is a checkpoint at {os.fspath(path)} already; pass resume=True to go on from it, or delete "
                "it and the one before it (.previous)."
            )
        writer.write_now(snapshot)

    def due(self, progress: Progress) -> bool:
        """Whether it is time for a checkpoint, for the process that writes it."""
        updates, seconds = progress.updates - self._taken, time.perf_counter() - self._taken_at
        return self._writer is not None and updates > 0 and self.settings.due(updates, seconds)

    def take(self, progress: Progress) -> None:
        """Take a checkpoint, on every process: each may hold a part of it; call it between updates."""
        self._taken, self._taken_at = progress.updates, time.perf_counter()
        snapshot = self._snapshot(progress)
        if self._writer is not None:
            self._writer.write_soon(snapshot)

    def end(self, progress: Progress) -> str:
        """Take the last checkpoint, and wait until it is on the disk; returns what went wrong, or an empty string."""
        if self.settings.path is None:
            return ""
        snapshot = self._snapshot(progress)
        if self._writer is None:
            return ""
        self._writer.finish()
        try:
            self._writer.write_now(snapshot)
        except Exception as error:  # what was found must not be lost for it
            logger.warning("The last checkpoint could not be written: %s", error)
            return f"the last checkpoint could not be written ({error})"
        return ""

    def close(self) -> None:
        """Wait for what is being written; nothing new is taken."""
        if self._writer is not None:
            self._writer.finish()

    # ---- what a checkpoint holds ---------------------------------------------------------------------------------

    def _snapshot(self, progress: Progress) -> Snapshot:
        """A function that packs the run as it is now; it may be called later, in another thread."""
        kept = self.trainee.kept()
        kept = kept._replace(trees=fetched(kept.trees))
        plots = {name: tuple(values) for name, values in self.plots.items()}
        epochs, begun = list(progress.epochs), list(progress.begun)
        marks = {"seconds": progress.seconds, "reason": progress.reason, "updates": progress.updates}

        def packed() -> tuple[Arrays, dict[str, Any]]:
            arrays: Arrays = {}
            notes = {"run": kept.notes, "plots": {name: np.array(values, float) for name, values in plots.items()}}
            # The epoch that is not complete comes last, as one of its own.
            unfinished = [Epoch(len(epochs), float("nan"), 0.0, begun, {})]
            described = {
                **marks,
                "identity": self.identity,
                "versions": _versions(),
                "trees": {name: pack_leaves(tree, arrays, name) for name, tree in kept.trees.items()},
                "notes": pack(notes, arrays, "notes"),
                "records": records.pack_epochs(epochs + unfinished, arrays),
            }
            return arrays, described

        return packed

    def _restored(self, found: files.Found) -> Progress:
        described, arrays = found.description, found.arrays
        try:
            own = self.trainee.kept()
            trees = {
                name: unpack_leaves(described["trees"][name], arrays, tree, name) for name, tree in own.trees.items()
            }
            if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(to_host(trees["params"]))):
                raise ValueError("its parameters are not finite")
            notes = unpack(described["notes"], arrays)
            plots = {str(name): values.tolist() for name, values in notes["plots"].items()}
            *epochs, unfinished = (Epoch(*row) for row in records.unpack_epochs(described["records"], arrays))
            progress = Progress(epochs, unfinished.updates, float(described["seconds"]), str(described["reason"]))
            try:
                self.trainee.restore(Kept(trees, notes["run"]), begun=bool(progress.begun))
            except Exception:
                self.trainee.restore(own, begun=False)  # as it was: nothing is left half restored
                raise
            self.plots.clear()
            self.plots.update(plots)
            return progress
        except OtherRunError:
            raise
        except (LookupError, AttributeError, OverflowError, TypeError, ValueError) as error:
            what = f"contents that do not fit together ({type(error).__name__}: {error})"
            raise FileFormatError(found.path, what, "a checkpoint of this run", "give another file") from error

    def _accept(self, archive: Archive) -> None:
        """Refuse the checkpoint of another run, and one that is larger than it can be, by its header alone."""
        try:
            theirs, versions = dict(archive.description["identity"]), dict(archive.description["versions"])
        except (LookupError, TypeError, ValueError):
            raise FileFormatError(archive.path, *_OTHERWISE) from None
        self._compare(archive.path, theirs, versions)
        own = size_of(self.trainee.kept().trees)
        size = sum(known.nbytes for known in archive.types.values())
        if size > own + MOST_NOTES:
            what = f"{size:,} bytes of arrays, where this run has {own:,} and its records"
            raise FileFormatError(archive.path, what, "a checkpoint of this run", "give another file")

    def _compare(self, path: str | os.PathLike[str], theirs: dict[str, Any], versions: dict[str, Any]) -> None:
        """Refuse the checkpoint of another run; only tell of other versions."""
        for name, value in self.identity.items():
            if theirs.get(name) != value:
                was, now = differing(str(theirs.get(name)), value)
                raise OtherRunError(
                    f"The checkpoint {os.fspath(path)} is of another run. Its {name}: {was}; given: {now}. Give "
                    "what it was made with, or another path."
                )
        if others := [name for name, value in _versions().items() if versions.get(name) != value]:
            logger.warning(
                "The checkpoint was written with other versions of %s: the rest of the run may differ by rounding from "
                "one that was not interrupted.",
                ", ".join(others),
            )


def _which(found: files.Found | None) -> str:
    """Which checkpoint was found."""
    return "none" if found is None else f"after {found.description.get('updates')} updates"


def _holds_updates(place: str | os.PathLike[str]) -> bool:
    """Whether there is a file that is worth keeping: anything but the checkpoint of a run that came to nothing."""
    try:
        return open_archive(place, files.CHECKPOINT).description.get("updates") != 0
    except FileNotFoundError:
        return False
    except FileFormatError:
        return True


def differing(one: str, other: str, most: int = 200) -> tuple[str, str]:
    """Two texts, each cut to the part around their first difference.

    Example:
        >>> differing("KFAC(every=1, decay=0.95)", "KFAC(every=2, decay=0.95)", most=9)
        ('...every=1, ...', '...every=2, ...')
    """
    if max(len(one), len(other)) <= most:
        return one, other
    pairs = enumerate(zip(one, other, strict=False))
    same = next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
    start = max(one.rfind(mark, 0, same) + 1 for mark in " (")

    def cut(text: str) -> str:
        return f"{'...' if start else ''}{text[start : start + most]}{'...' if start + most < len(text) else ''}"

    return cut(one), cut(other)


@contextmanager
def keeping(
    settings: CheckpointSettings,
    trainee: Resumable,
    identity: Mapping[str, Callable[[], str]],
    plots: dict[str, list[float]] | None = None,
    processes: Processes = ALONE,
) -> Iterator[Checkpoints | None]:
    """The checkpoints of a run, its path locked; None if none are asked for.

    Raises InUseError if another run has the same path.
    """
    if settings.path is None and settings.resume is False:
        yield None
        return
    if settings.path is not None:  # one place, by whatever name, and wherever a callback changes the folder to
        settings = replace(settings, path=os.path.realpath(settings.path))
    made = Checkpoints(settings, trainee, identity, {} if plots is None else plots, processes)
    if settings.path is None or not processes.first:
        with processes.settling():
            pass
        yield made
        return
    with ExitStack() as stack:
        with processes.settling():
            stack.enter_context(Lock(settings.path))
            files.remove_unfinished(settings.path)
        try:
            yield made
        finally:
            made.close()


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"python": platform.python_version(), "jax": jax.__version__, "hessianfree": version("hessianfree-jax")}
