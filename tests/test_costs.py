"""What an update of any model costs, counted on the compiled programs: products, their flops, and memory."""

from __future__ import annotations

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine import levenberg, linearization, system
from hessianfree.engine.normal_equations import Krylov
from hessianfree.engine.objective import Batch
from hessianfree.engine.residuals import Points, Residuals
from hessianfree.engine.searching import Form
from test_compilation import assert_compiles_once, computations, products_in

B, SIZES = 64, (16, 32, 24, 8)


def model(p, x):
    for W in p[:-1]:
        x = jnp.tanh(x @ W)
    return x @ p[-1]


def start(sizes=SIZES):
    draw = np.random.RandomState(0)
    return [(draw.randn(m, n) / np.sqrt(m)).astype(np.float32) for m, n in itertools.pairwise(sizes)]


BATCH = Batch(*(np.random.RandomState(1).randn(B, n).astype(np.float32) for n in (16, 8)), np.ones(B, np.float32))


def product_flops(hlo: str) -> int:
    """2 x elements of the result x length of the contracted axis, over all matrix products of a program."""
    shapes = dict(re.findall(r"%([\w.\-]+) = \w+\[([\d,]*)\]", hlo))
    total = 0
    for result, left, axis in re.findall(
        r"= \w+\[([\d,]*)\]\S* dot\(%([\w.\-]+), .*?lhs_contracting_dims=\{(\d+)\}", hlo
    ):
        contracted = int(shapes[left].split(",")[int(axis)])
        total += 2 * int(np.prod([int(n) for n in result.split(",")])) * contracted
    return total


def compiled(function, *args) -> str:
    return function.jitted().lower(*args).compile().as_text()


LAYERS = [2 * B * m * n for m, n in itertools.pairwise(SIZES)]
FORWARD, FIRST = sum(LAYERS), LAYERS[0]


@pytest.mark.parametrize("loss", ["squared_error", lambda o, t: jnp.logaddexp(0, o - t).sum(axis=-1)])
def test_value_gradient_and_product_take_seven_forward_passes_in_flops(loss):
    params = start()
    objective = hf.Objective(model, loss).traced(params, BATCH)
    hlo = compiled(linearization.linearized, objective, params, BATCH)
    assert " custom-call(" not in hlo  # or the count sees too little
    # No gradient flows to the inputs, and no tangent from there: the first layer is spared a product each.
    assert product_flops(hlo) == 3 * FORWARD - FIRST
    local = linearization.linearized(objective, params, BATCH)
    product = product_flops(compiled(linearization.gauss_newton_product, objective, local, BATCH, params))
    assert product == 4 * FORWARD - 2 * FIRST
    assert 3 * FORWARD - FIRST + product <= 7 * FORWARD


def test_a_cg_iteration_of_any_model_holds_its_products_and_no_more():
    params = start()
    objective = hf.Objective(model).traced(params, BATCH)
    numbers = system.Numbers(*np.ones(3, np.float32))
    hlo = compiled(system.solve, system.Plan(7), objective, params, BATCH, None, params, numbers)
    loops = re.findall(r" while\(.*body=%?([\w.\-]+)", hlo)
    assert [products_in(loop, computations(hlo)) for loop in loops] == [2 + 4 + 4]


def memory(objective, params, batch) -> int:
    """Bytes that an update's compiled part takes beside its arguments."""
    numbers = system.Numbers(*np.ones(3, np.float32))
    lowered = system.solve.jitted().lower(system.Plan(10), objective, params, batch, None, params, numbers)
    stats = lowered.compile().memory_analysis()
    return stats.temp_size_in_bytes + stats.output_size_in_bytes


def test_a_million_parameters_need_nothing_of_size_n_by_p():
    params = [jax.ShapeDtypeStruct((1000, 500), np.float32), jax.ShapeDtypeStruct((500, 1000), np.float32)]
    N, P = 1000, 1_000_000
    arrays = [jax.ShapeDtypeStruct((N, 1000), np.float32)] * 2
    batch = Batch(*arrays, jax.ShapeDtypeStruct((N,), np.float32))
    objective = hf.Objective(model).traced(
        [np.ones((1000, 500), np.float32), np.ones((500, 1000), np.float32)],
        Batch(*(np.ones((2, 1000), np.float32),) * 2, np.ones(2, np.float32)),
    )
    vectors = 40 * 4 * (P + 3 * N * 1000)  # some copies of parameters and of activations
    assert memory(objective, params, batch) < vectors < 4 * N * P / 5
    # nothing is swept under the rug: the program does hold the parameters' vectors
    assert memory(objective, params, batch) > 5 * 4 * P


def residual(p, point):
    return model(p, point).sum() - 1.0


def test_least_squares_by_cg_neither():
    params = [jax.ShapeDtypeStruct((1000, 500), np.float32), jax.ShapeDtypeStruct((500, 1000), np.float32)]
    N, P, kept = 2000, 1_000_000, 32
    points = (Points(jax.ShapeDtypeStruct((N, 1000), np.float32), jax.ShapeDtypeStruct((), np.float32)),)
    number = jax.ShapeDtypeStruct((), np.float32)
    form, residuals = Form(Krylov(kept)), Residuals((residual,))
    state = jax.eval_shape(lambda: levenberg.init(np.zeros(P, np.float32)))
    tolerances = levenberg.Tolerances(number, number, number)
    lowered = levenberg._USUAL.jitted().lower(form, residuals, params, points, None, state, tolerances)
    stats = lowered.compile().memory_analysis()
    taken = stats.temp_size_in_bytes + stats.output_size_in_bytes
    print(f"{taken / (4 * P):.0f} vectors")
    assert taken < 4 * ((3 * kept + 30) * P + 40 * N * 1000) < 4 * N * P / 5


def test_objectives_of_equal_parts_compile_once():
    def run():
        optimizer, params = hf.opt.HessianFree(CG_iter=7), start()
        state = optimizer.init(params)
        objective = hf.Objective(model)
        for _ in range(3):
            params, state, _ = optimizer.step(objective, params, state, BATCH)

    assert_compiles_once(run, run)


def term(p, point):
    return point * p[0] - 1.0


@pytest.mark.parametrize("solver", ["cg", "dense", "dual"])
def test_least_squares_compiles_once(solver):
    def run():
        # Other shapes for each solver: "dual" with few parameters forms the matrices of "dense".
        hf.least_squares([(term, np.arange(2.0 + len(solver)))], [np.ones(1)], solver=solver, max_steps=3)

    assert_compiles_once(run, run)
