"""Let compiled programs go before a process runs out of memory mappings.

On Linux a process may have `vm.max_map_count` memory mappings, 65,530 as a rule, and each compiled program takes a
dozen to a hundred. Where there are no more, the compiler crashes. JAX keeps a program until its caches are cleared;
what is still needed then is compiled again, or taken from the folder of compiled programs.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import jax

logger = logging.getLogger("hessianfree")

#: Programs compiled between two looks at the mappings: looking takes a millisecond for each 5,000 of them.
EVERY = 8
#: Share of the mappings still free after the last clearing that new programs may take. A heuristic: so many programs,
#: of up to a hundred mappings each, must fit into the rest.
SHARE = 0.7
#: Told of each program, whether it is then compiled or taken from the folder of compiled programs.
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_MAPS, _LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")


class Watch:
    """Counts the programs that JAX compiles in this process, the user's own included, and clears its caches in time.

    Args:
        limit: mappings that the process may have; None where the system has no limit that can be read.

    Attributes:
        cleared: how many times the caches were cleared.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit, self.cleared = limit, 0
        self._compiled = self._looked_at = self._kept = 0

    def note(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        """Count a program; JAX calls this for each."""
        self._compiled += event == _LOWERED

    def relieve(self) -> None:
        """Clear JAX's caches if the mappings run short; call it where no program is being compiled."""
        if self.limit is None or self._compiled - self._looked_at < EVERY:
            return
        self._looked_at = self._compiled
        # What was left after the last clearing belongs to others: clearing again would not help against it.
        if count() < self._kept + SHARE * (self.limit - self._kept):
            return
        logger.info("Compiled programs are let go: the process comes near its limit of %d memory mappings.", self.limit)
        jax.clear_caches()
        self.cleared += 1
        self._kept = count()


def count() -> int:
    """Memory mappings of this process."""
    with _MAPS.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


@cache
def watch() -> Watch:
    """The one of this process, told by JAX of each program."""
    try:
        found = Watch(int(_LIMIT.read_text()) if _MAPS.exists() else None)
    except (OSError, ValueError):  # another system than Linux
        found = Watch(None)
    jax.monitoring.register_event_duration_secs_listener(found.note)
    return found
