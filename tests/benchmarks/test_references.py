"""The reference solutions of benchmarks/pde: refining changes nothing, and something else says the same."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from pde import references


def relative(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# ---- exact ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nu", [0.01 / np.pi, 0.01])
def test_burgers_is_refined_enough(nu):
    x, t = np.meshgrid(np.linspace(-1, 1, 37), np.linspace(0, 1, 6), indexing="ij")
    found = references.burgers(x, t, nu)
    assert np.abs(found - references.burgers(x, t, nu, spacing=0.01)).max() < 1e-14
    assert np.abs(found - references.burgers(x, t, nu, width=20)).max() < 1e-14
    np.testing.assert_allclose(found[:, 0], -np.sin(np.pi * x[:, 0]), atol=1e-15)
    np.testing.assert_allclose(found[[0, -1]], 0, atol=1e-14)


def test_the_steepest_slope_of_burgers_is_the_published_one():
    """Basdevant et al. 1986: |u_x| is largest at x = 0 and t = 1.6037 / pi, where it is 152.00516."""
    x = np.array([-2e-6, -1e-6, 1e-6, 2e-6])
    u = references.burgers(x, np.full(4, 1.6037 / np.pi), 0.01 / np.pi)
    slope = np.dot(u, [1, -8, 8, -1]) / 12e-6
    assert slope == pytest.approx(-152.00516, abs=1e-4)


E = 1e-3  # step of the differences, of fourth order


def differences(u, x, t):
    """u, u_t, u_x, u_tt and u_xx."""
    shifts = np.array([-2, -1, 0, 1, 2]) * E
    along_x, along_t = (np.array(v) for v in ([u(x + s, t) for s in shifts], [u(x, t + s) for s in shifts]))
    first, second = np.array([1, -8, 0, 8, -1]) / 12 / E, np.array([-1, 16, -30, 16, -1]) / 12 / E**2
    return along_x[2], first @ along_t, first @ along_x, second @ along_t, second @ along_x


def test_equations_hold():
    rng = np.random.RandomState(0)
    x, t = rng.uniform(0.1, 0.9, (2, 50))
    u, u_t, u_x, _, u_xx = differences(lambda x, t: references.burgers(x, t, 0.1), x, t)
    np.testing.assert_allclose(u_t + u * u_x, 0.1 * u_xx, atol=1e-6)
    u, u_t, u_x, _, _ = differences(references.convection, x, t)
    np.testing.assert_allclose(u_t, -40 * u_x, atol=1e-2)
    u, u_t, _, _, _ = differences(references.reaction, 6 * x, t)
    np.testing.assert_allclose(u_t, 5 * u * (1 - u), atol=1e-7)
    _, _, _, u_tt, u_xx = differences(references.wave, x, t)
    np.testing.assert_allclose(u_tt, 4 * u_xx, atol=1e-2)


def test_initial_values():
    x = np.linspace(0, 1, 11)
    np.testing.assert_allclose(references.convection(x, 0 * x), np.sin(x))
    np.testing.assert_allclose(references.reaction(6 * x, 0 * x), np.exp(-((6 * x - np.pi) ** 2) * 8 / np.pi**2))
    np.testing.assert_allclose(references.wave(x, 0 * x), np.sin(np.pi * x) + np.sin(5 * np.pi * x) / 2)
    assert references.cosines(np.array([[0.0, 1, 0, 1, 0.5]]))[0] == pytest.approx(0)


# ---- computed ones ---------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_allen_cahn_changes_little_when_refined():
    """With a quarter of the modes; `python -m pde.references`, in benchmarks/, refines what is used."""
    found = references.allen_cahn(64, 11, modes=512, steps=8)
    assert relative(found, references.allen_cahn(64, 11, modes=768, steps=12)) < 1e-9
    np.testing.assert_allclose(found[1:], found[:0:-1], atol=1e-13)  # even


@pytest.mark.long
def test_allen_cahn_is_that_of_runge_kutta_steps():
    from scipy import fft

    x = (np.arange(512) + 0.5) / 512
    rates = -1e-4 * (np.pi * np.arange(512)) ** 2

    def slope(_, u):
        values = fft.idct(u)
        return rates * u + 5 * fft.dct(values - values**3)

    last = solve_ivp(slope, (0, 1), fft.dct(x**2 * np.cos(np.pi * x)), "DOP853", [1.0], rtol=1e-9, atol=1e-9).y[:, 0]
    series = last / 512
    series[0] /= 2
    found = references.allen_cahn(64, 3, modes=512, steps=64)[:, -1]
    places = -1 + 2 * np.arange(64) / 64
    assert relative(np.cos(np.pi * np.outer(places, np.arange(512))) @ series, found) < 1e-4  # aliases: 1 / modes^2


@pytest.mark.long
def test_korteweg_de_vries_changes_little_when_refined():
    found = references.korteweg_de_vries(64, 3, modes=128, steps=1_500)
    assert relative(found, references.korteweg_de_vries(64, 3, modes=160, steps=2_000)) < 1e-9


def test_korteweg_de_vries_keeps_what_the_equation_keeps():
    """The means of u, u^2 and u^3 / 3 - mu^2 u_x^2."""
    u = references.korteweg_de_vries(320, 3, modes=160, steps=1_500)
    k = np.pi * np.arange(161)
    slope = np.fft.irfft(1j * k[:, None] * np.fft.rfft(u, axis=0), axis=0)
    for kept in (u, u**2, u**3 / 3 - 0.022**2 * slope**2):
        np.testing.assert_allclose(kept.mean(axis=0), kept[:, 0].mean(), atol=1e-10)
