"""What every preconditioner must be, and what each of them is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine import hessian_free
from hessianfree.engine.kfac import KFAC, Factors
from hessianfree.engine.nystrom import Nystrom
from hessianfree.engine.objective import Batch, Model, TracedObjective
from hessianfree.engine.preconditioners import Diagonal
from hessianfree.engine.preconditioning import refreshed
from hessianfree.engine.settings import Settings

import dense
from problems import per_example, traced

DAMPING = 0.05


def feedforward(**arguments):
    """Inputs of very different scale: the curvature of the first layer is ill-conditioned."""
    rng = np.random.RandomState(0)
    net = hf.FFNet(
        [12, 8, 4],
        layers=["Linear", "Tanh", "Softmax"],
        loss_type=hf.loss_funcs.CrossEntropy(),
        rng=0,
        W_init_params={"coeff": 0.1},
        dtype=np.float64,
        **arguments,
    )
    net.cache_minibatch(rng.randn(200, 12) * np.geomspace(0.03, 10, 12), np.eye(4)[rng.randint(0, 4, 200)])
    return net


def skipping():
    return feedforward(conns={0: [1, 2], 1: [2]})


def recurrent(**arguments):
    rng = np.random.RandomState(0)
    small = {"W_init_params": {"coeff": 0.05}, "W_rec_params": {"coeff": 0.2}}
    net = hf.RNNet([4, 6, 3], layers="Tanh", rng=0, dtype=np.float64, **small, **arguments)
    net.cache_minibatch(rng.randn(60, 8, 4) * [0.1, 1.0, 10.0, 10.0], rng.randn(60, 8, 3))
    return net


def truncated():
    return recurrent(truncation=(4, 6))


NETWORKS = [feedforward, skipping, recurrent, truncated]
PRECONDITIONERS = [Diagonal(), KFAC(), Nystrom(rank=12)]


def dense_inverse(net, preconditioner, damping):
    """M^-1 as a matrix, in the order of the flat weights."""
    with net.computing():
        objective, batch = net.problem().localize(net.params(), net.batch())
        known = refreshed(preconditioner, None, objective, net.params(), batch, None, damping, np.uint32(1))
        basis = [net.params(e) for e in np.eye(net.W.size)]
        stacked = jax.tree.map(lambda *rows: np.stack(rows), *basis)
        columns = jax.device_get(
            jax.jit(jax.vmap(lambda v: preconditioner.apply(objective, known.prepared, v)))(stacked)
        )
        return np.stack([net.flat(jax.tree.map(lambda a, i=i: a[i], columns)) for i in range(net.W.size)])


@dataclass(frozen=True)
class Exact:
    """M = B, held in memory: the best there is, for tests."""

    matrix: tuple[tuple[float, ...], ...]
    every: int = 1
    decay: float = 0.0

    def check(self, objective):
        pass

    def measure(self, objective, params, batch, key):
        return jnp.array(self.matrix)

    def prepare(self, measured, damping):
        return jnp.linalg.inv(measured)

    def apply(self, objective, prepared, residual):
        leaves, structure = jax.tree.flatten(residual)
        flat = prepared @ jnp.concatenate([leaf.ravel() for leaf in leaves])
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
        return jax.tree.unflatten(
            structure, [part.reshape(a.shape) for part, a in zip(jnp.split(flat, ends), leaves, strict=True)]
        )


# ---- what all of them must be ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [feedforward, pytest.param(recurrent, marks=pytest.mark.long)])
def test_the_exact_inverse_converges_in_one_iteration(make):
    net = make()
    B, g = dense.damped_system(net, DAMPING)
    order = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(net.params(np.arange(len(g))))]).astype(int)
    exact = Exact(tuple(map(tuple, B[np.ix_(order, order)])))
    net.optimizer = hf.opt.HessianFree(CG_iter=20, init_damping=DAMPING, preconditioner=exact, cg_tolerance=0.0)
    net.optimizer.compute_update()
    # It stops where the residual is below 1e-10 of the right-hand side: one iteration, or a second for rounding.
    assert net.optimizer.record.cg_stop.name == "RESIDUAL"
    assert net.optimizer.record.cg_iterations <= 2
    net.optimizer = hf.opt.HessianFree(CG_iter=1, init_damping=DAMPING, preconditioner=exact)
    net.optimizer.compute_update()
    np.testing.assert_allclose(net.optimizer.init_delta, np.linalg.solve(B, -g), rtol=1e-6, atol=1e-9)


@pytest.mark.few(6)
@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("make", NETWORKS)
def test_every_preconditioner_is_symmetric_and_positive_definite(make, preconditioner):
    net = make()
    for damping in (1e-6, DAMPING, 100.0):
        inverse = dense_inverse(net, preconditioner, damping)
        np.testing.assert_allclose(inverse, inverse.T, rtol=1e-6, atol=1e-9 * np.abs(inverse).max())
        eigenvalues = np.linalg.eigvalsh(0.5 * (inverse + inverse.T))
        assert eigenvalues[0] > 0, (damping, eigenvalues)


def iterations_to(share, B, g, inverse):
    """Textbook CG iterations until this share of the model's decrease is reached, preconditioned by M^-1 = C C'."""
    C = np.linalg.cholesky(0.5 * (inverse + inverse.T))
    best = dense.quadratic(B, -g, np.linalg.solve(B, -g))
    for i, x in enumerate(dense.conjugate_gradient(C.T @ B @ C, -C.T @ g, 400)):
        if dense.quadratic(B, -g, C @ x) <= share * best:
            return i + 1
    return math.inf


@pytest.mark.few(3)
@pytest.mark.parametrize("make", NETWORKS)
def test_every_preconditioner_lowers_the_iteration_count_on_an_ill_conditioned_problem(make):
    net, damping = make(), 1e-4
    B, g = dense.damped_system(net, damping)
    counts = {"none": iterations_to(0.99, B, g, np.eye(len(B)))}
    for preconditioner in PRECONDITIONERS:
        inverse = dense_inverse(net, preconditioner, damping)
        counts[type(preconditioner).__name__] = iterations_to(0.99, B, g, inverse)
    print(f"condition {np.linalg.cond(B):.1e}, iterations to 99 % of the decrease: {counts}")
    assert max(counts["Diagonal"], counts["Nystrom"]) < counts["none"]
    assert counts["KFAC"] < counts["none"] / 2


@pytest.mark.parametrize("preconditioner", PRECONDITIONERS, ids=lambda p: type(p).__name__)
def test_a_preconditioner_changes_the_way_and_not_the_end(preconditioner):
    net = feedforward()
    B, g = dense.damped_system(net, DAMPING)
    net.optimizer = hf.opt.HessianFree(
        CG_iter=300, init_damping=DAMPING, preconditioner=preconditioner, cg_tolerance=0.0
    )
    net.optimizer.compute_update()
    np.testing.assert_allclose(net.optimizer.init_delta, np.linalg.solve(B, -g), rtol=1e-4, atol=1e-8)


# ---- K-FAC -----------------------------------------------------------------------------------------------------------


def test_kfac_is_exact_for_one_linear_layer_with_squared_error():
    """G is E[x x'] with x = (input, 1), once for every output; S comes from samples, and is about the identity."""
    rng = np.random.RandomState(1)
    net = hf.FFNet([3, 2], layers="Linear", rng=0, dtype=np.float64)
    x = rng.randn(20_000, 3) @ np.array([[3.0, 1, 0], [0, 1, 0], [0, 0, 0.1]])
    net.cache_minibatch(x, rng.randn(20_000, 2))
    with net.computing():
        objective, batch = net.problem().localize(net.params(), net.batch())
        (block,) = KFAC().measure(objective, net.params(), batch, jax.random.key(0)).values()
        A, S = np.asarray(block.A), np.asarray(block.S)
    with_ones = np.hstack([x, np.ones((20_000, 1))])
    np.testing.assert_allclose(A, with_ones.T @ with_ones / 20_000, rtol=1e-9)
    np.testing.assert_allclose(S, np.eye(2), atol=5 / math.sqrt(20_000))


def mean_factors(net, draws=400):
    with net.computing():
        objective, batch = net.problem().localize(net.params(), net.batch())
        params = net.params()

        def one(key):
            return KFAC().measure(objective, params, batch, key)

        many = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), draws))
        return jax.device_get(jax.tree.map(lambda a: a.mean(axis=0), many))


