"""Settings of a training run: options, keys of a file, and what both refuse."""

from __future__ import annotations

import dataclasses
import shlex
import tomllib

import pytest
from typer.testing import CliRunner

from hessianfree import loss_funcs, nl
from hessianfree.console.main import app
from hessianfree.console.settings import (
    LOSSES,
    NONLINEARITIES,
    TrainSettings,
    as_toml,
    merged,
    options_of,
    read,
    settings_by_name,
)
from hessianfree.console.shell import WrongUsageError
from hessianfree.networks.parts.loss_funcs import BY_NAME as LOSSES_BY_NAME
from hessianfree.networks.parts.nonlinearities import BY_NAME

#: A value of each setting that is not its default.
OTHERS = {
    str: "other",
    int: 7,
    float: 0.25,
    bool: True,
}


def another(setting):
    """A value that is not the default."""
    default = getattr(TrainSettings(), setting.attribute)
    one = setting.choices[-1] if setting.choices else OTHERS[setting.kind]
    one = not default if setting.kind is bool else one
    return (one, one) if setting.several else one


def everything() -> TrainSettings:
    return TrainSettings(**{setting.attribute: another(setting) for setting in settings_by_name().values()})


@pytest.fixture
def file(tmp_path):
    def write(text: str):
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


# ---- the table -------------------------------------------------------------------------------------------------------


def test_every_field_is_a_setting_with_an_option():
    names = [setting.attribute for setting in settings_by_name().values()]
    assert names == [field.name for field in dataclasses.fields(TrainSettings)]
    shown = CliRunner().invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    for name in settings_by_name():
        assert name == "data" or f"  --{name} " in shown


def test_the_choices_are_those_of_the_package():
    takes_arguments = {"Continuous", "Plant"}
    assert set(NONLINEARITIES) == set(BY_NAME) - takes_arguments
    assert all(isinstance(getattr(nl, name)(), nl.Nonlinearity) for name in NONLINEARITIES)
    only_judges = {"classification_error"}
    assert set(LOSSES) == set(LOSSES_BY_NAME) - only_judges
    assert hasattr(loss_funcs, "ClassificationError")


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [TrainSettings(), everything(), TrainSettings(data='a "b"\\c\n\x7f\u00e9.csv', target=("x", "'"))]
)
def test_what_is_written_is_read_again(settings, file):
    text = as_toml(settings, "a heading\n\nof lines")
    assert merged(read(file(text))) == settings
    assert set(tomllib.loads(text)) <= set(settings_by_name())
    assert text.startswith("# a heading\n#\n# of lines\n")


@pytest.mark.parametrize("value", [float("-inf"), 1e-300, 123456789.123])
def test_any_number_comes_back(value, file):
    assert merged(read(file(as_toml(TrainSettings(target_error=value))))).target_error == value


def test_single_values_stand_for_lists(file):
    assert read(file('hidden = 8\ntarget = "y"\nnonlinearity = ["relu", "TANH"]\n')) == {
        "hidden": (8,),
        "target": ("y",),
        "nonlinearity": ("ReLU", "Tanh"),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hiden = 3", "There is no key 'hiden'. Did you mean 'hidden'? The names are 'data', 'target'"),
        ("test_size = 0.2", "Did you mean 'test-size'?"),
        ("[network]\nhidden = 3", "network is {'hidden': 3}; text is expected"),
        ("hidden = 2.5", "hidden is 2.5; a whole number is expected, one or several, such as [10]"),
        ('hidden = ["a"]', "hidden is 'a'; a whole number"),
        ("hidden = [-1]", "hidden is -1; it must be at least 0"),
        ("epochs = true", "epochs is True; a whole number"),
        ('early-stopping = "no"', "early-stopping is 'no'; true or false is expected"),
        ("learning-rate = 0", "learning-rate is 0.0; it must be above 0"),
        ("averaging = 1", "averaging is 1.0; it must be at least 0 and below 1"),
        ("seconds = nan", "seconds is nan; a number is expected"),
        (
            'optimizer = "adma"',
            "optimizer: There is no value 'adma'. Did you mean 'adam'? The names are 'hf', 'auto', 'adam'",
        ),
        ("data = 3", 'data is 3; text is expected, such as "text"'),
        ("epochs = ", "is not TOML"),
        ("epochs = 1\nepochs = 2", "is not TOML"),
    ],
)
def test_files_that_are_wrong(text, message, file):
    path = file(text)
    with pytest.raises(WrongUsageError) as raised:
        read(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*x\.toml"):
        read(tmp_path / "x.toml")


# ---- options ---------------------------------------------------------------------------------------------------------


def parsed(*words: str, monkeypatch) -> TrainSettings:
    """The settings that the command line makes."""
    seen = []
    monkeypatch.setattr("hessianfree.console.train._run", lambda settings, *rest: seen.append(settings))
    done = CliRunner().invoke(app, ["train", *words], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return seen[0]


@pytest.mark.parametrize("settings", [TrainSettings(data="a.csv"), everything()])
def test_options_make_the_settings_that_they_are_made_of(settings, monkeypatch):
    words = shlex.split(shlex.join([settings.data, *options_of(settings)]))
    assert parsed(*words, monkeypatch=monkeypatch) == settings


def test_the_command_line_counts_more_than_the_file(file, monkeypatch):
    path = file('data = "a.csv"\nhidden = [3, 4]\nepochs = 5\nearly-stopping = false\n')
    found = parsed("--config", str(path), "--hidden", "6", "--seed", "2", "b.csv", monkeypatch=monkeypatch)
    assert found == TrainSettings(data="b.csv", hidden=(6,), epochs=5, early_stopping=False, seed=2)


def test_lists_are_separated_by_commas_or_repeated(monkeypatch):
    found = parsed("a.csv", "--hidden", "64, 32", "--target", "a,b", "--target", "c", monkeypatch=monkeypatch)
    assert (found.hidden, found.target) == ((64, 32), ("a,b", "c"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden", "3"], "no data are given"),
        (["a.csv", "--hiden", "3"], "No such option: --hiden; did you mean --h"),
        (["a.csv", "--hidden", "3,x"], "--hidden is 'x'; a whole number is expected, one or several, such as 10,10"),
        (["a.csv", "--epochs", "many"], "--epochs is 'many'; a whole number"),
        (["a.csv", "--loss", "crossentropy"], "Did you mean 'cross_entropy'?"),
        (["a.csv", "--force", "--resume"], "--force and --resume exclude each other"),
        (["a.csv", "b.csv"], "unexpected extra argument"),
    ],
)
def test_command_lines_that_are_wrong(words, message):
    done = CliRunner().invoke(app, ["train", *words], catch_exceptions=False)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
