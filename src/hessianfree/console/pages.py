"""What the demos say of themselves, read from their sources: neither JAX nor a demo is imported for that."""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import hessianfree

_FOLDER = Path(str(hessianfree.__file__)).parent / "demos"
_SECTIONS = ("Args:", "Returns:", "Raises:", "Example:", "Source:")


class DemoArgument(NamedTuple):
    """One argument of a demo: its name, its default as it is written (None without one), and what it means."""

    name: str
    default: str | None
    meaning: str


class DemoPage(NamedTuple):
    """A demo: its name, what it does in a line, more about it, and its arguments."""

    name: str
    summary: str
    description: str
    arguments: tuple[DemoArgument, ...]


@cache
def pages() -> dict[str, DemoPage]:
    """The pages of all demos by name, in the order in which `hessianfree.demos` lists them.

    Example:
        >>> pages()["xor"].arguments[0][:2]
        ('use_hf', 'True')
    """
    listing = ast.parse((_FOLDER / "__init__.py").read_text("utf-8"))
    files = {
        alias.name: f"{node.module.rpartition('.')[2]}.py"
        for node in listing.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    (names,) = (
        [element.id for element in node.value.elts if isinstance(element, ast.Name)]
        for node in listing.body
        if isinstance(node, ast.Assign)
        and ast.unparse(node.targets[0]) == "DEMOS"
        and isinstance(node.value, ast.Tuple)
    )
    return {name: _page(name, _FOLDER / files[name]) for name in names}


def _page(name: str, file: Path) -> DemoPage:
    tree = ast.parse(file.read_text("utf-8"))
    (function,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name)
    text = inspect.cleandoc(ast.get_docstring(function) or "")
    summary, _, rest = text.partition("\n\n")
    description, meanings = _split(rest)
    parameters = function.args.args
    defaults = [None] * (len(parameters) - len(function.args.defaults)) + [
        ast.unparse(d) for d in function.args.defaults
    ]
    arguments = [DemoArgument(p.arg, d, meanings.get(p.arg, "")) for p, d in zip(parameters, defaults, strict=True)]
    return DemoPage(name, " ".join(summary.split()), description.strip(), tuple(arguments))


def _split(text: str) -> tuple[str, dict[str, str]]:
    """The description above the sections of a docstring, and what its section on arguments says of each."""
    parts: dict[str, list[str]] = {"": []}
    section = ""
    for line in text.splitlines():
        if line in _SECTIONS or line.startswith("Source:"):
            section = line.partition(":")[0]
        parts.setdefault(section, []).append(line)
    meanings: dict[str, list[str]] = {}
    for line in parts.get("Args", [])[1:]:
        if found := re.match(r" {4}(\w+): (.*)", line):
            name = found[1]
            meanings[name] = [found[2]]
        elif line.strip():
            meanings[name].append(line.strip())
    return "\n".join(parts[""]), {name: " ".join(lines) for name, lines in meanings.items()}
