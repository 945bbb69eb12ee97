"""What is compiled, how often, and what is in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine import system

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
    assert_compiles_once(lambda: train(network()), lambda: train(network()))


def test_remainders_and_later_epochs_compile_nothing():
    """Ten examples in minibatches of four: the last one is half padding."""
    net = network((7, 4, 3))
    net.optimizer = hf.opt.HessianFree(CG_iter=7)
    with compilations() as first:
        net._run_epoch(X[:8], T[:8], minibatch_size=4)
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


def assert_compiles_once(run, again):
    """What the first run compiles serves the second."""
    with compilations() as first:
        run()
    with compilations() as second:
        again()
    assert len(first) > 0
    assert second == []


def is_matrix_product(line: str) -> bool:
    if " dot(" in line:
        return True
    return "matmul" in line or "gemm" in line or "dot" in line


def compiled_update(net) -> str:
    numbers = system.Numbers(*np.ones(3, np.float32))
    args = net.problem(), net.params(), net.batch(), None, net.params(np.zeros_like(net.W)), numbers
    return system.solve.jitted().lower(system.Plan(cg_iterations=7), *args).compile().as_text()


def loop_products(net) -> list[int]:
    """Products in each while loop of the compiled update."""
    hlo = compiled_update(net)
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


# ---- scans -----------------------------------------------------------------------------------------------------------


def recurrent(layers, rec_layers, T=9, **kwargs):
    net = hf.RNNet([2, *[5] * (len(layers) - 2), 3], layers=layers, rec_layers=rec_layers, rng=0, **kwargs)
    net.cache_minibatch(np.ones((4, T, 2)), np.ones((4, T, 3)))
    return net


def scan_products(net) -> tuple[int, list[int]]:
    """Products of a CG iteration outside its scans, and inside each of them."""
    hlo = compiled_update(net)
    bodies = computations(hlo)
    loops = re.findall(r" while\(.*body=%?([\w.\-]+).*op_name=\"jit\(solve\)/([^\"]*)\"", hlo)
    (cg,) = [body for body, place in loops if place == "while"]
    inside = [products_in(body, bodies) for body, place in loops if place.startswith("while/body/")]
    return products_in(cg, bodies) - sum(inside), inside


SCANS = [
    # Outside: 2 for all weights into a layer that scans, recurrent ones included (the product hoisted out of the scan,
    # and its transpose), 2 more for a tangent from the layer before and its transpose, 4 for a layer that does not scan.
    (["Linear", "Tanh", "Linear"], [1], 2 + 4, [1, 1]),
    (["Linear", "Tanh", "Logistic", "Linear"], [1, 2], 2 + (2 + 2) + 4, [1, 1, 1, 1]),
    (["Linear", "Tanh", "Softmax", "Linear"], [1], 2 + 4 + 4, [1, 1]),
    # A layer with state and without recurrence scans, and multiplies nothing there.
    (["Linear", hf.nl.Continuous(hf.nl.Tanh(), tau=3.0), "Linear"], [1], 2 + 4, [1, 1]),
    (["Linear", hf.nl.Continuous(hf.nl.Tanh(), tau=3.0), "Linear"], [], 2 + 4, [0, 0]),
    (["Linear", "Tanh", "Linear"], [], 2 + 4, []),
]


@pytest.mark.parametrize(("layers", "rec_layers", "outside", "inside"), SCANS)
def test_a_scan_holds_one_product_per_recurrent_layer_and_direction(layers, rec_layers, outside, inside):
    assert scan_products(recurrent(layers, rec_layers)) == (outside, inside)


@pytest.mark.parametrize("arguments", [{}, {"truncation": (3, 4)}])
def test_recurrent_networks_of_one_shape_compile_once(arguments):
    def run():
        net = recurrent(["Linear", hf.nl.Continuous(hf.nl.Tanh(), tau=2.0), "Linear"], [1], **arguments)
        x, t = np.random.RandomState(0).rand(2, 7, 9, 3)
        net.run_epochs(x[..., :2], t, hf.opt.HessianFree(CG_iter=7), max_epochs=2, minibatch_size=4, print_period=None)

    assert_compiles_once(run, run)


def test_a_closed_loop_compiles_once():
    from hessianfree.demos.plant import CompiledBody

    def run(seed):
        body = CompiledBody(np.random.RandomState(seed).uniform(-0.5, 0.5, (3, 2)))
        body.targets = body.targets[:3]
        net = hf.RNNet([2, 4, 2], layers=["Linear", "Tanh", body], rng=0)
        net.run_epochs(body, None, hf.opt.HessianFree(CG_iter=7), max_epochs=2, print_period=None)

    assert_compiles_once(lambda: run(0), lambda: run(1))


def test_the_counter_sees_a_recomputed_linearisation():
    """A loop that linearises anew at every product holds more: the count above can fail."""
    net = network((7, 6, 3))
    net.cache_minibatch(X, T)
    objective, params, batch = net.problem(), net.params(), net.batch()

    @jax.jit
    def wasteful(params, v):
        from hessianfree.engine.linearization import gauss_newton, linearize

        def body(i, p):
            there = jax.tree.map(lambda a, b: a + i * b, params, p)
            return gauss_newton(objective, linearize(objective, there, batch), batch)(p)

        return jax.lax.fori_loop(0, 7, body, v)

    hlo = wasteful.lower(params, params).compile().as_text()
    bodies = computations(hlo)
    (loop,) = re.findall(r" while\(.*body=%?([\w.\-]+)", hlo)
    assert products_in(loop, bodies) > 6


@pytest.mark.parametrize("preconditioner", ["diagonal", "kfac", "nystrom"])
def test_preconditioned_updates_compile_once(preconditioner):
    def run(epochs):
        net = hf.FFNet([4, 5, 3], rng=0)
        optimizer = hf.opt.HessianFree(CG_iter=7, preconditioner=preconditioner, curvature_batch=0.5, averaging=0.9)
        x, t = np.random.RandomState(0).rand(2, 30, 4)
        net.run_epochs(x, t[:, :3], optimizer, max_epochs=epochs, minibatch_size=12, print_period=None)

    assert_compiles_once(lambda: run(2), lambda: run(4))


def test_a_schedule_of_weight_decay_compiles_once():
    def run(weight_decay):
        net = hf.FFNet([4, 5, 3], rng=0)
        net.cache_minibatch(np.ones((6, 4)), np.ones((6, 3)))
        net.optimizer = hf.opt.HessianFree(CG_iter=7, weight_decay=weight_decay)
        net.optimizer.compute_update()

    assert_compiles_once(lambda: run(0.1), lambda: run(0.2))
