"""What is compiled, how often, and what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine import hessian_free

X = np.random.RandomState(0).rand(10, 7).astype(np.float32)
T = np.eye(3, dtype=np.float32)[np.arange(10) % 3]


def network(shape=(7, 6, 5, 3), **kwargs):
    layers = ["Linear", *["ReLU"] * (len(shape) - 2), "Softmax"]
    return hf.FFNet(shape, layers=layers, loss_type=hf.loss_funcs.CrossEntropy(), rng=0, **kwargs)


@contextmanager
def compilations() -> Iterator[list[str]]:
    """Everything compiled inside the block."""
    events: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def train(net, **kwargs):
    arguments = {"max_epochs": 2, "minibatch_size": 4, "print_period": None, **kwargs}
    net.run_epochs(X, T, hf.opt.HessianFree(CG_iter=7), **arguments)


def test_two_networks_of_one_shape_compile_once():
    with compilations() as first:
        train(network())
    with compilations() as second:
        train(network())
    assert len(first) > 0
    assert second == []


def test_remainders_and_later_epochs_compile_nothing():
    """Ten examples in minibatches of four: the last one is half padding."""
    net = network((7, 4, 3))
    net.optimizer = hf.opt.HessianFree(CG_iter=7)
    with compilations() as first:
        net.cache_examples(X[:4], T[:4], 4)
        net.W += net.optimizer.compute_update()
    with compilations() as rest:
        for _ in range(3):
            net._run_epoch(X, T, minibatch_size=4)
    assert len(first) > 0
    assert rest == []


def test_numbers_that_change_compile_nothing():
    optimizer = hf.opt.HessianFree(CG_iter=7)
    penalty = hf.loss_funcs.SparseL2(0.1, layers=[1])
    damping = hf.loss_funcs.StructuralDamping(0.1, layers=[1], optimizer=optimizer)
    net = hf.FFNet([7, 6, 3], rng=0, loss_type=[hf.loss_funcs.SquaredError(), penalty, damping])
    net.optimizer = optimizer
    net.cache_minibatch(X, T)
    optimizer.compute_update()
    first = net.calc_grad()
    with compilations() as events:
        penalty.weight = np.asarray(5.0)
        optimizer.damping = 17.0
        optimizer.compute_update()
        assert not np.allclose(net.calc_grad(), first)
    assert events == []


# ---- matrix products in the CG loop ----------------------------------------------------------------------------------


def computations(hlo: str) -> dict[str, str]:
    """The text of every computation of a compiled module, by name."""
    found = re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \(.*?\n(.*?)^}", hlo, re.MULTILINE | re.DOTALL)
    return dict(found)


def products_in(name: str, bodies: dict[str, str]) -> int:
    """Matrix products in a computation, those of called and fused ones included; loops inside it are counted once."""
    total = 0
    for line in bodies[name].splitlines():
        total += bool(re.search(r" (dot|custom-call)\(", line)) and is_matrix_product(line)
        for called in re.findall(r"(?:calls|to_apply|body)=%?([\w.\-]+)", line):
            total += products_in(called, bodies)
    return total


def is_matrix_product(line: str) -> bool:
    if " dot(" in line:
        return True
    return "matmul" in line or "gemm" in line or "dot" in line


def loop_products(net) -> list[int]:
    """Products in each while loop of the compiled update."""
    settings = hessian_free.Settings(cg_iterations=7)
    args = net.problem(), net.params(), net.batch(), net.params(np.zeros_like(net.W)), np.float32(1), None
    hlo = hessian_free.solve.jitted().lower(settings, *args).compile().as_text()
    bodies = computations(hlo)
    loops = re.findall(r" while\(.*body=%?([\w.\-]+)", hlo)
    assert loops
    return [products_in(loop, bodies) for loop in loops]


CASES = [
    # Two for each connection that starts at the input layer, four for every other one.
    ((7, 6, 5, 3), None, 2 + 4 + 4),
    ((7, 6, 3), None, 2 + 4),
    ((7, 3), None, 2),
    ((784, 1024, 512, 256, 32, 10), None, 2 + 4 + 4 + 4 + 4),
    ((7, 6, 5, 3), {0: [1, 2], 1: [2, 3], 2: [3]}, 2 + 2 + 4 + 4 + 4),
]


@pytest.mark.parametrize(("shape", "conns", "expected"), CASES)
def test_a_cg_iteration_holds_exactly_the_products_it_needs(shape, conns, expected):
    net = network(shape, conns=conns)
    net.cache_minibatch(np.ones((10, shape[0])), np.eye(shape[-1])[np.arange(10) % shape[-1]])
    assert loop_products(net) == [expected]


def test_the_counter_sees_a_recomputed_linearisation():
    """A loop that linearises anew at every product holds more: the count above can fail."""
    net = network((7, 6, 3))
    net.cache_minibatch(X, T)
    objective, params, batch = net.problem(), net.params(), net.batch()

    @jax.jit
    def wasteful(params, v):
        from hessianfree.engine.objective import linearize

        body = lambda i, p: linearize(objective, jax.tree.map(lambda a, b: a + i * b, params, p), batch).product(p)
        return jax.lax.fori_loop(0, 7, body, v)

    hlo = wasteful.lower(params, params).compile().as_text()
    bodies = computations(hlo)
    (loop,) = re.findall(r" while\(.*body=%?([\w.\-]+)", hlo)
    assert products_in(loop, bodies) > 6
