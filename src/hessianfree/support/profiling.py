"""Where the time of a call goes: by kinds of work, by Python functions, or as a trace of what JAX runs."""

from __future__ import annotations

import cProfile
import io
import pstats
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: A function as cProfile knows it: its file, line and name; built-in ones have the file "~".
_Function = tuple[str, int, str]

RUNNING, COMPILING, TRACING = "running compiled programs", "compiling them", "tracing and lowering them"
IMPORTING, DRAWING, OURS = "importing modules", "drawing", "Python of this package"
NUMPY, OTHER = "numpy and scipy", "everything else"


class Share(NamedTuple):
    """One kind of work, and the seconds that it took."""

    work: str
    seconds: float


class Profile(NamedTuple):
    """What a call took, in seconds, by kinds of work; the largest first. `stats` are those of cProfile."""

    seconds: float
    shares: list[Share]
    stats: pstats.Stats

    def functions(self, count: int) -> str:
        """The Python functions with the most time of their own, as a table."""
        text = io.StringIO()
        stats, self.stats.stream = self.stats, text  # type: ignore[attr-defined]
        stats.sort_stats("time").print_stats(count)
        lines = text.getvalue().splitlines()
        first = next(i for i, line in enumerate(lines) if line.lstrip().startswith("ncalls"))
        return "\n".join(_short(line) for line in lines[first:] if line.strip())


def profiled(work: Callable[[], Any]) -> Profile:
    """Run something, and see where its time goes. Other threads are not seen.

    Args:
        work: is called once.

    Returns:
        The profile.

    Example:
        >>> profile = profiled(lambda: sorted(range(1000)))
        >>> abs(sum(share.seconds for share in profile.shares) - profile.seconds) < 1e-6
        True
    """
    profiler = cProfile.Profile()
    profiler.runcall(work)
    stats = pstats.Stats(profiler)
    found: dict[str, float] = {}
    for function, (_, _, own, _, callers) in stats.stats.items():  # type: ignore[attr-defined]
        # A built-in function counts for who calls it.
        parts = {caller: times[2] for caller, times in callers.items()} if function[0] == "~" and callers else {}
        for owner, seconds in (parts or {function: own}).items():
            kind = _kind(function) or _kind(owner) or OTHER
            found[kind] = found.get(kind, 0.0) + seconds
    shares = sorted((Share(*item) for item in found.items()), key=lambda share: -share.seconds)
    return Profile(sum(share.seconds for share in shares), shares, stats)


def traced(work: Callable[[], Any], folder: Path) -> str:
    """Run something, and write a trace of what JAX runs into a folder.

    Args:
        work: is called once.
        folder: is made if it is not there.

    Returns:
        Where it is, and how to look at it, in words.
    """
    import jax

    with jax.profiler.trace(str(folder), create_perfetto_trace=True):
        work()
    file = max(folder.rglob("perfetto_trace.json.gz"), key=lambda path: path.stat().st_mtime)
    return f"trace written to {file.parent}; open {file.name} at https://ui.perfetto.dev, or the folder in xprof"


def _kind(function: _Function) -> str:
    """The kind of work that a function does; empty where that depends on who calls it."""
    file, _, name = function
    path = file.replace("\\", "/")
    for kind, folders, names in _KINDS:
        if name in names or any(folder in path for folder in folders):
            return kind
    return ""


# The first that fits counts. Compiled programs are called by C++ code that cProfile does not see: its time counts for
# the function of this package that calls it, or for the one of JAX that waits for the numbers.
_KINDS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (COMPILING, ("jax/_src/compilation_cache", "jax/_src/compiler.py"), ()),
    (RUNNING, ("hessianfree/engine/compilation.py",), ("_value", "block_until_ready", "device_get")),
    (IMPORTING, ("<frozen importlib", "<frozen zipimport", "<frozen abc"), ("<built-in method marshal.loads>",)),
    (IMPORTING, ("/dataclasses.py", "/enum.py", "/typing.py", "/collections/__init__.py"), ()),  # making classes
    (TRACING, ("/jax/", "/jaxlib/", "/optax/"), ()),
    (DRAWING, ("/matplotlib/", "/PIL/"), ()),
    (NUMPY, ("/numpy/", "/scipy/"), ()),
    (OURS, ("/hessianfree/",), ()),
)


def _short(line: str) -> str:
    """A line of the table with its file named by its last two parts."""
    head, separator, where = line.rpartition(" ")
    place, colon, rest = where.partition(":")
    return f"{head}{separator}{'/'.join(Path(place).parts[-2:])}{colon}{rest}" if "/" in place else line
