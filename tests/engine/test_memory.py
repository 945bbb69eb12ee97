"""Memory known beforehand: estimates against compiled programs, what is refused, and how many vectors an update holds."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.engine import memory, system
from hessianfree.engine.losses import BY_NAME
from hessianfree.engine.objective import Batch
from hessianfree.engine.settings import Settings
from hessianfree.squares.forms import Sizes, chosen
from hessianfree.training import memory as checking

from problems import traced

MODEL = traced(lambda p, x: jnp.tanh(x @ p["W"]) @ p["V"], BY_NAME["squared_error"])


def shapes(m, n, count=8):
    shape = jax.ShapeDtypeStruct
    params = {"W": shape((m, n), np.float32), "V": shape((n, m), np.float32)}
    return params, Batch(*(shape((count, m), np.float32) for _ in range(2)), shape((count,), np.float32))


def compiled_bytes(params, batch, plan, large=False):
    """Arguments, outputs and temporary arrays of a compiled solve."""
    program = system.solve_large if large else system.solve
    args = plan, MODEL, params, batch, None, params, system.Numbers(*np.ones(3, np.float32))
    found = program.jitted().lower(*args).compile().memory_analysis()
    return found.argument_size_in_bytes + found.output_size_in_bytes + found.temp_size_in_bytes


def test_a_large_update_takes_at_most_60_bytes_a_parameter():
    """Bytes are linear in the number of parameters; a state also holds the last change."""
    params, batch = shapes(2000, 1250)
    count = memory.of_arrays(params) // 4
    slots = Settings(cg_iterations=20).iterates_stored(4 * 100_000_000)
    found = compiled_bytes(params, batch, system.Plan(20, slots=slots), large=True) + 4 * count
    assert found / count < 60
    assert found / count > 4 * (slots + 5)  # the count sees the vectors


@pytest.mark.parametrize(("count", "n"), [(8, 400), (2000, 50)])
def test_estimates_are_near_what_compiled_updates_take(count, n):
    """Most of the memory is in vectors in the first case, in activations in the second."""
    params, batch = shapes(200, n, count)
    settings = Settings(cg_iterations=20, cg_memory=0)
    estimated = memory.of_update(settings, MODEL, params, batch).total
    assert estimated == pytest.approx(compiled_bytes(params, batch, system.Plan(20)), rel=0.3)


def test_parts_follow_the_settings():
    params, batch = shapes(200, 400)
    vector = memory.of_arrays(params)

    def parts(**settings):
        return memory.of_update(Settings(cg_iterations=20, **settings), MODEL, params, batch)

    plain = parts(cg_memory=0)
    assert plain.iterates == 8 * vector
    assert plain.residuals == plain.preconditioner == 0
    assert parts(cg_memory=3).residuals == 4 * vector
    assert parts(cg_memory=0, averaging=0.9).vectors == plain.vectors + vector
    assert parts(cg_memory=0, preconditioner=hf.opt.Nystrom(rank=5)).preconditioner >= 15 * vector
    assert memory.of_update(None, MODEL, params, batch).vectors == 4 * vector
    assert str(plain).startswith(f"{plain.total / 1e9:.3g} GB (vectors ")


@pytest.mark.parametrize(("bytes_of_a_vector", "stored"), [(1000, 18), (2**25, 8), (2**26, 4), (2**40, 4)])
def test_iterates_are_as_many_as_a_limit_allows(bytes_of_a_vector, stored):
    settings = Settings()
    assert settings.iterates_stored(bytes_of_a_vector) == stored
    assert settings.iterates_kept(bytes_of_a_vector) == (None if stored == 18 else stored)


def test_an_update_that_cannot_fit_is_refused_before_it_starts(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 100_000)
    x = np.ones((500, 30), np.float32)
    net = hf.FFNet([30, 40, 30], rng=0)
    with pytest.raises(MemoryError, match=r"needs about .* GB \(.*\), and 0.0001 GB are free.*activations: chunk_size"):
        net.run_epochs(x, x, hf.opt.HessianFree(CG_iter=5, cg_memory=0), print_period=None)
    start = {"W": np.zeros((30, 300), np.float32)}
    objective = hf.Objective(lambda p, x: x @ p["W"] @ p["W"].T)
    with pytest.raises(MemoryError, match="iterates: a smaller CG_iter"):
        hf.fit(objective, start, (x[:2], x[:2]), hf.opt.HessianFree(cg_memory=0), print_period=None)
    with pytest.raises(MemoryError, match=re.escape("residuals: cg_memory=0")):
        hf.fit(objective, start, (x[:2], x[:2]), hf.opt.HessianFree(CG_iter=100), print_period=None)


def test_small_updates_are_not_looked_at(monkeypatch):
    monkeypatch.setattr(memory, "of_update", lambda *_: pytest.fail("it was traced"))
    params = {"W": np.zeros((3, 3), np.float32), "V": np.zeros((3, 3), np.float32)}
    batch = Batch(np.ones((5, 3), np.float32), np.ones((5, 3), np.float32), np.ones(5, np.float32))
    checking.check_fits(MODEL, params, batch, hf.opt.HessianFree())


def test_what_is_free_is_limited_by_a_container(tmp_path):
    assert memory.free_bytes() > 0
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 2000\ninactive_file 700\n")
    assert memory._of_group(tmp_path) == 2700
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._of_group(tmp_path) is None


def test_a_dense_fit_that_cannot_fit_says_how_it_might():
    """J'J and its factors take 3 P^2 numbers; J of residuals without points, and its copy, 2 N P."""
    with pytest.raises(
        ValueError, match=r"needs about 18 GiB for its matrices; choose solver='cg', which needs none.$"
    ):
        chosen("dense", Sizes(28_500, 30_000, 8))
    with pytest.raises(ValueError, match=r"needs about 32 GiB .* made by pieces of chunk_size points"):
        chosen("dense", Sizes(10_000, 200_000, 8, pointwise=False))
