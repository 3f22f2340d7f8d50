"""Equal values have equal descriptions, and different values have different ones."""

import copy
import functools
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from minilearner.packing import pack, unpack
from minilearner.saving.description import describe, list_changes


@dataclass
class Plain:
    a: int = 1
    b: object = None


class Slotted:
    __slots__ = ("a", "missing")

    def __init__(self, a):
        self.a = a


class Calls:
    def __init__(self, a):
        self.a = a

    def __call__(self):
        return self.a


class Writer:
    def __init__(self, path):
        self.path = path


class Raises:
    @property
    def __dict__(self):
        raise RuntimeError("not now")


def compile_at(line, source="lambda x: x + 1"):
    return eval(compile("\n" * line + source, f"file{line}.py", "eval"))


def changes(a, b, known=None):
    tensors = {}
    saved = unpack(pack(describe(a, known), tensors), tensors)  # through a file
    assert not tensors
    found = list_changes(saved, describe(b, known), "it")
    return found.lines, found.unknown


EQUAL = [
    (1, 1.0),
    ((0.9, 0.99), [0.9, 0.99]),
    (float("nan"), float("nan")),
    ({3, 1, 2}, {1, 2, 3}),
    (Path("a"), "a"),
    ({"a": 1, "b": 2}, OrderedDict(b=2, a=1)),
    (np.float64(2.5), 2.5),
    (torch.ones(3), torch.ones(3)),
    (np.arange(99), np.arange(99)),
    (np.array(["a", "b"]), np.array(["a", "b"])),
    (torch.float32, torch.float32),
    (torch.device("cpu"), torch.device("meta")),
    (Plain(2, [Plain()]), Plain(2, [Plain()])),
    (Slotted(1), Slotted(1)),
    (nn.Linear(2, 2), nn.Linear(2, 2)),
    (compile_at(3), compile_at(7)),
    (Calls(1), Calls(1)),
    (slice(1, 2), slice(1, 2)),
    (compile_at(0, "lambda x: x"), compile_at(0, "lambda y: y")),
    (F.relu, F.relu),
    (torch.relu, torch.relu),
    (max, max),
    (b"abc", b"abc"),
    (1 + 2j, 1 + 2j),
    ("x" * 999, "x" * 999),
    (list(range(999)), list(range(999))),
    (print, print),
    (torch.compile(compile_at(1)), compile_at(1)),
    (functools.partial(max, key=abs), functools.partial(max, key=abs)),
    (nn.Sequential, nn.Sequential),
    (torch.empty(0), torch.empty(0)),
    (torch.eye(30).to_sparse(), torch.eye(30).to_sparse()),
    (torch.ones(40, dtype=torch.bfloat16), torch.ones(40, dtype=torch.bfloat16)),
    (10**30, 10**30),
    ({}, {}),
]
DIFFERENT = [
    (1, 2),
    (1, "1"),
    (None, False),
    ([1, 2], [2, 1]),
    ([1], [1, 2]),
    ({"a": 1}, {"a": 2}),
    ({"a": 1}, {"b": 1}),
    (torch.ones(3), torch.zeros(3)),
    (torch.ones(3), torch.ones(3).double()),
    (torch.ones(99), torch.zeros(99)),
    (torch.ones(4, 5), torch.ones(5, 4)),
    (np.arange(99), np.arange(1, 100)),
    (Plain(1), Plain(2)),
    (Calls(1), Calls(2)),
    (Slotted(1), Slotted(2)),
    (Plain(1, Calls(1)), Plain(1, Calls(2))),
    (Plain(1), Calls(1)),
    (max, min),
    (nn.Linear(2, 2), nn.Linear(2, 3)),
    (nn.ReLU(), nn.ReLU(inplace=True)),
    (nn.ReLU(), nn.Tanh()),
    (F.relu, F.gelu),
    (nn.Sequential(nn.Dropout(0.1)), nn.Sequential(nn.Dropout(0.2))),
    (nn.Linear, nn.Conv2d),
    (b"abc", b"abd"),
    (nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2).requires_grad_(False)),
    ("x" * 999, "x" * 998 + "y"),
    (compile_at(0, "lambda x: x"), compile_at(0, "lambda x, y: x")),
    (slice(1, 2), slice(1, 3)),
    (10**30, 10**30 + 1),
    (compile_at(0, "lambda x: x.a"), compile_at(0, "lambda x: x.b")),
    (compile_at(0, "lambda x=1: x"), compile_at(0, "lambda x=2: x")),
    (compile_at(0, "lambda: (lambda: 1)"), compile_at(0, "lambda: (lambda: 2)")),
    (list(range(999)), list(range(1, 1000))),
    (compile_at(0, "lambda x: x in {1, 2}"), compile_at(0, "lambda x: x in {1, 3}")),
    (torch.float32, torch.float64),
    (compile_at(0, "lambda: 1"), compile_at(0, "lambda: 1.0")),
    (compile_at(0, "lambda: 1"), compile_at(0, "lambda: True")),
    (functools.partial(max, key=abs), functools.partial(min, key=abs)),
    ([].append, [1].append),
]