def test_the_factors_of_a_feedforward_network_are_the_second_moments_they_stand_for():
    net = feedforward()
    found = mean_factors(net)
    W, x = net.params(), np.asarray(net.inputs)
    hidden, p = (np.asarray(a) for a in net.activations[1:])
    ones = np.ones((200, 1))
    for layer, inputs in ((1, x), (2, hidden)):
        columns = np.hstack([inputs, ones])
        np.testing.assert_allclose(found[layer].A, columns.T @ columns / 200, rtol=1e-6)
    # E[delta delta'] = mean J' H J, J the Jacobian of the logits with respect to the layer's input.
    H = np.einsum("bi,ij->bij", p, np.eye(4)) - np.einsum("bi,bj->bij", p, p)
    J = np.einsum("bi,ij->bij", 1 - hidden**2, W[1, 2][0])
    np.testing.assert_allclose(found[2].S, H.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(found[1].S, np.einsum("bij,bjk,blk->il", J, H, J) / 200, atol=0.01)


def test_the_factors_of_a_recurrent_network_sum_over_time():
    net = recurrent()
    found = mean_factors(net, draws=2)
    x, a = (np.asarray(z) for z in net.activations[:2])
    before = np.concatenate([np.zeros((60, 1, 6)), a[:, :-1]], axis=1)
    first = np.zeros((60, 8, 1))
    first[:, 0] = 1
    # Rows as in the parameters: the feedforward connection first, its bias, then the recurrent one and its bias.
    columns = np.concatenate([x, np.ones((60, 8, 1)), before, first], axis=2)
    np.testing.assert_allclose(found[1].A, np.einsum("bti,btj->ij", columns, columns) / 60, rtol=1e-6, atol=1e-12)


def test_targets_that_are_not_known_bring_no_deltas():
    net = recurrent()
    unknown = np.full(net.targets.shape, np.nan)
    unknown[:, -1] = 0.3
    net.cache_minibatch(net.inputs, unknown)
    found = mean_factors(net, draws=1000)
    # At the output layer only the last of eight steps counts; its tanh has slope 1 - a^2, and H = 1 there.
    slope = 1 - np.asarray(net.activations[2])[:, -1] ** 2
    np.testing.assert_allclose(np.diag(found[2].S), (slope**2).mean(axis=0) / 8, rtol=0.05)


def test_windows_of_truncation_count_as_examples():
    """Windows 0-3 and 2-7 of eight steps: steps 2 and 3 count twice, and only the first window starts afresh."""
    net = truncated()
    found = mean_factors(net, draws=1000)
    x, a, out = (np.asarray(z) for z in net.activations)
    before = np.concatenate([np.zeros((60, 1, 6)), a[:, :-1]], axis=1)
    first = np.zeros((60, 8, 1))
    first[:, 0] = 1
    columns = np.concatenate([x, np.ones((60, 8, 1)), before, first], axis=2)
    times = np.array([1, 1, 2, 2, 1, 1, 1, 1.0])
    expected = np.einsum("t,bti,btj->ij", times, columns, columns) / 60
    np.testing.assert_allclose(found[1].A, expected, rtol=1e-6, atol=1e-12)
    # Squared error has H = 1; at the output layer delta is (1 - a^2) e, and ten steps count.
    slopes = np.einsum("t,bti->i", times, (1 - out**2) ** 2) / 60 / 10
    np.testing.assert_allclose(np.diag(found[2].S), slopes, rtol=0.05)


@pytest.mark.long
def test_deltas_of_a_recurrent_layer_flow_back_through_time():
    """Mean over timesteps of D_t' D_t, D_t the Jacobian of all outputs by the layer's input at timestep t."""
    net = recurrent()
    found = mean_factors(net, draws=1000)
    W, b = net.params()[0, 1]
    R, first = net.params()[1, 1]
    V, c = net.params()[1, 2]

    def outputs(taps, x):
        a, shown = None, []
        for t in range(8):
            z = x[t] @ W + b + taps[t] + (first if a is None else a @ R)
            a = jnp.tanh(z)
            shown.append(jnp.tanh(a @ V + c))
        return jnp.stack(shown)

    with jax.enable_x64(True):
        J = np.stack([jax.jacobian(outputs)(jnp.zeros((8, 6)), x) for x in np.asarray(net.inputs)])
    expected = np.einsum("bsotn,bsotm->nm", J, J) / 60 / 8
    np.testing.assert_allclose(found[1].S, expected, atol=0.05 * np.abs(expected).max())


def test_examples_count_by_their_weights():
    net = feedforward()
    weights = np.random.RandomState(0).randint(0, 3, 200).astype(float)
    with net.computing():
        objective, batch = net.problem().localize(net.params(), net.batch())
        block = KFAC().measure(objective, net.params(), batch._replace(weights=weights), jax.random.key(0))[1]
        A = np.asarray(block.A)
    columns = np.hstack([np.asarray(net.inputs), np.ones((200, 1))])
    np.testing.assert_allclose(A, columns.T @ (weights[:, None] * columns) / weights.sum(), rtol=1e-6)


def test_a_layer_without_curvature_is_preconditioned_by_the_damping_alone():
    A = jnp.diag(jnp.array([100.0, 1.0]))
    prepared = KFAC().prepare({0: Factors(A, jnp.zeros((3, 3)))}, jnp.float32(0.01))
    np.testing.assert_allclose(np.kron(prepared[0].A, prepared[0].S), 100 * np.eye(6), rtol=1e-3)


SQUARED = [hf.loss_funcs.SquaredError()]
SAMPLED = [
    # Tanh has no cross-entropy: its outputs may be negative.
    *[(layer, SQUARED) for layer in ("Logistic", "Softmax", "Tanh")],
    *[(layer, [*SQUARED, hf.loss_funcs.SparseL2(0.3, layers=[1])]) for layer in ("Logistic", "Softmax", "Tanh")],
    *[(layer, [hf.loss_funcs.CrossEntropy()]) for layer in ("Logistic", "Softmax")],
    *[(layer, [hf.loss_funcs.BinaryCrossEntropy()]) for layer in ("Logistic", "Softmax")],
]


@pytest.mark.parametrize(
    ("layer", "loss"),
    SAMPLED,
    ids=["-".join([layer, *[type(part).__name__ for part in loss]]) for layer, loss in SAMPLED],
)
@pytest.mark.filterwarnings("ignore:CrossEntropy")
def test_samples_have_the_curvature_of_the_loss_as_their_covariance(layer, loss):
    rng = np.random.RandomState(2)
    net = hf.FFNet([3, 4, 3], layers=["Linear", "Tanh", layer], loss_type=loss, rng=0, dtype=np.float64)
    net.cache_minibatch(rng.randn(2, 3), np.eye(3)[:2] * 0.8 + 0.1)
    with net.computing():
        objective, batch = net.problem().localize(net.params(), net.batch())
        outputs = objective.model.outputs(net.params(), batch.inputs)
        product = objective.loss.curvature(outputs, batch.targets)
        draw = jax.jit(jax.vmap(lambda k: objective.loss.sample(outputs, batch.targets, k)))
        drawn = jax.tree.leaves(draw(jax.random.split(jax.random.key(0), 40_000)))
        flat = np.concatenate([np.asarray(s) for s in drawn], axis=-1)[:, 0]  # the first example, all it shows
        leaves, structure = jax.tree.flatten(outputs)
        widths = [leaf.shape[-1] for leaf in leaves]
        columns = []
        for e in np.eye(sum(widths)):
            parts = np.split(e, np.cumsum(widths)[:-1])
            unit = jax.tree.unflatten(structure, [np.stack([part, 0 * part]) for part in parts])
            columns.append(np.concatenate([np.asarray(a)[0] for a in jax.tree.leaves(product(unit))]))
    H = np.stack(columns)
    scale = np.abs(H).max()
    np.testing.assert_allclose(np.cov(flat.T, bias=True), H, atol=0.06 * scale)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=0.03 * math.sqrt(scale))


