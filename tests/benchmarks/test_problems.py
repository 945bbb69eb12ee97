"""The problems of benchmarks/pde: equations vanish for functions that solve them, and forms have what they promise."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import KDTree

from hessianfree.calculus import derivatives, laplacian

from pde.points import Cluster, Region, draw
from pde.problems import PROBLEMS

MU, NU = 0.022, 0.01

#: Functions that solve an equation, of other initial values than the problem's.
SOLVING = {
    "burgers": lambda _, p: 0.3 - 0.2 * jnp.tanh(0.2 * (p[0] - 0.3 * p[1]) / (2 * NU)),
    "allen-cahn": lambda _, p: jnp.tanh(p[0] * np.sqrt(5 / 2e-4)),
    "kdv": lambda _, p: 3 * 0.5 / jnp.cosh(np.sqrt(0.5) * (p[0] - 0.5 * p[1]) / (2 * MU)) ** 2,
    "poisson5d": lambda _, p: jnp.cos(jnp.pi * p).sum() + p[0] * p[1],
    "convection": lambda _, p: jnp.sin(3 * (p[0] - 40 * p[1])),
    "reaction": lambda _, p: 1 / (1 + jnp.exp(p[0] - 5 * p[1])),
    "wave": lambda _, p: jnp.sin(p[0] - 2 * p[1]) + (p[0] + 2 * p[1]) ** 3,
}

INITIALLY = {
    "burgers": lambda x: -np.sin(np.pi * x),
    "allen-cahn": lambda x: x**2 * np.cos(np.pi * x),
    "kdv": lambda x: np.cos(np.pi * x),
    "convection": np.sin,
    "reaction": lambda x: np.exp(-((x - np.pi) ** 2) / (2 * (np.pi / 4) ** 2)),
    "wave": lambda x: np.sin(np.pi * x) + np.sin(5 * np.pi * x) / 2,
}


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def quick(problem, form):
    counts = dict.fromkeys(("equation", "start", "edge", "rest", "period"), 8)
    return problem.settings.but({"form": form, "hidden": [5], "counts": counts})


@pytest.mark.parametrize("name", SOLVING)
def test_equations_vanish_for_what_solves_them(name):
    form = next(iter(PROBLEMS[name].forms.values()))
    equation = form.conditions[0].residual.func
    points = np.random.RandomState(0).uniform(0.01, 0.2, (20, len(form.conditions[0].region.low)))
    solved = jax.vmap(lambda p: equation(SOLVING[name], None, p))(points)
    np.testing.assert_allclose(solved, 0, atol=1e-8)
    other = jax.vmap(lambda p: equation(lambda _, q: SOLVING[name](_, q) * jnp.exp(q[0] * q[-1]), None, p))(points)
    assert np.abs(other).max() > 1e-3


@pytest.mark.parametrize("name", INITIALLY)
def test_forms_start_from_the_initial_values(name):
    """Those that have them by themselves; the others have a residual that says so."""
    problem = PROBLEMS[name]
    x = np.linspace(0, 1, 11)
    points = np.stack([x, 0 * x], axis=1)
    for form in problem.forms:
        params = problem.start(quick(problem, form), 0)
        found = jax.vmap(problem.forms[form].solution, (None, 0))(params, points)
        conditions = {condition.name: condition.residual for condition in problem.forms[form].conditions}
        if "start" in conditions:
            found -= jax.vmap(conditions["start"], (None, 0))(params, points)
        np.testing.assert_allclose(found, INITIALLY[name](x), atol=1e-7)


@pytest.mark.parametrize("name", SOLVING)
def test_terms_are_finite_and_repeat_by_seed(name):
    problem = PROBLEMS[name]
    for form in problem.forms:
        settings = quick(problem, form)
        params = problem.start(settings, 1)
        first, again, other = (problem.terms(settings, seed) for seed in (1, 1, 2))
        weights = [settings.weights.get(condition.name, 1) for condition in problem.forms[form].conditions]
        assert [weight for _, _, weight in first] == weights
        for (residual, points, _), (_, same, _), (_, different, _) in zip(first, again, other, strict=True):
            assert np.isfinite(jax.vmap(residual, (None, 0))(params, points)).all()
            assert len(points) == 8
            np.testing.assert_array_equal(points, same)
            assert (points != different).any()


@pytest.mark.parametrize("form", ["odd", "layer"])
def test_forms_of_the_odd_part_are_odd(form):
    problem = PROBLEMS["burgers"]
    u = jax.vmap(problem.forms[form].solution, (None, 0))
    params, points = problem.start(quick(problem, form), 0), np.random.RandomState(0).rand(20, 2)
    np.testing.assert_allclose(u(params, points * [-1, 1]), -u(params, points), atol=1e-15)


def test_early_points_have_early_times():
    problem = PROBLEMS["wave"]
    settings = problem.settings.but({"form": "soft"})
    whole, early = (problem.points(settings, 0, horizon=share) for share in (1.0, 0.25))
    for all_times, some in zip(whole, early, strict=True):
        np.testing.assert_allclose(some, all_times * [1, 0.25], rtol=1e-15)


def test_hard_forms_keep_the_ends():
    t = np.linspace(0, 1, 5)
    for name, low, high in (("burgers", -1, 1), ("wave", 0, 1), ("kdv", -1, 1)):
        problem = PROBLEMS[name]
        u = jax.vmap(problem.forms["hard"].solution, (None, 0))
        params = problem.start(quick(problem, "hard"), 0)
        ends = [u(params, np.stack([np.full(5, x), t], axis=1)) for x in (low, high)]
        np.testing.assert_allclose(ends[0], ends[1] if name == "kdv" else 0, atol=1e-14)


def test_the_layer_has_no_kink():
    problem = PROBLEMS["allen-cahn"]
    u, params = problem.forms["layer"].solution, problem.start(quick(problem, "layer"), 0)
    for t in (0.01, 0.5, 1.0):
        assert abs(derivatives(partial(u, params), 1)(jnp.array([1 - 1e-9, t]))[1]) < 1e-4


def test_the_published_network_of_five_dimensions_has_its_parameters():
    problem = PROBLEMS["poisson5d"]
    settings = problem.settings.but({"hidden": [64, 64, 48, 48]})
    assert sum(w.size + b.size for w, b in problem.start(settings, 0)) == 10_065


def test_derivatives_of_a_polynomial():
    def u(p):
        return 2 * p[0] ** 3 * p[1] ** 2

    np.testing.assert_allclose(derivatives(u, 3)(jnp.array([3.0, 5.0])), (1350, 1350, 900, 300))
    assert laplacian(u)(jnp.array([3.0, 5.0])) == 900 + 108


@pytest.mark.parametrize("sampling", ["uniform", "latin", "sobol", "lattice"])
def test_points_lie_in_their_region(sampling):
    box = Region((-1, 0), (1, 0.5))
    inside = draw(box, 300, sampling, np.random.default_rng(0))
    assert inside.shape == (300, 2)
    assert (inside >= box.low).all()
    assert (inside <= box.high).all()
    assert np.abs(inside.mean(axis=0) - [0, 0.25]).max() < 0.1
    faces = draw(box._replace(faces=(0,)), 300, sampling, np.random.default_rng(0))
    assert set(faces[:, 0]) == {-1, 1}


def test_points_of_a_lattice_keep_their_distance():
    """The farthest that n points can keep is sqrt(2 / (sqrt(3) n)), in triangles. Of random ones some all but meet."""
    apart = {}
    for sampling in ("sobol", "lattice"):
        points = draw(Region((0, 0), (1, 1)), 1000, sampling, np.random.default_rng(0))
        apart[sampling] = KDTree(points).query(points, k=2)[0][:, 1].min() / np.sqrt(2 / (np.sqrt(3) * 1000))
    assert apart["lattice"] > 0.7
    assert apart["sobol"] < 0.2


def test_clusters_gather_their_share():
    close = draw(Region((-1, 0), (1, 1)), 1000, "sobol", np.random.default_rng(0), (Cluster(0.5, 0, 0.0, 0.01),))
    share = np.mean(np.abs(close[:, 0]) < 0.01)
    assert share == pytest.approx(0.5 * 0.5 + 0.5 * 0.01, abs=0.02)  # half of a Cauchy density lies within its width
    assert np.abs(close[:, 0]).max() <= 1


def test_unknown_choices_are_named():
    problem = PROBLEMS["kdv"]
    with pytest.raises(ValueError, match="no form 'odd'; one of hard, waves, soft"):
        problem.form(problem.settings.but({"form": "odd"}))
    with pytest.raises(ValueError, match="one of uniform, latin, sobol, lattice"):
        draw(Region((0,), (1,)), 3, "halton", np.random.default_rng(0))
