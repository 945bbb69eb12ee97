from __future__ import annotations

import numpy as np
import optax
import pytest

import hessianfree as hf
from hessianfree.engine import hessian_free

import dense


def prepared(seed=0, damping=0.3):
    rng = np.random.RandomState(seed)
    net = hf.FFNet([3, 4, 2], layers="Tanh", rng=seed, dtype=np.float64)
    net.optimizer = hf.opt.HessianFree(init_damping=damping)
    net.cache_minibatch(rng.randn(8, 3), rng.randn(8, 2))
    return net


def test_classic_conjugate_gradient_solves_the_damped_system():
    net = prepared()
    B, g = dense.damped_system(net, net.optimizer.damping)
    deltas = net.optimizer.conjugate_gradient(np.zeros_like(net.W), g, iters=200)
    np.testing.assert_allclose(deltas[-1][1], np.linalg.solve(B, -g), rtol=1e-3)


def test_classic_conjugate_gradient_returns_iterates_of_textbook_cg():
    net = prepared(damping=0.02)
    B, g = dense.damped_system(net, net.optimizer.damping)
    textbook = dense.conjugate_gradient(B, -g, 15)
    deltas = net.optimizer.conjugate_gradient(np.zeros_like(g), g, iters=12)
    assert [i for i, _ in deltas] == [5, 6, 7, 9, 11]
    for i, delta in deltas:
        assert isinstance(i, int)
        np.testing.assert_allclose(delta, textbook[i], rtol=1e-4, atol=1e-6)


def test_classic_conjugate_gradient_starts_where_it_is_told():
    net = prepared()
    B, g = dense.damped_system(net, net.optimizer.damping)
    exact = np.linalg.solve(B, -g)
    ((_, delta),) = net.optimizer.conjugate_gradient(exact, g, iters=1)
    np.testing.assert_allclose(delta, exact, rtol=1e-6)


def test_classic_conjugate_gradient_ignores_the_preconditioner():
    plain, other = prepared(), prepared()
    other.optimizer = hf.opt.HessianFree(init_damping=0.3, preconditioner="diagonal", cg_tolerance=0.1)
    g = plain.calc_grad()
    first = plain.optimizer.conjugate_gradient(np.zeros_like(g), g, iters=10)
    second = other.optimizer.conjugate_gradient(np.zeros_like(g), g, iters=10)
    for (i, a), (j, b) in zip(first, second, strict=True):
        assert i == j
        np.testing.assert_array_equal(a, b)


def test_an_update_is_the_solution_of_the_damped_system():
    net = prepared(damping=5.0)
    net.optimizer = hf.opt.HessianFree(CG_iter=200, init_damping=5.0, cg_tolerance=0.0)
    B, g = dense.damped_system(net, net.optimizer.damping)
    update = net.optimizer.compute_update()
    np.testing.assert_allclose(update, np.linalg.solve(B, -g), rtol=1e-4, atol=1e-8)
    np.testing.assert_allclose(net.optimizer.init_delta, update, rtol=1e-12)


def test_damping_and_warm_start_are_the_users_to_set():
    net = prepared()
    net.optimizer.damping = 1e8
    update = net.optimizer.compute_update()
    np.testing.assert_allclose(update, -net.calc_grad() / 1e8, rtol=1e-4)
    assert net.optimizer.plots["damping (log)"] == [1e8]


def test_the_iteration_limit_can_be_changed_between_updates():
    net = prepared()
    net.optimizer.CG_iter = 3
    net.optimizer.compute_update()
    assert net.optimizer.record.cg_iterations == net.optimizer.CG_iter == 3
    with pytest.raises(ValueError, match="CG iterations"):
        net.optimizer.CG_iter = 0


