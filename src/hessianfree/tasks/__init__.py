"""Long-memory tasks for recurrent networks, and settings that solve them: `hf.tasks`."""

from hessianfree.tasks.sequences import (
    ALL,
    SOLVED,
    TOLERANCE,
    Task,
    marked_pair,
    memorization,
    random_permutation,
    temporal_order,
)
from hessianfree.tasks.solving import TESTED, Attempt, Check, network, optimizer, solve

__all__ = [
    "ALL",
    "SOLVED",
    "TESTED",
    "TOLERANCE",
    "Attempt",
    "Check",
    "Task",
    "marked_pair",
    "memorization",
    "network",
    "optimizer",
    "random_permutation",
    "solve",
    "temporal_order",
]
