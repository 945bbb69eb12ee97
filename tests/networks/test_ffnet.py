from __future__ import annotations

import gc
import logging
import warnings
import weakref

import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf

from problems import cache

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
T = np.array([[0], [1], [1], [0]], np.float32)


# ---- weights ---------------------------------------------------------------------------------------------------------


def test_weights_are_one_flat_vector_in_the_documented_layout():
    net = hf.FFNet([2, 3, 4, 1], conns={0: [2, 1], 1: [2, 3], 2: [3]}, rng=0)
    assert net.offsets == {
        (0, 2): (0, 8, 12),
        (0, 1): (12, 18, 21),
        (1, 2): (21, 33, 37),
        (1, 3): (37, 40, 41),
        (2, 3): (41, 45, 46),
    }
    assert net.W.shape == (46,)
    assert net.W.dtype == np.float32
    assert net.conns == {0: [2, 1], 1: [2, 3], 2: [3], 3: []}
    net.W[:] = np.arange(46)
    W, b = net.get_weights(net.W, (1, 2))
    np.testing.assert_array_equal(W, np.arange(21, 33).reshape(3, 4))
    np.testing.assert_array_equal(b, np.arange(33, 37))
    assert net.get_weights(net.W, (0, 3)) is None


def test_writing_through_the_views_changes_the_network():
    net = hf.FFNet([2, 3, 1], rng=0)
    before = net.forward(X)[-1]
    W, b = net.get_weights(net.W, (0, 1))
    W *= 0.5
    b += 1
    assert not np.array_equal(net.forward(X)[-1], before)
    assert net.W[6] == 1


#: Drawn by hessianfree 0.4.0 itself: FFNet([20, 17, 3], conns={0: [1, 2], 1: [2]}, rng=RandomState(0), W_init_params=
#: dict(init_type=..., coeff=[0.5, 1.0, 2.0], biases=[0.1, 0.0, -0.2])): entries at PLACES, and the sum of magnitudes.
PLACES = [0, 1, 5, 77, 339, 340, 356, 357, 400, 420, 430, -1]
DRAWN_BY_040 = {
    "sparse": (
        [0, 0, -0.3305521011352539, 0, -0.29932695627212524, 0.1, 0.1, 0.8060823082923889, -0.24106746912002563, 0, 1.7905205488204956, -0.2],
        213.63644268899225,
    ),
    "uniform": (
        [0.010915031656622887, 0.048117805272340775, 0.032622914761304855, -0.08492662757635117, -0.05079856514930725, 0.1, 0.1,
         -0.05775638297200203, 0.033876948058605194, -0.09579235315322876, -0.46993115544319153, -0.2],
        41.6218500562245,
    ),
    "gaussian": (
        [0.882026195526123, 0.20007860660552979, -0.4886389374732971, -0.2894248366355896, 0.8297753930091858, 0.1, 0.1,
         1.0685093402862549, -1.022506833076477, -1.197307825088501, -2.8930695056915283, -0.2],
        257.41341881337576,
    ),
}  # fmt: skip


@pytest.mark.parametrize("init_type", DRAWN_BY_040)
def test_seeds_reproduce_the_weights_of_hessianfree_040(init_type):
    entries, magnitude = DRAWN_BY_040[init_type]
    net = hf.FFNet(
        [20, 17, 3],
        conns={0: [1, 2], 1: [2]},
        rng=np.random.RandomState(0),
        W_init_params={"init_type": init_type, "coeff": [0.5, 1.0, 2.0], "biases": [0.1, 0.0, -0.2]},
    )
    np.testing.assert_array_equal(net.W[PLACES], np.array(entries, np.float32))
    assert abs(net.W.astype(float)).sum() == pytest.approx(magnitude, rel=1e-12)


@pytest.mark.parametrize("seed", [3, np.random.RandomState(3)])
def test_seeds_and_generators(seed):
    expected = hf.FFNet([4, 3, 2], rng=3).W
    np.testing.assert_array_equal(hf.FFNet([4, 3, 2], rng=seed).W, expected)
    with_generator = [hf.FFNet([4, 3, 2], rng=np.random.default_rng(3)).W for _ in range(2)]
    np.testing.assert_array_equal(*with_generator)
    assert not np.array_equal(with_generator[0], expected)