def test_kfac_says_which_preconditioners_serve_another_model():
    model = traced(lambda p, x: x @ p, per_example(lambda o, t: 0.5 * (o - t) ** 2))
    batch = Batch(np.ones((4, 2), np.float32), np.ones(4, np.float32), np.ones(4, np.float32))
    start = hessian_free.initial_state(1.0)
    with pytest.raises(TypeError, match='"diagonal" and "nystrom"'):
        hessian_free.step(model, np.ones(2, np.float32), batch, start, Settings(preconditioner=KFAC()))


def factors_of_size(S):
    return {1: Factors(jnp.eye(2), jnp.asarray(S, jnp.float32))}


class OneBlock(Model):
    """Four weights in one block, two by two."""

    has_time = False

    def flows(self, params, inputs, weights, cotangents):
        raise NotImplementedError("its measurement is written down")

    def to_blocks(self, vector):
        return {1: vector.reshape(2, 2)}

    def from_blocks(self, blocks, like):
        return blocks[1].reshape(-1)


@dataclass(frozen=True)
class Given:
    """K-FAC whose measurement is written down."""

    S: tuple[tuple[float, float], tuple[float, float]]
    every: int = 1
    decay: float = 0.0

    def check(self, objective):
        pass

    def measure(self, objective, params, batch, key):
        return factors_of_size(self.S)

    def prepare(self, measured, damping):
        return KFAC().prepare(measured, damping)

    def apply(self, objective, prepared, residual):
        return KFAC().apply(TracedObjective(OneBlock(), objective.loss), prepared, residual)


