"""The folder of a training run: what is in it, and when one that exists is taken."""

from __future__ import annotations

from pathlib import Path

from hessianfree.io.files import write_atomically

SETTINGS, MODEL, PREPARATION = "config.toml", "model.safetensors", "preparation.json"
RESULT, HISTORY, FIGURE, REPORT = "result.safetensors", "history.csv", "figure.png", "report.md"
CHECKPOINT, SERIES = "run.ckpt", "plots.pkl"
#: What a run writes, in the order of interest, and what each file is.
FILES = {
    REPORT: "data, network, settings, result and figure",
    MODEL: "the network with its best weights, for hessianfree predict and hf.load",
    PREPARATION: "how data are read and scaled for it",
    HISTORY: "every update and epoch",
    FIGURE: "the course of the run",
    RESULT: "all of it for hf.load",
    SERIES: "the series for hessianfree plot",
    SETTINGS: "the settings, for hessianfree train --config",
    CHECKPOINT: "where --resume goes on",
}


class RunFolder:
    """The folder of one run.

    Args:
        path: of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def check(self, force: bool, resume: bool) -> None:
        """Refuse a folder that is there, unless it is empty, to be replaced, or one of a run to go on with.

        Raises:
            FileExistsError: if it is there.
            FileNotFoundError: if the run in it kept no checkpoint.
            NotADirectoryError: if it is a file.
        """
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"{self.path} is a file; name another folder by --output")
        if not self.path.exists() or not any(self.path.iterdir()) or force:
            return
        if not resume:
            raise FileExistsError(
                f"the folder {self.path} is there already; name another one by --output, replace the run in it by "
                "--force, or go on with it by --resume"
            )
        if not (self / SETTINGS).exists():
            raise FileNotFoundError(
                f"{self.path} is no folder of a run: it lacks {SETTINGS}; name another one by --output"
            )
        if (self / MODEL).exists() and not (self / CHECKPOINT).exists():
            raise FileNotFoundError(
                f"the run in {self.path} kept no {CHECKPOINT}, so it cannot go on; --force starts anew"
            )

    def begin(self, settings: str, resume: bool) -> None:
        """Make the folder, remove what another run left in it, and write the settings."""
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            for name in [*FILES, f"{CHECKPOINT}.previous"]:
                (self / name).unlink(missing_ok=True)
        self.write(SETTINGS, settings)

    def write(self, name: str, text: str) -> None:
        """Write a file of text, whole or not at all."""
        write_atomically(self / name, lambda file: file.write(text.encode()))

    def written(self) -> list[tuple[str, str]]:
        """The files that are there, and what each is."""
        return [(name, what) for name, what in FILES.items() if (self / name).exists()]
