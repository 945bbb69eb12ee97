"""Plain values become JSON beside arrays, and come back as they were."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hessianfree.io.trees import pack, unpack

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_values_come_back_as_they_were(value):
    arrays = {}
    packed = json.loads(json.dumps(pack(value, arrays, "v"), allow_nan=False))
    assert repr(unpack(packed, arrays)) == repr(value)


def test_what_has_no_form_is_named():
    with pytest.raises(TypeError, match=r"v\['f'\]\[1\] is a function"):
        pack({"f": [1, lambda: 2]}, {}, "v")


@pytest.mark.parametrize("node", [{"list": 3}, {"array": "b"}, {"x": 1}, {}, {"float": "1"}, {"dict": [[[], 1]]}, [1]])
def test_unknown_forms_are_refused(node):
    with pytest.raises(ValueError, match="unknown form"):
        unpack(node, {"a": np.ones(2)})


def test_deep_values_are_refused():
    node = 1
    for _ in range(100):
        node = {"list": [node]}
    with pytest.raises(ValueError, match="deeper"):
        unpack(node, {})
