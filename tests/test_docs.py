"""The code in the documentation runs."""

from __future__ import annotations

import importlib.util
import pickle
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from hessianfree.console import demo
from hessianfree.console.main import app
from hessianfree.console.pages import pages

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: What single blocks need beyond the package's own dependencies.
EXTRAS = ("equinox", "flax", "grain", "h5py", "sklearn", "zarr")


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


def command_lines(page):
    """The lines of a page that call the program, in words."""
    texts = re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line, comments=True) for text in texts for line in text.splitlines()]
    return [line[1:] for line in lines if line and line[0].removeprefix(".venv/bin/") == "hessianfree"]


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


@pytest.mark.parametrize("page", [page for page in PAGES if command_lines(page)], ids=name_of)
def test_command_lines_are_what_the_program_takes(page):
    """Parsed, and for demos their arguments compared with those there are, but not run."""
    program = typer.main.get_command(app)
    for name, *words in command_lines(page):
        context = program.commands[name].make_context(name, list(words))
        if name == "demo" and context.params["name"] is not None and not context.params["wants_help"]:
            given = demo.parse_arguments(context.params["arguments"] or ())
            demo.check(pages()[context.params["name"]], *given)


@pytest.mark.long
def test_the_page_of_the_command_line_runs(tmp_path, monkeypatch):
    """In order, as a reader would type it, with the settings of its TOML file; what other tests run is left out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")
    page, rng = ROOT / "docs" / "command_line.md", np.random.RandomState(0)
    (settings,) = re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "run.toml").write_text(settings.replace("epochs = 50", "epochs = 2"))
    rooms, districts = rng.rand(300), rng.choice(["north", "south"], 300)
    rows = [f"{a},{b},{100 * a + 20 * (b == 'north')}" for a, b in zip(rooms, districts, strict=True)]
    (tmp_path / "houses.csv").write_text("\n".join(["rooms,district,price", *rows]) + "\n")
    rows = [f"{a},{b},{'setosa' if a < b else 'virginica'}" for a, b in rng.randn(60, 2)]
    for name in ("irises.csv", "new.csv"):
        (tmp_path / name).write_text("\n".join(["petal,sepal,species", *rows]) + "\n")
    (tmp_path / "HF_plots.pkl").write_bytes(pickle.dumps({"damping (log)": [1.0, 0.5]}))
    ran = [words for words in command_lines(page) if words[0] != "bench" and not {"--web", "profile", "xor"} & {*words}]
    for words in ran:
        done = CliRunner().invoke(app, words, catch_exceptions=False)
        assert done.exit_code == 0, (words, done.stderr)
    assert len(ran) == 8
    assert {"run.png", "predicted.csv", "HF_plots.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "when_not.md"], ids=name_of)
def test_seconds_are_those_of_the_arena(page):
    """Of paragraphs that quote it: each number of seconds is one that a page they link to has, rounded."""
    parts = [part for part in re.split(r"\n\n|\n(?=\|)", page.read_text()) if re.search(r"arena/[\w-]+\.md", part)]
    quoted = 0
    for part in parts:
        linked = [page.parent / path for path in re.findall(r"\(((?:docs/)?arena/[\w-]+\.md)\)", part)]
        known = [number for path in linked for number in re.findall(r"\d+\.?\d*", path.read_text())]
        for said in re.findall(r"(\d+(?:\.\d+)?) s\b", part):
            digits = len(said.partition(".")[2])
            assert any(round(float(number), digits) == float(said) for number in known), (said, part)
            quoted += 1
    assert quoted


def test_the_index_of_the_arena_says_what_its_rows_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import arena_index

    folder = ROOT / "docs" / "arena"
    assert (folder / "index.md").read_text() == arena_index.text(folder)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target
