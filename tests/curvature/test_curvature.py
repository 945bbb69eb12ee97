from __future__ import annotations

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.curvature import Fisher, GaussNewton, Hessian
from hessianfree.engine.losses import BY_NAME
from hessianfree.engine.objective import Batch
from hessianfree.objective.objective import Objective
from test_compilation import compilations

from problems import per_example, traced

B, N, P = 6, 3, 15  # examples, outputs of each of two kinds, parameters
WEIGHTS = np.array([2.0, 0.0, 1.0, 0.5, 1.0, 3.0])
SHARES = WEIGHTS / WEIGHTS.sum()
KINDS = ("first", "second")


def model(p, x):
    h = jnp.tanh(x @ p["W"])
    return {"first": h @ p["v"] + p["b"], "second": jnp.sin(h @ p["v"])}


@cache
def point():
    rng = np.random.RandomState(0)
    return {"W": rng.randn(3, 2), "b": rng.randn(N), "v": rng.randn(2, N)}


@cache
def batch(name):
    """Unequal weights, one of them zero; targets of every loss, one of them unknown, all of those that do not count."""
    rng = np.random.RandomState(1)

    def targets():
        t = {
            "squared_error": rng.randn(B, N),
            "softmax_cross_entropy": rng.dirichlet(np.ones(N), B),
            "binary_cross_entropy": rng.rand(B, N),
            "poisson": rng.poisson(2, (B, N)).astype(float),
        }[name]
        t[1], t[3, 0] = np.nan, np.nan
        return t

    return rng.randn(B, 3), {kind: targets() for kind in KINDS}, WEIGHTS


@cache
def objective(name):
    return Objective(model, name)


@cache
def at(kind, name):
    return kind(objective(name), point(), batch(name))


# ---- the matrices, written out ---------------------------------------------------------------------------------------


def loss_hessian(name, o, t):
    """Of one example, (N, N)."""
    known = ~np.isnan(t)
    if name == "softmax_cross_entropy":
        p = np.exp(o) / np.exp(o).sum()
        return np.nansum(t) * (np.diag(p) - np.outer(p, p))
    p = 1 / (1 + np.exp(-o))
    return np.diag(
        known * {"squared_error": np.ones(N), "binary_cross_entropy": p * (1 - p), "poisson": np.exp(o)}[name]
    )


def loss_sum(name, o, t):
    """Of one example, in jax.numpy, entries without target left out."""
    known, t = ~np.isnan(t), np.nan_to_num(t)
    if name == "softmax_cross_entropy":
        return -jnp.sum(t * (o - jnp.log(jnp.sum(jnp.exp(o)))))
    entries = {
        "squared_error": lambda: (o - t) ** 2 / 2,
        "binary_cross_entropy": lambda: -t * jnp.log(1 / (1 + jnp.exp(-o))) - (1 - t) * jnp.log(1 / (1 + jnp.exp(o))),
        "poisson": lambda: jnp.exp(o) - t * o,
    }[name]()
    return jnp.sum(known * entries)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def unflat(v):
    return {"W": v[:6].reshape(3, 2), "b": v[6:9], "v": v[9:].reshape(2, N)}


@cache
def outputs_and_jacobians():
    """By kind: (B, N) and (B, N, P)."""
    x = batch("poisson")[0]
    with jax.enable_x64(True):
        J = jax.jacfwd(lambda v: model(unflat(v), x))(jnp.asarray(flat(point())))
        return jax.tree.map(np.asarray, (model(point(), x), J))


def dense_gauss_newton(name):
    o, J = outputs_and_jacobians()
    t = batch(name)[1]
    return sum(
        SHARES[i] * J[kind][i].T @ loss_hessian(name, o[kind][i], t[kind][i]) @ J[kind][i]
        for kind in KINDS
        for i in range(B)
    )


@cache
def dense_hessian(name):
    x, t, _ = batch(name)

    def loss(v):
        o = model(unflat(v), x)
        return sum(SHARES[i] * loss_sum(name, o[kind][i], t[kind][i]) for kind in KINDS for i in range(B))

    with jax.enable_x64(True):
        return np.asarray(jax.jit(jax.hessian(loss))(jnp.asarray(flat(point()))))


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * np.abs(expected).max())


