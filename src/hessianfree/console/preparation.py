"""What is done to data before a network sees them, kept beside the model so that new data are treated alike."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hessianfree.console.examples import FileExamples, FileLayout
from hessianfree.console.scaling import Scaling, fitted, from_lists
from hessianfree.io.files import FileFormatError, read_bytes, write_atomically

EXPECTED = "what hessianfree train writes beside a model"
_REMEDY = "give the folder that hessianfree train wrote, undamaged"
_MAX_BYTES = 1 << 26


@dataclass(frozen=True)
class Preparation:
    """Where inputs and targets are in a file, and how they are scaled.

    Attributes:
        layout: where they are.
        inputs: the scaling of inputs.
        targets: that of numbers to predict; None for classes.
    """

    layout: FileLayout
    inputs: Scaling
    targets: Scaling | None

    def x(self, examples: FileExamples) -> NDArray[Any]:
        """Inputs as the network takes them.

        Raises ValueError if the examples have another number of inputs than the model was made for.
        """
        width, expected = examples.x.shape[-1], len(self.inputs.shift)
        if width != expected:
            raise ValueError(f"The data have {width} inputs, and the model was made for {expected}.")
        return self.inputs.apply(examples.x)

    def y(self, examples: FileExamples) -> NDArray[Any]:
        """Targets as the network takes them."""
        if examples.y is None:
            raise ValueError("The examples were read without their targets.")
        return examples.y if self.targets is None else self.targets.apply(examples.y)

    def numbers(self, outputs: NDArray[Any]) -> NDArray[Any]:
        """Outputs of the network in the unit of the data."""
        return outputs if self.targets is None else self.targets.undo(outputs)

    def save(self, path: Path) -> None:
        """Write it to a JSON file, whole or not at all."""
        described = {
            "version": 1,
            "layout": dataclasses.asdict(self.layout),
            "inputs": self.inputs.as_lists(),
            "targets": None if self.targets is None else self.targets.as_lists(),
        }
        text = json.dumps(described, indent=1, ensure_ascii=False)
        write_atomically(path, lambda file: file.write(text.encode()))


def prepared(layout: FileLayout, training: FileExamples, scale: str, scale_targets: str) -> Preparation:
    """The preparation that training examples make; those to test on have no say in it."""
    numbers = layout.task == "numbers" and training.y is not None
    return Preparation(
        layout, fitted(scale, training.x), fitted(scale_targets, np.asarray(training.y)) if numbers else None
    )


def load(path: Path) -> Preparation:
    """What `save` wrote.

    Raises:
        FileNotFoundError: if the file does not exist.
        FileFormatError: if it is damaged, or of a newer version.
    """
    content = read_bytes(path, max_bytes=_MAX_BYTES, expected=EXPECTED)
    try:
        found = json.loads(content)
        if found["version"] != 1:
            raise FileFormatError(path, f"version {found['version']} of it", EXPECTED, "install a newer hessianfree")
        given = dict(found["layout"])
        for name in ("inputs", "targets"):
            given[name] = tuple(map(str, given[name]))
        given["one_hot"] = {str(name): tuple(map(str, words)) for name, words in given["one_hot"].items()}
        targets = found["targets"]
        scalings = from_lists(found["inputs"]), None if targets is None else from_lists(targets)
        return Preparation(FileLayout(**given), *scalings)
    except FileFormatError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FileFormatError(path, f"something else ({str(error)[:80]})", EXPECTED, _REMEDY) from None
