"""Each method of benchmarks/pde on a small problem: the loss falls, and the curve says how."""

import jax
import numpy as np
import pytest

from pde import peers
from pde.problems import PROBLEMS
from pde.run import METHODS, Watch, solve

PROBLEM = PROBLEMS["reaction"]
SETTINGS = PROBLEM.settings.but(
    {
        "hidden": [6],
        "counts": {"equation": 40, "start": 20, "period": 5},
        "peers": {"warm_up": 50},
        "weights": {"start": 1.0, "period": 1.0},
    }
)


class Few(Watch):
    """Ends after so many looks instead of seconds, so that a slow machine changes nothing."""

    looks = 0

    def look(self, updates, params, always=False):
        self.looks += 1
        return super().look(updates, params, always=True) or self.looks >= 15


@pytest.fixture(autouse=True)
def in_float64():
    with jax.enable_x64(True):
        yield


def value(loss, params):
    return loss(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)]))[0]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_loss(method):
    start = PROBLEM.start(SETTINGS, 0)
    loss = peers.Loss(PROBLEM.terms(SETTINGS, 0), start)
    watch = Few(lambda params: value(loss, params), start, 1e9, 0.0, told=False)
    solve(method, PROBLEM, SETTINGS, 0, watch)
    losses = [point["test error"] for point in watch.curve]
    assert len(losses) >= 16
    assert min(losses) < 0.2 * losses[0]
    updates = [point["updates"] for point in watch.curve]
    assert updates == sorted(updates)


def test_stages_follow_each_other_and_count_on():
    """Four steps on early points; one on some, whose loss is low enough at once; the others on all of them."""
    settings = SETTINGS.but({"marching": [0.5, 4], "coarse": [2, 1e9], "resample_every": 3})
    seen = []

    class Counting(Few):
        def on_epoch(self, epoch):
            seen.append(epoch.number)
            return super().on_epoch(epoch)

    start = PROBLEM.start(settings, 0)
    loss = peers.Loss(PROBLEM.terms(settings, 0), start)
    watch = Counting(lambda params: value(loss, params), start, 1e9, 0.0, told=False)
    solve("ours", PROBLEM, settings, 0, watch)
    assert seen == [0, 1, 2, 3, 0, *range(10)]
    assert [point["updates"] for point in watch.curve] == list(range(16))
    assert watch.curve[-1]["test error"] < 0.2 * watch.curve[0]["test error"]


def test_the_loss_is_that_of_least_squares():
    import hessianfree as hf

    settings = SETTINGS.but({"weights": {"start": 7.0}})
    start, terms = PROBLEM.start(settings, 0), PROBLEM.terms(settings, 0)
    expected = hf.least_squares(terms, start, max_steps=0).value
    assert value(peers.Loss(terms, start), start) == pytest.approx(expected, rel=1e-12)


def test_adaptive_points_lie_where_residuals_are_large():
    settings = SETTINGS.but({"adaptive": [2.0, 0.0], "counts": {"equation": 400}})
    params = PROBLEM.start(settings, 0)
    residual = PROBLEM.form(settings).conditions[0].residual
    means = [
        float(np.mean(np.abs(jax.vmap(residual, (None, 0))(params, PROBLEM.points(settings, 0, 1, given)[0]))))
        for given in (None, params)
    ]
    assert means[1] > 1.2 * means[0]
