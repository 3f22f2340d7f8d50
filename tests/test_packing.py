import json
import math
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minilearner import FileFormatError
from minilearner.packing import GROWING, Growing, pack, unpack
from minilearner.training.attributes import data_attributes

plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
states = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def through_json(state):
    tensors = {}
    return unpack(json.loads(json.dumps(pack(state, tensors), allow_nan=False)), tensors)


@given(states)
def test_any_data_come_back_as_they_were(state):
    assert repr(through_json(state)) == repr(state)


def test_tensors_and_arrays_come_back_to_the_bit_and_are_copies():
    state = {0: torch.rand(2, 3)[:, 1:], "half": torch.ones(2, dtype=torch.bfloat16), "n": np.uint32([1, 2**32 - 1])}
    before = state[0].clone()
    tensors = {}
    packed = pack(state, tensors)
    state[0].zero_()
    back = unpack(packed, tensors)
    assert torch.equal(back[0], before) and back["half"].dtype == torch.bfloat16
    assert back["n"].dtype == np.uint32 and back["n"].tolist() == [1, 2**32 - 1]


def test_what_grows_comes_back_without_its_mark_and_begins_with_the_same_bytes():
    def packed(n):
        tensors = {}
        rows = [{"epoch": i, "loss": math.nan, "scores": [0.5, (i,)]} for i in range(n)]
        state = {"steps": Growing(np.arange(2.0 * n).reshape(n, 2)), "rows": Growing(rows)}
        return json.loads(json.dumps(pack(state, tensors), allow_nan=False)), tensors

    few, many = packed(3)[1], packed(5)[1]
    assert list(few) == list(many) and all(name.startswith(GROWING) for name in few)
    assert all(torch.equal(many[name][: len(t)], t) for name, t in few.items())
    back = unpack(*packed(3))
    assert back["steps"].tolist() == [[0, 1], [2, 3], [4, 5]]
    assert repr(back["rows"][2]) == "{'epoch': 2, 'loss': nan, 'scores': [0.5, (2,)]}"
    assert through_json(Growing([])) == []


@pytest.mark.parametrize("text", [b"[", b"NaN", b'{"x": 1}', b"[" * 100_000, b"\xff"])
def test_rows_that_lie_are_refused(text):
    with pytest.raises(FileFormatError, match="the state holds"):
        unpack({"lines": "a"}, {"a": torch.tensor(list(text), dtype=torch.uint8)})
    with pytest.raises(FileFormatError, match="as text, which is"):
        unpack({"lines": "a"}, {"a": torch.zeros(2)})


def test_arrays_come_back_as_arrays_of_their_type_and_shape():
    arrays = [
        np.arange(6).reshape(2, 3),
        np.zeros((2, 0), np.float16),
        np.array(2.5),
        np.uint8([[1, 2]]),
        np.array([1j]),
    ]
    arrays += [np.arange(4, dtype=">i4")[::2], np.array([True])]
    for array in arrays:
        back = through_json(array)
        assert type(back) is np.ndarray and back.shape == array.shape and np.array_equal(back, array)
        assert back.dtype == array.dtype.newbyteorder("=")
    with pytest.raises(TypeError, match="an array of <U1"):
        pack(np.array(["a"]), {})


@pytest.mark.parametrize(
    "value",
    [
        {1, "a", (2, 3)},
        frozenset({1.5}),
        {frozenset({1}): set()},
        deque([1, [2]], 3),
        deque(),
        b"\x00a",
        bytearray(b"b"),
        complex(1, math.inf),
        torch.float16,
    ],
)
def test_other_kinds_of_data_come_back_as_they_were(value):
    back = through_json(value)
    assert back == value and type(back) is type(value) and getattr(back, "maxlen", 0) == getattr(value, "maxlen", 0)


def test_what_is_no_data_is_refused_by_its_place():
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a function"):
        pack({"a": [1, print_nothing]}, {})


def print_nothing():
    pass


@pytest.mark.parametrize(
    "hostile",
    [
        {"tensor": "absent"},
        {"tensor": ["a"]},
        {"float": "1e5"},
        {"tuple": 3},
        {"array": "absent"},
        {"set": 3},
        {"set": [[1]]},
        {"frozenset": [{"dict": []}]},
        {"deque": [1]},
        {"deque": [-1, []]},
        {"deque": [1e9, []]},
        {"deque": [None, 3]},
        {"bytes": "?"},
        {"bytes": 3},
        {"bytearray": [1]},
        {"complex": [1]},
        {"complex": ["a", 1]},
        {"dtype": "nn"},
        {"dtype": ["float32"]},
        {"dict": [[1]]},
        {"dict": [[[1], 2]]},
        {"import": "os"},
        {"a": 1, "b": 2},
        {"unsigned": ["object", [1]]},
        {"unsigned": ["uint8", [1000]]},
        [object],
    ],
)
def test_what_pack_never_writes_is_refused(hostile):
    with pytest.raises(FileFormatError):
        unpack(hostile, {})


def test_deep_nesting_is_refused_before_the_stack_ends():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(FileFormatError, match="nested"):
        unpack(deep, {})


def test_attributes_that_are_data():
    class Thing:
        def __init__(self):
            self.n, self.best, self.rows = 3, math.nan, [{"a": (1, 2.0)}]
            self.f, self.weights, self.kind = print, [torch.nn.Parameter(torch.ones(1))], int

    assert set(data_attributes(Thing())) == {"n", "best", "rows"}
