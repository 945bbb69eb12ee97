"""Whole recurrent networks against loops in numpy, finite differences and dense curvature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hessianfree as hf
from hessianfree.engine.preconditioners import squared_gradients
from recurrent_cases import CASES, Case, data

import dense
from problems import cache


def cached(case: Case, seed: int = 2, **kwargs):
    net = case.network(**kwargs)
    x, t = data(seed, case.loss)
    net.cache_minibatch(x, t)
    return net, x, t


def dense_G(net):
    return np.stack([net.calc_G(e) for e in np.eye(net.W.size)])


def seen_by_the_loss(case: Case, z, a):
    """The logits where loss and output layer match, else the output; and what turns it into an output."""
    if (case.output, case.loss) in (("Softmax", "CrossEntropy"), ("Logistic", "BinaryCrossEntropy")):
        return z[-1], lambda q: dense.activation(case.output, q)
    return a[-1], lambda q: q


def per_example(case: Case, t, shape, last):
    """Loss of each example, for the outputs of all its timesteps in one row."""
    return lambda q: dense.loss(case.loss, last(q.reshape(shape)), t).sum(axis=1)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward_is_the_loop(case):
    net = case.network()
    x, _ = data(1)
    for found, expected in zip(net.forward(x), case.run(net.W, x)[1], strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.few(17)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_value_gradient_and_curvature(case):
    net, x, t = cached(case)
    value = lambda w: dense.loss(case.loss, case.run(w, x)[1][-1], t).sum(axis=1).mean()
    assert net.error() == pytest.approx(value(net.W), rel=1e-9)
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(value, net.W), rtol=1e-5, atol=1e-8)

    seen = lambda w: seen_by_the_loss(case, *case.run(w, x))[0].reshape(len(x), -1)
    last = seen_by_the_loss(case, *case.run(net.W, x))[1]
    reference = dense.gauss_newton(seen, per_example(case, t, t.shape, last), net.W)
    np.testing.assert_allclose(dense_G(net), reference, rtol=1e-4, atol=2e-5)


# ---- truncation ------------------------------------------------------------------------------------------------------

TRUNCATED = {
    "tanh": Case(),
    "classic": Case("classic"),
    "modern": Case("modern", conns={0: [1, 2], 1: [2]}),
    "continuous": Case("Continuous", rec_layers=(0, 1, 2)),
    "cross-entropy": Case("Tanh", "Softmax", "CrossEntropy", rec_layers=(1, 2)),
}


def windows(truncation, steps):
    every, length = truncation
    return [(max(end - length, 0), end) for end in range(every, steps + 1, every)]


@pytest.mark.few(2)
@pytest.mark.parametrize("truncation", [(2, 3), (2, 1), (3, 4), (5, 9)])
@pytest.mark.parametrize("case", TRUNCATED.values(), ids=TRUNCATED)
def test_truncation(case, truncation):
    """Gradient and G are sums over windows, in which what came before is constant."""
    net, x, t = cached(case, truncation=truncation)
    full, _, _ = cached(case)
    assert net.error() == pytest.approx(full.error(), rel=1e-12)
    gradient, G = np.zeros(net.W.size), np.zeros((net.W.size, net.W.size))
    for start, end in windows(truncation, x.shape[1]):

        def inside(w, start=start, end=end):
            z, a = case.run(lambda step: w if step >= start else net.W, x)
            return seen_by_the_loss(case, [q[:, start:end] for q in z], [q[:, start:end] for q in a])

        last, targets = inside(net.W)[1], t[:, start:end]
        losses = per_example(case, targets, targets.shape, last)
        seen = lambda w, inside=inside: inside(w)[0].reshape(len(x), -1)
        gradient += dense.jacobian(lambda w, f=losses, g=seen: f(g(w)).mean(), net.W)
        G += dense.gauss_newton(seen, losses, net.W)
    np.testing.assert_allclose(net.calc_grad(), gradient, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(dense_G(net), G, rtol=1e-4, atol=2e-5)


def test_truncation_changes_something():
    net, _, _ = cached(Case(), truncation=(2, 2))
    full, _, _ = cached(Case())
    assert np.abs(net.calc_grad() - full.calc_grad()).max() > 1e-3
    long, _, _ = cached(Case(), truncation=(5, 5))
    np.testing.assert_allclose(long.calc_grad(), full.calc_grad(), rtol=1e-10, atol=1e-12)


TRUNCATED_NET = Case("modern", rec_layers=(0, 1, 2)).network(truncation=(2, 3))


@given(st.integers(0, 2**31 - 1))
def test_truncated_curvature_is_symmetric_and_positive(seed):
    rng = np.random.RandomState(seed)
    TRUNCATED_NET.W = rng.randn(TRUNCATED_NET.W.size)
    TRUNCATED_NET.cache_minibatch(*data(seed))
    u, v = rng.randn(2, TRUNCATED_NET.W.size)
    assert u @ TRUNCATED_NET.calc_G(v) == pytest.approx(v @ TRUNCATED_NET.calc_G(u), rel=1e-8, abs=1e-10)
    assert u @ TRUNCATED_NET.calc_G(u) >= -1e-10


def test_steps_after_the_last_window_have_no_gradient():
    net, x, t = cached(Case(), truncation=(4, 4))
    before = net.calc_grad()
    t[:, 4] += 3
    net.cache_minibatch(x, t)
    np.testing.assert_allclose(net.calc_grad(), before, rtol=1e-12)


def test_targets_outside_of_all_windows_are_told():
    x, t = data(2)
    t[:, :4] = np.nan
    net = Case().network(truncation=(4, 4))
    with pytest.raises(ValueError, match="no window with a known target"):
        net.run_epochs(x, t, hf.opt.HessianFree())


def test_a_window_that_never_ends_is_told():
    net = Case().network(truncation=(9, 9))
    with pytest.raises(ValueError, match=r"9 timesteps.*have 5"):
        net.cache_minibatch(*data(2))


# ---- losses over time ------------------------------------------------------------------------------------------------


def test_penalties_and_structural_damping_over_time():
    optimizer = hf.opt.HessianFree(init_damping=7)
    parts = [
        hf.loss_funcs.SquaredError(),
        hf.loss_funcs.SparseL2(0.3, layers=[1], target=0.1),
        hf.loss_funcs.StructuralDamping(0.5, layers=[1], optimizer=optimizer),
    ]
    case = Case("Continuous")
    net, x, t = cached(case, loss_type=parts)
    run = lambda w: case.run(w, x)[1]
    value = lambda w: (dense.loss("SquaredError", run(w)[2], t) + 0.15 * ((run(w)[1] - 0.1) ** 2).sum(-1)).sum(1).mean()
    assert net.error() == pytest.approx(value(net.W))
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(value, net.W), rtol=1e-5, atol=1e-8)
    J = [dense.jacobian(lambda w, n=n: run(w)[n], net.W) for n in range(3)]
    known = ~np.isnan(t)
    outputs = np.einsum("btip,bti,btiq->pq", J[2], known, J[2])
    hidden = np.einsum("btip,btiq->pq", J[1], J[1])
    for damping in (7.0, 2.0):
        optimizer.damping = damping
        expected = (outputs + (0.3 + 0.5 * damping) * hidden) / len(x)
        np.testing.assert_allclose(dense_G(net), expected, rtol=1e-4, atol=1e-6)


def test_a_loss_written_in_numpy_over_time():
    class Host(hf.loss_funcs.LossFunction):
        @hf.loss_funcs.output_loss
        def loss(self, output, targets):
            return np.where(np.isnan(targets), 0, 0.5 * (np.asarray(output) - targets) ** 2)

        @hf.loss_funcs.output_loss
        def d_loss(self, output, targets):
            return np.where(np.isnan(targets), 0, np.asarray(output) - targets)

        @hf.loss_funcs.output_loss
        def d2_loss(self, output, targets):
            return (~np.isnan(np.asarray(targets))).astype(output.dtype)

    for truncation in (None, (2, 3)):
        net, _, _ = cached(Case("classic"), loss_type=Host(), truncation=truncation)
        expected, _, _ = cached(Case("classic"), truncation=truncation)
        assert net.error() == pytest.approx(expected.error())
        np.testing.assert_allclose(net.calc_grad(), expected.calc_grad(), rtol=1e-10)
        np.testing.assert_allclose(dense_G(net), dense_G(expected), rtol=1e-10, atol=1e-12)


def test_a_loss_made_for_one_length_of_sequence():
    class Late(hf.loss_funcs.LossFunction):
        def __init__(self):
            self.weight = np.linspace(0, 1, 5)[:, None]

        @hf.loss_funcs.output_loss
        def loss(self, output, targets):
            return self.weight * (output - targets) ** 2

    case = Case()
    net = case.network(loss_type=Late())
    x, t = data(2)
    t = np.nan_to_num(t)
    net.cache_minibatch(x, t)
    value = lambda w: (np.linspace(0, 1, 5)[:, None] * (case.run(w, x)[1][-1] - t) ** 2).sum((1, 2)).mean()
    assert net.error() == pytest.approx(value(net.W))
    np.testing.assert_allclose(net.calc_grad(), dense.jacobian(value, net.W), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", [Case("modern", rec_layers=(1, 2)), Case("classic")])
@pytest.mark.parametrize("truncation", [None, (2, 3)])
def test_examples_of_weight_zero_change_nothing(case, truncation):
    net = case.network(truncation=truncation)
    x, t = data(3)
    found = []
    for size in (3, 5):
        cache(net, x, t, size)
        found.append((net.error(), net.calc_grad(), net.calc_G(np.ones(net.W.size))))
    for padded, plain in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(padded, plain, rtol=1e-10, atol=1e-12)


class BroadcastCurvature(hf.loss_funcs.SquaredError):
    """A constant second derivative, given as a number."""

    @hf.loss_funcs.output_loss
    def d2_loss(self, output, targets):
        return 1.0


@pytest.mark.parametrize("truncation", [None, (2, 3)])
def test_a_derivative_given_as_a_number(truncation):
    net, x, t = cached(Case(), loss_type=BroadcastCurvature(), truncation=truncation)
    expected, _, _ = cached(Case(), truncation=truncation)
    for each in (net, expected):
        each.cache_minibatch(x, np.nan_to_num(t))
    np.testing.assert_allclose(dense_G(net), dense_G(expected), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("truncation", [None, (2, 3)])
def test_mean_squared_gradients(truncation):
    """The diagonal preconditioner's squares, against gradients of single examples."""
    import jax

    net = Case("Continuous", rec_layers=(1, 2)).network(truncation=truncation)
    x, t = data(4)
    net.cache_minibatch(x, t)
    with net.computing():
        squares = jax.jit(squared_gradients)(net.problem(), net.params(), net.batch())
        found = net.flat(jax.device_get(squares))
    singles = []
    for i in range(3):
        net.cache_minibatch(x, t, [i])
        singles.append(net.calc_grad())
    np.testing.assert_allclose(found, np.mean(np.square(singles), axis=0), rtol=1e-9, atol=1e-14)


