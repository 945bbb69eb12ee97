"""docs/arena/index.md: what every row of the arena says, with its peers and the machine, from the files beside it.

Each row writes it again when it is measured.

Run: python benchmarks/arena_index.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "arena"
#: Characters of a verdict at most; its page has the rest.
LONGEST = 120


def text(folder: Path) -> str:
    """The page, from the JSON files in a folder."""
    rows = sorted((json.loads(path.read_text()) for path in folder.glob("*.json")), key=lambda row: _place(row["row"]))
    lines = ["# Every row of the arena", ""]
    lines += ["Each page has the table behind these figures. Peers run on the same machine as ours, in the same run."]
    for row in rows:
        lines += ["", f"## [{row['row']}]({row['row'].lower()}.md): {row['title']}", ""]
        lines += [f"- {bar}: **{_short(verdict)}**" for bar, verdict in row["verdicts"].items()]
        peers = ", ".join(f"{name} ({_versions(known)})" for name, known in row.get("peers", {}).items())
        machine = row["machine"]
        where = f"{machine['cores']} cores of {machine['processor']}, Python {machine['python']}, jax {machine['jax']}"
        lines += ["", f"{where}{f'; peers: {peers}' if peers else ''}"]
    return "\n".join([*lines, ""])


def _place(row: str) -> tuple[int, str]:
    """The numbered rows first."""
    return (0 if row[:1] == "A" and row[1:2].isdigit() else 1), row.lower()


def _short(verdict: Any) -> str:
    said = f"{verdict:.4g}" if isinstance(verdict, float) else str(verdict)
    return said if len(said) <= LONGEST else f"{said[:LONGEST].rsplit(' ', 1)[0]} ..."


def _versions(known: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in known.items()) if isinstance(known, dict) else str(known)


def write(folder: Path = RESULTS) -> None:
    """Write the page."""
    (folder / "index.md").write_text(text(folder))


if __name__ == "__main__":
    write()
