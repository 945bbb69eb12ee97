"""What counts as a number."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from hessianfree.engine.numbers import is_number, is_positive, is_whole

NUMBERS = [2, 2.0, np.int64(2), np.float32(2), np.array(2.0), np.array(2), jnp.array(2.0)]
OTHERS = [True, np.True_, np.array(True), "2", None, 2j, np.complex64(2), [2], np.array([2.0]), object()]


@pytest.mark.parametrize("value", NUMBERS, ids=repr)
def test_numbers_of_any_kind(value):
    assert is_number(value)
    assert is_positive(value)
    assert not is_positive(-value)
    assert not is_positive(0 * value)


@pytest.mark.parametrize("value", OTHERS, ids=lambda value: type(value).__name__)
def test_other_things_are_not_numbers(value):
    assert not is_number(value)
    assert not is_positive(value)
    assert not is_whole(value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, np.float32(np.nan), jnp.array(np.inf)])
def test_only_finite_numbers_are_positive(value):
    assert is_number(value)
    assert not is_positive(value)


def test_whole_numbers_are_integers_by_type():
    assert [is_whole(value) for value in (0, -3, np.int32(5), 2.0, np.float64(2))] == [True, True, True, False, False]