# ---- where sequences begin -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Tanh", "Continuous", "modern", "classic", "numpy"])
def test_a_sequence_in_two_halves_is_the_whole(kind):
    """The second half, started from the activations and states that the first one ended with."""
    case = Case(kind, rec_layers=(1, 2))
    net = case.network()
    x, _ = data(5, steps=6)
    whole = net.forward(x)
    first = net.forward(x[:, :4])
    ended = [a[:, -1] for a in first]
    state = None
    if kind != "Tanh" and kind != "numpy":
        s, step, z = None, case.steps[1], case.run(net.W, x)[0][1]
        for t in range(4):
            s, _ = step(s, z[:, t])
        state = {"x": s[0], "v": s[1], "count": np.full(3, 4)} if kind == "modern" else s
    second = net.forward(x[:, 4:], init_activations=ended, init_state=[None, state, None])
    for found, expected in zip(second, whole, strict=True):
        np.testing.assert_allclose(found, expected[:, 4:], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["Continuous", "classic"])
def test_layers_are_left_in_their_last_state(kind):
    net = Case(kind).network()
    x, _ = data(5, steps=6)
    whole = net.forward(x)
    ended = [a[:, -1] for a in net.forward(x[:, :4])]
    states = [layer.state.copy() if layer.stateful else None for layer in net.layers]
    second = net.forward(x[:, 4:], init_activations=ended, init_state=states)
    np.testing.assert_allclose(second[-1], whole[-1][:, 4:], rtol=1e-9, atol=1e-11)


