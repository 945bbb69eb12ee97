"""The hand-over: when, by made-up courses; and that what `Auto` does is what its parts do."""

import itertools

import jax
import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.optimizers import handover
from hessianfree.optimizers.handover import Phase

X = np.linspace(-1, 1, 200, dtype=np.float32)[:, None]
T = np.sin(3 * X)


def network(seed=0, **arguments):
    return hf.FFNet([1, 20, 1], layers=["Linear", "Tanh", "Linear"], rng=seed, **arguments)


def trained(optimizer, net=None, epochs=40, **run):
    net = network() if net is None else net
    run = {"max_epochs": epochs, "print_period": None, "target_err": -1, **run}
    return net, net.run_epochs(X, T, optimizer, **run)


def phases(result):
    """The phases in order, each once."""
    found = result.history["phase"]
    return [found[0], *(after for before, after in itertools.pairwise(found) if after != before)]


# ---- when to hand over: losses that are known functions of the work --------------------------------------------------


def course_of(first, second, updates, cost=(1.0, 5.0)):
    """Phases of a run in which each optimizer lowers the loss by a rate (loss, work), whatever was before."""
    course, loss, marked, found = handover.begun(), 1.0, np.nan, []
    for _ in range(updates):
        if handover.is_due(course):
            course, marked = handover.decided(course, marked, loss), loss
        own = course.phase != Phase.FIRST
        found.append(Phase(course.phase))
        loss -= cost[own] * (second if own else first)(loss, course.work)
        course = handover.advanced(course, cost[own], cost[1])
        if handover.wants_mark(course):
            course, marked = handover.marked(course), loss
    return found, course


def test_the_faster_second_optimizer_goes_on_after_one_trial():
    found, course = course_of(lambda loss, work: 0.001 * loss, lambda loss, work: 0.002 * loss, 400)
    changes = [a for a, b in zip(found[1:], found, strict=False) if a != b]
    assert changes == [Phase.TRIAL, Phase.SECOND]
    assert course.phase == Phase.SECOND


def test_the_slower_second_optimizer_costs_little():
    """Trials of a share each, further and further apart: together a small part of the run."""
    found, course = course_of(lambda loss, work: 0.001 * loss, lambda loss, work: 0.0005 * loss, 2000)
    assert Phase.SECOND not in found
    trials = sum(phase == Phase.TRIAL for phase in found)
    assert 0 < trials * 5.0 <= 0.15 * course.work
    assert course.phase == Phase.FIRST


def test_an_optimizer_that_gets_slow_hands_back():
    """The second is fast until the loss is 0.5, and stands still below."""
    found, _ = course_of(lambda loss, work: 0.001 * loss, lambda loss, work: 0.004 * loss if loss > 0.5 else 0.0, 1500)
    last_second = len(found) - 1 - found[::-1].index(Phase.SECOND)
    assert Phase.FIRST in found[last_second:]


def test_a_loss_that_is_not_finite_ends_a_trial_and_the_second_phase():
    course = handover.begun()._replace(work=100.0, since=90.0, updates=5, rate=0.1, rate_at=80.0, level=1.0)
    for phase in (Phase.TRIAL, Phase.SECOND):
        for before, now in ((1.0, np.inf), (1.0, np.nan)):
            assert handover.decided(course._replace(phase=phase), before, now).phase == Phase.FIRST


def test_a_first_phase_that_fails_hands_over_at_once():
    course = handover.advanced(handover.begun(), 1.0, 5.0, usable=False)
    assert course.phase == Phase.SECOND
    assert not handover.wants_mark(course)


def test_a_trial_that_fails_goes_back_to_the_first():
    course = handover.begun()._replace(phase=Phase.TRIAL, work=100.0, due=105.0, updates=1)
    after = handover.advanced(course, 5.0, 5.0, usable=False)
    assert after.phase == Phase.FIRST
    assert after.due == pytest.approx(handover.AGAIN * after.work)


