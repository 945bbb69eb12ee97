"""Batches in pieces: sums over them are those of the whole, to rounding, and memory is that of one piece."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine import chunks, system
from hessianfree.engine.chunks import Chunks
from hessianfree.engine.linearization import curvature_product, value_and_gradient
from hessianfree.engine.losses import BY_NAME
from hessianfree.engine.objective import Batch, mean_loss
from hessianfree.engine.preconditioners import Diagonal
from hessianfree.objective.pieces import in_pieces

import dense
from problems import traced

RNG = np.random.RandomState(0)
X, SHAPE = RNG.rand(11, 3), [3, 4, 2]
CONNS, NAMES = {0: [1], 1: [2]}, ["Linear", "Tanh", "Linear"]


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def network(weights=None, targets=None):
    net = hf.FFNet(SHAPE, layers=NAMES, rng=0, dtype=np.float64)
    net.cache_minibatch(X, np.cos(X[:, :2]) if targets is None else targets, weights=weights)
    return net


def cut(net, size):
    return in_pieces(net.problem(), size, net.batch())


# ---- where the pieces are --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "size"), [(7500, 1000), (7, 3), (7, 6), (8, 4), (5, 1), (100, 33)])
def test_pieces_cover_every_example_once(count, size):
    number, each = chunks.pieces(count, size)
    assert each <= size
    assert (number - 1) * each < count <= number * each
    ones = chunks.summed(
        Chunks(size), lambda n, s, x, w: jnp.zeros(count).at[x].add(w), (), jnp.arange(count), jnp.ones(count)
    )
    np.testing.assert_array_equal(ones, 1)
    same = chunks.collected(Chunks(size), lambda n, s, x, w: 2 * x, (), jnp.arange(count), jnp.ones(count))
    np.testing.assert_array_equal(same, 2 * np.arange(count))


# ---- against dense matrices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 10, 11])
def test_value_gradient_and_products_are_those_of_the_dense_matrices(size):
    """Eleven examples, one of weight zero with NaN targets; pieces of four and of ten leave a remainder."""
    weights, targets = np.r_[RNG.rand(10) + 0.5, 0.0], np.cos(X[:, :2])
    targets[-1] = np.nan
    net = network(weights, targets)
    share = weights / weights.sum()

    def outputs(W):
        return dense.run(SHAPE, CONNS, NAMES, W, X)[1][-1]

    J = dense.jacobian(outputs, net.W)
    error = np.where(np.isnan(targets), 0, outputs(net.W) - targets)
    objective, params, batch = cut(net, size), net.params(), net.batch()
    value, gradient = value_and_gradient(objective, params, batch)
    v = RNG.randn(net.W.size)
    product = net.flat(jax.device_get(curvature_product(objective, params, batch, net.params(v))))
    assert float(value) == pytest.approx(0.5 * share @ (error**2).sum(axis=1), rel=1e-12)
    np.testing.assert_allclose(net.flat(jax.device_get(gradient)), np.einsum("b,bi,bip->p", share, error, J), atol=1e-9)
    np.testing.assert_allclose(product, np.einsum("b,bip,bi->p", share, J, J @ v), atol=1e-8)
    assert objective.value(params, batch) == pytest.approx(float(value), rel=1e-13)


def measured(recipe, objective, net):
    return jax.device_get(jax.jit(recipe.measure)(objective, net.params(), net.batch(), jax.random.key(3)))


def test_factors_of_kfac_are_those_of_the_whole_batch():
    """The deltas are drawn for the whole batch: not even they differ. A is also known densely."""
    net, recipe = network(np.r_[np.ones(10), 0.0]), hf.opt.KFAC()
    whole, parts = (measured(recipe, cut(net, size), net) for size in (None, 4))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), whole, parts)
    seen = np.c_[X[:10], np.ones(10)]
    np.testing.assert_allclose(parts[1].A, seen.T @ seen / 10, rtol=1e-12)


def test_squared_gradients_are_those_of_single_examples():
    net = network()
    by_hand = np.zeros(net.W.size)
    for x, t in zip(X, np.cos(X[:, :2]), strict=True):
        net.cache_minibatch(x[None], t[None])
        by_hand += net.calc_grad() ** 2 / len(X)
    net = network()
    found = net.flat(measured(Diagonal(), cut(net, 4), net))
    np.testing.assert_allclose(found, by_hand, rtol=1e-10)


@pytest.mark.parametrize("size", [2, 7])
def test_squared_gradients_of_a_function_are_cut_too(size):
    model = traced(lambda p, x: jnp.tanh(x @ p), BY_NAME["squared_error"])
    batch = Batch(X, np.cos(X[:, :2]), np.r_[np.ones(10), 0.0])
    W = RNG.randn(3, 2)
    whole, parts = (
        Diagonal().measure(replace(model, chunks=c), W, batch, jax.random.key(0)) for c in (None, Chunks(size))
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-12)


def test_a_model_that_draws_gives_each_piece_a_key_of_its_own():
    def noisy(params, x, key):
        return x * params * (0 if key is None else jax.random.normal(key, x.shape))

    model = traced(noisy, BY_NAME["squared_error"], True, jax.random.key(0))
    batch = Batch(np.ones((6, 1)), np.zeros((6, 1)), np.ones(6))
    value = mean_loss(replace(model, chunks=Chunks(2)), 1.0, batch)
    draws = [jax.random.normal(jax.random.fold_in(jax.random.key(0), piece), (2, 1)) for piece in range(3)]
    assert float(value) == pytest.approx(float(np.mean(0.5 * np.square(draws))), rel=1e-12)


# ---- whole runs ------------------------------------------------------------------------------------------------------


def trained(size, dtype, preconditioner):
    net = hf.FFNet(SHAPE, layers=NAMES, rng=0, dtype=dtype)
    optimizer = hf.opt.HessianFree(CG_iter=6, preconditioner=preconditioner)
    net.run_epochs(
        X, np.cos(X[:, :2]), optimizer, max_epochs=4, print_period=None, chunk_size=size, test=(X, np.cos(X[:, :2]))
    )
    assert net.chunk_size is None
    return net.W


@pytest.mark.parametrize("preconditioner", ["kfac", "nystrom"])
def test_runs_in_float64_agree(preconditioner):
    np.testing.assert_allclose(
        trained(4, np.float64, preconditioner), trained(None, np.float64, preconditioner), atol=1e-11
    )


def test_runs_in_float32_agree():
    np.testing.assert_allclose(trained(4, np.float32, None), trained(None, np.float32, None), atol=1e-5)


@pytest.mark.long
def test_recurrent_runs_with_truncation_agree():
    x = RNG.rand(7, 6, 2)
    t = np.cumsum(x, axis=1)
    t[3, 2] = np.nan

    def run(size):
        net = hf.RNNet([2, 4, 2], layers=["Linear", "Tanh", "Linear"], rng=0, dtype=np.float64, truncation=(2, 3))
        optimizer = hf.opt.HessianFree(CG_iter=6, preconditioner="kfac")
        net.run_epochs(x, t, optimizer, max_epochs=3, print_period=None, chunk_size=size)
        return net.W

    np.testing.assert_allclose(run(3), run(None), atol=1e-11)


def test_fit_with_minibatches_and_metrics_agrees():
    objective = hf.Objective(lambda p, x: jnp.tanh(x @ p), lambda o, t: jnp.sum((o - t) ** 4, axis=1))
    t = np.cos(X[:, :2])

    def run(size):
        result = hf.fit(
            objective,
            np.zeros((3, 2)),
            (X, t),
            hf.opt.HessianFree(CG_iter=5, curvature_batch=0.8),
            minibatch_size=6,
            chunk_size=size,
            max_epochs=3,
            print_period=None,
            metrics={"largest": lambda o, t: np.abs(o - t).max()},
        )
        return result.params, result.epochs[-1].test_error, result.epochs[-1].metrics["largest"]

    for found, whole in zip(run(2), run(None), strict=True):
        np.testing.assert_allclose(found, whole, atol=1e-11)


@pytest.mark.parametrize(
    "solver", ["dense", pytest.param("dual", marks=pytest.mark.long), pytest.param("cg", marks=pytest.mark.long)]
)
def test_least_squares_by_pieces_of_the_points(solver):
    x = np.linspace(0, 3, 23)[:, None]
    start = {"W": RNG.randn(1, 11), "b": RNG.randn(11), "v": RNG.randn(11)}
    terms = [
        (lambda p, at: jnp.tanh(at @ p["W"] + p["b"]) @ p["v"] - jnp.sin(3 * at[0]), x),
        (lambda p, at: 0.1 * jnp.tanh(at @ p["W"] + p["b"]) @ p["v"], x[:5]),
    ]
    found, whole = (
        hf.least_squares(terms, start, solver=solver, max_steps=5, loss="soft_l1", chunk_size=size)
        for size in (6, None)
    )
    for name in start:
        np.testing.assert_allclose(found.params[name], whole.params[name], atol=1e-8)


# ---- memory and cost -------------------------------------------------------------------------------------------------


def compiled(count, size):
    """An update of a network whose activations are most of its memory."""
    shape = jax.ShapeDtypeStruct
    model = traced(lambda p, x: jnp.sin(jnp.tanh(x @ p) @ p.T) @ p, BY_NAME["squared_error"])
    batch = Batch(*(shape((count, n), np.float32) for n in (4, 100)), shape((count,), np.float32))
    params = shape((4, 100), np.float32)
    objective = replace(model, chunks=None if size is None else Chunks(size))
    numbers = system.Numbers(*np.ones(3, np.float32))
    args = system.Plan(4), objective, params, batch, None, params, numbers
    return system.solve.jitted().lower(*args).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_that_of_a_piece():
    piece = compiled(500, None)
    assert compiled(8_000, 500) < 1.2 * piece + 8_000 * 4 * 4  # a few numbers for each example
    assert compiled(8_000, None) > 10 * piece


DEVICES = """
import re
import jax, jax.numpy as jnp, numpy as np
from dataclasses import replace
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from hessianfree.engine import system
from hessianfree.engine.chunks import chunks_of
from hessianfree.engine.kfac import KFAC
from hessianfree.engine.linearization import curvature_product
from hessianfree.engine.losses import BY_NAME
from hessianfree.engine.models import FunctionModel, held
from hessianfree.engine.objective import Batch, TracedObjective
import hessianfree as hf