def test_load_weights(tmp_path):
    net = hf.FFNet([2, 3, 1], rng=0)
    path = tmp_path / "w.npy"
    np.save(path, net.W)
    for source in (net.W, path, str(path)):
        loaded = hf.FFNet([2, 3, 1], load_weights=source)
        np.testing.assert_array_equal(loaded.W, net.W)
    loaded.W[0] += 1
    assert loaded.W[0] != net.W[0]
    with pytest.raises(IndexError, match="13"):
        hf.FFNet([2, 3, 1], load_weights=net.W[:-1])
    with pytest.raises(TypeError, match="float64"):
        hf.FFNet([2, 3, 1], load_weights=net.W.astype(float))
    np.save(path, np.array([object()]), allow_pickle=True)
    with pytest.raises(ValueError, match=r"not a \.npy file"):
        hf.FFNet([2, 3, 1], load_weights=path)


def test_a_wrong_vector_cannot_be_assigned():
    net = hf.FFNet([2, 3, 1], rng=0)
    with pytest.raises(IndexError, match="13"):
        net.W = np.zeros(5)
    net.W = np.arange(13)
    assert net.W.dtype == np.float32


# ---- construction ----------------------------------------------------------------------------------------------------


class Stateful(hf.nl.Nonlinearity):
    def __init__(self):
        super().__init__(stateful=True)


