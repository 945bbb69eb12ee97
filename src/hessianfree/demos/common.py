"""What the demos share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def print_outputs(inputs: NDArray[Any], targets: NDArray[Any], outputs: NDArray[Any]) -> None:
    """Print input, target and network output of every example.

    Args:
        inputs: (N, n_0).
        targets: (N, n_out).
        outputs: (N, n_out).
    """
    with np.printoptions(precision=4, suppress=True):
        for x, t, o in zip(inputs, targets, outputs, strict=True):
            print(f"input {x}  target {t}  output {o}")
