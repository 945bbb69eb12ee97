from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import hessianfree as hf
from hessianfree.training import progress
from hessianfree.training.callbacks import Lines
from hessianfree.training.judging import Judged
from hessianfree.training.progress import Above, RunState, fields_of
from hessianfree.training.results import Epoch, Run

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
T = np.array([[0], [1], [1], [0]], np.float32)


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def train(optimizer=None, **arguments):
    net = hf.FFNet([2, 5, 1], rng=0)
    net.run_epochs(X, T, optimizer or hf.opt.HessianFree(CG_iter=2), **{"max_epochs": 3, **arguments})
    return net.W


@pytest.fixture
def terminal(monkeypatch):
    """Prints go to a terminal of 140 columns from the call on; returns all that is written to it."""

    def terminal():
        screen = Terminal()
        monkeypatch.setattr("sys.stdout", screen)  # in the test: pytest puts its own in place after the fixtures
        return screen

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return terminal


def left_over(written: str) -> str:
    """What is on the screen in the end, by what the few control sequences mean that erase a panel."""
    lines, row = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\r|\n)", written):
        if part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif match := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(match[1])
        elif part == "\x1b[2K":
            lines[row] = ""
        elif not part.startswith(("\x1b", "\r")):
            lines[row] += part
    return "\n".join(lines).rstrip()


# ---- where a run stands ----------------------------------------------------------------------------------------------


def test_the_time_left_is_that_of_the_later_half():
    clock = Clock()
    state = RunState(10, clock=clock)
    assert state.left is None
    clock.now += 7
    state.on_update(0, 0, 4, None)  # compiled for seven seconds
    assert state.left is None
    clock.now += 1
    state.on_update(0, 1, 4, None)
    assert (state.done, state.left) == (0.5, pytest.approx(9.5 / 0.25 * 1))
    for number in range(4):  # the first four epochs take a second each, the next two three seconds each
        clock.now += 1
        state.on_epoch(Epoch(number, 0.5, 0.0, []))
    for number in (4, 5):
        clock.now += 3
        state.on_epoch(Epoch(number, 0.5, 0.0, []))
    # marks: first update, epochs 0 to 5; the middle one is that of epoch 2
    assert state.left == pytest.approx(4 * (1 + 3 + 3) / 3)
    assert state.share == 0.6


def test_the_time_left_is_never_more_than_the_limit():
    clock = Clock()
    state = RunState(1_000_000, max_seconds=60, clock=clock)
    clock.now += 15
    assert (state.left, state.share) == (45, 0.25)
    state.on_epoch(Epoch(0, 0.5, 0.0, []))
    clock.now += 15
    state.on_epoch(Epoch(1, 0.5, 0.0, []))
    assert (state.left, state.share) == (30, 0.5)
    clock.now += 50
    assert (state.left, state.share) == (0, 1)


def test_nothing_is_known_of_batches_that_are_not_counted():
    state = RunState(10, clock=Clock())
    for update in range(3):
        state.on_update(0, update, None, None)
    assert (state.left, state.done) == (None, 0)


def test_a_long_run_keeps_few_times():
    clock = Clock()
    state = RunState(10_000, clock=clock)
    for number in range(5000):
        clock.now += 0.5
        state.on_epoch(Epoch(number, 0.5, 0.0, []))
    assert len(state.marks) <= progress.MOST_MARKS
    assert state.left == pytest.approx(2500)


def test_a_run_that_goes_on_begins_where_it_stood():
    state = RunState(10, clock=Clock())
    state.on_start(Run(SimpleNamespace(judged=Judged()), [Epoch(number, 0.5, 0.0, []) for number in range(4)], []))
    assert (state.done, state.share, state.left) == (4, 0.4, None)


def test_fields_of_every_record():
    labels = lambda record: [label for label, _ in fields_of(record)]
    usual = ["loss", "damping", "CG steps", "reduction ratio"]
    seen = []
    for optimizer in (hf.opt.HessianFree(CG_iter=2), hf.opt.Auto(), hf.opt.SGD(0.1)):
        net = hf.FFNet([2, 5, 1], rng=0)
        seen.append(net.run_epochs(X, T, optimizer, max_epochs=1, print_period=None).epochs[0].updates[0])
    fit = hf.least_squares(lambda p: p - np.arange(3.0), np.zeros(3), print_period=None)
    assert labels(seen[0]) == [*usual, "step size", "update norm"]
    assert labels(seen[1]) == ["phase", *usual, "update norm"]
    assert labels(seen[2]) == ["loss", "update norm"]
    assert labels(fit.epochs[0].updates[0]) == [*usual, "update norm"]
    assert dict(fields_of(seen[0]))["loss"] == f"{seen[0].new_value:.4g}"
    assert labels(None) == labels(object()) == []


