from __future__ import annotations

from functools import cache

import jax
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.sparse.linalg import eigsh

import hessianfree as hf
from hessianfree.curvature import GaussNewton, spectra
from hessianfree.curvature import matrices as curvature
from hessianfree.objective.objective import Objective


@cache
def network(dtype=np.float64):
    """Gauss-Newton matrix of a network of 26 parameters, and its dense form."""
    net = hf.FFNet([3, 4, 2], layers="Tanh", rng=0, dtype=dtype)
    rng = np.random.RandomState(7)
    net.cache_minibatch(rng.randn(20, 3), rng.randn(20, 2))
    G = GaussNewton(net.problem(), net.params(), net.batch())
    assert G.shape == (26, 26)
    return G, G.to_dense()


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


# ---- estimates -------------------------------------------------------------------------------------------------------


def diagonal_operator(entries):
    """Gauss-Newton matrix with these entries on its diagonal."""
    entries = np.asarray(entries, float)
    batch = np.sqrt(entries)[None], np.zeros((1, len(entries)))
    return GaussNewton(Objective(lambda p, x: x * p), np.ones(len(entries)), batch)


def test_scipy_finds_the_eigenvalues():
    G, A = network()
    operator = G.to_scipy()
    found = eigsh(operator, 4, which="LA", return_eigenvectors=False, v0=np.ones(26))
    close(np.sort(found), np.linalg.eigvalsh(A)[-4:])
    V = np.random.RandomState(10).randn(26, 2)
    assert (operator.shape, operator.dtype) == ((26, 26), np.float64)
    close(operator @ V, A @ V, 1e-12)
    close(operator.H @ V[:, 0], A @ V[:, 0], 1e-12)
    close(operator @ V[:, :1], A @ V[:, :1], 1e-12)


@pytest.mark.parametrize("k", [1, 6, 26])
def test_the_largest_eigenvalues(k):
    G, A = network()
    values, vectors = G.largest(k)
    close(values, np.linalg.eigvalsh(A)[::-1][:k])
    close(A @ vectors, vectors * values, 1e-9)


def test_the_largest_eigenvalues_in_float32():
    G = network(np.float32)[0]
    values = G.largest(3).values
    assert values.dtype == np.float32
    close(values, network()[0].largest(3).values, 1e-5)


def test_the_trace_is_as_near_as_its_standard_error_says():
    G, A = network()
    found = [G.trace(samples=15, seed=seed) for seed in range(30)]
    errors = np.array([estimate.value for estimate in found]) - np.trace(A)
    expected = np.sqrt(np.mean([estimate.standard_error**2 for estimate in found]))
    assert expected > 1e-4 * np.trace(A)  # there is something to estimate
    assert abs(errors.mean()) < 4 * expected / np.sqrt(30)
    assert 0.5 < np.sqrt(np.mean(errors**2)) / expected < 2


def test_the_trace_of_a_matrix_of_low_rank_is_exact():
    x = np.random.RandomState(11).randn(4, 30)
    G = GaussNewton(Objective(lambda p, x: x @ p), np.zeros(30), (x, np.zeros(4)))
    value, standard_error = G.trace(samples=12)
    assert value == pytest.approx(np.sum(x**2) / 4, rel=1e-12)
    assert standard_error < 1e-12


def test_the_diagonal_is_as_near_as_its_standard_error_says():
    G, A = network()
    S = 400
    found = flat(G.diagonal(samples=S))
    standard_error = np.sqrt((np.sum(A**2, axis=1) - np.diag(A) ** 2) / S)
    assert (np.abs(found - np.diag(A)) < 4.5 * standard_error).all()
    assert jax.tree.structure(G.diagonal(samples=1)) == jax.tree.structure({(0, 1): (0, 0), (1, 2): (0, 0)})


def test_estimates_for_a_diagonal_matrix_are_exact():
    G = diagonal_operator(np.arange(1, 9))
    np.testing.assert_allclose(G.diagonal(samples=1), np.arange(1, 9), rtol=1e-14)
    assert G.trace(samples=24).value == pytest.approx(36, rel=1e-12)  # as many sketches as parameters


# ---- the density of eigenvalues --------------------------------------------------------------------------------------


def test_lanczos_integrates_polynomials_exactly():
    """m steps: up to degree 2 m - 1."""
    A = np.random.RandomState(12).randn(9, 9)
    A = A + A.T
    start = np.random.RandomState(13).randn(9)
    rule = spectra.quadrature(lambda V: A @ V, start, steps=3, eps=1e-16)
    for degree in range(6):
        expected = start @ np.linalg.matrix_power(A, degree) @ start / (start @ start)
        assert np.sum(rule.tau * rule.theta**degree) == pytest.approx(expected, rel=1e-10)


def test_lanczos_ends_where_it_has_found_all():
    A = np.diag([1.0, 1.0, 2.0, 2.0, 2.0])
    rule = spectra.quadrature(lambda V: A @ V, np.ones(5), steps=5, eps=1e-15)
    np.testing.assert_allclose(rule.theta, [1, 2], rtol=1e-12)
    np.testing.assert_allclose(rule.tau, [0.4, 0.6], rtol=1e-12)


