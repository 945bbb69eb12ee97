"""Programs are let go before the memory mappings of a process run out."""

import mmap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.support import mappings, runtime
from hessianfree.support.mappings import Watch, count

pytestmark = pytest.mark.skipif(not mappings._MAPS.exists(), reason="only Linux counts mappings")


@pytest.fixture
def watch():
    watches = []

    def make(limit):
        watches.append(Watch(limit))
        jax.monitoring.register_event_duration_secs_listener(watches[-1].note)
        return watches[-1]

    yield make
    for made in watches:
        jax.monitoring.unregister_event_duration_listener(made.note)


def compile_programs(number, start=0):
    for place in range(start, start + number):
        jax.jit(lambda x, place=place: jnp.sin(x) @ x + place)(np.ones((place % 40 + 2,) * 2, np.float32))


def test_programs_are_counted_and_let_go_near_the_limit(watch, monkeypatch):
    """With 100 mappings of a limit of 1,000 in use after the clearing, the next one comes at 100 + 0.7 * 900."""
    monkeypatch.setattr(mappings, "EVERY", 4)
    standing, cleared = [500], []

    def clear():
        cleared.append(standing[0])
        standing[0] = 100

    monkeypatch.setattr(mappings, "count", lambda: standing[0])
    monkeypatch.setattr(jax, "clear_caches", clear)
    watched = watch(1000)
    for number, mappings_now in enumerate([690, 710, 720, 731]):
        standing[0] = mappings_now
        watched.relieve()  # no new program: nobody looks
        assert len(cleared) == min(watched.cleared, number)
        compile_programs(4, 4 * number)
        watched.relieve()
    assert cleared == [710, 731]


def test_mappings_are_those_of_the_process():
    before = count()
    held = [mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | (place % 2) * mmap.PROT_WRITE) for place in range(40)]
    assert count() >= before + 20
    assert len(held) == 40


def test_nothing_is_cleared_far_from_the_limit(watch, monkeypatch):
    monkeypatch.setattr(mappings, "EVERY", 4)
    watched = watch(10**6)
    compile_programs(4)
    watched.relieve()
    assert watched.cleared == 0
    unlimited = watch(None)
    compile_programs(4)
    unlimited.relieve()
    assert unlimited.cleared == 0


def test_mappings_of_others_do_not_clear_the_caches_again_and_again(watch, monkeypatch):
    monkeypatch.setattr(mappings, "EVERY", 4)
    watched = watch(1000)
    monkeypatch.setattr(mappings, "count", lambda: 900)
    for block in range(3):
        compile_programs(4, 4 * block)
        watched.relieve()
    assert watched.cleared == 1


def test_a_run_goes_on_where_programs_were_let_go(monkeypatch):
    x, t = np.ones((4, 2)), np.zeros((4, 1))

    def trained():
        net = hf.FFNet([2, 3, 1], rng=0)
        net.run_epochs(x, t, hf.opt.HessianFree(CG_iter=3), max_epochs=3, print_period=None)
        return net.W

    expected, calls = trained(), []
    monkeypatch.setattr(runtime.watch(), "relieve", lambda: (calls.append(1), len(calls) % 4 or jax.clear_caches()))
    np.testing.assert_array_equal(trained(), expected)
    assert len(calls) > 4