def test_a_new_network_drops_the_warm_start():
    optimizer = hf.opt.HessianFree(CG_iter=5)
    first, second = prepared(), prepared(seed=1)
    first.optimizer = optimizer
    optimizer.compute_update()
    assert optimizer.init_delta.any()
    first.optimizer = optimizer
    assert optimizer.init_delta.any()
    second.optimizer = optimizer
    assert not optimizer.init_delta.any()
    assert optimizer.net is second


@pytest.mark.long
def test_memory_of_cg_is_for_full_batches_unless_asked_for(monkeypatch):
    """What the engine is asked to keep, by run_epochs, by fit, and by a loop of one's own."""
    kept = []
    step = hessian_free.step
    monkeypatch.setattr(hessian_free, "step", lambda *a: kept.append(a[4].residuals_kept(1, False)) or step(*a))
    x, t = np.ones((6, 2), np.float32), np.zeros((6, 1), np.float32)
    objective, start = hf.Objective(lambda p, x: x @ p), np.ones((2, 1), np.float32)

    def seen(memory, size):
        kept.clear()
        optimizer = hf.opt.HessianFree(CG_iter=5, cg_memory=memory)
        hf.FFNet([2, 1], rng=0).run_epochs(x, t, optimizer, max_epochs=1, minibatch_size=size, print_period=None)
        hf.fit(objective, start, (x, t), optimizer=optimizer, max_epochs=1, minibatch_size=size, print_period=None)
        return set(kept)

    assert seen(None, None) == {5}
    assert seen(None, 3) == {0}
    assert seen(4, 3) == {4}
    assert seen(0, None) == {0}
    kept.clear()
    optimizer = hf.opt.HessianFree(CG_iter=5)
    optimizer.step(objective, start, optimizer.init(start), (x, t))
    hf.fit(objective, start, iter([(x, t)] * 2), optimizer=optimizer, max_epochs=1, print_period=None)
    assert kept == [5, 0, 0]
    # what a run was told ends with it, also if it is broken off
    kept.clear()
    optimizer.step(objective, start, optimizer.init(start), (x, t))
    net = hf.FFNet([2, 1], rng=0)
    net.run_epochs(x, t, optimizer, max_epochs=1, minibatch_size=3, print_period=None, callbacks=[Breaks()])
    net.cache_minibatch(x, t)
    optimizer.compute_update()
    assert kept == [5, 0, 5]


class Breaks:
    def on_update(self, epoch, update, updates, record):
        raise KeyboardInterrupt

    def on_epoch(self, epoch): ...

    def on_end(self, result): ...


def test_the_diagonal_preconditioner_lowers_the_iteration_count_on_an_ill_conditioned_problem():
    """Inputs of very different scale: the diagonal is what makes the problem ill-conditioned."""
    rng = np.random.RandomState(0)
    scale = np.geomspace(1, 300, 40)
    x = rng.randn(200, 40) * scale
    t = x @ rng.randn(40, 1) / 100
    counts = {}
    for name in (None, "diagonal"):
        net = hf.FFNet([40, 1], layers="Linear", rng=0, dtype=np.float64)
        net.optimizer = hf.opt.HessianFree(CG_iter=500, init_damping=1e-6, preconditioner=name, cg_tolerance=1e-8)
        net.cache_minibatch(x, t)
        update = net.optimizer.compute_update()
        counts[name] = net.optimizer.record.cg_iterations
        assert net.error(net.W + update) < 1e-6
    print("CG iterations without and with the preconditioner:", counts)
    assert counts["diagonal"] < counts[None]


def test_printing_says_what_happened(capsys):
    net = prepared()
    net.optimizer.compute_update(printing=True)
    shown = capsys.readouterr().out
    for word in ("loss", "damping", "CG iterations", "backtracked", "reduction ratio"):
        assert word in shown
    net.optimizer.conjugate_gradient(np.zeros_like(net.W), net.calc_grad(), printing=True)
    assert "iterations" in capsys.readouterr().out


