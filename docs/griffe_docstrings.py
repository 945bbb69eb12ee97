"""Reads the docstrings of the package as the tools of the API reference expect them."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object


class Docstrings(Extension):
    """Takes the section `Example:`, as doctests have it here, for the one that griffe calls `Examples:`."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Change the text of a docstring before it is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^( *)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