jax.config.update("jax_enable_x64", True)
model = TracedObjective(FunctionModel(held(lambda p, x: jnp.tanh(x @ p["W"]) @ p["v"])), BY_NAME["squared_error"])
rng = np.random.RandomState(0)
params = {"W": rng.randn(3, 40), "v": rng.randn(40)}
batch = Batch(rng.randn(24, 3), rng.randn(24), rng.rand(24))
whole = curvature_product(model, params, batch, params)
net = hf.FFNet([3, 5, 2], rng=0, dtype=np.float64)
net.cache_minibatch(batch.inputs, rng.rand(24, 2))
key = jax.random.key(0)
factors = KFAC().measure(net.problem(), net.params(), net.batch(), key)
for axes in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("d",), axis_types=(axes,))
    place = lambda tree, spec: jax.device_put(tree, NamedSharding(mesh, spec))
    here, split = place(params, P()), place(batch, P("d"))
    cut = replace(model, chunks=chunks_of(9, split))
    found = curvature_product(cut, here, split, here)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), found, whole)
    args = cut, here, split, None, here, system.Numbers(*np.ones(3))
    hlo = system.solve.jitted().lower(system.Plan(5), *args).compile().as_text()
    reduced = [line for line in hlo.splitlines() if " all-reduce(" in line and "while/body" in line]
    assert len(reduced) == 1, reduced
    assert "while/body/shard_map/while" not in reduced[0], reduced  # after the pieces, not in each of them
    assert not re.search(r"all-gather|all-to-all|collective-permute", hlo)
mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
split = jax.device_put(net.batch(), NamedSharding(mesh, P("d")))
cut = replace(net.problem(), chunks=chunks_of(10, split))
found = jax.jit(KFAC().measure)(cut, net.params(), split, key)
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15), found, factors)
print("ok")
"""


@pytest.mark.long
def test_pieces_of_a_split_batch_are_summed_over_devices_once_in_a_product():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.strip() == "ok", done.stderr


# ---- what cannot be cut ----------------------------------------------------------------------------------------------


def test_sizes_that_are_none_are_refused():
    for size in (0, -1, 2.5, "all"):
        with pytest.raises(ValueError, match=re.escape(f"chunk_size is {size!r}; a whole number >= 1")):
            network().run_epochs(X, X[:, :2], hf.opt.HessianFree(), chunk_size=size)


@pytest.mark.parametrize(
    ("loss", "model", "message"),
    [
        (lambda o, t: jnp.mean((o - t) ** 2), lambda p, x: x @ p, "one number for the batch"),
        ("squared_error", lambda p, x: (x - x.mean(axis=0)) @ p, "depends on the others in the batch"),
    ],
)
def test_a_loss_of_the_whole_batch_is_refused(loss, model, message):
    with pytest.raises(ValueError, match=message):
        hf.fit(hf.Objective(model, loss), np.ones((3, 2)), (X, X[:, :2]), print_period=None, chunk_size=4)


def test_layers_in_numpy_and_plants_are_refused():
    class Doubled(hf.nl.Nonlinearity):
        def activation(self, x):
            return np.asarray(2.0 * np.asarray(x))

        def d_activation(self, x, a):
            return np.full_like(np.asarray(x), 2.0)

    net = hf.FFNet([3, 4, 2], layers=["Linear", Doubled(), "Linear"], rng=0)
    with pytest.raises(ValueError, match="a layer or loss runs in numpy"):
        net.run_epochs(X, X[:, :2], hf.opt.HessianFree(), print_period=None, chunk_size=4)


def test_least_squares_refuses_what_it_cannot_cut():
    with pytest.raises(ValueError, match="solver='schur' keeps the blocks"):
        hf.least_squares([], np.ones(2), solver="schur", chunk_size=3)
    with pytest.raises(ValueError, match="a function without points"):
        hf.least_squares(lambda p: p - 1, np.ones(2), chunk_size=3)