FOUR = traced(lambda p, x: x @ p, per_example(lambda o, t: 0.5 * (o - t) ** 2))


def four_parameters():
    rng = np.random.RandomState(0)
    x = rng.randn(9, 4).astype(np.float32)
    return np.ones(4, np.float32), Batch(x, rng.randn(9).astype(np.float32), np.ones(9, np.float32))


def test_a_factor_that_is_not_positive_definite_gets_more_damping_and_the_record_says_so():
    params, batch = four_parameters()
    settings = Settings(cg_iterations=10, preconditioner=Given(((1.0, 1.01), (1.01, 1.0))))  # an eigenvalue of -0.01
    update = hessian_free.step(FOUR, params, batch, hessian_free.initial_state(1e-6), settings)
    assert update.record.accepted
    assert update.record.preconditioner_damping > 1e-6
    assert np.isfinite(update.params).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_factors_that_are_not_finite_leave_cg_without_a_preconditioner(bad):
    params, batch = four_parameters()
    settings = Settings(cg_iterations=10, preconditioner=Given(((bad, 0.0), (0.0, 1.0))))
    update = hessian_free.step(FOUR, params, batch, hessian_free.initial_state(0.1), settings)
    plain = hessian_free.step(FOUR, params, batch, hessian_free.initial_state(0.1), Settings(cg_iterations=10))
    assert math.isnan(update.record.preconditioner_damping)
    np.testing.assert_array_equal(update.params, plain.params)