# ---- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BY_NAME)
def test_gauss_newton_in_float64_is_the_matrix_written_out(name):
    """Without any global setting; weights and unknown targets are honoured."""
    found = at(GaussNewton, name).to_dense()
    assert found.dtype == np.float64
    close(found, dense_gauss_newton(name))


@pytest.mark.parametrize("name", BY_NAME)
def test_the_hessian_is_the_matrix_by_autodiff(name):
    close(at(Hessian, name).to_dense(), dense_hessian(name))


@pytest.mark.parametrize("name", BY_NAME)
def test_the_exact_fisher_matrix_is_that_of_gauss_newton(name):
    close(at(Fisher, name).to_dense(), dense_gauss_newton(name))


@pytest.mark.parametrize("kind", [GaussNewton, Hessian, partial(Fisher, samples=1)])
def test_operators_are_symmetric(kind):
    A = at(kind, "squared_error").to_dense()
    close(A, A.T, 1e-12)


@pytest.mark.parametrize("kind", [GaussNewton, Hessian])
def test_float32_parameters_give_float32_jax_arrays(kind):
    x, t, w = batch("poisson")
    params = jax.tree.map(np.float32, point())
    A = kind(objective("poisson"), params, (x, t, w))
    v = np.random.RandomState(2).randn(P)
    found = A @ v
    assert A.dtype == found.dtype == np.float32
    assert isinstance(found, jax.Array)
    assert {leaf.dtype for leaf in jax.tree.leaves(A @ params)} == {np.dtype(np.float32)}
    close(found, at(kind, "poisson") @ v, 2e-5)


def test_a_vector_may_be_a_pytree_flat_or_a_column():
    G, V = at(GaussNewton, "poisson"), np.random.RandomState(3).randn(P, 3)
    expected = dense_gauss_newton("poisson") @ V
    for v, column in zip(V.T, expected.T, strict=True):
        close(G @ v, column)
        like_params = G @ unflat(v)
        assert jax.tree.structure(like_params) == jax.tree.structure(point())
        close(flat(like_params), column)
        close(G @ jnp.asarray(v, np.float32), column, 1e-5)
    close(G @ V, expected)
    assert (G @ V[:, :1]).shape == (P, 1)
    np.testing.assert_array_equal(G @ np.ones(P, int), G @ np.ones(P))


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_a_vector_shaped_like_one_array_of_parameters_is_also_flat(shape):
    x = np.arange(12.0).reshape(4, 3)
    G = GaussNewton(Objective(lambda p, x: x @ p.ravel()), np.zeros(shape), (x, np.zeros(4)))
    assert G.shape == (3, 3)
    close(G.to_dense(), x.T @ x / 4, 1e-12)
    for v in (np.ones(shape), np.ones(3), np.ones((3, 1))):
        assert (G @ v).shape == v.shape
        close(np.ravel(G @ v), x.T @ x @ np.ones(3) / 4, 1e-12)


def test_scalar_parameters():
    G = GaussNewton(Objective(lambda p, x: x * p), 2.0, (np.array([1.0, 3.0], np.float32), np.zeros(2)))
    assert G.shape == (1, 1)
    assert G.to_dense() == 5
    assert G @ 2.0 == 10


def test_labels_are_targets_without_the_last_axis():
    x, labels = np.random.RandomState(4).randn(B, 3), np.array([0, 1, 2, -1, 0, 1])
    with_labels, with_rows = (
        GaussNewton(Objective(lambda p, x: x @ p, "softmax_cross_entropy"), np.eye(3), (x, t)).to_dense()
        for t in (labels, np.where(labels[:, None] < 0, 0.0, np.eye(3)[labels]))
    )
    close(with_labels, with_rows, 1e-14)


def test_a_batch_without_weight_has_no_curvature():
    x, t, _ = batch("poisson")
    for kind in (GaussNewton, Hessian):
        assert not kind(objective("poisson"), point(), (x, t, np.zeros(B))).to_dense().any()


def quartic(outputs, targets):
    return jnp.sum((outputs["first"] - targets) ** 4, axis=1)


def test_targets_of_examples_without_weight_may_be_anything_for_losses_of_the_users_own():
    x, t, w = batch("squared_error")
    own = traced(model, per_example(quartic))
    known = np.nan_to_num(t["first"])
    missing = np.where(w[:, None] == 0, np.nan, known)
    for kind in (GaussNewton, Hessian):
        found, expected = (kind(own, point(), Batch(x, t, w)).to_dense() for t in (missing, known))
        close(found, expected, 1e-12)