BAD = [
    ({"shape": [2]}, ValueError, "at least two layers"),
    ({"shape": [2, 0, 1]}, ValueError, "shape"),
    ({"shape": [2, 2.5]}, ValueError, "shape"),
    ({"layers": [hf.nl.Tanh()] * 2}, ValueError, "2 nonlinearities are given for 3 layers"),
    ({"layers": "Tanhh"}, ValueError, "Tanh"),
    ({"layers": 3}, TypeError, "nonlinearity"),
    ({"layers": hf.nl.Tanh}, TypeError, "parentheses"),
    ({"layers": Stateful()}, TypeError, "RNNet"),
    ({"layers": hf.nl.Continuous(hf.nl.Tanh())}, TypeError, "RNNet"),
    ({"conns": {0: [1], 1: [2, 1]}}, ValueError, "1 -> 1"),
    ({"conns": {1: [0], 0: [2]}}, ValueError, "1 -> 0"),
    ({"conns": {0: [1, 1], 1: [2]}}, ValueError, "twice"),
    ({"conns": {0: [1], 1: [5]}}, ValueError, "0 to 2"),
    ({"conns": {0: [1], 1: [2], 7: [8]}}, ValueError, "0 to 2"),
    ({"conns": {0: [2]}}, ValueError, r"\[1\] without input"),
    ({"loss_type": "squared"}, ValueError, r"Did you mean 'squared_error'. The names are 'squared_error', "),
    ({"loss_type": "softmax_cross_entropy"}, ValueError, r"Did you mean 'cross_entropy'"),
    ({"loss_type": "CrossEntrpoy"}, ValueError, r"Did you mean 'cross_entropy'"),
    ({"loss_type": ["squared_error", "l1"]}, ValueError, r"There is no loss 'l1'"),
    ({"loss_type": "classification_error"}, TypeError, "no derivative"),
    ({"loss_type": 3}, TypeError, "LossFunction"),
    ({"loss_type": hf.loss_funcs.SquaredError}, TypeError, "LossFunction"),
    ({"loss_type": hf.loss_funcs.ClassificationError()}, TypeError, "test_err"),
    ({"loss_type": hf.loss_funcs.CrossEntropy(), "layers": hf.nl.Linear()}, ValueError, "Softmax"),
    ({"loss_type": hf.loss_funcs.CrossEntropy(), "layers": hf.nl.Tanh()}, ValueError, "<= 0"),
    ({"loss_type": hf.loss_funcs.CrossEntropy(), "layers": hf.nl.ReLU()}, ValueError, "<= 0"),
    ({"loss_type": hf.loss_funcs.SparseL2(0.1, layers=[9])}, ValueError, "layers 0 to 2"),
    ({"W_init_params": {"init_type": "magic"}}, ValueError, "'sparse', 'uniform', 'gaussian'"),
    ({"W_init_params": {"coeff": [1.0]}}, ValueError, "2 weight matrices"),
    ({"rng": "seed"}, TypeError, "rng"),
    ({"dtype": np.int32}, TypeError, "float32"),
    ({"use_GPU": True}, RuntimeError, "cuda"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_mistakes_are_told_at_construction(arguments, error, message):
    if arguments.get("use_GPU") and hf.gpu_enabled:
        pytest.skip("this machine has a GPU")
    with pytest.raises(error, match=message):
        hf.FFNet(**{"shape": [2, 3, 2], **arguments})


def test_cross_entropy_without_softmax_warns():
    with pytest.warns(UserWarning, match="Softmax"):
        hf.FFNet([2, 3, 2], loss_type=hf.loss_funcs.CrossEntropy())


def test_one_nonlinearity_serves_all_layers_but_the_first():
    net = hf.FFNet([2, 3, 2], layers="Tanh")
    assert [type(layer).__name__ for layer in net.layers] == ["Linear", "Tanh", "Tanh"]
    assert [type(layer).__name__ for layer in hf.FFNet([2, 3, 2]).layers] == ["Linear", "Logistic", "Logistic"]


# ---- data ------------------------------------------------------------------------------------------------------------

BAD_DATA = [
    (np.zeros((4, 3)), T, ValueError, "width 3, but the input layer has 2"),
    (X, np.zeros((4, 2)), ValueError, "width 2, but the output layer has 1"),
    (X, np.zeros(4), ValueError, r"array\[:, None\]"),
    (np.zeros(2), T, ValueError, r"array\[None, :\]"),
    (X, T[:3], ValueError, "4 inputs but 3 targets"),
    (X[:0], T[:0], ValueError, "no examples"),
    (np.where(X == 1, np.nan, X), T, ValueError, r"4 NaN or infinite values, the first at \(1, 1\)"),
    (np.where(X == 1, np.inf, X), T, ValueError, "infinite"),
    (X, np.where(T == 1, np.inf, T), ValueError, "2 infinite"),
    ([["a", "b"]], T, TypeError, "numbers"),
    (X + 1j, T, TypeError, "numbers"),
    (X, None, (TypeError, ValueError), "targets"),
    (np.full((4, 2), 1e300), T, ValueError, "infinite"),
]


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize(("inputs", "targets", "error", "message"), BAD_DATA)
def test_bad_data_is_told_before_any_work(inputs, targets, error, message):
    net = hf.FFNet([2, 3, 1], rng=0)
    before = net.W.copy()
    for call in (
        net.cache_minibatch,
        lambda x, t: net.run_epochs(x, t, hf.opt.SGD()),
        lambda x, t: net.error(None, x, t),
    ):
        with pytest.raises(error, match=message):
            call(inputs, targets)
    np.testing.assert_array_equal(net.W, before)


def test_integers_and_lists_are_converted():
    net = hf.FFNet([2, 3, 1], rng=0)
    np.testing.assert_array_equal(net.forward([[0, 1]])[-1], net.forward(np.array([[0.0, 1.0]]))[-1])
    assert net.error(None, X.astype(int), T.astype(bool)) == net.error(None, X, T)


def test_nothing_cached_says_what_to_do():
    net = hf.FFNet([2, 3, 1], rng=0)
    assert net.inputs is net.targets is net.activations is net.d_activations is None
    with pytest.raises(RuntimeError, match="cache_minibatch"):
        net.calc_grad()


def test_the_cached_minibatch_is_visible():
    net = hf.FFNet([2, 3, 1], rng=0)
    net.cache_minibatch(X, T, [2, 0])
    np.testing.assert_array_equal(net.inputs, X[[2, 0]])
    np.testing.assert_array_equal(net.targets, T[[2, 0]])
    np.testing.assert_array_equal(net.activations[-1], net.forward(X[[2, 0]])[-1])
    a = net.activations[1]
    np.testing.assert_allclose(net.d_activations[1], a * (1 - a), rtol=1e-6)


def test_an_activation_that_overflows_names_its_layer():
    net = hf.FFNet([2, 3, 1], layers=["Linear", "Linear", "Linear"], rng=0)
    net.W[:] = 1e30
    with pytest.raises(OverflowError, match=r"Layer 2 \(Linear\)"):
        net.forward(X + 1)


def test_float64_and_float32_live_side_by_side():
    single, double = hf.FFNet([2, 3, 1], rng=0), hf.FFNet([2, 3, 1], rng=0, dtype=np.float64)
    for net in (single, double):
        net.cache_minibatch(X, T)
        assert net.forward(X)[-1].dtype == net.calc_grad().dtype == net.dtype
    assert jnp.zeros(1).dtype == jnp.float32
    np.testing.assert_allclose(single.calc_grad(), double.calc_grad(), rtol=1e-4)


def test_use_gpu_false_means_the_cpu():
    net = hf.FFNet([2, 3, 1], rng=0, use_GPU=False)
    net.cache_minibatch(X, T)
    assert {d.platform for d in net.batch().weights.devices()} == {"cpu"}


# ---- layers and losses of the user's own -----------------------------------------------------------------------------


class JaxSquash(hf.nl.Nonlinearity):
    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def activation(self, x):
        return jnp.tanh(self.gain * x)


class NumpySquash(hf.nl.Nonlinearity):
    def activation(self, x):
        return np.tanh(np.asarray(x))

    def d_activation(self, x, a):
        return 1 - np.asarray(a) ** 2


class NumpySoftmax(hf.nl.Nonlinearity):
    def activation(self, x):
        e = np.exp(np.asarray(x))
        return e / e.sum(axis=1, keepdims=True)

    def d_activation(self, x, a):
        return np.stack([np.diag(row) - np.outer(row, row) for row in a])


class Counting(hf.nl.Tanh):
    """Would trace, but keeps a count: belongs on the host."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def activation(self, x):
        self.calls += 1
        return super().activation(x)

    def d_activation(self, x, a):
        return 1 - a * a


class NumpySquared(hf.loss_funcs.LossFunction):
    @hf.loss_funcs.output_loss
    def loss(self, o, t):
        return np.sum((np.asarray(o) - t) ** 2, axis=1) / 2

    @hf.loss_funcs.output_loss
    def d_loss(self, o, t):
        return np.asarray(o) - t

    @hf.loss_funcs.output_loss
    def d2_loss(self, o, t):
        return np.ones_like(o)


class JaxSquared(hf.loss_funcs.LossFunction):
    @hf.loss_funcs.output_loss
    def loss(self, o, t):
        return jnp.sum((o - t) ** 2, axis=1) / 2


SAME_AS_TANH = [JaxSquash, NumpySquash, Counting]


def derivatives(net):
    net.cache_minibatch(X, T)
    v = np.random.RandomState(0).randn(net.W.size)
    return net.error(), net.calc_grad(), net.calc_G(v), net.forward(X)[-1]


@pytest.mark.few(5)
@pytest.mark.parametrize("layer", SAME_AS_TANH)
@pytest.mark.parametrize("loss", [NumpySquared, JaxSquared, hf.loss_funcs.SquaredError])
def test_layers_and_losses_of_the_users_own_in_jax_and_in_numpy(layer, loss):
    reference = hf.FFNet([2, 3, 1], layers=hf.nl.Tanh(), rng=0, dtype=np.float64)
    net = hf.FFNet([2, 3, 1], layers=layer(), loss_type=loss(), rng=0, dtype=np.float64)
    for found, expected in zip(derivatives(net), derivatives(reference), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)
    result = net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=5), max_epochs=8, print_period=None)
    expected = reference.run_epochs(X, T, hf.opt.HessianFree(CG_iter=5), max_epochs=8, print_period=None)
    np.testing.assert_allclose(result.test_errors, expected.test_errors, rtol=1e-6)


def test_a_numpy_layer_with_a_matrix_jacobian_in_the_middle():
    reference = hf.FFNet([2, 3, 1], layers=["Linear", "Softmax", "Tanh"], rng=0, dtype=np.float64)
    net = hf.FFNet([2, 3, 1], layers=[hf.nl.Linear(), NumpySoftmax(), hf.nl.Tanh()], rng=0, dtype=np.float64)
    for found, expected in zip(derivatives(net), derivatives(reference), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_numpy_layer_before_a_matched_loss():
    t = np.eye(2)[[0, 1, 1, 0]]
    nets = [
        hf.FFNet(
            [2, 3, 2],
            layers=[hf.nl.Linear(), layer, hf.nl.Softmax()],
            loss_type=hf.loss_funcs.CrossEntropy(),
            rng=0,
            dtype=np.float64,
        )
        for layer in (NumpySquash(), hf.nl.Tanh())
    ]
    for net in nets:
        net.cache_minibatch(X, t)
    v = np.random.RandomState(0).randn(nets[0].W.size)
    assert nets[0].error() == pytest.approx(nets[1].error(), rel=1e-12)
    np.testing.assert_allclose(nets[0].calc_G(v), nets[1].calc_G(v), rtol=1e-9)
    np.testing.assert_allclose(nets[0].calc_grad(), nets[1].calc_grad(), rtol=1e-9)


class Surrogate(hf.nl.Nonlinearity):
    """A step whose derivative is the user's own."""

    def activation(self, x):
        return (x > 0) * 1.0

    def d_activation(self, x, a):
        return 1 / (1 + abs(x)) ** 2


def test_a_surrogate_derivative_is_honoured():
    net = hf.FFNet([2, 3, 1], layers=["Linear", Surrogate(), "Linear"], rng=0, dtype=np.float64)
    net.cache_minibatch(X, T)
    (W1, b1), (W2, b2) = (net.get_weights(net.W, c) for c in ((0, 1), (1, 2)))
    z = X @ W1 + b1
    delta = ((z > 0) @ W2 + b2 - T) @ W2.T / (1 + abs(z)) ** 2
    W_gradient, b_gradient = net.get_weights(net.calc_grad(), (0, 1))
    np.testing.assert_allclose(W_gradient, X.T @ delta / 4, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(b_gradient, delta.mean(axis=0), rtol=1e-9, atol=1e-12)
    assert abs(W_gradient).max() > 0


def test_a_changed_attribute_takes_effect():
    layer = JaxSquash(gain=1.0)
    net = hf.FFNet([2, 3, 1], layers=layer, rng=0, dtype=np.float64)
    before = derivatives(net)
    layer.gain = 2.0
    after = derivatives(net)
    fresh = derivatives(hf.FFNet([2, 3, 1], layers=JaxSquash(gain=2.0), rng=0, dtype=np.float64))
    assert not np.allclose(before[1], after[1])
    for found, expected in zip(after, fresh, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12)


class NoDerivative(hf.nl.Nonlinearity):
    def activation(self, x):
        return np.tanh(np.asarray(x))


class WrongDerivative(NumpySquash):
    def d_activation(self, x, a):
        return np.ones(7)


class WrongShape(hf.nl.Nonlinearity):
    def activation(self, x):
        return x[:, :1]


class LossWithoutDerivative(hf.loss_funcs.LossFunction):
    @hf.loss_funcs.output_loss
    def loss(self, o, t):
        return np.sum((np.asarray(o) - t) ** 2, axis=1)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"layers": NoDerivative()}, TypeError, "d_activation"),
        ({"layers": WrongDerivative()}, ValueError, r"expected \(2, 3\).*\(2, 3, 3\)"),
        ({"layers": WrongShape()}, ValueError, r"\(2, 1\) for input \(2, 3\)"),
        ({"loss_type": LossWithoutDerivative()}, TypeError, "d_loss and no d2_loss"),
    ],
)
def test_parts_that_cannot_work_are_told_at_construction(arguments, error, message):
    with pytest.raises(error, match=message):
        hf.FFNet([2, 3, 1], **arguments)


