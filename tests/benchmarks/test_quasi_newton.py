"""The quasi-Newton methods of benchmarks/pde against textbook formulas in dense matrices."""

import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from pde.quasi_newton import Inverse, bfgs, minimise, self_scaled

SIZE = 6


def whole(inverse):
    upper = np.triu(inverse.matrix)
    return upper + np.triu(upper, 1).T


@pytest.fixture
def steps():
    """Steps and changes of the gradient of a quadratic function."""
    rng = np.random.RandomState(0)
    root = rng.randn(SIZE, SIZE)
    s = rng.randn(5, SIZE)
    return list(zip(s, s @ (root @ root.T + np.eye(SIZE)), strict=True))


def learn(steps, choose):
    """H after the steps, and H before the last of them."""
    inverse = Inverse(SIZE)
    for s, y in steps:
        before = whole(inverse)
        assert inverse.update(s, y, s @ np.linalg.solve(before, s), choose)
    return before, whole(inverse)


def test_bfgs_is_the_textbook_formula(steps):
    before, after = learn(steps, bfgs)
    s, y = steps[-1]
    left = np.eye(SIZE) - np.outer(s, y) / (y @ s)
    np.testing.assert_allclose(after, left @ before @ left.T + np.outer(s, s) / (y @ s), rtol=1e-10)


def test_self_scaling_is_the_family_of_hessians(steps):
    """B <- tau (B - B s s'B / s'B s + theta w w') + y y' / y's, w = sqrt(s'B s) (y / y's - B s / s'B s)."""
    before, after = learn(steps, self_scaled)
    s, y = steps[-1]
    B = np.linalg.inv(before)
    b, h = s @ B @ s / (y @ s), y @ before @ y / (y @ s)
    phi, tau = self_scaled(b, h, SIZE)
    theta = (1 - phi) / (1 + (b * h - 1) * phi)
    w = np.sqrt(s @ B @ s) * (y / (y @ s) - B @ s / (s @ B @ s))
    family = tau * (B - np.outer(B @ s, B @ s) / (s @ B @ s) + theta * np.outer(w, w)) + np.outer(y, y) / (y @ s)
    np.testing.assert_allclose(np.linalg.inv(after), family, rtol=1e-8)
    assert (phi, tau) != (1, 1)


@pytest.mark.parametrize("choose", [bfgs, self_scaled])
def test_the_last_step_is_kept_and_the_matrix_stays_positive(steps, choose):
    _, after = learn(steps, choose)
    s, y = steps[-1]
    np.testing.assert_allclose(after @ y, s, atol=1e-10)
    assert np.linalg.eigvalsh(after).min() > 0


def test_choices_by_hand():
    """With b = 2 and h = 1, a = 1 and c = sqrt(1/2), so that theta = max(c - 1 - ... , -1/2): rho = 1 - c."""
    rho = 1 - np.sqrt(0.5)
    theta = max(rho - 1, min(1 / rho, -0.5))
    assert theta == -0.5
    phi, tau = self_scaled(2.0, 1.0, 3)
    assert phi == pytest.approx(1.5 / 0.5)
    assert tau == pytest.approx(min(0.5 * 0.5**-0.5, 0.5))
    phi, tau = self_scaled(0.5, 4.0, 3)  # a = 1, rho = 1, theta = max(0, min(1, 1)) = 1, sigma = 2
    assert phi == 0
    assert tau == pytest.approx(min(2**-0.5, 1))


@pytest.mark.parametrize("choose", [bfgs, self_scaled])
@pytest.mark.parametrize("size", [2, 10])
def test_rosenbrock_is_minimised(choose, size):
    found = minimise(lambda x: (float(rosen(x)), rosen_der(x)), np.full(size, -1.2), choose, max_steps=300)
    np.testing.assert_allclose(found, 1, atol=1e-9)


def test_steps_without_curvature_change_nothing():
    inverse = Inverse(3)
    assert not inverse.update(np.ones(3), -np.ones(3), 1.0, self_scaled)
    np.testing.assert_array_equal(inverse.matrix, np.eye(3))
