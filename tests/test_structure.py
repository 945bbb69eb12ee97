"""The architecture, read from the sources without importing them; CONTRIBUTING.md holds the order of the rooms."""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "hessianfree"
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Import(NamedTuple):
    """One module imports another; modules are paths inside the package."""

    source: str
    target: str
    line: int


@cache
def modules() -> dict[str, ast.Module]:
    return {str(f.relative_to(PACKAGE)): ast.parse(f.read_text("utf-8")) for f in sorted(PACKAGE.rglob("*.py"))}


def module_of(dotted: str) -> str | None:
    """The path of `hessianfree.a.b`, None if it is not a module."""
    parts = dotted.split(".")[1:]
    for path in ("/".join(parts) + ".py", "/".join([*parts, "__init__.py"])):
        if path in modules():
            return path
    return None


def imported(tree: ast.Module, package: list[str]) -> Iterator[tuple[str, int]]:
    """Modules of this package that a module imports, wherever in it; a name counts as the module that it is."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            base = ".".join(part for part in (start, node.module) if part)
            inner = [f"{base}.{alias.name}" for alias in node.names]
            names = [name if module_of(name) else base for name in inner]
        for name in names:
            if name.split(".")[0] == "hessianfree":
                target = module_of(name)
                assert target, f"{name} is imported but is not a module of the package."
                yield target, node.lineno


@cache
def imports() -> list[Import]:
    found = []
    for path, tree in modules().items():
        package = ["hessianfree", *path.split("/")[:-1]]
        found += [Import(path, target, line) for target, line in imported(tree, package) if target != path]
    return found


@cache
def rows() -> list[list[str]]:
    """The rooms in the table of CONTRIBUTING.md, top to bottom; those of one row count as one room."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    section = text.split("## Where things are", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [[room.removeprefix("hessianfree/") for room in re.findall(r"`([^`]+)`", cell)] for cell in cells]


def row_of(path: str) -> int:
    """The row that a module belongs to: the longest name in the table that fits."""
    fitting = [
        (len(room), number)
        for number, row in enumerate(rows())
        for room in row
        if path == room or (room.endswith("/") and path.startswith(room))
    ]
    assert fitting, f"{path} is in no room: give it a row in the table of CONTRIBUTING.md."
    return max(fitting)[1]


def lines_of(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def docstring_lines(node: ast.AST) -> int:
    assert isinstance(node, Documented)
    return lines_of(node.body[0]) if ast.get_docstring(node) is not None else 0


def functions() -> Iterator[tuple[str, Function]]:
    for path, tree in modules().items():
        yield from ((path, node) for node in ast.walk(tree) if isinstance(node, Function))


def fail_if(found: list[str], advice: str) -> None:
    if found:
        pytest.fail("\n".join([advice, *found]), pytrace=False)


# ---- rooms -----------------------------------------------------------------------------------------------------------


def test_imports_go_only_downward():
    wrong = [
        f"  {source}:{line} imports {target}, of {' '.join(rows()[row_of(target)])}"
        for source, target, line in imports()
        if row_of(target) < row_of(source)
    ]
    fail_if(wrong, "A room may import rooms in later rows of CONTRIBUTING.md's table only; move what is needed down:")


def test_the_table_names_every_folder_and_module_and_no_other():
    rooms = list(itertools.chain(*rows()))
    assert len(rooms) > 10, "CONTRIBUTING.md lacks its table under 'Where things are'."
    fail_if([f"  {r}" for r in rooms if not (PACKAGE / r).exists()], "CONTRIBUTING.md names what does not exist:")
    folders = {f"{Path(path).parent.as_posix()}/" for path in modules()} - {"./"}
    single = {path for path in modules() if "/" not in path}
    fail_if([f"  {r}" for r in sorted((folders | single) - set(rooms))], "The table in CONTRIBUTING.md lacks:")
    fail_if(sorted({r for r in rooms if rooms.count(r) > 1}), "The table in CONTRIBUTING.md names these twice:")


def longest_chain(edges: dict[int, set[int]], start: int) -> int:
    return 1 + max((longest_chain(edges, target) for target in edges[start]), default=0)


def test_at_most_ten_layers_of_rooms():
    edges: dict[int, set[int]] = defaultdict(set)
    for source, target, _ in imports():
        if row_of(target) > row_of(source):
            edges[row_of(source)].add(row_of(target))
    depth = max(longest_chain(edges, start) for start in range(len(rows())))
    assert depth <= 10, f"Imports between rooms are {depth} layers deep, at most 10 are allowed; join or flatten rooms."


def test_no_circle_among_modules():
    targets: dict[str, set[str]] = defaultdict(set)
    for source, target, _ in imports():
        targets[source].add(target)
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            circle = " -> ".join([*path[path.index(module) :], module])
            pytest.fail(f"Modules import each other: {circle}. Move what both need into a third.", pytrace=False)
        if module not in done:
            for target in sorted(targets[module]):
                visit(target, (*path, module))
            done.add(module)

    for module in modules():
        visit(module, ())


# ---- sizes -----------------------------------------------------------------------------------------------------------


def lines_in(path: str) -> int:
    return len((PACKAGE / path).read_text("utf-8").splitlines())


def test_at_most_twelve_modules_in_the_root():
    root = [path for path in modules() if "/" not in path]
    assert len(root) <= 12, f"The package root has {len(root)} modules {root}, at most 12 are allowed; use a folder."


def test_no_file_over_400_lines():
    long = [f"  {path}: {lines_in(path)}" for path in modules() if lines_in(path) > 400]
    fail_if(long, "Files have at most 400 lines; make two of:")


def test_no_function_over_60_lines():
    sizes = [(path, f, lines_of(f) - docstring_lines(f)) for path, f in functions()]
    long = [f"  {path}:{f.lineno} {f.name}: {size}" for path, f, size in sizes if size > 60]
    fail_if(long, "Functions have at most 60 lines without their docstring; split:")


# ---- names and types -------------------------------------------------------------------------------------------------


def test_no_two_public_classes_with_one_name():
    places = defaultdict(list)
    for path, tree in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    double = [f"  {name}: {', '.join(paths)}" for name, paths in sorted(places.items()) if len(paths) > 1]
    fail_if(double, "A public class has a name of its own; rename one of each:")


def test_no_network_of_any_type():
    wrong = []
    for path, f in functions():
        parameters = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        for arg in parameters:
            if arg.arg == "net" and arg.annotation is not None and ast.unparse(arg.annotation) in ("Any", "object"):
                wrong.append(f"  {path}:{arg.lineno} {f.name}")
    fail_if(wrong, "Say by a class or Protocol what a function needs of a network, not `net: Any`:")


def test_nothing_loads_pickles_that_can_run_code():
    wrong = []
    for path, tree in modules().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            allows = any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords)
            if ast.unparse(node.func) in ("pickle.load", "pickle.loads") or allows:
                wrong.append(f"  {path}:{node.lineno}")
    fail_if(wrong, "Read files by `io.pickles` or with allow_pickle=False, which cannot run code:")


