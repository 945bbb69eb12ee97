"""Tables on the terminal and in pipes: columns of plain text, or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hessianfree.support.tables import text_table


def columns(rows: Sequence[Sequence[object]], header: Sequence[str] = ()) -> str:
    """Rows below each other, each column as wide as its widest cell; numbers are on the right.

    Args:
        rows: of cells, all with as many as the header, if there is one; floats are written with four digits.
        header: the names of the columns.

    Example:
        >>> print(columns([["setosa", 13], ["virginica", 9]], ["class", "right"]))
        class      right
        setosa        13
        virginica      9
    """
    right = [i for i, column in enumerate(zip(*rows, strict=True)) if all(isinstance(c, (int, float)) for c in column)]
    texts = [[cell_text(cell) for cell in row] for row in rows]
    return "\n".join(text_table([list(header), *texts] if header else texts, right))


def cell_text(cell: object) -> str:
    """A cell as text: a float with four digits, and nothing for None.

    Example:
        >>> cell_text(0.123456), cell_text(12), cell_text(None), cell_text("a")
        ('0.1235', '12', '', 'a')
    """
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return "" if cell is None else str(cell)


def as_json(found: Mapping[str, Any]) -> str:
    """What was found as JSON, with null where a number is NaN or infinite.

    Example:
        >>> print(as_json({"loss": float("nan")}))
        {
          "loss": null
        }
    """
    return json.dumps(_finite(found), indent=2, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