def test_host_layers_are_logged_once(caplog):
    with caplog.at_level(logging.INFO, "hessianfree"):
        net = hf.FFNet([2, 3, 1], layers=[hf.nl.Linear(), NumpySquash(), hf.nl.Linear()], rng=0)
        net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=2), max_epochs=3, print_period=None)
    (message,) = [record.message for record in caplog.records if "runs in numpy" in record.message]
    assert message.startswith("NumpySquash runs in numpy: TracerArrayConversionError while tracing it: ")


# ---- objects ---------------------------------------------------------------------------------------------------------


def test_networks_and_optimizers_are_freed():
    net = hf.FFNet([2, 3, 1], layers=JaxSquash(), rng=0)
    optimizer = hf.opt.HessianFree(CG_iter=2)
    net.loss = hf.loss_funcs.LossSet([net.loss, hf.loss_funcs.StructuralDamping(0.1, optimizer=optimizer)])
    net.run_epochs(X, T, optimizer, max_epochs=2, print_period=None)
    watches = [weakref.ref(net), weakref.ref(optimizer), weakref.ref(net.layers[1])]
    del net, optimizer
    gc.collect()
    assert [watch() for watch in watches] == [None, None, None]


def test_no_warnings_at_all():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = hf.FFNet([2, 3, 1], rng=0)
        net.run_epochs(X, T, hf.opt.HessianFree(), max_epochs=2, print_period=None)


