"""Tables as plain text."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def text_table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """The lines of a table whose columns are as wide as their cells.

    Args:
        rows: the cells of each row, the header among them.
        right: the columns that are flush on the right.

    Example:
        >>> for line in text_table([("name", "count"), ("a", "1,000"), ("bcd", "7")], right=[1]):
        ...     print(line)
        name  count
        a     1,000
        bcd       7
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def cell(text: str, column: int) -> str:
        return text.rjust(widths[column]) if column in right else text.ljust(widths[column])

    return ["  ".join(cell(text, column) for column, text in enumerate(row)).rstrip() for row in rows]
