"""The code in the documentation runs."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: What single blocks need beyond the package's own dependencies.
EXTRAS = ("equinox", "flax", "sklearn")


def missing(block):
    """Packages that a block imports and this environment lacks."""
    imported = re.findall(r"^(?:import|from) (?:hessianfree\.)?(\w+)", block, re.MULTILINE)
    return [name for name in imported if name in EXTRAS and not installed(name)]


def installed(name):
    """Whether a package is there; a folder of tests of that name, which has no origin, does not count."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def blocks(page):
    """The code of a page."""
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def name_of(page):
    """The page in the names of tests."""
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name_of)
def test_python_blocks_run(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    left_out: list[str] = []
    for block in blocks(page):
        if missing(block):
            left_out += missing(block)
        else:
            exec(compile(block, str(page), "exec"), names)
    if left_out:
        pytest.skip(f"the other blocks ran; these need {', '.join(left_out)}, which the extra `test` installs")


def test_the_index_of_the_arena_says_what_its_rows_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import arena_index

    folder = ROOT / "docs" / "arena"
    assert (folder / "index.md").read_text() == arena_index.text(folder)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
