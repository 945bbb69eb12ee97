"""`hessianfree demo`: what it says of demos is what they are, and what it refuses."""

from __future__ import annotations

import inspect

import pytest
from typer.testing import CliRunner

from hessianfree import demos
from hessianfree.console import demo
from hessianfree.console.main import app
from hessianfree.console.pages import pages
from hessianfree.console.shell import WrongUsageError
from hessianfree.training.results import INTERRUPTED, Result


def invoke(*words: str):
    return CliRunner().invoke(app, ["demo", *words], catch_exceptions=False)


def test_pages_say_what_python_says_of_the_demos():
    assert list(pages()) == list(demos.ALL)
    for name, function in demos.ALL.items():
        page, parameters = pages()[name], inspect.signature(function).parameters
        assert [argument.name for argument in page.arguments] == list(parameters)
        for argument, parameter in zip(page.arguments, parameters.values(), strict=True):
            needed = parameter.default is inspect.Parameter.empty
            assert (argument.default is None) == needed
            assert needed or eval(argument.default) == parameter.default
            assert argument.meaning, f"{name} does not say what {argument.name} means"
        assert page.summary == " ".join(inspect.getdoc(function).split("\n\n")[0].split())


def test_without_a_name_each_demo_has_a_line():
    lines = invoke().stdout.splitlines()
    assert [line.split()[0] for line in lines[: len(demos.ALL)]] == list(demos.ALL)
    assert all(page.summary in line for page, line in zip(pages().values(), lines, strict=False))


def test_the_help_of_a_demo_shows_its_arguments():
    shown = invoke("adding", "--help").stdout
    assert "[T=50]" in shown
    assert "number of timesteps" in shown
    assert "[default: True]" in shown
    assert invoke("--help", "adding").stdout == shown
    assert "takes no arguments" in invoke("connections", "--help").stdout
    assert "[needed]" in invoke("profile", "--help").stdout


def test_the_help_of_the_command_itself():
    shown = invoke("--help").stdout
    assert "NAME=VALUE" in shown
    assert "hessianfree demo xor use_hf=False" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["xro"], "Did you mean 'xor'? The names are 'xor', 'crossentropy'"),
        (["xor", "usehf=1"], "Did you mean 'use_hf'?"),
        (["adding", "colour=1"], "The names are 'T', 'plots', 'model_args', 'run_args', 'checkpoint'"),
        (["connections", "T=1"], "connections takes no arguments; given: T"),
        (["xor", "1", "2"], "xor takes 1 arguments, and 2 are given"),
        (["xor", "1", "use_hf=False"], "use_hf is given twice"),
        (["xor", "use_hf=1", "use_hf=False"], "use_hf is given twice"),
        (["profile"], "profile needs a value for func"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(words, message, monkeypatch):
    monkeypatch.setitem(demos.ALL, words[0], lambda *args, **kwargs: pytest.fail("it ran"))
    done = invoke(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        (["False"], ([False], {})),
        (["use_hf=False"], ([], {"use_hf": False})),
        (["data=some/file.npz", "7", "a=b"], ([7], {"data": "some/file.npz", "a": "b"})),
        (["run_args={'CG_iter': 3}"], ([], {"run_args": {"CG_iter": 3}})),
        (["__import__('os')"], (["__import__('os')"], {})),
    ],
)
def test_arguments_are_literals_or_strings(arguments, parsed):
    assert demo.parse_arguments(arguments) == parsed


def test_a_demo_runs_with_its_arguments(monkeypatch):
    seen = {}
    monkeypatch.setitem(demos.ALL, "adding", lambda *args, **kwargs: seen.update(args=args, kwargs=kwargs))
    assert invoke("adding", "100", "plots=False", "checkpoint=run.ckpt").exit_code == 0
    assert seen == {"args": (100,), "kwargs": {"plots": False, "checkpoint": "run.ckpt"}}


@pytest.mark.parametrize("several", [False, True])
def test_an_interrupted_run_ends_with_130(several, monkeypatch):
    run = Result([], [], 0.0, INTERRUPTED, [], "SGD")
    monkeypatch.setitem(demos.ALL, "xor", lambda: {"hf": run} if several else run)
    assert invoke("xor").exit_code == 130


def test_what_a_demo_raises_is_a_line(monkeypatch):
    def wrong():
        raise ValueError("not this way")

    monkeypatch.setitem(demos.ALL, "xor", wrong)
    done = invoke("xor")
    assert (done.exit_code, done.stderr) == (1, "error: not this way\n")


def test_a_wrong_literal_is_text():
    with pytest.raises(WrongUsageError, match="twice"):
        demo.parse_arguments(["a=1", "a=2"])
    assert demo.parse_arguments(["a=1+"]) == ([], {"a": "1+"})