@jax.custom_vjp
def hidden(z):
    return jnp.tanh(z)


hidden.defvjp(lambda z: (jnp.tanh(z), jnp.tanh(z)), lambda h, u: (u * (1 - h**2),))


def model_without_forward_mode(p, x):
    h = hidden(x @ p["W"])
    return {"first": h @ p["v"] + p["b"], "second": jnp.sin(h @ p["v"])}


@pytest.mark.parametrize(("kind", "dense"), [(GaussNewton, dense_gauss_newton), (Hessian, dense_hessian)])
def test_models_without_forward_mode(kind, dense):
    operator = kind(Objective(model_without_forward_mode, "poisson"), point(), batch("poisson"))
    close(operator.to_dense(), dense("poisson"))


@pytest.mark.parametrize("kind", [GaussNewton, Hessian, partial(Fisher, samples=1)])
def test_arrays_may_change_once_an_operator_is_made(kind):
    expected = at(kind, "squared_error").to_dense()
    data, params = jax.tree.map(np.copy, (batch("squared_error"), point()))
    A = kind(objective("squared_error"), params, data)
    for array in jax.tree.leaves((data, params)):
        array[:] = 7
    np.testing.assert_array_equal(A.to_dense(), expected)


# ---- the sampled Fisher matrix ---------------------------------------------------------------------------------------


def sampled_matrices(name, samples, seed):
    """sum_i w_i (J_i' d_i) (J_i' d_i)' for each set of drawn targets, (S, P, P)."""
    o, J = outputs_and_jacobians()
    t = batch(name)[1]
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(seed), samples)
        d = jax.jit(jax.vmap(lambda key: BY_NAME[name].sample(jax.tree.map(jnp.asarray, o), t, key)))(keys)
    g = sum(np.einsum("sbn,bnp->sbp", d[kind], J[kind]) for kind in KINDS)
    return np.einsum("b,sbp,sbq->spq", SHARES, g, g)


def test_a_fisher_matrix_of_one_sample_is_a_sum_of_outer_products():
    F = Fisher(objective("squared_error"), point(), batch("squared_error"), samples=1, seed=5).to_dense()
    close(F, sampled_matrices("squared_error", 1, 5)[0])


@pytest.mark.parametrize("name", BY_NAME)
def test_sampled_fisher_matrices_converge_to_that_of_gauss_newton(name):
    S = 500
    F = Fisher(objective(name), point(), batch(name), samples=S, seed=6).to_dense()
    matrices = sampled_matrices(name, S, 6)
    close(F, matrices.mean(axis=0))
    standard_error = matrices.std(axis=0) / np.sqrt(S)
    assert standard_error.max() < 0.1 * np.abs(F).max()
    assert (np.abs(F - dense_gauss_newton(name)) < 5 * standard_error).all()


def test_seeds_draw_anew():
    args = objective("squared_error"), point(), batch("squared_error")
    F = [Fisher(*args, samples=1, seed=seed).to_dense() for seed in (1, 1, 2)]
    np.testing.assert_array_equal(F[0], F[1])
    assert not np.allclose(F[0], F[2])


# ---- networks --------------------------------------------------------------------------------------------------------


class Cube(hf.nl.Nonlinearity):
    """In numpy: nothing that JAX can trace."""

    def activation(self, x):
        return np.asarray(x) ** 3

    def d_activation(self, x, a):
        return 3 * np.asarray(x) ** 2


class Absolute(hf.loss_funcs.LossFunction):
    """A loss of the user's own, smooth, but not a distribution."""

    @hf.loss_funcs.output_loss
    def loss(self, output, targets):
        return jnp.sqrt(1 + (output - targets) ** 2)


def feedforward(layers="Tanh", dtype=np.float64, **arguments):
    net = hf.FFNet([3, 4, 2], layers=layers, rng=0, dtype=dtype, **arguments)
    rng = np.random.RandomState(7)
    net.cache_minibatch(rng.randn(20, 3), rng.randn(20, 2))
    return net


def recurrent(truncation=None, steps=4):
    net = hf.RNNet([2, 3, 2], layers="Tanh", rng=0, dtype=np.float64, truncation=truncation)
    rng = np.random.RandomState(8)
    net.cache_minibatch(rng.randn(5, steps, 2), rng.randn(5, steps, 2))
    return net


