from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hessianfree import tasks
from hessianfree.networks.parts.loss_funcs import flatten

SHORT = tasks.memorization("one bit", n_symbols=2, length=1)


def net_for(name, units=100, rng=0):
    task = tasks.ALL[name]
    return tasks.network(task, tasks.optimizer(task), units, rng)


@pytest.mark.parametrize("name", sorted(tasks.ALL))
def test_networks_have_the_layers_of_their_task(name):
    task, net = tasks.ALL[name], net_for(name)
    assert net.shape == (task.n_inputs, 100, task.n_outputs)
    assert [type(layer).__name__ for layer in net.layers] == ["Linear", "Tanh", task.output_layer]
    assert [type(loss).__name__ for loss in flatten(net.loss)] == [task.loss, "StructuralDamping"]
    assert net.rec_layers == (1,)


def test_only_answers_in_a_sum_over_time_are_integrated():
    assert {name for name, task in tasks.ALL.items() if task.integrates} == {"addition", "multiplication", "xor"}


def test_weights_that_remember_strings_keep_every_direction():
    W_rec, _ = (net := net_for("memorization_20bit")).get_weights(net.W, (1, 1))
    np.testing.assert_allclose(W_rec @ W_rec.T, np.eye(100), atol=1e-5)
    assert net.get_weights(net.W, (0, 1))[0].std() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("units", [100, 7])
def test_units_remember_or_look_where_the_answer_is_in_a_sum(units):
    net, half = net_for("addition", units), units // 2
    (W_in, b), (W_rec, b_rec) = (net.get_weights(net.W, conn) for conn in ((0, 1), (1, 1)))
    np.testing.assert_array_equal(W_rec[:half, :half], np.eye(half))
    assert not W_rec[:, half:].any()
    assert W_rec[half:, :half].all()
    assert not W_in[:, :half].any()
    assert not b[:half].any()
    assert W_in[:, half:].all()
    assert b[half:].all()
    assert not b_rec.any()


def test_a_seed_repeats_the_network():
    first, again, other = (net_for("xor", rng=seed).W for seed in (3, np.random.RandomState(3), 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert np.isfinite(net_for("xor", rng=np.random.default_rng(0)).W).all()


def test_structural_damping_follows_the_optimizer():
    task = tasks.ALL["xor"]
    optimizer = tasks.optimizer(task)
    net = tasks.network(task, optimizer)
    assert flatten(net.loss)[1].optimizer is optimizer
    assert optimizer.damping == 0.05


def test_few_different_sequences_are_all_learnt_from_with_full_curvature():
    distinct = {name: task.distinct for name, task in tasks.ALL.items() if task.distinct is not None}
    assert distinct == {"memorization_5bit": 32, "memorization_20bit": 5**10}
    shares = {name: tasks.optimizer(tasks.ALL[name]).settings.curvature_batch for name in distinct}
    assert shares == {"memorization_5bit": None, "memorization_20bit": 0.25}


def test_solving_ends_with_few_wrong_on_sequences_of_its_own(capsys):
    attempt = tasks.solve(SHORT, T=3, units=10, tested=20)
    source = np.random.RandomState(0)
    SHORT.generate(2, 3, source)
    x, t = SHORT.generate(20, 3, source)
    assert attempt.solved
    assert attempt.wrong == SHORT.error_rate(attempt.net.forward(x)[-1], t) == 0
    assert [check.updates for check in attempt.checks] == list(range(4, attempt.checks[-1].updates + 1, 4))
    assert all(check.wrong >= tasks.SOLVED for check in attempt.checks[:-1])
    seconds = [check.seconds for check in attempt.checks]
    assert seconds == sorted(seconds)
    assert len(attempt.result.epochs) == attempt.checks[-1].updates
    assert len(capsys.readouterr().out.splitlines()) == len(attempt.checks)


def test_solving_ends_when_the_time_is_over(capsys):
    attempt = tasks.solve(SHORT, T=3, units=10, tested=20, max_seconds=1e-9, printing=False)
    assert [check.updates for check in attempt.checks] == [1]
    assert attempt.wrong > 0
    assert not attempt.solved
    assert capsys.readouterr().out == ""


def test_arguments_are_checked_before_work_starts():
    with pytest.raises(ValueError, match="units is 1; a whole number >= 2"):
        tasks.solve(SHORT, T=3, units=1)
    with pytest.raises(ValueError, match="n_sequences is 0"):
        tasks.solve(SHORT, T=3, sequences=0)
    with pytest.raises(TypeError, match="rng is 'lucky'"):
        tasks.solve(SHORT, T=3, rng="lucky")


def test_attempts_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        tasks.solve(SHORT, T=3, units=10, tested=20, max_seconds=1e-9, printing=False).net = None