# ---- data, weights and masks that change under way --------------------------------------------------------------------


def aligned(array):
    """A copy that starts on a 64-byte boundary, which JAX could use without copying."""
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[:] = array
    return copy


@pytest.mark.parametrize("make", [np.array, aligned])
def test_data_changed_in_place_count_when_they_are_given_again_and_not_before(make):
    x, t = make(X), make(T)
    net = hf.FFNet([2, 3, 1], rng=0)
    net.cache_minibatch(x, t)
    before, gradient = net.error(), net.calc_grad()
    t[:] = 5
    assert net.error() == before
    np.testing.assert_array_equal(net.calc_grad(), gradient)
    net.cache_minibatch(x, t)
    assert net.error() == pytest.approx(net.error(None, x, t)) != before
    net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=3), max_epochs=1, print_period=None)
    t[:] = -5
    result = net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=3), max_epochs=2, print_period=None)
    assert result.epochs[0].updates[0].new_value == pytest.approx(result.test_errors[0], rel=1e-5)


def test_views_stay_views_when_the_vector_is_assigned():
    net = hf.FFNet([2, 3, 1], rng=0)
    W, _ = net.get_weights(net.W, (0, 1))
    net.W = net.W + 1
    W[:] = 7
    np.testing.assert_array_equal(net.W[:6], 7)


