"""Figures that notebooks show, made without pyplot."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class InlineFigure(Figure):
    """A figure that a notebook shows where it is the value of a cell; it belongs to nobody and needs no display."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