NETWORKS = {
    "feedforward": feedforward,
    "float32": partial(feedforward, dtype=np.float32),
    "layer in numpy": lambda: feedforward(["Linear", Cube(), "Linear"]),
    "matching loss": lambda: hf.FFNet(
        [3, 4, 2], layers=["Linear", "Tanh", "Softmax"], loss_type=hf.loss_funcs.CrossEntropy()
    ),
    "recurrent": recurrent,
    "truncated": lambda: recurrent((2, 3)),
}


def of_network(kind, net):
    return kind(net.problem(), net.params(), net.batch())


@pytest.mark.parametrize("name", NETWORKS)
def test_gauss_newton_of_a_network_is_its_own(name):
    net = NETWORKS[name]()
    if net.inputs is None:
        net.cache_minibatch(np.random.RandomState(7).randn(20, 3), np.eye(2)[np.arange(20) % 2])
    G = of_network(GaussNewton, net)
    for seed in range(2):
        v = np.random.RandomState(seed).randn(len(net.W))
        close(net.flat(G @ net.params(v)), net.calc_G(v), 1e-12 if net.dtype == np.float64 else 1e-5)


@pytest.mark.parametrize("conns", [None, {0: [1, 2], 1: [2]}])
@pytest.mark.parametrize("kind", ["feedforward", "recurrent", "truncated"])
def test_operators_of_a_network_work_on_vectors_like_its_weights(kind, conns):
    """The order is that of net.W, which that of a pytree is not: recurrent weights come last."""
    net = NETWORKS[kind]() if conns is None else feedforward(conns=conns)
    G = GaussNewton(net)
    assert G.shape == (net.W.size, net.W.size)
    v = np.random.RandomState(0).randn(net.W.size)
    close(G @ v, net.calc_G(v), 1e-12)
    before = G @ v
    net.W += 1
    np.testing.assert_array_equal(G @ v, before)  # the operator stays where it was made


def classifier(kind, output, loss):
    """A network with a matched loss, and with time if it is recurrent."""
    layers = ["Linear", "Tanh", output]
    net = kind([2, 3, 3], layers=layers, loss_type=loss, rng=0, dtype=np.float64)
    rng, time = np.random.RandomState(1), () if kind is hf.FFNet else (4,)
    targets = np.eye(3)[rng.randint(3, size=(6, *time))]
    net.cache_minibatch(rng.randn(6, *time, 2), targets)
    return net


FISHERS = {
    "squared error": feedforward,
    "recurrent": recurrent,
    "truncated": lambda: recurrent((2, 3)),
    "layer in numpy": lambda: feedforward(["Linear", Cube(), "Linear"]),
    "softmax": lambda: classifier(hf.FFNet, "Softmax", hf.loss_funcs.CrossEntropy()),
    "softmax over time": lambda: classifier(hf.RNNet, "Softmax", hf.loss_funcs.CrossEntropy()),
    "logistic": lambda: classifier(hf.FFNet, "Logistic", hf.loss_funcs.BinaryCrossEntropy()),
}


@pytest.mark.few(3)
@pytest.mark.parametrize("name", FISHERS)
def test_the_fisher_matrix_of_a_network(name):
    """The exact one is G; a sampled one has it as its mean, with errors that its own draws tell."""
    net = FISHERS[name]()
    G = np.stack([net.calc_G(e) for e in np.eye(net.W.size)])
    close(Fisher(net).to_dense(), G, 1e-12)
    sampled = np.stack([Fisher(net, samples=100, seed=seed).to_dense() for seed in range(30)])
    assert np.std(sampled, axis=0).max() > 0
    error = np.std(sampled, axis=0) / np.sqrt(len(sampled))
    # About a thousand entries: the largest of as many normal numbers is below 5.
    assert (abs(sampled.mean(axis=0) - G) <= 5 * error + 1e-12).all()


@pytest.mark.parametrize("make", [feedforward, recurrent])
def test_the_hessian_of_a_network_is_the_difference_of_gradients(make):
    net = make()
    H = of_network(Hessian, net)
    v, W, h = np.random.RandomState(9).randn(len(net.W)), net.W.copy(), 1e-5
    gradients = []
    for step in (h, -h):
        net.W = W + step * v
        gradients.append(net.calc_grad())
    close(net.flat(H @ net.params(v)), (gradients[0] - gradients[1]) / (2 * h), 1e-7)