def test_outputs_are_the_callers_to_change():
    out = hf.FFNet([2, 3, 1], rng=0).forward(X)[-1]
    out[out < 0.5] = 0


MASKS = [
    [0, 3],
    np.array([0, 3]),
    np.isin(np.arange(13), (0, 3)),
    slice(0, 4, 3),
    np.isin(np.arange(13), (0, 3)).tolist(),
]


@pytest.mark.parametrize("mask", MASKS)
def test_masks_in_every_form_of_index(mask):
    net = hf.FFNet([2, 3, 1], rng=0)
    net.mask = mask
    assert np.flatnonzero(net.mask).tolist() == [0, 3]
    net.mask = None
    assert net.mask is None


@pytest.mark.parametrize("mask", [True, np.isin(np.arange(13), (0, 3)).astype(int), [99], "all", [True, False]])
def test_masks_that_do_not_index_the_weights(mask):
    with pytest.raises(ValueError, match="mask"):
        hf.FFNet([2, 3, 1], rng=0).mask = mask


class Forgetful(hf.opt.Optimizer):
    """Knows nothing of masks."""

    def compute_update(self, printing=False):
        return -0.1 * self.net.calc_grad()


@pytest.mark.parametrize("optimizer", [hf.opt.HessianFree(CG_iter=3), Forgetful()])
def test_a_mask_set_mid_way_holds_from_then_on(optimizer):
    net = hf.FFNet([2, 3, 1], rng=0)
    net.run_epochs(X, T, optimizer, max_epochs=3, print_period=None)
    net.mask = np.arange(5)
    held = net.W[:5].copy()
    net.run_epochs(X, T, optimizer, max_epochs=3, print_period=None)
    np.testing.assert_array_equal(net.W[:5], held)


class InPlace(hf.nl.Nonlinearity):
    """Numpy that works on the array it is given."""

    def activation(self, x):
        x = np.asarray(x)
        x[x < 0] *= 0.1
        return x

    def d_activation(self, x, a):
        return np.where(np.asarray(x) < 0, 0.1, 1.0)


