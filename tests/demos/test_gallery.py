"""The demos of hf.least_squares: their equations against the exact solutions, short runs, and the race."""

from __future__ import annotations

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hessianfree import demos
from hessianfree.demos import pinn

NAMES = ["poisson2d", "heat1d", "convection", "sinc"]


@pytest.fixture(params=NAMES)
def module(request):
    return importlib.import_module(f"hessianfree.demos.{request.param}")


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def residuals(module, monkeypatch, u):
    """The largest residual of each term, a function u(point) in place of the network."""
    monkeypatch.setattr(module, "network", lambda params, point: u(point))
    with jax.enable_x64(True):
        return [
            float(np.abs(jax.vmap(lambda at, r=r: r(None, at))(jnp.asarray(points))).max())
            for r, points in module.PROBLEM.terms
        ]


def test_the_exact_solution_has_no_residuals(module, monkeypatch):
    np.testing.assert_allclose(residuals(module, monkeypatch, module.solution), 0, atol=1e-12)


def test_another_function_has_residuals_of_every_kind(module, monkeypatch):
    found = residuals(module, monkeypatch, lambda point: module.solution(point) + 0.1 * point[0] ** 2)
    assert min(found) > 0.01, found


def numpy_solutions(name, points):
    """The solutions once more, as their modules' first lines have them."""
    x, y = points[..., 0], points[..., -1]
    return {
        "poisson2d": lambda: np.sin(np.pi * x) * np.sin(np.pi * y),
        "heat1d": lambda: (
            np.exp(-0.1 * np.pi**2 * y) * np.sin(np.pi * x) + np.exp(-0.9 * np.pi**2 * y) * np.sin(3 * np.pi * x) / 2
        ),
        "convection": lambda: np.sin(x - 40 * y),
        "sinc": lambda: np.sinc(10 * x),
    }[name]()


def test_solutions_and_errors(module):
    name = module.__name__.rpartition(".")[2]
    problem = module.PROBLEM
    grid = problem.grid
    exact = numpy_solutions(name, grid)
    np.testing.assert_allclose(pinn.values(module.solution, grid), exact, atol=1e-14)
    params = problem.start(0)
    squares = (pinn.values(module.network, grid, params) - exact) ** 2
    expected = {
        "poisson2d": np.sqrt(squares.mean()),
        "sinc": squares.mean(),
    }.get(name, np.sqrt(squares.sum() / (exact**2).sum()))
    assert problem.error(params) == pytest.approx(expected, rel=1e-10)


def test_points_are_where_they_belong():
    poisson, heat, convection = (importlib.import_module(f"hessianfree.demos.{name}") for name in NAMES[:3])
    test = poisson.PROBLEM.grid.reshape(-1, 2)
    assert (poisson.INTERIOR.shape, poisson.BOUNDARY.shape, test.shape) == ((900, 2), (120, 2), (9000, 2))
    assert ((poisson.INTERIOR > 0) & (poisson.INTERIOR < 1)).all()
    assert (np.isclose(poisson.BOUNDARY, 0) | np.isclose(poisson.BOUNDARY, 1)).any(axis=1).all()
    assert len(np.unique(poisson.BOUNDARY.round(9), axis=0)) == 120
    assert set(heat.ENDS[:, 0]) == {0, 1}
    assert set(heat.START[:, 1]) == set(convection.START[:, 1]) == {0}
    assert convection.INTERIOR[:, 0].max() < 2 * np.pi


def test_random_params_follow_the_hidden_layers():
    poisson = importlib.import_module("hessianfree.demos.poisson2d")
    assert [w.shape for w, _ in poisson.PROBLEM.start(0)] == [(2, 64), (64, 1)]
    assert [w.shape for w, _ in pinn.random_params((2, 3, 4, 1), 1)] == [(2, 3), (3, 4), (4, 1)]


@pytest.mark.parametrize(
    ("name", "steps", "error"),
    [("poisson2d", 60, 1e-3), pytest.param("heat1d", 60, 1e-3, marks=pytest.mark.long), ("sinc", 30, 1e-5)],
)
def test_short_runs_reach_their_errors(name, steps, error, in_folder, capsys):
    run = demos.ALL[name](seconds=60, steps=steps, compare=False, plots=False)["least_squares"]
    assert run.steps == steps
    assert run.errors[-1] < error
    assert np.all(np.diff(run.seconds) > 0)
    shown = capsys.readouterr().out
    assert f"{run.errors[-1]:.1e}" in shown
    assert "Adam" not in shown
    assert list(in_folder.iterdir()) == []


@pytest.mark.long
def test_a_short_run_of_convection_lowers_its_error(in_folder):
    run = demos.convection(seconds=60, steps=60, compare=False, plots=False)["least_squares"]
    assert run.errors[-1] < 0.98 * run.errors[0]


@pytest.mark.long
def test_the_race_prints_a_table_and_writes_a_figure(in_folder, backend, capsys):
    backend("agg")
    runs = demos.sinc(seconds=2.5, steps=50)
    assert list(runs) == ["least_squares", "Adam", "L-BFGS"]
    for name, run in runs.items():
        assert run.errors.min() < 0.1 * run.errors[0], name
        assert run.seconds[-1] < 20
        assert [w.dtype for w, _ in run.params] == [np.float64] * 2
        assert name == "least_squares" or runs["least_squares"].errors[-1] < run.errors.min()
    *_, ours, adam, lbfgs, saved = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in (ours, adam, lbfgs)] == list(runs)
    assert adam.endswith(" s")
    assert saved == "saved sinc.png"
    assert [path.name for path in in_folder.iterdir()] == ["sinc.png"]


def test_all_methods_start_from_the_same_loss():
    problem = importlib.import_module("hessianfree.demos.heat1d").PROBLEM
    functions, points = zip(*problem.terms, strict=True)
    params = problem.start(3)
    from hessianfree import least_squares

    with jax.enable_x64(True):
        mean = float(pinn._value_and_gradient(functions, params, points)[0])
    assert least_squares(problem.terms, params, max_steps=0).value == pytest.approx(mean, rel=1e-12)


def test_figures_of_fields(in_folder, backend):
    backend("agg")
    demos.poisson2d(seconds=30, steps=3, compare=False)
    assert (in_folder / "poisson2d.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"seconds": 0}, "seconds is 0"), ({"seconds": "10"}, "seconds is '10'"), ({"steps": 0}, "steps is 0")],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        demos.sinc(**arguments)


@pytest.mark.parametrize("method", ["_least_squares", "_adam", "_lbfgs"])
def test_ctrl_c_ends_a_race_with_what_there_is(method, monkeypatch, capsys, in_folder):
    """During ours it is ours that tells; during the others, those that came to their end are kept."""
    look, names = pinn._Watch.look, {"_least_squares": "least_squares", "_adam": "Adam", "_lbfgs": "L-BFGS"}

    def interrupted(self, steps, params, always=False):
        if self.method == names[method] and not always:
            raise KeyboardInterrupt
        look(self, steps, params, always)

    monkeypatch.setattr(pinn._Watch, "look", interrupted)
    runs = demos.sinc(seconds=0.3, steps=3)
    order = list(names.values())
    finished = max(order.index(names[method]), 1)
    assert list(runs) == order[:finished]
    printed = capsys.readouterr().out
    assert printed.count("interrupted; this is what there is") == 1
    assert "lowest mean squared error" in printed
    assert (in_folder / "sinc.png").exists()