def test_layers_that_nothing_flows_through_do_no_harm():
    net = hf.FFNet([3, 4, 2], layers=["Linear", "ReLU", "Linear"], rng=0)
    net.W[:] = 0  # every ReLU is at rest, and no delta passes the zero weights behind it
    net.cache_minibatch(np.zeros((5, 3)), np.ones((5, 2)))
    net.optimizer = hf.opt.HessianFree(CG_iter=5, preconditioner="kfac")
    net.W[:] += net.optimizer.compute_update()
    assert net.optimizer.record.accepted
    np.testing.assert_allclose(net.forward(np.zeros((5, 3)))[-1], np.full((5, 2), 0.5), atol=0.05)


# ---- Nystrom ---------------------------------------------------------------------------------------------------------


def low_rank_problem():
    """Nine examples of twelve parameters: G has rank nine."""
    rng = np.random.RandomState(5)
    x = rng.randn(9, 12) * np.geomspace(1, 1e-3, 9)[:, None]
    return rng.randn(12), Batch(x, rng.randn(9), np.ones(9)), x.T @ x / 9


def test_nystrom_finds_all_of_a_curvature_of_low_rank():
    params, batch, G = low_rank_problem()
    with jax.enable_x64(True):
        sketch = Nystrom(rank=10).measure(FOUR, params, batch, jax.random.key(0))
        values, vectors = np.asarray(sketch.values), np.asarray(sketch.vectors)
    np.testing.assert_allclose(values[:9], np.linalg.eigvalsh(G)[::-1][:9], rtol=1e-5)
    np.testing.assert_allclose((vectors.T * values) @ vectors, G, atol=1e-9 * values[0])
    np.testing.assert_allclose(vectors[:9] @ vectors[:9].T, np.eye(9), atol=1e-9)