def test_a_time_constant_may_change():
    net, other = Case("Continuous").network(), Case("Continuous").network()
    other.layers[1] = hf.nl.Continuous(hf.nl.Tanh(), tau=4.0)
    x, _ = data(5)
    net.forward(x)
    net.layers[1].tau = 4.0
    np.testing.assert_allclose(net.forward(x)[-1], other.forward(x)[-1], rtol=1e-12)
    with pytest.raises(ValueError, match="above 0"):
        net.layers[1].tau = 0


def test_where_only_some_layers_were_active_before():
    """A layer without initial activations has its recurrent bias."""
    case = Case(rec_layers=(1, 2))
    net = case.network()
    x, _ = data(5)
    before = np.random.RandomState(0).randn(3, 3)
    W_rec, _ = net.get_weights(net.W, (1, 1))
    W, b = net.get_weights(net.W, (0, 1))
    found = net.forward(x, init_activations=[None, before, None])
    hidden = np.tanh(x[:, 0] @ W + b + before @ W_rec)
    np.testing.assert_allclose(found[1][:, 0], hidden, rtol=1e-10)
    W2, b2 = net.get_weights(net.W, (1, 2))
    np.testing.assert_allclose(found[2][:, 0], hidden @ W2 + b2 + net.get_weights(net.W, (2, 2))[1], rtol=1e-10)