def test_the_base_class_says_what_is_missing():
    with pytest.raises(NotImplementedError, match="compute_update"):
        hf.opt.Optimizer().compute_update()


def test_classic_conjugate_gradient_stops_by_its_own_tolerance():
    """5e-6 of relative progress per iteration: a textbook CG, asked with that number, stops within an iteration of it."""
    rng = np.random.RandomState(3)
    net = hf.FFNet([30, 20, 3], layers="Tanh", rng=3, dtype=np.float64)
    net.optimizer = hf.opt.HessianFree(init_damping=1e-3, cg_tolerance=0.1)
    net.cache_minibatch(rng.randn(80, 30), rng.randn(80, 3))
    B, g = dense.damped_system(net, net.optimizer.damping)
    phi = [dense.quadratic(B, -g, x) for x in dense.conjugate_gradient(B, -g, 250)]

    def stops_after(tolerance):
        gaps = [(i, max(10, i // 10)) for i in range(250)]
        return next(i + 1 for i, k in gaps if i > k and phi[i] < 0 and (phi[i] - phi[i - k]) / phi[i] < k * tolerance)

    found = net.optimizer.conjugate_gradient(np.zeros_like(g), g)[-1][0] + 1
    assert abs(found - stops_after(5e-6)) <= 1
    assert abs(found - stops_after(5e-4)) > 5


# ---- options of Hessian-free updates, through networks ------------------------------------------------------------------


def test_with_averaging_test_errors_and_best_weights_are_those_of_the_average():
    rng = np.random.RandomState(0)
    x, t = rng.randn(40, 3), rng.randn(40, 2)
    net = hf.FFNet([3, 4, 2], layers="Tanh", rng=0, dtype=np.float64)
    points = []

    class Watching(hf.opt.HessianFree):
        def compute_update(self, printing=False):
            update = super().compute_update(printing)
            points.append(self.net.W + update)
            return update

    optimizer = Watching(CG_iter=3, averaging=0.7)
    result = net.run_epochs(x, t, optimizer, max_epochs=3, minibatch_size=20, print_period=None)
    assert len(points) == 6
    ages = 0.7 ** np.arange(5, -1, -1)
    np.testing.assert_allclose(optimizer.average_W, ages @ points / ages.sum(), rtol=1e-9)
    np.testing.assert_allclose(net.W, points[-1], rtol=1e-12)
    assert result.test_errors[-1] == pytest.approx(net.error(optimizer.average_W, x, t))
    assert net.best_error == min(result.test_errors) == pytest.approx(net.error(net.best_W, x, t))


def test_setting_the_weights_starts_the_average_anew():
    net = prepared()
    net.optimizer = hf.opt.HessianFree(CG_iter=3, averaging=0.7)
    net.W[:] += net.optimizer.compute_update()
    net.W[:] += net.optimizer.compute_update()
    net.W[:] = 0.1
    net.W[:] += net.optimizer.compute_update()
    np.testing.assert_array_equal(net.optimizer.average_W, net.W)


def test_there_is_no_average_before_an_update_or_without_averaging():
    net = prepared()
    net.optimizer.compute_update()
    assert net.optimizer.average_W is None
    net.optimizer = hf.opt.HessianFree(averaging=0.5)
    assert net.optimizer.average_W is None


def test_weight_decay_leaves_biases_out_by_default():
    net = prepared()
    net.optimizer = hf.opt.HessianFree(CG_iter=200, init_damping=1e-3, weight_decay=0.5, cg_tolerance=0.0)
    G, g = dense.damped_system(net, net.optimizer.damping)
    decays = np.zeros_like(net.W)
    for start, middle, _ in net.offsets.values():
        decays[start:middle] = 0.5
    expected = np.linalg.solve(G + np.diag(decays), -(g + decays * net.W))
    net.optimizer.compute_update()
    np.testing.assert_allclose(net.optimizer.init_delta, expected, rtol=1e-4, atol=1e-8)
    assert net.optimizer.record.value == pytest.approx(net.error() + 0.5 * decays @ net.W**2)


@pytest.mark.parametrize(
    "optimizer",
    [hf.opt.SGD(0.1, weight_decay=0.5), hf.opt.FirstOrder(optax.sgd(0.1), weight_decay=0.5)],
    ids=["SGD", "FirstOrder"],
)
def test_first_order_steps_decay_weights_but_not_biases(optimizer):
    net = prepared()
    net.optimizer = optimizer
    decays = np.zeros_like(net.W)
    for start, middle, _ in net.offsets.values():
        decays[start:middle] = 0.5
    expected = -0.1 * (net.calc_grad() + decays * net.W)
    np.testing.assert_allclose(net.optimizer.compute_update(), expected, rtol=1e-5, atol=1e-7)
    assert net.optimizer.record.value == pytest.approx(net.error())


def test_a_weight_decay_of_first_order_steps_is_checked():
    with pytest.raises(ValueError, match="weight_decay is -1; a finite number >= 0"):
        hf.opt.SGD(0.1, weight_decay=-1)
    with pytest.raises(ValueError, match="give it to second"):
        hf.opt.Auto(first=hf.opt.FirstOrder(optax.sgd(0.1), weight_decay=0.5))


@pytest.mark.few(2)
@pytest.mark.parametrize("preconditioner", [None, "diagonal", "kfac", "nystrom"])
def test_every_preconditioner_trains_networks_whose_layers_and_losses_run_in_numpy(preconditioner):
    class Host(hf.nl.Nonlinearity):
        def activation(self, x):
            return np.tanh(np.asarray(x))

        def d_activation(self, x, a):
            return 1 - np.asarray(a) ** 2

    rng = np.random.RandomState(0)
    x, t = rng.randn(30, 6, 2), rng.rand(30, 6, 1)
    net = hf.RNNet([2, 4, 1], layers=["Linear", Host(), "Logistic"], rng=0)
    start = net.error(None, x, t)
    optimizer = hf.opt.HessianFree(CG_iter=8, preconditioner=preconditioner, curvature_batch=0.5)
    result = net.run_epochs(x, t, optimizer, max_epochs=3, minibatch_size=15, print_period=None)
    assert all(record.accepted for epoch in result.epochs for record in epoch.updates)
    assert net.best_error < start


@pytest.mark.parametrize("closed_loop", [False, True])
def test_kfac_and_a_curvature_batch_serve_networks_with_plants(closed_loop):
    from hessianfree.demos.plant import CompiledBody, NumpyBody, network

    starts = np.random.RandomState(0).uniform(-0.5, 0.5, (32, 2))
    body = CompiledBody(starts) if closed_loop else NumpyBody(starts)
    net = network(body, np.random.RandomState(0))
    optimizer = hf.opt.HessianFree(CG_iter=10, init_damping=10, preconditioner="kfac", curvature_batch=16)
    result = net.run_epochs(body, None, optimizer, max_epochs=8, print_period=None)
    assert optimizer.record.preconditioner_damping == pytest.approx(optimizer.record.damping)
    assert result.test_errors[-1] < result.test_errors[0]


def test_a_curvature_batch_larger_than_the_minibatch_is_refused():
    net = prepared()
    net.optimizer = hf.opt.HessianFree(curvature_batch=9)
    with pytest.raises(ValueError, match="given 9 examples, but the minibatch has 8"):
        net.optimizer.compute_update()


def test_a_new_network_drops_what_the_preconditioner_knew():
    optimizer = hf.opt.HessianFree(CG_iter=5, preconditioner="kfac")
    small, large = prepared(), hf.FFNet([5, 6, 2], rng=0)
    large.cache_minibatch(np.ones((3, 5)), np.ones((3, 2)))
    for net in (small, large):
        net.optimizer = optimizer
        assert np.isfinite(optimizer.compute_update()).all()