class OneBuffer(hf.nl.Nonlinearity):
    """Numpy that hands out the same array each time."""

    def __init__(self):
        super().__init__()
        self.buffer = np.empty((4, 3))

    def activation(self, x):
        out = self.buffer[: len(x), : x.shape[1]]
        np.tanh(np.asarray(x), out=out)
        return out

    def d_activation(self, x, a):
        return 1 - np.asarray(a) ** 2


class InPlaceLoss(NumpySquared):
    @hf.loss_funcs.output_loss
    def loss(self, o, t):
        o = np.asarray(o)
        o -= t
        return (o**2).sum(axis=1) / 2

    @hf.loss_funcs.output_loss
    def d_loss(self, o, t):
        o -= t
        return o

    @hf.loss_funcs.output_loss
    def d2_loss(self, o, t):
        return np.ones_like(o)


@pytest.mark.parametrize("arguments", [{"layers": InPlace()}, {"layers": OneBuffer()}, {"loss_type": InPlaceLoss()}])
def test_numpy_code_may_work_in_place(arguments):
    """Checked against finite differences of the network's own error."""
    net = hf.FFNet([2, 3, 1], rng=0, dtype=np.float64, **arguments)
    x, t = X.astype(float) - 0.3, T.astype(float)
    net.cache_minibatch(x, t)
    differences = [(net.error(net.W + 1e-6 * e) - net.error(net.W - 1e-6 * e)) / 2e-6 for e in np.eye(net.W.size)]
    np.testing.assert_allclose(net.calc_grad(), differences, rtol=1e-5, atol=1e-8)
    np.testing.assert_array_equal(net.inputs, x)
    assert net.forward(x)[0] is not x


class CountsInADict(hf.nl.Tanh):
    def __init__(self):
        super().__init__()
        self.state = {"calls": 0}

    def activation(self, x):
        self.state["calls"] += 1
        return super().activation(x)

    def d_activation(self, x, a):
        return 1 - a * a


def test_state_in_a_container_is_seen():
    layer = CountsInADict()
    net = hf.FFNet([2, 3, 1], layers=layer, rng=0)
    before = layer.state["calls"]
    net.forward(X)
    assert layer.state["calls"] > before


class NoSuper(hf.nl.Nonlinearity):
    def __init__(self, function):
        self.function = function

    def activation(self, x):
        return self.function(x)


@pytest.mark.parametrize("function", [jnp.tanh, jnp.sin, __import__("jax").nn.relu, __import__("jax").jit(lambda x: x)])
def test_layers_around_a_function(function):
    layers = [hf.nl.Linear(), NoSuper(function), hf.nl.Linear()]
    assert hf.FFNet([2, 3, 1], layers=layers, rng=0).forward(X)[-1].shape == (4, 1)


class Misspelt(hf.nl.Nonlinearity):
    def activation(self, x):
        return jnp.thanh(x)


def test_errors_in_the_users_code_come_through():
    with pytest.raises(AttributeError, match="thanh"):
        hf.FFNet([2, 3, 1], layers=Misspelt())


BAD_TARGETS = [
    ("BinaryCrossEntropy", "Logistic", np.array([[-1.0, 1.0]]), r"\[0, 1\]"),
    ("BinaryCrossEntropy", "Logistic", np.array([[0.0, 100.0]]), r"\[0, 1\]"),
    ("CrossEntropy", "Softmax", np.array([[-1.0, 1.0]]), ">= 0"),
    ("CrossEntropy", "Softmax", np.zeros((1, 2)), "not all"),
    ("SquaredError", "Linear", np.full((1, 2), np.nan), "All targets are NaN"),
]


@pytest.mark.parametrize(("loss", "layer", "targets", "message"), BAD_TARGETS)
def test_targets_without_meaning_are_told(loss, layer, targets, message):
    net = hf.FFNet([2, 3, 2], layers=["Linear", "Tanh", layer], loss_type=getattr(hf.loss_funcs, loss)(), rng=0)
    with pytest.raises(ValueError, match=message):
        net.run_epochs(X[:1], targets, hf.opt.HessianFree(), print_period=None)


def test_a_softmax_of_one_unit_is_refused():
    with pytest.raises(ValueError, match="single unit"):
        hf.FFNet([2, 3, 1], layers=["Linear", "Tanh", "Softmax"], loss_type=hf.loss_funcs.CrossEntropy())


