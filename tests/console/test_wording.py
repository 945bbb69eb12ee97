"""What the package says of arguments, in the words of the command line."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import hessianfree as hf
from hessianfree.console.settings import settings_by_name
from hessianfree.console.wording import WORDS, as_options, warnings_as_options

PACKAGE = Path(hf.__file__).parent


def texts(file: Path) -> Iterator[str]:
    """The texts in a module, with a number in place of what is computed."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "10" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


SAID = [
    text
    for file in [*sorted((PACKAGE / "diagnosis").glob("*.py")), PACKAGE / "networks" / "expansion.py"]
    for text in texts(file)
]


@pytest.mark.parametrize("option", sorted(set(re.findall(r"--[a-z-]+", " ".join(WORDS.values())))))
def test_options_exist(option):
    name = option.removeprefix("--").removeprefix("no-")
    assert option == "--resume" or name in settings_by_name()


@pytest.mark.parametrize(
    ("said", "here"),
    [
        (
            "the test error is worse than nine epochs before (overfitting; early_stopping=False goes on)",
            "the test error is worse than nine epochs before (overfitting; --no-early-stopping goes on)",
        ),
        ("smaller initial weights, W_init_params={'coeff': 0.3}", "smaller initial weights, --init-scale 0.3"),
        (
            "W_rec_params={'spectral_radius': 1}, or {'init_type': 'orthogonal'}",
            "--spectral-radius 1, or --recurrent-init orthogonal",
        ),
        (
            "more examples, fewer units, or HessianFree(weight_decay=1e-4)",
            "more examples, fewer units, or --weight-decay 1e-4",
        ),
        ("a larger minibatch_size than 50", "a larger --minibatch than 50"),
        ("a higher init_damping than 1.5", "a higher --damping than 1.5"),
        # What has no option.
        (
            "HessianFree(init_damping=3, damping_rule=x(minimum=0.1))",
            "HessianFree(init_damping=3, damping_rule=x(minimum=0.1))",
        ),
    ],
)
def test_arguments_become_options(said, here):
    assert as_options(said) == here


@pytest.mark.parametrize("pattern", WORDS)
def test_the_package_still_says_what_is_replaced(pattern):
    """A remedy that is worded in another way would reach the user in Python."""
    assert any(re.search(pattern, text) for text in SAID)


def test_warnings_name_options_while_a_command_trains(caplog):
    logger = logging.getLogger("hessianfree")
    with warnings_as_options():
        logger.warning("Draw smaller ones: %s.", "W_rec_params={'spectral_radius': 1}, or {'init_type': 'orthogonal'}")
    logger.warning("Set %s.", "CG_iter")
    assert caplog.messages == [
        "Draw smaller ones: --spectral-radius 1, or --recurrent-init orthogonal.",
        "Set CG_iter.",
    ]
