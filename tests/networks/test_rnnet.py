"""RNNet's arguments: layout, initial weights, checks, training on sequences."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import hessianfree as hf
from recurrent_cases import Case, Gate, Resonator, data


def test_layout_puts_recurrent_weights_last():
    net = hf.RNNet([2, 3, 4, 1], conns={0: [1, 2], 1: [2], 2: [3]}, rec_layers=[2, 0], rng=0)
    assert net.rec_layers == (0, 2)
    sizes = [((0, 1), 2, 3), ((0, 2), 2, 4), ((1, 2), 3, 4), ((2, 3), 4, 1), ((0, 0), 2, 2), ((2, 2), 4, 4)]
    start = 0
    assert list(net.offsets) == [pair for pair, _, _ in sizes]
    for pair, m, n in sizes:
        assert net.offsets[pair] == (start, start + m * n, start + m * n + n)
        start += m * n + n
    assert net.W.size == start


def test_all_but_the_first_and_last_layer_are_recurrent_by_default():
    assert hf.RNNet([1, 2, 3, 1]).rec_layers == (1, 2)
    assert hf.RNNet([1, 1]).rec_layers == ()


def test_seeds_reproduce_recurrent_weights_drawn_after_all_others():
    net = hf.RNNet([2, 20, 1], rng=np.random.RandomState(3), W_init_params={"coeff": 0.5}, W_rec_params={"coeff": 0.2})
    rng, expected = np.random.RandomState(3), []
    for n_pre, n_post, coeff in [(2, 20, 0.5), (20, 1, 0.5), (20, 20, 0.2)]:
        matrix = np.zeros((n_pre, n_post))
        for post in range(n_post):
            chosen = rng.choice(np.arange(n_pre), size=min(15, n_pre), replace=False)
            matrix[chosen, post] = rng.randn(len(chosen)) * coeff
        expected += [matrix.ravel(), np.zeros(n_post)]
    np.testing.assert_array_equal(net.W, np.concatenate(expected).astype(np.float32))


def test_recurrent_weights_are_views():
    net = hf.RNNet([1, 3, 1], rng=0)
    W, b = net.get_weights(net.W, (1, 1))
    W *= 0
    b += 1
    start, middle, end = net.offsets[1, 1]
    assert (net.W[start:middle] == 0).all()
    assert (net.W[middle:end] == 1).all()
    assert net.get_weights(net.W, (2, 2)) is None


def test_loaded_weights_include_the_recurrent_ones():
    first = hf.RNNet([1, 4, 1], rng=0)
    second = hf.RNNet([1, 4, 1], rng=1, load_weights=first.W)
    np.testing.assert_array_equal(first.W, second.W)
    with pytest.raises(IndexError, match="33"):
        hf.RNNet([1, 4, 1], load_weights=np.zeros(13, np.float32))


BAD_ARGUMENTS = [
    ({"rec_layers": [3]}, ValueError, r"\[3\].*numbered 0 to 2"),
    ({"rec_layers": [-1]}, ValueError, r"\[-1\].*numbered 0 to 2"),
    ({"rec_layers": [1, 1]}, ValueError, "twice"),
    ({"rec_layers": 1}, TypeError, r"such as \[1\]"),
    ({"rec_layers": ["1"]}, TypeError, r"such as \[1\]"),
    ({"truncation": (0, 3)}, ValueError, "truncation: n is 0"),
    ({"truncation": (3, 0)}, ValueError, "truncation: k is 0"),
    ({"truncation": 3}, ValueError, r"pair \(n, k\)"),
    ({"truncation": (3, 1.5)}, ValueError, "truncation: k is 1.5"),
    (
        {"layers": ["Linear", hf.nl.Continuous(hf.nl.Tanh(), tau=[1.0, 2.0]), "Linear"]},
        ValueError,
        "2 values for 4 units",
    ),
    ({"W_rec_params": {"init_type": "nosuch"}}, ValueError, "nosuch"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        hf.RNNet([1, 4, 1], **arguments)


BAD_DATA = [
    (np.zeros((0, 5, 1)), np.zeros((0, 5, 1)), "no examples"),
    (np.zeros((3, 0, 1)), np.zeros((3, 0, 1)), "no timesteps"),
    (np.zeros((3, 5)), np.zeros((3, 5, 1)), r"array\[:, :, None\]"),
    (np.zeros((3, 5, 2)), np.zeros((3, 5, 1)), "width 2.*1 unit;"),
    (np.zeros((3, 5, 1)), np.zeros((3, 4, 1)), "5 timesteps.*4"),
    (np.zeros((3, 5, 1)), np.zeros((2, 5, 1)), "3 inputs but 2 targets"),
    (np.zeros((3, 5, 1)), np.full((3, 5, 1), np.nan), "All targets are NaN"),
    (np.full((3, 5, 1), np.inf), np.zeros((3, 5, 1)), "infinite"),
    (np.zeros(5), np.zeros(5), r"array\[None, :, None\]"),
]


@pytest.mark.parametrize(("inputs", "targets", "message"), BAD_DATA)
def test_bad_data_is_told_before_any_work(inputs, targets, message):
    net = hf.RNNet([1, 4, 1], rng=0)
    before = net.W.copy()
    for train in (
        lambda: net.run_epochs(inputs, targets, hf.opt.HessianFree()),
        lambda: net.cache_minibatch(inputs, targets),
    ):
        with pytest.raises(ValueError, match=message):
            train()
    np.testing.assert_array_equal(net.W, before)


def test_sequences_in_a_feedforward_network_are_told_where_to_go():
    with pytest.raises(ValueError, match="Sequences are for RNNet"):
        hf.FFNet([1, 4, 1]).forward(np.zeros((3, 5, 1)))


@pytest.mark.parametrize("make", [Gate, lambda: hf.nl.Continuous(hf.nl.Tanh())], ids=["classic", "Continuous"])
def test_one_object_with_state_in_two_layers(make):
    """A warning when built, an error when trained."""
    shared = make()
    with pytest.warns(UserWarning, match=r"Layers \[1, 2\] share one"):
        net = hf.RNNet([2, 3, 3, 2], layers=[hf.nl.Linear(), shared, shared, hf.nl.Linear()])
    with pytest.raises(ValueError, match=r"Layers \[1, 2\] share one"):
        net.run_epochs(*data(0), hf.opt.HessianFree(), max_epochs=1)


def test_a_modern_layer_may_be_shared_for_it_holds_no_state():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = hf.RNNet([2, 3, 3, 2], layers=Resonator(), rng=0)
    net.run_epochs(*data(0), hf.opt.HessianFree(CG_iter=3), max_epochs=1, print_period=None)


class WrongShape(Gate):
    def d_activation(self, x, a):
        return super().d_activation(x, a)[..., :2]


class NoDerivative(hf.nl.Nonlinearity):
    def __init__(self):
        super().__init__(stateful=True)

    def activation(self, x):
        return x


class NumpyStep(hf.nl.Nonlinearity):
    def initial_state(self, batch):
        return np.zeros((batch, 1))

    def step(self, state, x):
        new = np.asarray(state) + np.asarray(x)
        return new, np.tanh(new)


class WrongOutput(NumpyStep):
    def step(self, state, x):
        return state + x, (state + x)[:, :1]


class OtherState(NumpyStep):
    def step(self, state, x):
        return (state, x), x


class NoStart(hf.nl.Nonlinearity):
    def step(self, state, x):
        return state, x


BAD_LAYERS = [
    (WrongShape, ValueError, r"\(2, 3, 2\); expected \(2, 3, 3\).*\(2, 3, 3, 3\)"),
    (NoDerivative, TypeError, "d_activation"),
    (NumpyStep, TypeError, "jax.numpy"),
    (WrongOutput, ValueError, r"step returned an output of shape \(2, 1\) for input \(2, 3\)"),
    (OtherState, ValueError, "returned a state of structure"),
    (NoStart, TypeError, r"initial_state\(batch\)"),
]


@pytest.mark.parametrize(("layer", "error", "message"), BAD_LAYERS)
def test_layers_that_cannot_work_are_told_at_construction(layer, error, message):
    with pytest.raises(error, match=message):
        hf.RNNet([2, 3, 2], layers=["Linear", layer(), "Linear"])


class MadeForThree(Gate):
    """State for a batch of one size, as some programs of 2016 had it."""

    def reset(self, init=None):
        super().reset(np.zeros((3, 3)) if init is None else init)


def test_a_classic_layer_made_for_one_batch_size():
    x, t = data(1)
    nets = [hf.RNNet([2, 3, 2], layers=["Linear", make(), "Linear"], rng=0) for make in (MadeForThree, Gate)]
    for net in nets:
        net.cache_minibatch(x, t)
    np.testing.assert_allclose(nets[0].calc_grad(), nets[1].calc_grad(), rtol=1e-4, atol=1e-5)


class MadeForThreeModern(NumpyStep):
    def initial_state(self, batch):
        return jnp.zeros((3, 3))

    def step(self, state, x):
        return state + x, jnp.tanh(state + x)


class Swapped(MadeForThreeModern):
    def initial_state(self, batch):
        return jnp.zeros((batch, 3))

    def step(self, state, x):
        return x, state + x, x


MORE_BAD_LAYERS = [
    (MadeForThreeModern, ValueError, r"initial_state\(2\) returned has arrays of shapes \[\(3, 3\)\]"),
    (Swapped, ValueError, r"a pair \(state, output\)"),
]


@pytest.mark.parametrize(("layer", "error", "message"), MORE_BAD_LAYERS)
def test_steps_that_cannot_work_are_told_at_construction(layer, error, message):
    with pytest.raises(error, match=message):
        hf.RNNet([2, 3, 2], layers=["Linear", layer(), "Linear"])


def test_wrong_states_are_told():
    net = Case("modern").network()
    x, _ = data(0)
    with pytest.raises(ValueError, match="init_state of layer 1 has the structure"):
        net.forward(x, init_state=[None, np.zeros((3, 3)), None])
    with pytest.raises(TypeError, match="init_activations is a ndarray"):
        net.forward(x, init_activations=np.zeros((3, 3, 3)))


def test_weights_that_are_not_finite_are_told_before_any_work():
    net = Case().network()
    net.W[3] = np.nan
    with pytest.raises(ValueError, match=r"weights hold 1 NaN .* \(3,\)"):
        net.run_epochs(*data(0), hf.opt.HessianFree())


@pytest.mark.parametrize("layer", [Gate(), Resonator(), hf.nl.Continuous(hf.nl.Tanh())])
def test_layers_with_state_are_not_for_feedforward_networks(layer):
    with pytest.raises(TypeError, match="Use RNNet"):
        hf.FFNet([2, 3, 2], layers=["Linear", layer, "Linear"])


def test_wrong_starts_are_told():
    net = Case("Continuous").network()
    x, _ = data(0)
    with pytest.raises(ValueError, match="2 entries for 3 layers"):
        net.forward(x, init_activations=[None, None])
    with pytest.raises(ValueError, match=r"layer 1 has shape \(3, 2\)"):
        net.forward(x, init_activations=[None, np.zeros((3, 2)), None])
    with pytest.raises(ValueError, match="4 rows for 3 inputs"):
        net.forward(x, init_activations=[None, np.zeros((4, 3)), None])
    with pytest.raises(ValueError, match="Linear keeps no state"):
        net.forward(x, init_state=[np.zeros((3, 2)), None, None])


def test_an_activation_that_is_not_finite_names_layer_and_timestep():
    net = hf.RNNet([1, 2, 1], layers=hf.nl.Linear(), rng=0)
    net.W = np.full(net.W.size, 1e30)
    with pytest.raises(OverflowError, match=r"Layer 1 \(Linear\).*timestep 1"):
        net.forward(np.ones((2, 4, 1)))


def signals():
    levels = np.linspace(0.1, 0.9, 8, dtype=np.float32)[:, None, None]
    return np.repeat(levels, 6, axis=1), levels * np.linspace(0, 1, 6, dtype=np.float32)[:, None]


@pytest.mark.few(1)
@pytest.mark.parametrize("arguments", [{}, {"truncation": (2, 4)}, {"layers": ["Linear", Resonator(), "Linear"]}])
def test_training_on_sequences(arguments):
    net = hf.RNNet([1, 6, 1], rng=0, **arguments)
    x, t = signals()
    result = net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=30), max_epochs=25, minibatch_size=3, print_period=None)
    assert result.test_errors[-1] < 0.05 * result.test_errors[0]
    assert net.best_error == pytest.approx(net.error(net.best_W, x, t))
    assert len(result.epochs[0].updates) == 3


@pytest.mark.parametrize("preconditioner", [None, "diagonal"])
def test_preconditioners_serve_recurrent_networks(preconditioner):
    net = hf.RNNet([1, 6, 1], rng=0)
    x, t = signals()
    optimizer = hf.opt.HessianFree(CG_iter=20, preconditioner=preconditioner)
    result = net.run_epochs(x, t, optimizer, max_epochs=10, print_period=None)
    assert result.test_errors[-1] < 0.3 * result.test_errors[0]


def test_first_order_optimizers_serve_recurrent_networks():
    net = hf.RNNet([1, 6, 1], rng=0)
    x, t = signals()
    adam = hf.opt.FirstOrder(optax.adam(0.05))
    result = net.run_epochs(x, t, adam, max_epochs=40, print_period=None)
    assert result.test_errors[-1] < 0.5 * result.test_errors[0]


def test_classification_over_time_counts_known_timesteps():
    net = hf.RNNet([2, 3, 2], layers=["Linear", "Tanh", "Softmax"], loss_type=hf.loss_funcs.CrossEntropy(), rng=0)
    x, t = data(0, "CrossEntropy")
    error = hf.loss_funcs.ClassificationError()
    result = net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=5), max_epochs=2, test_err=error, print_period=None)
    known = ~np.isnan(t).any(axis=-1)
    wrong = net.forward(x)[-1].argmax(-1) != np.nan_to_num(t, nan=-1).argmax(-1)
    assert result.test_errors[-1] == pytest.approx((wrong & known).sum() / len(x))


DEBUGGED = {
    "plain": (Case(), {}),
    "truncated": (Case("Continuous"), {"truncation": (2, 3)}),
    "truncated classic": (Case("classic", rec_layers=(1, 2)), {"truncation": (2, 3)}),
}


@pytest.mark.few(1)
@pytest.mark.parametrize(("case", "arguments"), DEBUGGED.values(), ids=DEBUGGED)
def test_debug_lets_right_derivatives_pass(case, arguments):
    net = case.network(debug=True, dtype=np.float32, **arguments)
    assert net.W.dtype == np.float64
    net.run_epochs(*data(1), hf.opt.HessianFree(CG_iter=3), max_epochs=1, print_period=None)


class WrongSlope(Gate):
    def d_activation(self, x, a):
        J = super().d_activation(x, a)
        J[..., 1] *= 1.1
        return J


def test_debug_finds_a_wrong_derivative_of_the_state():
    net = hf.RNNet([2, 3, 2], layers=["Linear", WrongSlope(), "Linear"], rng=0, debug=True)
    with pytest.raises(ArithmeticError, match=r"gradient disagrees.*(layer|connection)"):
        net.run_epochs(*data(1), hf.opt.HessianFree(CG_iter=3), max_epochs=1, print_period=None)


@pytest.mark.parametrize("seed", range(3))
def test_an_exploding_gradient_is_told_with_its_remedy(seed):
    t = np.linspace(0, 20, 200, dtype=np.float32)[None, :, None]
    data, layers = (np.sin(t), np.sin(t / 2)), ["Linear", "Tanh", "Linear"]
    net = hf.RNNet([1, 32, 1], layers=layers, rng=seed)
    result = net.run_epochs(*data, optimizer=hf.opt.HessianFree(CG_iter=20), max_epochs=4, print_period=None)
    assert "the gradient has exploded: its norm is" in result.reason
    assert "precision" not in result.reason
    mended = hf.RNNet([1, 32, 1], layers=layers, rng=seed, W_rec_params={"coeff": 0.3})
    result = mended.run_epochs(*data, optimizer=hf.opt.HessianFree(CG_iter=20), max_epochs=4, print_period=None)
    assert result.value < 0.5 * result.history["value"][0]
