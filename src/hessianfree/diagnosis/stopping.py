"""Why a run with test data ends: by overfitting, or because training itself went the wrong way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hessianfree.diagnosis.course import EpochLike

#: How the two causes are named in the reason.
OVERFITTING, DIVERGING = "overfitting", "diverging"
#: What an epoch's mean loss may rise by, relatively, without being called a rise: full batches have no other noise.
UNSEEN = 0.01


def why_worse(epochs: Sequence[EpochLike]) -> str:
    """Why the test error is worse at the last of these epochs than at the first, in words for the result.

    It is overfitting if the training loss has fallen, and divergence if that has risen, too, by more than its noise.
    The training loss is the mean of the losses before the updates of an epoch.
    """
    before, after = (_losses(epoch) for epoch in (epochs[0], epochs[-1]))
    worse = f"the test error is worse than {_spelt(len(epochs) - 1)} epochs before"
    if not before.size or not after.size:
        return f"{worse} (early_stopping=False goes on)"
    change = after.mean() - before.mean()
    error = math.hypot(*(losses.std() / math.sqrt(len(losses)) for losses in (before, after)))
    # Losses of a run that diverges may span so many powers of ten that no mean of them is known.
    beyond = np.median(after) > before.max() + UNSEEN * abs(before.mean())
    if beyond or change > max(2 * error, UNSEEN * abs(before.mean())):
        return (
            f"{worse}, and the training loss has risen from {before.mean():.4g} to {after.mean():.4g} ({DIVERGING}, "
            "not overfitting; hf.diagnose(result) says what to try)"
        )
    if change < -2 * error:
        return f"{worse} ({OVERFITTING}; early_stopping=False goes on)"
    return f"{worse}, while the training loss has hardly changed (early_stopping=False goes on)"


def _losses(epoch: EpochLike) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The finite losses before the updates of an epoch."""
    values = np.array([getattr(record, "value", math.nan) for record in epoch.updates], float)
    return values[np.isfinite(values)]


def _spelt(count: int) -> str:
    return "nine" if count == 9 else str(count)