def test_the_first_update_of_a_trial_does_not_count():
    course = handover.begun()._replace(work=100.0, due=90.0, since=80.0, updates=5)
    course = handover.decided(course, 2.0, 1.0)
    assert (course.phase, course.rate) == (Phase.TRIAL, pytest.approx(1 / 20))
    assert not handover.wants_mark(course)
    course = handover.advanced(course, 5.0, 5.0)
    assert handover.wants_mark(course)
    course = handover.marked(course)
    for _ in range(handover.LEAST):
        assert not handover.is_due(course)
        course = handover.advanced(course, 5.0, 5.0)
    assert handover.is_due(course)


def test_updates_that_still_lower_the_damping_do_not_count():
    course = handover.begun()._replace(phase=Phase.TRIAL, work=100.0, due=105.0, updates=-1, rate=0.1, rate_at=100.0)
    for _ in range(handover.SETTLING):
        course = handover.advanced(course, 5.0, 5.0, settled=False)
        assert not handover.wants_mark(course)
    assert handover.wants_mark(handover.advanced(course, 5.0, 5.0, settled=True))
    assert handover.wants_mark(handover.advanced(course, 5.0, 5.0, settled=False))


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_it_reaches_what_adam_does_not_and_hands_over_once():
    net, result = trained(hf.opt.Auto(), epochs=125)
    found = phases(result)
    assert (found[0], found[-1], found.count("second")) == ("first", "second", 1)
    _, adam = trained(hf.opt.FirstOrder(optax.adam(1e-3)), epochs=180 * 20, early_stopping=False)
    assert result.best_error < 1e-6 < 1e-5 < adam.best_error
    assert np.isfinite(net.W).all()


def test_a_first_phase_that_makes_the_loss_worse_is_taken_back():
    objective = hf.Objective(lambda p, x: jax.numpy.tanh(x @ p["W"]) @ p["V"], "squared_error")
    rng = np.random.default_rng(0)
    worse = {"W": rng.standard_normal((1, 8)).astype("f"), "V": rng.standard_normal((8, 1)).astype("f")}
    better = {"W": worse["W"], "V": np.linalg.lstsq(np.tanh(X @ worse["W"]), T, rcond=None)[0].astype("f")}
    better["V"] += np.float32(0.05)
    optimizer = hf.opt.Auto()
    state = optimizer.init(worse)
    due = state.course._replace(work=100.0, due=100.0, since=90.0, updates=1)
    params, _, record = optimizer.step(objective, worse, state._replace(course=due, mark=better), (X, T))
    reached = 0.5 * np.mean((np.tanh(X @ better["W"]) @ better["V"] - T) ** 2)
    assert record.phase == "trial"
    assert record.value == pytest.approx(reached, rel=1e-3)
    assert not np.array_equal(params["V"], worse["V"])


def test_the_same_seed_makes_the_same_run_and_another_another():
    (one, _), (two, _), (other, _) = (trained(hf.opt.Auto(seed=seed), epochs=60) for seed in (3, 3, 4))
    assert np.array_equal(one.W, two.W)
    assert not np.array_equal(one.W, other.W)


def test_the_first_phase_is_optax_in_a_plain_loop():
    """Adam's steps on the minibatches that the seed gives, by optax."""
    rate, net = 3e-3, network()
    params = net.params()
    transformation = optax.adam(rate)
    state, weights = transformation.init(params), []
    values = jax.jit(jax.value_and_grad(lambda p, x, t: np.float32(0.5) * ((_outputs(p, x) - t) ** 2).sum(1).mean()))
    order = np.random.default_rng([5, 0]).permutation(200)
    for rows in order.reshape(4, 50):
        _, gradient = values(params, X[rows], T[rows])
        change, state = transformation.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        weights.append(net.flat(jax.device_get(params)))
    optimizer = hf.opt.Auto(hf.opt.FirstOrder(optax.adam(rate)), batch_size=50, seed=5)
    optimizer.full_batches = False  # one pass
    net.cache_minibatch(X, T)
    net.optimizer = optimizer
    change = optimizer.compute_update()
    np.testing.assert_allclose(net.W + change, weights[-1], rtol=2e-4, atol=1e-6)
    np.testing.assert_array_equal(optimizer.average_W, net.W + change)