def test_nystrom_of_full_rank_is_the_exact_inverse_but_for_scale():
    params, batch, G = low_rank_problem()
    nystrom, damping = Nystrom(rank=12), 1e-3
    with jax.enable_x64(True):
        known = nystrom.prepare(nystrom.measure(FOUR, params, batch, jax.random.key(0)), damping)
        inverse = np.stack([nystrom.apply(FOUR, known, e) for e in np.eye(12)])
    np.testing.assert_allclose(inverse @ (G + damping * np.eye(12)), damping * np.eye(12), atol=1e-6)


def test_nystrom_in_float32_leaves_a_condition_near_one():
    """All of G is sketched: what stays in M^-1 B is rounding, and the directions that were not found."""
    rng = np.random.RandomState(0)
    Q = np.linalg.qr(rng.randn(40, 40))[0]
    root = (Q * np.sqrt(np.geomspace(1e3, 1e-3, 40))).T * np.sqrt(40)
    batch = Batch(root.astype(np.float32), np.zeros(40, np.float32), np.ones(40, np.float32))
    G, damping, nystrom = root.T @ root / 40, 1.0, Nystrom(rank=30)
    known = nystrom.prepare(nystrom.measure(FOUR, np.ones(40, np.float32), batch, jax.random.key(0)), damping)
    inverse = np.stack([nystrom.apply(FOUR, known, e) for e in np.eye(40, dtype=np.float32)])
    spectrum = np.linalg.eigvals(inverse @ (G + damping * np.eye(40))).real
    assert spectrum.max() / spectrum.min() < 0.05 * np.linalg.cond(G + damping * np.eye(40))


def test_nystrom_survives_float32_and_more_rank_than_parameters():
    params, batch, _ = low_rank_problem()
    params, batch = jax.tree.map(lambda a: a.astype(np.float32), (params, batch))
    settings = Settings(cg_iterations=40, preconditioner=Nystrom(rank=50))
    update = hessian_free.step(FOUR, params, batch, hessian_free.initial_state(1e-4), settings)
    assert update.record.accepted
    assert update.record.preconditioner_damping == pytest.approx(1e-4)