def test_numbers_that_are_no_numbers_are_shown_as_they_are():
    class Odd:
        value, damping, accepted = "high", None, False

    assert fields_of(Odd()) == [("loss", "high"), ("damping", "None"), ("", "rejected")]


def test_an_update_is_only_noted():
    class Untouchable:
        def __getattribute__(self, name):
            raise AssertionError(name)

    state = RunState(10)
    for update in range(100):
        state.on_update(0, update, 100, Untouchable())
    assert state.update == 100


# ---- in a terminal ---------------------------------------------------------------------------------------------------


def drawn(state, width):
    from rich.console import Console

    file = io.StringIO()
    Console(file=file, width=width, force_terminal=True, color_system=None, legacy_windows=False).print(
        progress.panel(state, width)
    )
    return file.getvalue()


@pytest.mark.parametrize("width", [12, 20, 40, 80, 140])
def test_the_panel_fits_every_width(width):
    state = RunState(10, max_seconds=60)
    assert "update" in drawn(state, 80)
    net = hf.FFNet([2, 5, 1], rng=0)
    result = net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=2), max_epochs=2, callbacks=[state], print_period=None)
    shown = drawn(state, width)
    assert max(map(len, shown.splitlines())) == width - 2  # the terminal has room for ^C
    if width >= 40:
        words = shown.replace("│", " ").split()
        last = result.epochs[-1].updates[-1]
        for number in ("2/10", f"{last.new_value:.4g}", f"{last.damping:.3g}", f"{result.test_errors[-1]:.4g}"):
            assert number in words


def test_a_panel_shows_in_a_terminal_and_leaves_the_lines(terminal, monkeypatch):
    screen = terminal()
    seen = []
    monkeypatch.setattr(progress, "panel", lambda *given, draw=progress.panel: seen.append(given[0]) or draw(*given))
    train(max_epochs=12, print_period=5)
    written = screen.getvalue()
    assert "epochs" in written
    assert "╭─" in written
    kept = left_over(written)
    assert [line.split(":")[0] for line in kept.splitlines()] == [
        *("epoch 0", "epoch 5", "epoch 10", "epoch 11", "finished after 12 epochs")
    ]
    assert len({id(state) for state in seen}) == 1


def test_least_squares_shows_steps(terminal):
    screen = terminal()
    hf.least_squares(lambda p: p - np.arange(3.0), np.zeros(3), print_period=1)
    written = screen.getvalue()
    assert "steps 0/" in written or "steps 1/" in written or "compiling" in written
    assert "test error" not in written
    assert left_over(written).splitlines()[-1].startswith("finished after")