def test_the_average_reaches_back_over_a_sixteenth_of_the_steps():
    net, optimizer, ends = network(), hf.opt.Auto(batch_size=50, seed=5), []
    optimizer.full_batches = False  # one pass, of 4 steps
    net.cache_minibatch(X, T)
    net.optimizer = optimizer
    for _ in range(24):
        net.W += optimizer.compute_update()
        ends.append(net.W.copy())
    expected = ends[0]
    for number, end in enumerate(ends[1:], 2):
        window = max(4 * number / 16, 1)
        past = 0.0 if window <= 4 else (1 - 1 / window) ** 4
        expected = past * expected + (1 - past) * end
    assert not np.array_equal(optimizer.average_W, net.W)
    np.testing.assert_allclose(optimizer.average_W, expected, rtol=1e-5, atol=1e-7)


def _outputs(params, x):
    (W, b), (V, c) = params[0, 1], params[1, 2]
    return jax.numpy.tanh(x @ W + b) @ V + c


def test_states_have_one_structure_from_init_on():
    objective = hf.Objective(lambda p, x: jax.numpy.tanh(x @ p["W"]) @ p["V"], "squared_error")
    rng = np.random.default_rng(0)
    params = {"W": rng.standard_normal((1, 8)).astype("f"), "V": rng.standard_normal((8, 1)).astype("f")}
    optimizer, found = hf.opt.Auto(), set()
    state = optimizer.init(params)
    for _ in range(130):
        params, state, record = optimizer.step(objective, params, state, (X, T))
        found.add(record.phase)
        assert jax.tree.structure(state.course) == jax.tree.structure(optimizer.init(params).course)
        assert jax.tree.structure(state.transformation) == jax.tree.structure(optimizer.init(params).transformation)
    assert found == {"first", "trial", "second"}


def test_fit_and_masks():
    """What the mask holds does not move, in the average neither."""
    objective = hf.Objective(lambda p, x: jax.numpy.tanh(x @ p["W"]) @ p["V"], "squared_error")
    start = {"W": np.linspace(-2, 2, 8, dtype="f")[None], "V": np.ones((8, 1), np.float32)}
    mask = {"W": np.ones((1, 8), bool), "V": np.zeros((8, 1), bool)}
    result = hf.fit(objective, start, (X, T), hf.opt.Auto(), mask=mask, max_epochs=80, print_period=None)
    assert np.array_equal(result.params["W"], start["W"])
    assert np.array_equal(result.best_params["W"], start["W"])
    basis = np.tanh(X.astype(float) @ start["W"])
    least = T - basis @ (np.linalg.pinv(basis) @ T)
    assert not np.array_equal(result.params["V"], start["V"])
    assert 0.5 * np.mean(least**2) * (1 - 1e-4) <= result.value < 0.05


def test_a_rate_that_diverges_ends_the_first_phase():
    net, result = trained(hf.opt.Auto(hf.opt.FirstOrder(optax.sgd(1e9))), epochs=10)
    assert phases(result)[:2] == ["first", "second"]
    assert not result.epochs[0].updates[0].accepted
    assert result.best_error < 0.1
    assert np.isfinite(net.W).all()


def test_layers_in_numpy_take_one_step_for_each_batch():
    class Cube(hf.nl.Nonlinearity):
        def activation(self, x):
            return np.tanh(np.array(x) ** 3)

        def d_activation(self, x, a):
            return (1 - np.asarray(a) ** 2) * 3 * np.asarray(x) ** 2

    net = hf.FFNet([1, 8, 1], layers=["Linear", Cube(), "Linear"], rng=0)
    _, result = trained(hf.opt.Auto(), net, epochs=3)
    assert result.epochs[-1].test_error < result.epochs[0].updates[0].value
    assert result.epochs[0].updates[0].work == 3 * 200 + 100


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"first": optax.adam(1e-3)}, TypeError, "hf.opt.FirstOrder"),
        ({"second": "kfac"}, TypeError, "hf.opt.HessianFree"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"seed": -1}, ValueError, "seed"),
    ],
)
def test_what_cannot_be_used_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        hf.opt.Auto(**arguments)
