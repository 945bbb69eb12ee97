"""Damping that judges each change on the next minibatch: training on minibatches does not diverge."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine.damping import overshot

RULE = hf.opt.LevenbergMarquardt


def three_classes(seed=0):
    """Points around three centres, which overlap: a step can fit a minibatch of them far too well."""
    rng = np.random.RandomState(seed)
    centres, labels = rng.randn(3, 4), rng.randint(0, 3, 120)
    x = centres[labels] + 0.5 * rng.randn(120, 4)
    return x.astype(np.float32), np.eye(3, dtype=np.float32)[labels]


def classifier(seed=0):
    layers = ["Linear", "Tanh", "Softmax"]
    return hf.FFNet([4, 10, 3], layers=layers, loss_type=hf.loss_funcs.CrossEntropy(), rng=seed)


class Losses:
    """The loss of all the data after each epoch."""

    def __init__(self, net, x, t):
        self.of_now, self.values = lambda: net.error(net.W, x, t), []

    def on_epoch(self, epoch):
        self.values.append(self.of_now())


def trained(rule, seed=0, size=20, epochs=20):
    x, t = three_classes()
    net = classifier(seed)
    optimizer = hf.opt.HessianFree(damping_rule=rule, plotting=False)
    losses = Losses(net, x, t)
    run = {"max_epochs": epochs, "minibatch_size": size, "print_period": None, "callbacks": [losses]}
    return losses.values, net.run_epochs(x, t, optimizer, **run)


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_minibatches_do_not_diverge_with_default_settings(seed):
    diverging, _ = trained(RULE(hindsight=False), seed)
    losses, result = trained(RULE(), seed)
    assert max(diverging[10:]) > 1 > 100 * max(losses[10:])
    assert result.history["overshot"].any()
    assert not result.history["overshot"].all()


def test_full_batches_stay_as_they_are_unless_it_is_asked_for():
    runs = [trained(rule, size=None, epochs=6)[1] for rule in (RULE(), RULE(hindsight=False), RULE(hindsight=True))]
    for other in runs[1:]:  # a change that was accepted lowered the loss of the same data: it cannot have overshot
        np.testing.assert_array_equal(runs[0].params, other.params)
        np.testing.assert_array_equal(runs[0].history["damping"], other.history["damping"])


# ---- a loop of one's own ---------------------------------------------------------------------------------------------

OBJECTIVE = hf.Objective(lambda p, x: np.float32(1) * x @ p["w"], "squared_error")
START = {"w": np.zeros((2, 1), np.float32)}


def batches(count, size=3, seed=0):
    rng = np.random.RandomState(seed)
    xs = rng.randn(count, size, 2).astype(np.float32)
    return [(x, (x @ [[1.0], [-1.0]] + 2 * rng.randn(size, 1)).astype(np.float32)) for x in xs]


def test_lambda_follows_the_losses_along_the_last_change():
    """Against the losses of a quadratic problem in float64, and the rule applied by hand."""
    rule = RULE(hindsight=True)
    optimizer = hf.opt.HessianFree(init_damping=1e-2, damping_rule=rule, cg_memory=0, weight_decay=0.1)
    params, state, before, seen = START, optimizer.init(START), None, []
    for x, t in batches(12):

        def loss(w, x=x, t=t):
            w = np.asarray(w, float)
            return OBJECTIVE.value({"w": w.astype(np.float32)}, (x, t)) + 0.05 * (w**2).sum()

        moved, after, info = optimizer.step(OBJECTIVE, params, state, (x, t))
        assert info.accepted
        expected = False
        if before is not None:
            points = before["w"], (before["w"] + params["w"]) / 2, params["w"]
            expected = overshot(*map(loss, points), eps=1e-7)
        assert info.overshot == expected
        assert after.damping == pytest.approx(rule.adapt(state.damping, info.reduction_ratio, expected))
        seen.append(expected)
        before, params, state = params, moved, after
    assert any(seen)
    assert not all(seen[1:])


def test_the_state_has_one_place_for_the_change_from_init_on():
    optimizer = hf.opt.HessianFree(damping_rule=RULE(hindsight=True))
    state = optimizer.init(START)
    layout = jax.tree.structure(state.change)
    assert not np.any(state.change["w"])
    params, after, _ = optimizer.step(OBJECTIVE, START, state, batches(1)[0])
    assert jax.tree.structure(after.change) == layout
    np.testing.assert_allclose(after.change["w"], params["w"] - START["w"], rtol=1e-6)
    with pytest.raises(ValueError, match="other parameters"):
        optimizer.step(OBJECTIVE, {"w": np.zeros((3, 1), np.float32)}, after._replace(direction=None), batches(1)[0])


def test_weights_that_are_set_to_others_have_no_last_change():
    x, t = three_classes()
    net = classifier()
    net.optimizer = hf.opt.HessianFree(damping_rule=RULE(hindsight=True))
    net.cache_minibatch(x[:20], t[:20])
    net.W += net.optimizer.compute_update()
    net.W = 3 * net.W
    net.cache_minibatch(x[20:40], t[20:40])
    net.optimizer.compute_update()
    assert not net.optimizer.record.overshot