def moments(found):
    integral = np.trapezoid(found.density, found.grid)
    return integral, np.trapezoid(found.density * found.grid, found.grid) / integral


def test_the_density_integrates_to_one_and_has_the_mean_of_the_eigenvalues():
    G, A = network()
    probes = 8
    found = curvature.spectral_density(G, largest=3, steps=12, probes=probes)
    integral, mean = moments(found)
    assert integral == pytest.approx(1, rel=1e-6)
    # The variance of z'Az for signs z is 2 sum_{i != j} A_ij^2.
    standard_error = np.sqrt(2 * (np.sum(A**2) - np.sum(np.diag(A) ** 2)) / probes) / len(A)
    assert abs(mean - np.trace(A) / len(A)) < 4 * standard_error
    close(found.largest, np.linalg.eigvalsh(A)[::-1][:3])


def test_the_density_of_a_diagonal_matrix_is_that_of_its_entries():
    """Signs weigh all entries alike: bumps as high as there are entries."""
    found = curvature.spectral_density(diagonal_operator([1, 1, 1, 4, 6]), steps=5, probes=1, width=0.02)
    bumps = [(3, 1.0), (1, 4.0), (1, 6.0)]
    expected = sum(n / 5 * np.exp(-0.5 * ((found.grid - at) / found.width) ** 2) for n, at in bumps)
    np.testing.assert_allclose(found.density, expected / (found.width * np.sqrt(2 * np.pi)), rtol=1e-6, atol=1e-12)
    assert found.width == pytest.approx(0.02 * 5)
    assert moments(found) == pytest.approx((1, 13 / 5), rel=1e-6)
    np.testing.assert_allclose(found.largest, [6, 4, 1, 1, 1])


@pytest.mark.parametrize("entry", [0, 3])
def test_a_matrix_with_one_eigenvalue_has_a_spectrum(entry):
    found = curvature.spectral_density(diagonal_operator(np.full(30, entry)))
    assert moments(found) == pytest.approx((1, entry), rel=1e-6, abs=1e-9)
    np.testing.assert_allclose(found.largest, entry, atol=1e-12)


def test_the_spectrum_is_a_figure(tmp_path):
    G, A = network()
    figure = curvature.spectrum(G, largest=4, steps=10, probes=2)
    assert isinstance(figure, Figure)
    (panel,) = figure.axes
    density, marks = panel.get_lines()
    close(marks.get_xdata(), np.linalg.eigvalsh(A)[::-1][:4])
    assert (density.get_ydata() > 0).all()
    assert panel.get_yscale() == "log"
    assert panel.get_title() == "GaussNewton, 26 parameters"
    figure.savefig(tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").stat().st_size > 1000


@pytest.mark.parametrize("size", [8, 60])
@pytest.mark.parametrize("act", ["trace", "diagonal", "largest"])
def test_a_matrix_that_is_not_finite_is_told(act, size):
    """Small ones are solved densely, others by ARPACK, which would say nothing of use."""
    inputs = np.ones((1, size))
    inputs[0, 1] = np.nan
    operator = GaussNewton(Objective(lambda p, x: x * p), np.ones(size), (inputs, np.ones((1, size))))
    with pytest.raises(ValueError, match="product with this GaussNewton is not finite"):
        getattr(operator, act)()


def test_a_matrix_that_is_not_finite_is_told_to_scipys_solvers():
    inputs = np.ones((1, 60))
    inputs[0, 1] = np.nan
    operator = GaussNewton(Objective(lambda p, x: x * p), np.ones(60), (inputs, np.ones((1, 60))))
    with pytest.raises(ValueError, match="product with this GaussNewton is not finite"):
        eigsh(operator.to_scipy(), 2)


# ---- what cannot be --------------------------------------------------------------------------------------------------


MISTAKES = {
    "large": (lambda: network()[0].to_dense(limit=25), ValueError, r"limit is 25.*limit=26"),
    "objects": (lambda: network()[0] @ np.array([None] * 26, object), TypeError, "of type object"),
    "few samples": (lambda: network()[0].trace(samples=5), ValueError, "samples is 5"),
    "no sample": (lambda: network()[0].diagonal(samples=0), ValueError, "samples is 0"),
    "too many": (lambda: network()[0].largest(27), ValueError, "k is 27"),
    "none": (lambda: network()[0].largest(0), ValueError, "k is 0"),
    "a matrix": (lambda: curvature.spectrum(np.eye(3)), TypeError, "operator is a ndarray"),
    "width": (lambda: curvature.spectrum(network()[0], width=0), ValueError, "width is 0"),
    "steps": (lambda: curvature.spectrum(network()[0], steps=0), ValueError, "steps is 0"),
    "probes": (lambda: curvature.spectrum(network()[0], probes=0), ValueError, "probes is 0"),
    "largest": (lambda: curvature.spectrum(network()[0], largest=0), ValueError, "largest is 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    act, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        act()