@pytest.mark.parametrize("name", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(terminal, name, monkeypatch):
    screen = terminal()
    monkeypatch.setenv("TERM", name)
    train()
    assert "\x1b" not in screen.getvalue()
    assert screen.getvalue().splitlines()[-1] == "finished after 3 epochs: all 3 epochs are done"


@pytest.mark.parametrize("no_color", ["1", None])
def test_colours_can_be_turned_off(terminal, no_color, monkeypatch):
    screen = terminal()
    if no_color:
        monkeypatch.setenv("NO_COLOR", no_color)
    train()
    colours = re.findall(r"\x1b\[[0-9;]*[39][0-7]m", screen.getvalue())
    assert bool(colours) == (no_color is None), colours


def test_a_terminal_of_few_characters(monkeypatch):
    written = io.BytesIO()
    screen = io.TextIOWrapper(written, encoding="ascii")
    screen.isatty = lambda: True
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    train(max_seconds=1000)
    screen.flush()
    assert b"finished after 3 epochs" in written.getvalue()


def test_silence_in_a_terminal(terminal):
    screen = terminal()
    train(print_period=None)
    assert screen.getvalue() == ""


def test_the_panel_is_closed_by_an_error(terminal):
    screen = terminal()

    class Broken:
        def on_epoch(self, epoch):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        train(callbacks=[Broken()])
    assert sys.stdout is screen
    assert screen.getvalue().count("\x1b[?25h") == 1  # the cursor is shown again


def test_prints_of_callbacks_and_runs_within_runs_stay_above_the_panel(terminal):
    screen = terminal()

    class Talkative:
        def on_epoch(self, epoch):
            print(f"mine {epoch.number}")
            if epoch.number == 1:
                train(max_epochs=1)

    train(callbacks=[Talkative()], print_period=1)
    kept = left_over(screen.getvalue()).splitlines()
    assert [line for line in kept if line.startswith("mine")] == ["mine 0", "mine 1", "mine 2"]
    assert sum(line.startswith("finished after 1 epochs") for line in kept) == 1
    assert not any("╭" in line for line in kept)


def test_a_terminal_changes_no_result_and_no_way_of_working(terminal, monkeypatch):
    terminal()
    counts = []
    several = hf.opt.SGD.compute_several

    def counted(self, minibatches, start, count):
        counts.append(count)
        return several(self, minibatches, start, count)

    monkeypatch.setattr(hf.opt.SGD, "compute_several", counted)
    arguments = {"max_epochs": 8, "minibatch_size": 1}
    silent = train(hf.opt.SGD(0.1), print_period=None, **arguments)
    in_silence, counts[:] = list(counts), []
    np.testing.assert_array_equal(train(hf.opt.SGD(0.1), **arguments), silent)
    assert max(counts) == max(in_silence) == 4


def test_lines_that_come_fast_are_printed_together():
    class Console:
        def __init__(self):
            self.prints = []

        def print(self, text, **options):
            self.prints.append(text)

    clock, console = Clock(), Console()
    above = Above(console, clock)
    for number in range(5):
        above.print(str(number))
        clock.now += 0.0625
    assert console.prints == ["0", "1\n2", "3\n4"]
    above.print("5")
    above.flush()
    above.flush()
    assert console.prints[3:] == ["5"]


# ---- in a notebook ---------------------------------------------------------------------------------------------------

CELL = """
import numpy as np, hessianfree as hf, io, contextlib
X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
train = lambda **a: hf.FFNet([2, 5, 1], rng=0).run_epochs(X, X[:, :1], hf.opt.HessianFree(CG_iter=2), **a)
train(max_epochs=21, print_period=1);
"""


def test_one_line_in_a_notebook():
    pytest.importorskip("ipykernel")
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3")
    try:
        run_cell(client, CELL)  # also compiles
        messages = run_cell(client, "train(max_epochs=21, print_period=10);")
        silent = run_cell(client, "train(max_epochs=2, print_period=None);")
        captured = "with contextlib.redirect_stdout(io.StringIO()) as file: train(max_epochs=2)\nprint(file.getvalue())"
        redirected = run_cell(client, captured)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    kinds = [kind for kind, _ in messages]
    assert kinds[0] == "display_data"
    assert set(kinds[1:]) == {"update_display_data"}
    assert len({content["transient"]["display_id"] for _, content in messages}) == 1
    last = messages[-1][1]["data"]["text/plain"].splitlines()
    assert [line.split(":")[0] for line in last] == ["epoch 20", "finished after 21 epochs"]
    assert silent == []
    assert [kind for kind, _ in redirected] == ["stream"]
    assert "finished after 2 epochs" in redirected[0][1]["text"]


def run_cell(client, code):
    """What a cell shows: kind and content of each message."""
    messages = []
    shown = ("stream", "display_data", "update_display_data", "execute_result", "error")

    def note(message):
        if message["header"]["msg_type"] in shown:
            messages.append((message["header"]["msg_type"], message["content"]))

    client.execute_interactive(code, output_hook=note, timeout=300)
    return messages


def test_lines_elsewhere(capsys):
    train(max_epochs=2, print_period=1)
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [
        *("epoch 0", "epoch 1", "finished after 2 epochs")
    ]


def test_prints_that_go_nowhere(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    with progress.following(Lines(1), 3, None) as chosen:
        assert [type(callback) for callback in chosen] == [Lines]
