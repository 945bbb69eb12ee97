from __future__ import annotations

import numpy as np
import pytest

from hessianfree.networks.debugging import derivative


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize(
    ("function", "slope"),
    [(np.tanh, 1 / np.cosh(0.3) ** 2), (np.exp, np.exp(0.3)), (lambda x: np.log(x + 1e-3 - 0.3), 1e3), (np.sqrt, None)],
)
def test_the_estimated_error_bounds_the_true_one(function, slope, scale):
    at, slope = (0.3, slope) if slope is not None else (1e-4, 0.5e2)
    with np.errstate(all="ignore"):
        found, error = derivative(lambda h: scale * function(at + h), np.ones(()), scale * np.full((1,), 1e-15))
    assert abs(found - scale * slope) <= 4 * error + 1e-12 * scale * slope
    assert error <= 1e-4 * scale * slope


def test_no_finite_value_gives_an_unbounded_error():
    _, error = derivative(lambda h: np.array([np.nan]), np.ones(()), np.zeros(1))
    assert error == np.inf