# ---- docstrings ------------------------------------------------------------------------------------------------------


def documented(tree: ast.AST, public: bool = True) -> Iterator[tuple[ast.AST, bool]]:
    """Modules, classes, functions and methods, and whether they are public."""
    yield tree, public
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.ClassDef, *Documented[2:])) and isinstance(tree, (ast.Module, ast.ClassDef)):
            yield from documented(node, public and not node.name.startswith("_"))


def place(path: str, node: ast.AST) -> str:
    return f"  {path}:{getattr(node, 'lineno', 1)} {getattr(node, 'name', 'the module')}"


def test_everything_public_has_a_docstring():
    lacking = [
        place(path, node)
        for path, tree in modules().items()
        for node, public in documented(tree)
        if public and isinstance(node, Documented) and not ast.get_docstring(node) and not is_setter(node)
    ]
    fail_if(lacking, "Write a docstring for:")


def is_setter(node: ast.AST) -> bool:
    return isinstance(node, Function) and any(ast.unparse(d).endswith(".setter") for d in node.decorator_list)


#: A single capital as the operand of an operator or a factor: most likely a small letter whose case a tool changed.
SYMBOL_FIRST = re.compile(r"[A-Z]( [a-z])? (->|[-+*/=]|\(\d) ?\S")


@pytest.mark.parametrize("text", ["U -> H u.", "V v -> G", "T / o^2.", "P - y.", "O - t", "A (1 - a)."])
def test_the_rule_of_symbols_finds(text):
    assert SYMBOL_FIRST.match(text)


@pytest.mark.parametrize(
    "text", ["The product u -> Hu.", "u -> Hu", "M^-1 r.", "K-FAC: blocks.", "A layer -> b", "A (m, m)."]
)
def test_the_rule_of_symbols_lets_pass(text):
    assert not SYMBOL_FIRST.match(text)


def test_docstrings_start_with_a_word():
    wrong = []
    for path, tree in modules().items():
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, Documented) else None
            sentences = (
                [] if text is None else [text, *re.split(r"(?<=[.:])\s+(?=[A-Z])", text.split("\n\n", 1)[0])[1:]]
            )
            wrong += [f"{place(path, node)}: {s.splitlines()[0]}" for s in sentences if SYMBOL_FIRST.match(s)]
    fail_if(wrong, 'Symbols keep their case, so start the sentence with a word ("The product u -> Hu"):')


# ---- what is said twice ----------------------------------------------------------------------------------------------


def test_the_citation_names_the_version():
    version = re.search(r'^__version__ = "(.+)"', (PACKAGE / "__init__.py").read_text("utf-8"), re.MULTILINE)
    cited = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.MULTILINE)
    assert version, "hessianfree/__init__.py must set __version__."
    assert cited, "CITATION.cff must say the version."
    assert cited[1] == version[1], f"CITATION.cff says {cited[1]}, __version__ {version[1]}: set both."