# ---- when they measure -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counting:
    """Measures the parameters themselves."""

    every: int = 1
    decay: float = 0.0

    def check(self, objective):
        pass

    def measure(self, objective, params, batch, key):
        return params

    def prepare(self, measured, damping):
        return measured * damping

    def apply(self, objective, prepared, residual):
        return residual


def measurements(preconditioner, points, dampings=None):
    known, seen = None, []
    for i, point in enumerate(points):
        params = np.full(1, point, np.float32)
        damping = 1.0 if dampings is None else dampings[i]
        known = refreshed(
            preconditioner, known, FOUR, params, Batch(None, None, np.ones(1)), None, damping, np.uint32(i)
        )
        seen.append((float(known.measured[0]), float(known.prepared[0])))
    return seen


def test_a_change_of_preconditioner_starts_afresh():
    batch, params = Batch(None, None, np.ones(1)), np.full(1, 2, np.float32)
    known = refreshed(Counting(every=9), None, FOUR, params, batch, None, 1.0, np.uint32(0))
    again = refreshed(Counting(every=8), known, FOUR, 3 * params, batch, None, 1.0, np.uint32(1))
    assert float(again.measured[0]) == 6


def test_the_preconditioner_measures_the_curvature_batch():
    params, batch = four_parameters()
    indices = np.array([1, 4, 5])
    part = jax.tree.map(lambda a: a[indices], batch)
    diagonal, key = Diagonal(), np.uint32(0)
    of_part = refreshed(diagonal, None, FOUR, params, part, None, 1.0, key).measured
    chosen = refreshed(diagonal, None, FOUR, params, batch, indices, 1.0, key).measured
    np.testing.assert_allclose(chosen, of_part, rtol=1e-6)
    assert not np.allclose(chosen, refreshed(diagonal, None, FOUR, params, batch, None, 1.0, key).measured)


def test_measurements_are_made_every_so_many_updates():
    assert [m for m, _ in measurements(Counting(every=3), [1, 2, 3, 4, 5, 6, 7])] == [1, 1, 1, 4, 4, 4, 7]


def test_a_changed_damping_is_prepared_for_without_a_measurement():
    assert measurements(Counting(every=5), [2, 3, 4], [1.0, 10.0, 10.0]) == [(2, 2), (2, 20), (2, 20)]


def test_the_running_average_weighs_new_measurements_by_1_over_k_and_at_least_1_minus_decay():
    found = [m for m, _ in measurements(Counting(decay=0.6), [1, 3, 8, 0])]
    second = (1 + 3) / 2
    third = second + 0.4 * (8 - second)
    np.testing.assert_allclose(found, [1, second, third, 0.6 * third], rtol=1e-6)


def test_a_measurement_that_is_not_finite_leaves_the_average_alone():
    assert [m for m, _ in measurements(Counting(decay=0.6), [1, math.nan, 1])] == [1, 1, 1]


@pytest.mark.parametrize(
    ("make", "bad"),
    [
        (KFAC, {"every": 0}), (KFAC, {"decay": 1.0}), (KFAC, {"every": 1.5}), (Diagonal, {"every": 0}),
        (Nystrom, {"rank": 0}), (Nystrom, {"rank": 2.5}), (Nystrom, {"every": 0}), (KFAC, {"decay": math.nan}),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(make, bad):
    with pytest.raises(ValueError, match=make.__name__):
        make(**bad)


@pytest.mark.parametrize("choice", ["cfac", "KFAC", 3, KFAC, object()])
def test_an_unknown_preconditioner_is_refused_with_what_there_is(choice):
    expected = "'diagonal', 'kfac', 'nystrom'" if isinstance(choice, str) else "preconditioner is"
    with pytest.raises((ValueError, TypeError), match=expected):
        hf.opt.HessianFree(preconditioner=choice)
