"""Names that do not exist, and those that were meant."""

from __future__ import annotations

import pytest

from hessianfree.support.names import unknown_name


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("xro", "xor"),
        ("Mnist", "mnist"),
        ("POISSON", "poisson2d"),
        ("poisson-2D", "poisson2d"),
        ("zzz", None),
        ("", None),
    ],
)
def test_names_that_were_meant(given, meant):
    text = unknown_name("demo", given, ["xor", "mnist", "poisson2d"])
    assert ("Did you mean" in text) == (meant is not None)
    assert meant is None or f"Did you mean {meant!r}?" in text
    assert text.endswith("The names are 'xor', 'mnist', 'poisson2d'.")


@pytest.mark.parametrize(
    ("given", "names", "meant"),
    [
        ("MSE", ("squared_error", "cross_entropy"), "squared_error"),
        ("sigmoid", ("Tanh", "Logistic"), "Logistic"),
        ("nll", ("squared_error", "softmax_cross_entropy"), "softmax_cross_entropy"),
        ("hessian_free", ("auto", "hf"), "hf"),
        ("bce", ("squared_error",), None),  # where there is no such loss
    ],
)
def test_names_of_other_programs(given, names, meant):
    text = unknown_name("thing", given, names)
    assert (f"Did you mean {meant!r}?" in text) if meant else ("Did you mean" not in text)