@pytest.mark.parametrize("pair", range(len(EQUAL)))
def test_equal_values_have_equal_descriptions(pair):
    assert changes(*EQUAL[pair]) == ([], [])


@pytest.mark.parametrize("pair", range(len(DIFFERENT)))
def test_other_values_have_other_descriptions(pair):
    assert changes(*DIFFERENT[pair])[0]


def test_what_a_file_may_hold_in_place_of_a_description_never_raises():
    whole = describe({"a": [Plain(), compile_at(0)], "b": torch.ones(2)})
    for hostile in (None, 3, [], {}, {"is": []}, {"is": "a dictionary", "parts": 3}, torch.ones(2), {"parts": {3: {}}}):
        assert list_changes(hostile, whole, "it").lines
        spoilt = copy.deepcopy(whole)
        spoilt["parts"]["['a']"] = hostile
        assert list_changes(spoilt, whole, "it").lines


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (threading.Lock(), "cannot be read"),
        (iter([1, 2]), "cannot be read"),
        (torch.Generator(), "cannot be read"),
        (Raises(), "RuntimeError while it was read"),
        (object(), "cannot be read"),
    ],
)
def test_what_cannot_be_compared_says_so(value, why):
    lines, unknown = changes(Plain(1, value), Plain(1, value))
    assert not lines and len(unknown) == 1 and unknown[0].startswith("it.b (") and why in unknown[0]


def test_what_contains_itself_comes_to_an_end():
    for one in (value := Plain(), other := Plain()):
        one.b = [one]
    assert changes(value, other) == ([], [])
    deep = other = Plain()
    for _ in range(100):
        deep.b = deep = Plain()
    describe(other)


def test_parts_of_the_model_count_by_their_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    known = {id(model[0]): "the layer '0'", id(model[1]): "the layer '1'"}
    assert changes([model[0]], [model[0]], known) == ([], [])
    assert changes([model[0]], [model[1]], known)[0] == ["it[0]: saved the layer '0', now the layer '1'"]


def test_a_function_counts_by_those_attributes_of_an_object_that_it_uses():
    def of(a, b, writer):
        holder = Plain(a, b)
        return lambda: writer.write(holder.a)

    assert changes(of(1, 2, None), of(1, 3, None)) == ([], [])
    assert changes(of(1, 2, None), of(2, 2, None))[0] == ["it.holder.a: saved 1, now 2"]
    unknown = changes(of(1, 2, Writer(1)), of(1, 2, Writer(2)))[1]
    assert unknown == ["it.writer (an object of class Writer: an object that a function uses)"]


def test_the_docstring_of_a_function_does_not_count():
    def one():
        """Says one thing."""
        return 1

    first = one

    def one():
        """Says another."""
        return 1

    assert changes(first, one) == ([], [])


def test_a_torchmetrics_object_counts_by_its_arguments():
    torchmetrics = pytest.importorskip("torchmetrics")
    make = functools.partial(torchmetrics.classification.MulticlassAccuracy, num_classes=3)
    assert changes(make(), make()) == ([], [])
    assert any("average" in line for line in changes(make(), make(average="micro"))[0])
    assert any("top_k" in line for line in changes(make(), make(top_k=2))[0])


def test_of_a_large_tensor_a_sample_counts(monkeypatch):
    monkeypatch.setattr("minilearner.saving.description._MAX_BYTES", 64)
    assert "of a sample" in describe(torch.ones(100))["is"]
    assert changes(torch.ones(100), torch.zeros(100))[0]