def aligned(array):
    """A copy in memory that JAX uses as it is."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype)
    copy[:] = array
    return copy


@pytest.mark.parametrize("kind", [GaussNewton, Hessian])
def test_weights_may_change_as_soon_as_an_operator_is_made(kind):
    """JAX goes on working when the constructor has returned, on numpy's memory."""
    net = recurrent(steps=200)
    net._W = aligned(net.W)
    W, v = net.W.copy(), net.params(np.ones(29))
    for _ in range(3):
        A = of_network(kind, net)
        net.W += 1
        found = A @ v
        net.W = W
        jax.tree.map(np.testing.assert_array_equal, found, of_network(kind, net) @ v)


def test_a_second_operator_of_the_same_shapes_compiles_nothing():
    def use(seed):
        rng = np.random.RandomState(seed)
        params = jax.tree.map(lambda a: rng.randn(*a.shape), point())
        for kind in (GaussNewton, Hessian, partial(Fisher, samples=1)):
            A = kind(objective("squared_error"), params, batch("squared_error"))
            A @ rng.randn(P, 2)
            A.diagonal(samples=2, seed=seed)
            A.trace(samples=6, seed=seed)
            A.largest(2)

    use(0)
    with compilations() as events:
        use(1)
    assert events == []


# ---- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("v", "given"),
    [
        (np.ones(P + 1), "float64[16]"),
        (np.ones((3, P)), "float64[3, 15]"),
        (np.ones((P, 1, 1)), "float64[15, 1, 1]"),
        (np.ones((P, 0)), "float64[15, 0]"),
        ([1.0] * P, "float64[]"),
        ({"W": np.ones((3, 2))}, "{W: float64[3, 2]}"),
        ({"W": np.ones((2, 3)), "b": np.ones(N), "v": np.ones((2, N))}, "W: float64[2, 3]"),
    ],
)
def test_vectors_that_do_not_fit(v, given):
    with pytest.raises(ValueError, match="vector of this product is") as error:
        at(GaussNewton, "poisson") @ v
    message = str(error.value)
    assert given in message.split(";")[0]
    assert "{W: float64[3, 2], b: float64[3], v: float64[2, 3]}, or flat, (15,)" in message


def test_complex_vectors_are_refused():
    with pytest.raises(TypeError, match="real and imaginary"):
        at(GaussNewton, "poisson") @ (1j * np.ones(P))


def own_loss(o, t):
    return o["first"].sum(axis=1) ** 2 - 0 * t


def of_network_itself():
    net = feedforward()
    return GaussNewton(net, net.params(), net.batch())


MISTAKES = {
    "no objective": (lambda: GaussNewton(model, point(), batch("poisson")), TypeError, "objective is a function"),
    "a network": (of_network_itself, TypeError, r"leave params and batch out.*net\.cache_minibatch"),
    "data for a network": (
        lambda: GaussNewton(feedforward().problem(), feedforward().params(), (np.ones((2, 3)), np.ones((2, 2)))),
        TypeError,
        r"net.batch\(\)",
    ),
    "no batch": (lambda: Hessian(objective("poisson"), point(), np.ones(3)), TypeError, "A batch is"),
    "integers": (lambda: GaussNewton(objective("poisson"), np.arange(3), batch("poisson")), TypeError, "float32 or"),
    "own loss": (
        lambda: Fisher(Objective(model, own_loss), point(), (batch("poisson")[0], np.ones(B))),
        TypeError,
        "negative logarithm.*'poisson'.*GaussNewton",
    ),
    "Fisher of a network": (lambda: Fisher(feedforward(loss_type=Absolute())), TypeError, "negative logarithm"),
    "host": (lambda: of_network(Hessian, NETWORKS["layer in numpy"]()), ValueError, "in numpy.*GaussNewton"),
    "truncation": (lambda: of_network(Hessian, NETWORKS["truncated"]()), ValueError, "truncation=None"),
    "no samples": (lambda: Fisher(objective("poisson"), point(), batch("poisson"), 0), ValueError, "samples is 0"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(name):
    act, kind, message = MISTAKES[name]
    with pytest.raises(kind, match=message):
        act()
