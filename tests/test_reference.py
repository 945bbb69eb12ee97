"""Every public name has a docstring, and a place in the API reference; numbers and texts are explained there."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

import hessianfree as hf

PAGES = Path(__file__).parents[1] / "docs" / "api"
#: Short for the modules whose names are on the pages.
SHORT = {"nl": "nonlinearities", "opt": "optimizers"}
MODULES = [name for name in hf.__all__ if isinstance(getattr(hf, name), ModuleType)]


def names_in(module):
    """The public names that a module offers: those of `__all__`, else what is its own or imported as itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    source = inspect.getsource(module)
    again = set(re.findall(r" import (\w+) as \1$", source, re.MULTILINE))
    own = {
        name
        for name, thing in vars(module).items()
        if getattr(thing, "__module__", None) == module.__name__
        and (inspect.isclass(thing) or inspect.isfunction(thing))
    }
    return sorted(name for name in again | own if not name.startswith("_"))


def public():
    """Every public name by its path, such as `nonlinearities.Tanh`."""
    found = {name: getattr(hf, name) for name in hf.__all__ if name not in MODULES}
    for module in MODULES:
        if module not in SHORT:
            offered = getattr(hf, module)
            found |= {f"{module}.{name}": getattr(offered, name) for name in names_in(offered)}
    return found


def on_the_pages():
    """The names that the pages of the reference ask for."""
    return [
        name for page in PAGES.glob("*.md") for name in re.findall(r"^::: hessianfree\.(\S+)$", page.read_text(), re.M)
    ]


def test_the_names_that_are_looked_for_are_those_of_the_package():
    assert {"FFNet", "nonlinearities.Tanh", "loss_funcs.CrossEntropy", "optimizers.KFAC", "curvature.Fisher"} <= {
        *public()
    }
    assert {"fit", "tasks.Task", "demos.xor", "dataplotter.run"} <= {*public()}
    assert {name: getattr(hf, full) for name, full in SHORT.items()} == {name: getattr(hf, name) for name in SHORT}


@pytest.mark.parametrize("name", sorted(public()))
def test_a_public_name_has_a_docstring_and_a_place_in_the_reference(name):
    thing = public()[name]
    if isinstance(thing, (bool, int, float, str)):
        assert any(f"`hf.{name}`" in page.read_text() for page in PAGES.glob("*.md")), f"no page explains `hf.{name}`."
        return
    if callable(thing):
        assert inspect.getdoc(thing), f"{name} has no docstring."
        assert thing.__doc__, f"{name} has the docstring of what it inherits from alone."
    assert name in on_the_pages(), f"no page in docs/api has the line `::: hessianfree.{name}`."


def test_no_name_is_in_the_reference_twice():
    names = on_the_pages()
    assert sorted(set(names)) == sorted(names)