@pytest.mark.parametrize("kind", ["Tanh", "Softmax", "Continuous", "classic", "jax.numpy", "modern"])
def test_derivatives_of_layers_over_time(kind):
    net = Case(kind).network()
    x, _ = data(6)
    activations, derivatives = net.forward(x, deriv=True)
    for a, plain in zip(activations, net.forward(x), strict=True):
        np.testing.assert_allclose(a, plain, rtol=1e-10, atol=1e-12)
    assert derivatives[1].shape == ((3, 5, 3) if kind == "Tanh" else (3, 5, 3, 3))
    if kind == "modern":
        z, step, state = Case(kind).run(net.W, x)[0][1], Case(kind).steps[1], None
        for t in range(5):
            columns = [(step(state, z[:, t] + e)[1] - step(state, z[:, t] - e)[1]) / 2e-6 for e in 1e-6 * np.eye(3)]
            np.testing.assert_allclose(derivatives[1][:, t], np.stack(columns, -1), rtol=1e-6, atol=1e-8)
            state, _ = step(state, z[:, t])
    if kind == "Tanh":
        np.testing.assert_allclose(derivatives[1], 1 - activations[1] ** 2, rtol=1e-10)
    if kind == "Continuous":
        np.testing.assert_allclose(derivatives[1][..., 0], 0.4)
        np.testing.assert_allclose(derivatives[1][..., 1], 0.6)
        np.testing.assert_allclose(derivatives[1][..., 2], 1 - activations[1] ** 2, rtol=1e-10)
    if kind == "jax.numpy":
        z = Case(kind).run(net.W, x)[0][1]
        np.testing.assert_allclose(np.einsum("btii->bti", derivatives[1]), np.cos(z) + 0.1, rtol=1e-9)
