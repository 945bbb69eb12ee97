"""The command line as a whole: help, versions, errors, exit codes, plain output."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

import hessianfree as hf
from hessianfree.console.main import app
from hessianfree.console.shell import Command, Program, WrongUsageError

COMMANDS = ["demo", "train", "evaluate", "predict", "plot", "profile", "bench", "info"]


def invoke(*words: str, env: dict[str, str | None] | None = None):
    return CliRunner().invoke(app, list(words), env=env, catch_exceptions=False)


def process(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env}, check=False, timeout=300)


# ---- help ------------------------------------------------------------------------------------------------------------


def test_help_lists_all_commands_without_cutting_their_line():
    shown = invoke("--help").stdout
    listed = re.findall(r"^  (\w+) +(\S.*)$", shown.split("Commands:")[1], re.MULTILINE)
    assert [name for name, _ in listed] == COMMANDS
    assert not [line for _, line in listed if line.endswith("...")]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_with_examples_of_its_own(command):
    done = invoke(command, "--help")
    assert done.exit_code == 0
    examples = done.stdout.split("Examples:")[1].split("\n")
    assert any(line.startswith(f"  hessianfree {command}") for line in examples)
    assert max(map(len, examples)) <= 100


def test_without_a_command_the_help_is_shown_and_the_exit_code_says_so():
    done = invoke()
    assert (done.exit_code, done.stderr) == (2, "")
    assert "Commands:" in done.stdout


def test_version():
    done = invoke("--version")
    assert (done.exit_code, done.stdout) == (0, f"hessianfree {hf.__version__}\n")


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["demo"], ["demo", "mnist", "--help"], ["train", "--help"]]
)
def test_help_imports_neither_jax_nor_numpy(words):
    program = (
        "import sys\nfrom hessianfree.console.main import app\n"
        f"try:\n    app({words})\nexcept SystemExit:\n    pass\n"
        "print(sorted({'jax', 'numpy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.splitlines()[-1] == "[]"


# ---- plain and rich --------------------------------------------------------------------------------------------------


def test_in_a_pipe_the_output_is_plain():
    for words in (["--help"], ["demo", "--help"], ["demo"], ["nosuch"]):
        done = process("hessianfree", *words)
        assert not re.search(r"[\x1b╭│╰─]", done.stdout + done.stderr)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("no_color", ["", "1"])
def test_on_a_terminal_help_has_boxes_and_colours_unless_they_are_not_wanted(no_color):
    import pty

    main, other = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "NO_COLOR": no_color}
    command = [sys.executable, "-m", "hessianfree", "demo", "--help"]
    with subprocess.Popen(command, stdout=other, stderr=other, stdin=other, env=env) as child:
        os.close(other)
        shown = b""
        while True:
            try:
                part = os.read(main, 4096)
            except OSError:  # the other end is closed
                break
            shown += part
            if not part:
                break
        assert child.wait(60) == 0
    text = shown.decode()
    assert "╭" in text
    assert "hessianfree demo xor --help" in text
    assert bool(re.search(r"\x1b\[[\d;]*3\dm", text)) == (not no_color)


# ---- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dmo"], "error: No such command 'dmo'. Did you mean 'demo'? (see "),
        (["info", "--jsn"], "error: No such option: --jsn; did you mean --json? (see "),
        (["plot"], "error: Missing argument 'FILE'"),
        (["plot", "x.pkl", "--interval", "often"], "error: Invalid value for '--interval': "),
        (["plot", "x.pkl", "--web", "--save", "x.png"], "error: --web shows the plots, and --save writes them"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(words, message):
    done = invoke(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1


def program(action) -> typer.Typer:
    """A program of one command that does this."""
    found = typer.Typer(cls=Program, pretty_exceptions_enable=False)

    @found.callback()
    def main() -> None:
        pass

    found.command("act", cls=Command)(lambda: action())
    return found


def raiser(error: BaseException):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("two\n  lines"), 1, "error: two lines\n"),
        (FileNotFoundError("no file x.csv"), 1, "error: no file x.csv\n"),
        (KeyError("x"), 1, "error: KeyError: 'x'\n"),
        (ValueError(), 1, "error: ValueError: \n".replace(": \n", ":\n")),
        (WrongUsageError("not so"), 2, "error: not so\n"),
        (typer.BadParameter("not so"), 2, "error: Invalid value: not so (see root act --help)\n"),
        (KeyboardInterrupt(), 130, ""),
        (SystemExit(143), 143, ""),
        (typer.Exit(130), 130, ""),
    ],
    ids=repr,
)
def test_exit_codes_and_lines(error, code, line):
    done = CliRunner().invoke(program(raiser(error)), ["act"])
    assert (done.exit_code, done.stdout, done.stderr) == (code, "", line)


def test_a_warning_is_one_line():
    import warnings

    def action():
        warnings.simplefilter("default")
        warnings.warn("mind\nthis", stacklevel=1)

    done = CliRunner().invoke(program(action), ["act"])
    assert (done.exit_code, done.stderr) == (0, "warning: mind this\n")


def test_traceback_shows_where_an_error_comes_from():
    done = process("hessianfree", "--traceback", "plot", "nosuch.pkl", "--save", "x.png")
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "check_is_file" in done.stderr


@pytest.mark.parametrize("exit_first", [False, True])
def test_a_reader_that_leaves_early_is_no_error(exit_first):
    command = f"{sys.executable} -m hessianfree demo | {'true' if exit_first else 'head -n 1'}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=300)
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


# ---- imports ---------------------------------------------------------------------------------------------------------


def test_the_names_of_the_package_are_found_when_they_are_used():
    """Each in a process of its own imports no more than it needs, and finds the same object twice."""
    program = "import hessianfree as hf, sys; print('jax' in sys.modules); print(hf.fit is hf.fit, hf.nl is hf.nonlinearities)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout.split() == ["False", "True", "True"]