@pytest.mark.parametrize("loss", ["SquaredError", "BinaryCrossEntropy"])
def test_networks_can_be_copied_and_pickled(loss):
    import copy
    import pickle

    net = hf.FFNet([2, 3, 1], loss_type=getattr(hf.loss_funcs, loss)(), rng=0, use_GPU=False)
    net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=2), max_epochs=1, print_period=None)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(again.forward(X)[-1], net.forward(X)[-1])


# ---- what is compiled follows the code ---------------------------------------------------------------------------------


class Gain(hf.nl.Nonlinearity):
    gain = 1.0

    def activation(self, x):
        return jnp.tanh(self.gain * x)


def test_a_changed_class_attribute_or_method_takes_effect(monkeypatch):
    net = hf.FFNet([2, 3, 1], layers=Gain(), rng=0, dtype=np.float64)
    net.cache_minibatch(X, T)
    first = net.error()
    monkeypatch.setattr(Gain, "gain", 3.0)
    second = net.error()
    monkeypatch.setattr(Gain, "activation", lambda self, x: jnp.sin(x))
    third = net.error()
    assert len({first, second, third}) == 3
    for gain, found in ((1.0, first), (3.0, second)):
        W1, b1, W2, b2 = (part for c in ((0, 1), (1, 2)) for part in net.get_weights(net.W, c))
        output = np.tanh(gain * (np.tanh(gain * (X @ W1 + b1)) @ W2 + b2))
        assert found == pytest.approx(0.5 * ((output - T) ** 2).sum(axis=1).mean())


def closing_over(value):
    return lambda x: x * value


def test_functions_are_told_apart_by_what_they_close_over():
    layer = NoSuper(closing_over(1.0))
    net = hf.FFNet([2, 3, 1], layers=[hf.nl.Linear(), layer, hf.nl.Linear()], rng=0)
    before = net.forward(X)[1]
    layer.function = closing_over(2.0)
    np.testing.assert_allclose(net.forward(X)[1], 2 * before, rtol=1e-6)
    with pytest.raises(TypeError, match="closes over an array"):
        hf.FFNet([2, 3, 1], layers=[hf.nl.Linear(), NoSuper(closing_over(np.ones(3))), hf.nl.Linear()])


class Quartic(hf.loss_funcs.SquaredError):
    """Replaces the loss and inherits derivatives that no longer go with it."""

    @hf.loss_funcs.output_loss
    def loss(self, output, targets):
        return ((output - targets) ** 4).sum(axis=-1)


def test_inherited_derivatives_of_a_replaced_function_are_not_used():
    net = hf.FFNet([2, 3, 1], loss_type=Quartic(), rng=0, dtype=np.float64)
    net.cache_minibatch(X, T)
    differences = [(net.error(net.W + 1e-6 * e) - net.error(net.W - 1e-6 * e)) / 2e-6 for e in np.eye(net.W.size)]
    np.testing.assert_allclose(net.calc_grad(), differences, rtol=1e-5, atol=1e-9)

    class Tripled(hf.nl.Tanh):
        def activation(self, x):
            return 3 * np.tanh(np.asarray(x))

    with pytest.raises(TypeError, match="d_activation"):
        hf.FFNet([2, 3, 1], layers=Tripled())


class Dropout(hf.nl.Nonlinearity):
    def activation(self, x):
        return x * (np.random.rand(*x.shape) < 0.5)  # noqa: NPY002


def test_numbers_drawn_while_tracing_are_noticed():
    with pytest.raises(TypeError, match="something else each time"):
        hf.FFNet([2, 3, 1], layers=Dropout())


def test_the_host_honours_weights_too():
    nets = [hf.FFNet([2, 3, 1], layers=layer, rng=0, dtype=np.float64) for layer in (NumpySquash(), hf.nl.Tanh())]
    for net in nets:
        cache(net, X[:3].astype(float), T[:3].astype(float), 5)
    assert nets[0].error() == pytest.approx(nets[1].error(), rel=1e-12)
    np.testing.assert_allclose(nets[0].calc_grad(), nets[1].calc_grad(), rtol=1e-9)
