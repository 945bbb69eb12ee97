"""Files that tell of a run, and their figures: a plots file, a checkpoint, a saved result."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from hessianfree.diagnosis.course import RunCourse
from hessianfree.io.archives import is_archive
from hessianfree.io.files import FileFormatError
from hessianfree.io.plots import Series, UnfinishedFileError, read_series
from hessianfree.plotting import series, story
from hessianfree.plotting.course import read_course

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Content: TypeAlias = Series | RunCourse


def read(path: str | os.PathLike[str]) -> Content:
    """Read such a file, without running anything it contains.

    Returns:
        The series of a plots file, or the course of a run.

    Raises:
        FileNotFoundError: if the file does not exist.
        UnfinishedFileError: if it is not whole, or was replaced while it was read; it may be whole a moment later.
        FileFormatError: if it is of another kind, or could run code.
    """
    if not is_archive(path):
        return read_series(path)
    before = os.stat(path)
    try:
        return read_course(path)
    except FileFormatError as error:
        if os.path.samestat(before, os.stat(path)):
            raise
        raise UnfinishedFileError(*error.args) from error


def new_figure(content: Content) -> Figure:
    """An empty figure of the size that this needs, that pyplot does not know yet."""
    return story.new_figure() if isinstance(content, RunCourse) else series.new_figure(len(content))


def draw(figure: Figure, content: Content) -> None:
    """Draw it onto a figure, or update what an earlier call drew."""
    if isinstance(content, RunCourse):
        story.draw(figure, content)
    else:
        series.draw(figure, content)


def figure_of(content: Content) -> Figure:
    """A new figure of it."""
    figure = new_figure(content)
    draw(figure, content)
    return figure
