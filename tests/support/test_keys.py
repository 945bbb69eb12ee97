from __future__ import annotations

import gc
import weakref
from functools import partial
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

import hessianfree as hf
from hessianfree.support import keys


class Options:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)


def shape_scale(x):
    return x


PLAIN = [
    {"a": 1, "b": 2.5, "c": "x", "d": None, "e": True},
    {"items": [1, (2, "three"), {"k": [4.0]}], "kind": np.dtype("f4"), "names": {"a"}},
    {
        "function": shape_scale,
        "method": partial(shape_scale, x=2),
        "cls": Options,
        "inner": Options(depth=Options(x=1)),
    },
    {"values": np.arange(3.0), "nested": [np.ones(2), {"deep": jnp.zeros(2)}]},
]


@pytest.mark.parametrize("attributes", PLAIN)
def test_an_object_comes_back_with_its_attributes(attributes):
    key, arrays = keys.split(Options(**attributes))
    again = keys.rebuild(key, arrays)
    assert type(again) is Options
    assert keys.split(again)[0] == key
    assert hash(keys.split(again)[0]) == hash(key)
    assert sorted(vars(again)) == sorted(attributes)
    for name, value in attributes.items():
        if name != "inner":
            assert repr(getattr(again, name)) == repr(value)


DIFFERENT = [
    (1, 1.0), (1, True), (0.0, -0.0), ("1", 1), ([1], (1,)), ([1, 2], [2, 1]), (None, 0), ({"a": 1}, {"a": 2}), (shape_scale, len),
]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), DIFFERENT)
def test_values_of_different_meaning_have_different_keys(first, second):
    assert keys.split(Options(x=first))[0] != keys.split(Options(x=second))[0]


def test_nan_options_equal_themselves():
    assert keys.split(Options(x=float("nan")))[0] == keys.split(Options(x=float("nan")))[0]


def test_arrays_are_no_part_of_the_key():
    (key1, arrays1), (key2, arrays2) = keys.split(Options(x=np.zeros(3))), keys.split(Options(x=np.ones(3)))
    assert key1 == key2
    np.testing.assert_array_equal(arrays1[0], np.zeros(3))
    np.testing.assert_array_equal(arrays2[0], np.ones(3))


def loop():
    me = Options()
    me.me = me
    return me


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.random.RandomState(0), "x"),
        (object(), "x"),
        (hf.FFNet([1, 1]), "x"),
        (hf.opt.SGD(), "x"),
        (np.array(["text"]), "x"),
        ([1, iter([])], r"x\[1\]"),
        (loop(), "refers to itself"),
    ],
)
def test_what_cannot_be_compared_by_value_is_refused_by_name(value, name):
    with pytest.raises(keys.UnkeyableError, match=name):
        keys.split(Options(x=value))


def test_namespaces_and_snapshots():
    assert keys.split(Options(x=SimpleNamespace(a=1))) == keys.split(Options(x=SimpleNamespace(a=1)))

    class Picky(Options):
        def _traced_attributes(self):
            return {"seen": self.seen}

    assert keys.split(Picky(seen=1, unseen=object())) == keys.split(Picky(seen=1, unseen=object()))


def test_keys_keep_no_object_alive():
    options = Options(x=1, inner=Options(y=np.ones(2)))
    watch = weakref.ref(options)
    key, _ = keys.split(options)
    del options
    gc.collect()
    assert watch() is None
    assert key
