from collections import namedtuple

import pytest
import torch

from minilearner.tree import (
    checksum,
    digest,
    has_items,
    is_empty,
    map_tensors,
    n_items,
    shape_of,
    take_items,
    tensors_of,
    to_device,
)

Pair = namedtuple("Pair", "image mask")
X, Y = torch.arange(6.0).reshape(2, 3), torch.arange(2)
NESTED = {"pair": Pair(X, [Y, "text"]), "none": None}


def test_every_tensor_is_mapped_and_the_structure_stays():
    mapped = map_tensors(lambda t: t + 1, NESTED)
    assert type(mapped["pair"]) is Pair and mapped["pair"].mask[1] == "text" and mapped["none"] is None
    assert mapped["pair"].image.equal(X + 1) and mapped["pair"].mask[0].equal(Y + 1)
    assert [t is own for t, own in zip(tensors_of(NESTED), (X, Y), strict=True)] == [True, True]


def test_a_tensor_that_is_on_the_device_is_not_copied():
    assert to_device(X, torch.device("cpu")) is X
    assert to_device(NESTED, torch.device("meta"))["pair"].mask[0].device.type == "meta"


def test_the_number_of_items_is_the_length_of_the_first_tensor():
    assert [n_items(tree) for tree in (X, NESTED, ("text", Y), [], torch.tensor(1.0))] == [2, 2, 2, 0, 1]


def test_a_tree_is_empty_if_it_has_tensors_and_none_has_an_item():
    assert [is_empty(tree) for tree in (X[:0], (X[:0], Y[:0]), (X[:0], Y), "text", ())] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_shapes_are_plain_tuples():
    assert shape_of((X, [Y])) == ((2, 3), ((2,),)) and type(shape_of(X)) is tuple


def test_a_digest_follows_values_and_text_but_no_address():
    class Own:
        pass

    assert digest(X, "a") == digest(X.clone(), "a") and len(digest(X)) == 16
    assert len({digest(X), digest(X + 1), digest(Y), digest("a")}) == 4
    assert digest(Own()) == digest(Own())


def test_a_part_of_a_batch_cuts_tensors_and_lists_of_items():
    assert has_items((X, {"y": Y, "scale": torch.tensor(1.0)}), 2) and not has_items([X, Y[:1]], 2)
    batch = {"x": Pair(X, [X, Y]), "boxes": [X[:1], Y], "names": ["a", "b"], "scale": torch.ones(3)}
    part = take_items(batch, slice(1, 2), 2)
    assert torch.equal(part["x"].image, X[1:]) and torch.equal(part["x"].mask[1], Y[1:])
    assert len(part["boxes"]) == 1 and part["boxes"][0] is Y
    assert part["names"] == ["b"] and part["scale"] is batch["scale"]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64]
)
def test_a_checksum_changes_with_a_value_and_only_then(dtype):
    values = torch.tensor([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]).to(dtype)
    (before,) = checksum([values])
    assert checksum([values.clone().t()]) == [before]
    values[0, 0] = 1
    assert checksum([values, values]) != [before, before]
    assert checksum([]) == [] and checksum([torch.tensor(float("nan"))]) == checksum([torch.tensor(float("nan"))])
