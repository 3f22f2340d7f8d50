"""Whether a model is laid out as channels_last is read off the strides of its weights."""

import pytest
from torch import nn

from minilearner.models.tensors import is_channels_last, to_channels_last, to_contiguous


@pytest.mark.parametrize(("n_in", "size"), [(1, 3), (3, 1), (3, 3)], ids=["one channel", "one pixel", "both larger"])
def test_a_layout_is_seen_even_if_both_orders_of_the_numbers_are_the_same(n_in, size):
    model = nn.Sequential(nn.Conv2d(n_in, 4, size))
    assert not is_channels_last(model)
    assert is_channels_last(to_channels_last(model))
    assert not is_channels_last(to_contiguous(model))


def test_a_model_without_convolutions_has_no_layout():
    assert not is_channels_last(to_channels_last(nn.Linear(2, 2)))
